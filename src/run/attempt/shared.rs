//! What all attempts of a run have in common.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::{Semaphore, mpsc::UnboundedSender};
use twdag_stages::{command::FOLDERS, stage::Isolation};

use super::{Desk, Given, Message};
use crate::{
    digest::{ArtifactId, Key},
    graph::Graph,
    lock::Lock,
    plan::Plan,
    run::{
        event::RunEvent,
        guard::Guard,
        job::Job,
        process::{Lease, Worker},
        securing::{Last, Securing},
        sharing::Sharing,
        strays::Strays,
        turn::Turn,
    },
    store::{LastKeys, Store, StoreError, View},
};

/// More workers do not wait for another job.
const MOST_IDLE: usize = 64;
/// So many views are remembered.
const MOST_VIEWS: usize = 16;

/// What all attempts of a run have in common.
pub(in crate::run) struct Shared {
    pub(in crate::run) graph: Arc<Graph>,
    pub(in crate::run) store: Arc<Store>,
    /// The store behind it, if there is one.
    pub(in crate::run) sharing: Option<Sharing>,
    pub(in crate::run) plan: Plan,
    /// What the stages are held to, if anything.
    pub(in crate::run) lock: Option<Lock>,
    pub(in crate::run) isolation: Isolation,
    pub(in crate::run) folder: PathBuf,
    pub(in crate::run) owner: String,
    /// The name of the folder inside an action's scratch folder that its programs write to.
    pub(in crate::run) output: String,
    pub(in crate::run) strays: Strays,
    pub(in crate::run) guard: Mutex<Option<Guard>>,
    /// Workers that wait for another job.
    pub(in crate::run) idle: Mutex<Vec<Worker>>,
    pub(in crate::run) desk: Mutex<Desk>,
    /// Whoever is killed loses what is not recorded: no more than one result for each stage that may run.
    pub(in crate::run) recording: Semaphore,
    pub(in crate::run) securing: Securing,
    /// What was shown last.
    pub(in crate::run) views: Mutex<VecDeque<(ArtifactId, Arc<View>)>>,
    /// Work folders of what is recorded, which are of no use any more.
    pub(in crate::run) left_over: Mutex<Vec<LeftOver>>,
    pub(in crate::run) last_keys: OnceLock<LastKeys>,
    pub(in crate::run) messages: UnboundedSender<Message>,
}

/// A work folder of an action whose result is recorded.
pub(in crate::run) struct LeftOver {
    pub(super) stage: String,
    pub(super) key: Key,
    /// Until the folder is gone, nobody else begins there.
    pub(super) turn: Arc<Turn>,
}

impl Shared {
    pub(super) fn left_over(&self) -> MutexGuard<'_, Vec<LeftOver>> {
        self.left_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes work folders that are of no use any more.
    pub(in crate::run) fn tidy(&self) {
        // In a statement of its own, so that others may add to them meanwhile.
        let left_over = std::mem::take(&mut *self.left_over());
        for left_over in left_over {
            self.discard(left_over);
        }
    }

    /// A folder that shows a result, looked at just now. Of the last few small ones it is remembered which files they show.
    pub(super) fn view(&self, given: &Given) -> Result<Arc<View>, StoreError> {
        let views = || self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let known = views().iter().find(|(artifact, _)| *artifact == given.artifact).map(|(_, view)| Arc::clone(view));
        if let Some(view) = known
            && self.store.is_shown(&view)?
        {
            return Ok(view);
        }
        let view = Arc::new(self.store.show(&given.artifact)?);
        if given.is_little {
            let mut views = views();
            views.retain(|(artifact, _)| *artifact != given.artifact);
            views.truncate(MOST_VIEWS - 1);
            views.push_front((given.artifact, Arc::clone(&view)));
        }
        Ok(view)
    }

    pub(super) fn discard(&self, LeftOver { stage, key, turn }: LeftOver) {
        if let Err(error) = self.store.discard_scratch(&key, &FOLDERS) {
            let message = format!("`{stage}` is done, but its work folder stays: {error}");
            // Of the run, since the stage may be told to be over. Without a driver there is nobody to warn.
            let _ = self.messages.send(Message::Event(RunEvent::RunWarning { message }));
        }
        turn.end(&self.store, &key);
    }

    /// Keeps what stages are keyed by.
    pub(in crate::run) fn remember(&self, stages: Vec<Last>) {
        self.securing.remember(&self.store, &self.graph.name, stages);
    }

    /// What the stages of the graph were keyed by before this run.
    pub(super) fn last_keys(&self) -> &LastKeys {
        self.last_keys.get_or_init(|| self.store.last_keys(&self.graph.name))
    }

    /// Has an action guarded before its worker starts; the guard is started when there is first something to guard.
    pub(super) fn begin(&self, key: &Key) -> io::Result<()> {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            let started = Guard::start(&self.store)?;
            // Nothing comes between the two lines on this thread that could take the guard for a stray.
            started.id().into_iter().for_each(|guard| self.strays.spare(guard));
            *guard = Some(started);
        }
        guard.iter_mut().for_each(|guard| guard.begin(key));
        Ok(())
    }

    /// A worker that is at a job by now, if one waits that was started with this lease.
    pub(super) fn engage_idle(&self, lease: &Lease, job: &Job, claim: &File, log: &File) -> Option<Worker> {
        loop {
            let mut worker = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let place = idle.iter().position(|worker| worker.lease() == lease)?;
                idle.swap_remove(place)
            };
            // One that was killed meanwhile is no loss.
            if worker.hand(job, claim, log).is_ok() {
                return Some(worker);
            }
        }
    }

    pub(super) fn dismiss(&self, worker: Worker) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(worker);
        }
    }

    pub(super) fn end(&self, key: &Key) {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.iter_mut().for_each(|guard| guard.end(key));
    }
}
