//! Results that are recorded and may not be on the disk yet: a thread puts them there, as many at once as there are. A disk
//! takes its time to keep something for good, and nobody needs to wait for that before the end of the run.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    digest::ArtifactId,
    store::{Store, StoreError},
};

/// How long results gather: while a disk takes them, it lets others wait.
const GATHERING: Duration = Duration::from_millis(200);

/// The way to that thread, which starts with the first result.
#[derive(Default)]
pub(super) struct Securing {
    thread: Mutex<Option<Thread>>,
}

struct Thread {
    root: PathBuf,
    results: Sender<ArtifactId>,
    handle: JoinHandle<Result<(), StoreError>>,
}

impl Securing {
    /// Has a result put on the disk that was just recorded.
    pub(super) fn begin(&self, store: &Arc<Store>, artifact: ArtifactId) -> Result<(), StoreError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let started = match &mut *thread {
            Some(started) => started,
            empty => {
                let (results, inbox) = channel();
                let of_thread = Arc::clone(store);
                let handle = thread::Builder::new().name("secure".to_owned()).spawn(move || secure(&of_thread, &inbox));
                // Without the thread whoever has recorded the result does it.
                let Ok(handle) = handle else { return store.secure(&[artifact]) };
                empty.insert(Thread { root: store.root().to_owned(), results, handle })
            }
        };
        // It ends before there are no more results only if it fell over, which `finish` tells.
        let _ = started.results.send(artifact);
        Ok(())
    }

    /// Waits until all results are on the disk.
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { root, results, handle }) = thread else { return Ok(()) };
        drop(results);
        let fell = || StoreError::Bug { path: root, problem: "the thread that flushes it fell over".to_owned() };
        handle.join().unwrap_or_else(|_| Err(fell()))
    }
}

/// The first that went wrong; what comes after it is still tried.
fn secure(store: &Store, inbox: &Receiver<ArtifactId>) -> Result<(), StoreError> {
    let mut all = Ok(());
    while let Ok(first) = inbox.recv() {
        let mut results = vec![first];
        let until = Instant::now() + GATHERING;
        while let Ok(next) = inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            results.push(next);
        }
        all = all.and(store.secure(&results));
    }
    all
}
