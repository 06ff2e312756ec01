//! Results that are still being recorded, some of them known, and read by others already. A disk takes its time to
//! keep something for good; what comes next need not wait for that, as long as nothing is recorded before what it read.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The results of a run that are being recorded, by the nodes of the graph.
pub(super) struct Recordings {
    /// Whoever is killed loses what is known and not recorded: no more than one result for each stage that may run.
    slots: Arc<Semaphore>,
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    nodes: Mutex<Nodes>,
    changed: Condvar,
}

#[derive(Default)]
struct Nodes {
    open: BTreeSet<usize>,
    lost: BTreeSet<usize>,
}

impl Known {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them. If it was known and is dropped before [`Recording::end`], the result is lost.
pub(super) struct Recording {
    node: Option<usize>,
    known: Arc<Known>,
    _slot: OwnedSemaphorePermit,
}

impl Recordings {
    /// For a run in which so many stages run at once.
    pub(super) fn new(jobs: usize) -> Self {
        let slots = Arc::new(Semaphore::new(jobs.clamp(1, Semaphore::MAX_PERMITS)));
        Self { slots, known: Arc::default() }
    }

    /// Begins one as soon as there are few enough; `None` if the run is over.
    pub(super) async fn begin(&self) -> Option<Recording> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        Some(Recording { node: None, known: Arc::clone(&self.known), _slot: slot })
    }

    /// Waits until the results of these nodes are recorded; the first that was lost otherwise. Call it where waiting is
    /// allowed.
    pub(super) fn wait_for(&self, nodes: &[usize]) -> Result<(), usize> {
        let is_open = |found: &mut Nodes| nodes.iter().any(|node| found.open.contains(node));
        let found = self.known.changed.wait_while(self.known.nodes(), is_open).unwrap_or_else(PoisonError::into_inner);
        nodes.iter().find(|node| found.lost.contains(node)).map_or(Ok(()), |node| Err(*node))
    }
}

impl Recording {
    /// From now on others may read the result of this node.
    pub(super) fn make_known(&mut self, node: usize) {
        self.known.nodes().open.insert(node);
        self.node = Some(node);
    }

    /// The result is recorded.
    pub(super) fn end(self) {
        if let Some(node) = self.node {
            self.known.nodes().open.remove(&node);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Some(node) = self.node else { return };
        let mut nodes = self.known.nodes();
        if nodes.open.remove(&node) {
            nodes.lost.insert(node);
        }
        drop(nodes);
        self.known.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn who_has_read_a_result_waits_until_it_is_recorded_and_hears_if_it_is_lost() {
        let recordings = Arc::new(Recordings::new(2));
        let (mut kept, mut lost) = (recordings.begin().await.unwrap(), recordings.begin().await.unwrap());
        kept.make_known(0);
        lost.make_known(1);
        let waiting = |nodes: &'static [usize]| {
            let recordings = Arc::clone(&recordings);
            thread::spawn(move || recordings.wait_for(nodes))
        };
        let (first, both, other) = (waiting(&[0]), waiting(&[0, 1]), waiting(&[2]));
        assert_eq!(other.join().unwrap(), Ok(()));
        assert!(!first.is_finished() && !both.is_finished());
        kept.end();
        assert_eq!(first.join().unwrap(), Ok(()));
        drop(lost);
        assert_eq!(both.join().unwrap(), Err(1));
        assert_eq!(recordings.wait_for(&[1]), Err(1));
    }
}
