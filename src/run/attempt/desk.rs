//! The tasks that are looked up before there is room for them, and the one of them that lies ready at a worker: it is begun the moment that
//! worker is done, before the driver has heard of it, so that no processor waits for that. It is the one that the scheduler starts next, and it
//! lies with the worker that has been at its task for longest. If another one is done first, the driver takes it back: nothing
//! starts in another order for that.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{Message, Mine, Shared};
use crate::run::{
    channel::Next,
    process::{Lease, Worker},
};

/// So many workers may have a task lie ready for them. Each place takes two open files, and one of many is always done soon.
const PLACES: usize = 16;

/// How a task that was looked up goes on.
pub(in crate::run) enum Start {
    /// There is room for it, so that it engages a worker; with what is to be done, if that was known.
    Engage(Option<Box<Mine>>),
    /// This worker has begun it.
    Begun(Box<Mine>, Box<Worker>),
}

/// What it means for a task that there is room for it.
pub(in crate::run) enum Started {
    /// It was not looked up, or that was given up.
    Not,
    /// It goes on.
    Ahead,
    /// It has begun already, at a worker that has not been heard yet.
    Begun,
}

/// A task that was looked up, or is being looked up.
struct Ahead {
    start: oneshot::Sender<Start>,
    mine: Option<Box<Mine>>,
    lease: Lease,
    /// How much it takes of each resource.
    asks: Vec<u64>,
    /// Whether it may lie ready at a worker.
    is_handy: bool,
    /// Whether the scheduler counts it among those that run.
    is_started: bool,
}

/// A worker that is at a task.
struct Busy {
    lease: Lease,
    asks: Vec<u64>,
    next: Arc<Next>,
    /// The task that lies ready for it.
    has: Option<usize>,
}

/// See the module.
#[derive(Default)]
pub(in crate::run) struct Desk {
    ahead: BTreeMap<usize, Ahead>,
    /// By numbers that grow.
    busy: BTreeMap<u64, Busy>,
    count: u64,
    /// The tasks that workers have begun by themselves and of which the scheduler does not know yet.
    begun: Vec<usize>,
}

impl Desk {
    /// The worker at which a task lies, and that task.
    fn lying(&self) -> Option<(u64, usize)> {
        self.busy.iter().find_map(|(&number, busy)| Some((number, busy.has?)))
    }

