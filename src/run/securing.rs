//! Results that are recorded and may not be on the disk yet: a thread puts them there, as many at once as there are. A disk
//! takes its time to keep something for good, and nobody needs to wait for that before the end of the run. It keeps as well what stages
//! are keyed by: a run that is killed may leave out those of the last second, and later plans explain more than they need.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
const GATHERING: Duration = Duration::from_secs(1);

/// A result that was just recorded.
pub(super) struct Recorded {
    /// The place in the plan of the stage that it is a result of, or of a part of.
    pub(super) stage: usize,
    pub(super) artifact: ArtifactId,
    /// Whose work folder stays until the result is on the disk, if one does.
    pub(super) kept: Option<Key>,
}

/// What a stage is keyed by, for the reasons that later plans give.
pub(super) struct Last {
    pub(super) stage: String,
    pub(super) key: Key,
    /// All of it, if that is not recorded here.
    pub(super) action: Option<Action>,
}

/// What that thread has to do.
enum Task {
    Secure(Recorded),
    Remember { graph: String, stages: Vec<Last> },
}

/// What became of them.
#[derive(Default)]
pub(super) struct Secured {
    /// Stages that have results which could not be put on the disk, and the first reason.
    pub(super) failed: Option<(Vec<usize>, String)>,
    /// What else went wrong, and harms no result.
    pub(super) warnings: Vec<String>,
}

/// The way to that thread, which starts with the first task.
#[derive(Default)]
pub(super) struct Securing {
    thread: Mutex<Option<Thread>>,
    /// What is known as yet, also if nobody waits for the rest.
    secured: Arc<Mutex<Secured>>,
}

struct Thread {
    tasks: Sender<Task>,
    is_last: Arc<AtomicBool>,
    handle: JoinHandle<()>,
}

impl Securing {
    /// Has a result put on the disk.
    pub(super) fn begin(&self, store: &Arc<Store>, recorded: Recorded) -> Result<(), StoreError> {
        // Without the thread whoever has recorded the result does it.
        let artifact = recorded.artifact;
        if self.hand(store, Task::Secure(recorded)) { Ok(()) } else { store.secure(&[artifact]) }
    }

    /// Has it kept what stages of a graph are keyed by. Nothing else depends on that.
    pub(super) fn remember(&self, store: &Arc<Store>, graph: &str, stages: Vec<Last>) {
        if !stages.is_empty() {
            // A machine that has no room for a thread has worse to tell.
            let _ = self.hand(store, Task::Remember { graph: graph.to_owned(), stages });
        }
    }

    /// Whether there is a thread that has it now.
    fn hand(&self, store: &Arc<Store>, task: Task) -> bool {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let started = match &mut *thread {
            Some(started) => started,
            empty => {
                let (tasks, inbox) = channel();
                let is_last = Arc::<AtomicBool>::default();
                let (store, ending, secured) = (Arc::clone(store), Arc::clone(&is_last), Arc::clone(&self.secured));
                let work = move || work(&store, &inbox, &ending, &secured);
                let Ok(handle) = thread::Builder::new().name("secure".to_owned()).spawn(work) else { return false };
                empty.insert(Thread { tasks, is_last, handle })
            }
        };
        // It ends before there are no more tasks only if it fell over, which `finish` tells.
        started.tasks.send(task).is_ok()
    }

    /// What became of them until now.
    pub(super) fn so_far(&self) -> Secured {
        std::mem::take(&mut *locked(&self.secured))
    }

    /// Waits until all results are on the disk.
    pub(super) fn finish(&self) -> Secured {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { tasks, is_last, handle }) = thread else { return Secured::default() };
        drop(tasks);
        is_last.store(true, Ordering::Relaxed);
        handle.thread().unpark();
        if handle.join().is_err() {
            let message = "internal error: the thread that puts results on the disk fell over; please report it";
            locked(&self.secured).failed.get_or_insert_with(|| (Vec::new(), message.to_owned()));
        }
        self.so_far()
    }
}

fn locked(secured: &Mutex<Secured>) -> MutexGuard<'_, Secured> {
    secured.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(store: &Store, inbox: &Receiver<Task>, is_last: &AtomicBool, secured: &Mutex<Secured>) {
    let mut unkept = BTreeMap::new();
    let mut problem = None;
    while let Ok(first) = inbox.recv() {
        let until = Instant::now() + GATHERING;
        // Not by waiting for the next one, which would wake this thread with each.
        while !is_last.load(Ordering::Relaxed)
            && let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
        {
            thread::park_timeout(rest);
        }
        let mut results = Vec::new();
        for task in std::iter::once(first).chain(inbox.try_iter()) {
            match task {
                Task::Secure(recorded) => results.push(recorded),
                Task::Remember { graph, stages } => {
                    let unkept: &mut BTreeMap<String, Last> = unkept.entry(graph).or_default();
                    unkept.extend(stages.into_iter().map(|last| (last.stage.clone(), last)));
                }
            }
        }
        // First, so that nobody waits for it once the disk has all results. What cannot be kept now is tried again with the next ones.
        problem = remember(store, &mut unkept);
        secure(store, &results, secured);
    }
    let warning = problem.map(|error| format!("later plans cannot tell what changed: {error}"));
    locked(secured).warnings.extend(warning);
}

/// Keeps what stages are keyed by, and forgets what is kept.
fn remember(store: &Store, unkept: &mut BTreeMap<String, BTreeMap<String, Last>>) -> Option<StoreError> {
    let mut problem = None;
    unkept.retain(|graph, stages| {
        let keys = stages.values().map(|last| (last.stage.as_str(), last.key, last.action.as_ref()));
        let kept = store.remember_keys(graph, keys, None);
        let is_unkept = kept.is_err();
        problem = problem.take().or(kept.err());
        is_unkept
    });
    problem
}

/// What goes wrong with some does not keep others from being tried.
fn secure(store: &Store, results: &[Recorded], secured: &Mutex<Secured>) {
    if results.is_empty() {
        return;
    }
    let artifacts: Vec<ArtifactId> = results.iter().map(|recorded| recorded.artifact).collect();
    if let Err(error) = store.secure(&artifacts) {
        let mut secured = locked(secured);
        let (stages, _) = secured.failed.get_or_insert_with(|| (Vec::new(), error.to_string()));
        stages.extend(results.iter().map(|recorded| recorded.stage));
        return;
    }
    for key in results.iter().filter_map(|recorded| recorded.kept) {
        if let Err(error) = store.discard_scratch(&key, &FOLDERS) {
            locked(secured).warnings.push(format!("a stage is done, but its work folder stays: {error}"));
        }
    }
}
