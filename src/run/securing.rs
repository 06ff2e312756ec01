//! Results that are recorded and may not be on the disk yet: a thread puts them there, as many at once as there are. A disk
//! takes its time to keep something for good, and nobody needs to wait for that before the end of the run.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use twdag_stages::command::FOLDERS;

use crate::{
    digest::{ArtifactId, Key},
    plan::Action,
    store::{Store, StoreError},
};

/// How long results gather: while a disk takes them, it lets others wait.
const GATHERING: Duration = Duration::from_millis(200);

/// A result that was just recorded.
pub(super) struct Recorded {
    /// The place in the plan of the stage that it is a result of, or of a part of.
    pub(super) stage: usize,
    pub(super) artifact: ArtifactId,
    /// Whose work folder stays until the result is on the disk, if one does.
    pub(super) kept: Option<Key>,
    /// What later plans compare with, if it is the result of a stage.
    pub(super) last: Option<Last>,
}

/// What a stage was keyed by.
pub(super) struct Last {
    pub(super) graph: String,
    pub(super) stage: String,
    pub(super) action: Action,
}

impl Recorded {
    fn remember(&self, store: &Store) -> Option<String> {
        let Last { graph, stage, action } = self.last.as_ref()?;
        remember(store, graph, stage, action)
    }
}

/// Keeps what a stage was keyed by, for the reasons that later plans give. Nothing else depends on it, so that a failure is only a warning.
pub(super) fn remember(store: &Store, graph: &str, stage: &str, action: &Action) -> Option<String> {
    let error = store.remember_action(graph, stage, action).err()?;
    Some(format!("later plans cannot tell what changed in `{stage}`: {error}"))
}

/// What became of them.
#[derive(Default)]
pub(super) struct Secured {
    /// Stages that have results which could not be put on the disk, and the first reason.
    pub(super) failed: Option<(Vec<usize>, String)>,
    /// What else went wrong, and harms no result.
    pub(super) warnings: Vec<String>,
}

/// The way to that thread, which starts with the first result.
#[derive(Default)]
pub(super) struct Securing {
    thread: Mutex<Option<Thread>>,
}

struct Thread {
    results: Sender<Recorded>,
    is_last: Arc<AtomicBool>,
    handle: JoinHandle<Secured>,
}

impl Securing {
    /// Has a result put on the disk. Gives a warning, if there is one by now.
    pub(super) fn begin(&self, store: &Arc<Store>, recorded: Recorded) -> Result<Option<String>, StoreError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let started = match &mut *thread {
            Some(started) => started,
            empty => {
                let (results, inbox) = channel();
                let (of_thread, is_last) = (Arc::clone(store), Arc::<AtomicBool>::default());
                let ending = Arc::clone(&is_last);
                let work = move || secure(&of_thread, &inbox, &ending);
                let handle = thread::Builder::new().name("secure".to_owned()).spawn(work);
                // Without the thread whoever has recorded the result does it.
                let Ok(handle) = handle else {
                    store.secure(&[recorded.artifact])?;
                    return Ok(recorded.remember(store));
                };
                empty.insert(Thread { results, is_last, handle })
            }
        };
        // It ends before there are no more results only if it fell over, which `finish` tells.
        let _ = started.results.send(recorded);
        Ok(None)
    }

    /// Waits until all results are on the disk.
    pub(super) fn finish(&self) -> Secured {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { results, is_last, handle }) = thread else { return Secured::default() };
        drop(results);
        is_last.store(true, Ordering::Relaxed);
        handle.thread().unpark();
        handle.join().unwrap_or_else(|_| {
            let message = "internal error: the thread that puts results on the disk fell over; please report it";
            Secured { failed: Some((Vec::new(), message.to_owned())), warnings: Vec::new() }
        })
    }
}

/// What goes wrong with some does not keep others from being tried.
fn secure(store: &Store, inbox: &Receiver<Recorded>, is_last: &AtomicBool) -> Secured {
    let mut all = Secured::default();
    while let Ok(first) = inbox.recv() {
        let until = Instant::now() + GATHERING;
        // Not by waiting for the next one, which would wake this thread with each.
        while !is_last.load(Ordering::Relaxed)
            && let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
        {
            thread::park_timeout(rest);
        }
        let results: Vec<Recorded> = std::iter::once(first).chain(inbox.try_iter()).collect();
        all.warnings.extend(results.iter().filter_map(|recorded| recorded.remember(store)));
        let artifacts: Vec<ArtifactId> = results.iter().map(|recorded| recorded.artifact).collect();
        if let Err(error) = store.secure(&artifacts) {
            let (stages, _) = all.failed.get_or_insert_with(|| (Vec::new(), error.to_string()));
            stages.extend(results.iter().map(|recorded| recorded.stage));
            continue;
        }
        for key in results.iter().filter_map(|recorded| recorded.kept) {
            if let Err(error) = store.discard_scratch(&key, &FOLDERS) {
                all.warnings.push(format!("a stage is done, but its work folder stays: {error}"));
            }
        }
    }
    all
}