    fn mine(&self, task: usize) -> Option<&Mine> {
        self.ahead.get(&task)?.mine.as_deref()
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tasks are looked up ahead.
    pub(in crate::run) fn count_ahead(&self) -> usize {
        self.desk().ahead.len()
    }

    /// A task is being looked up; it hears how it goes on.
    pub(in crate::run) fn expect(&self, task: usize, lease: Lease, asks: Vec<u64>) -> oneshot::Receiver<Start> {
        let (start, started) = oneshot::channel();
        let ahead = Ahead { start, mine: None, lease, asks, is_handy: true, is_started: false };
        self.desk().ahead.insert(task, ahead);
        started
    }

    /// It is known what to do for a task, and the action is claimed. Given back if the task has been started meanwhile.
    pub(super) fn prepare(&self, task: usize, mine: Box<Mine>) -> Option<Box<Mine>> {
        let mut desk = self.desk();
        let Some(ahead) = desk.ahead.get_mut(&task) else { return Some(mine) };
        ahead.mine = Some(mine);
        let _ = self.messages.send(Message::Prepared);
        None
    }

    /// Takes a task back from the worker at which it lies, if that has not begun it. Whether it lies nowhere now.
    fn take_back(&self, desk: &mut Desk, task: usize) -> bool {
        let Some((number, _)) = desk.lying().filter(|(_, lying)| *lying == task) else { return true };
        let busy = desk.busy.get_mut(&number).filter(|busy| busy.next.take_back());
        let is_back = busy.map(|busy| busy.has = None).is_some();
        if is_back && let Some(mine) = desk.mine(task) {
            self.end(&mine.key);
        }
        is_back
    }

    /// Puts the task that starts next where a worker finds it, if one may go on with it; and takes back what lies there and is not next any more.
    pub(in crate::run) fn lay_ready(&self, next: Option<usize>) {
        let mut desk = self.desk();
        if let Some((_, task)) = desk.lying()
            && (Some(task) == next || !self.take_back(&mut desk, task))
        {
            return;
        }
        let Desk { ahead, busy, .. } = &mut *desk;
        let Some((task, ahead)) = next.and_then(|task| Some((task, ahead.get_mut(&task)?))) else { return };
        let Some(mine) = ahead.mine.as_deref().filter(|_| ahead.is_handy) else { return };
        let may_go_on = |busy: &&mut Busy| {
            let is_enough = busy.asks.iter().zip(&ahead.asks).all(|(has, asks)| asks <= has);
            is_enough && busy.lease == ahead.lease
        };
        let Some(busy) = busy.values_mut().find(may_go_on) else { return };
        // Without its guard a task is begun by nobody.
        if self.begin(&mine.key).is_err() {
            return;
        }
        if busy.next.put(&mine.job, mine.claim.file(), &mine.log) {
            busy.has = Some(task);
        } else {
            ahead.is_handy = false;
            self.end(&mine.key);
        }
    }

    /// There is room for a task, which goes on by itself if it was looked up.
    pub(in crate::run) fn start_ahead(&self, task: usize) -> Started {
        let mut desk = self.desk();
        if !self.take_back(&mut desk, task) {
            if let Some(ahead) = desk.ahead.get_mut(&task) {
                ahead.is_started = true;
            }
            return Started::Begun;
        }
        let Some(Ahead { start, mine, .. }) = desk.ahead.remove(&task) else { return Started::Not };
        if start.send(Start::Engage(mine)).is_ok() { Started::Ahead } else { Started::Not }
    }

    /// The tasks that workers have begun by themselves since this was last asked.
    pub(in crate::run) fn begun(&self) -> Vec<usize> {
        std::mem::take(&mut self.desk().begun)
    }

    /// Takes back what lies at a worker, before anything is decided about tasks that have not started; the task if it has been begun, of which that
    /// worker has not been heard yet.
    pub(in crate::run) fn settle(&self) -> Option<usize> {
        let mut desk = self.desk();
        let (_, task) = desk.lying()?;
        if self.take_back(&mut desk, task) {
            return None;
        }
        let ahead = desk.ahead.get_mut(&task)?;
        let is_news = !std::mem::replace(&mut ahead.is_started, true);
        is_news.then_some(task)
    }

    /// Gives up a task that was looked up, unless it has been started or begun.
    pub(super) fn give_up(&self, task: usize) {
        let mut desk = self.desk();
        if self.take_back(&mut desk, task)
            && let Some(Ahead { mine, .. }) = desk.ahead.remove(&task)
        {
            self.leave(mine);
        }
    }

    /// Leaves a task as it was before it was looked up. What stays of it does no harm.
    fn leave(&self, mine: Option<Box<Mine>>) {
        if let Some(mine) = mine {
            let _ = fs::remove_file(&mine.job.log);
            self.store.leave_scratch(&mine.key);
        }
    }

    /// Whether so few workers are at a task that one more may have a place for its next one.
    pub(super) fn has_few_busy(&self) -> bool {
        self.desk().busy.len() < PLACES
    }

    /// A worker is at a task that takes so much of each resource. The number says which, when it is done.
    pub(super) fn busy(&self, worker: &Worker, asks: &[u64]) -> Option<u64> {
        let next = Arc::clone(worker.next()?);
        let mut desk = self.desk();
        desk.count += 1;
        let number = desk.count;
        desk.busy.insert(number, Busy { lease: worker.lease().clone(), asks: asks.to_vec(), next, has: None });
        Some(number)
    }

    /// A worker has ended its task, and all that it had started is gone if it is not given. `goes_on` says whether it has begun what
    /// lay ready for it.
    pub(super) fn done(&self, number: Option<u64>, worker: Option<Worker>, goes_on: bool) {
        let mut desk = self.desk();
        let busy = number.and_then(|number| desk.busy.remove(&number));
        let Some(Busy { next, has: Some(task), .. }) = busy else {
            drop(desk);
            // It has begun what it cannot have.
            if let Some(worker) = worker.filter(|_| !goes_on) {
                self.dismiss(worker);
            }
            return;
        };
        match worker {
            Some(worker) if goes_on => {
                if let Some(Ahead { start, mine: Some(mine), is_started, .. }) = desk.ahead.remove(&task) {
                    desk.begun.extend(Some(task).filter(|_| !is_started));
                    // Who does not wait any more has been dropped together with the run.
                    let _ = start.send(Start::Begun(mine, Box::new(worker)));
                }
            }
            worker => {
                if let Some(mine) = desk.mine(task) {
                    self.end(&mine.key);
                }
                // What was begun is lost with the worker.
                let is_back = next.take_back();
                if !is_back && let Some(Ahead { start, mine, is_started, .. }) = desk.ahead.remove(&task) {
                    if is_started {
                        let _ = start.send(Start::Engage(mine));
                    } else {
                        self.leave(mine);
                    }
                }
                drop(desk);
                // One that has still to find what another one is at by then is of no use.
                if let Some(worker) = worker.filter(|_| is_back) {
                    self.dismiss(worker);
                }
            }
        }
    }
}
