//! Programs that a stage had started and that outlived it. They become children of the worker, which ends them before it
//! takes another job. A worker that is killed cannot; the kernel then makes them children of the driver, which does.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid},
};

/// Those who are killed leave children of their own to be looked at; not for ever, if the kernel cannot end one.
const ROUNDS: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Tells strays from children that are not to be touched.
pub(super) struct Strays {
    known: Mutex<BTreeSet<i32>>,
}

impl Strays {
    /// From now on orphans below this process become its children. Children that it has already, by whatever way
    /// it was started, are none of its business.
    pub(super) fn adopt() -> Self {
        become_reaper();
        Self { known: Mutex::new(children().into_iter().collect()) }
    }

    /// A child that is cared for elsewhere.
    pub(super) fn spare(&self, child: i32) {
        self.known().insert(child);
    }

    /// A child that is no more.
    pub(super) fn forget(&self, child: i32) {
        self.known().remove(&child);
    }

    /// Ends all strays and what they have started.
    pub(super) async fn end(&self) {
        for _ in 0..ROUNDS {
            if self.end_those_there() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The same for a thread of its own. Whether none is left.
    pub(super) fn end_and_wait(&self) -> bool {
        (0..ROUNDS).any(|_| {
            let none = self.end_those_there();
            if !none {
                thread::sleep(PAUSE);
            }
            none
        })
    }

    /// Whether there are none. Those who are there are killed, and may leave others.
    fn end_those_there(&self) -> bool {
        if is_childless() {
            return true;
        }
        let strays: Vec<Pid> = {
            let known = self.known();
            children().into_iter().filter(|child| !known.contains(child)).filter_map(Pid::from_raw).collect()
        };
        for stray in &strays {
            // One that is gone already needs neither.
            let _ = kill_process(*stray, Signal::KILL);
            let _ = waitpid(Some(*stray), WaitOptions::NOHANG);
        }
        strays.is_empty()
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets orphans below this process become its children. Where the system does not do that, they go to its first
/// process as ever.
fn become_reaper() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Whether this process has no children, not even dead ones. To ask the kernel so takes one call, and a worker asks after each job.
fn is_childless() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::All, look), Err(Errno::CHILD))
}

/// The children of this process, as far as the system tells.
fn children() -> Vec<i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>()).collect()
}
