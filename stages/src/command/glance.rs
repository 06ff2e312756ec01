//! A thread that glances at running programs: whether they shall stop, and what they printed last. Whoever has started one can
//! so wait for nothing but its end. The kernel wakes who waits like that on the processor that the program leaves; who waits in
//! any other way may have to wait for another one, while this one has nothing to do.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How often.
pub(super) const INTERVAL: Duration = Duration::from_millis(20);
/// After so many times without a program it waits for one: where one comes after another, none of them has to wake it.
const PATIENCE: usize = 50;

struct Programs {
    glances: BTreeMap<u64, Box<dyn FnMut() + Send>>,
    started: u64,
    thread: Thread,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    None,
    Glancing,
    Waiting,
}

static PROGRAMS: Mutex<Programs> = Mutex::new(Programs { glances: BTreeMap::new(), started: 0, thread: Thread::None });
static WOKEN: Condvar = Condvar::new();

/// Until this is dropped, a program is glanced at.
pub(super) struct Glances(u64);

impl Glances {
    /// Has a program glanced at from now on; gives the glance back if this process may have no other thread.
    pub(super) fn begin<Glance: FnMut() + Send + 'static>(glance: Glance) -> Result<Self, Glance> {
        let mut programs = programs();
        match programs.thread {
            Thread::Glancing => {}
            Thread::Waiting => WOKEN.notify_one(),
            Thread::None => {
                if thread::Builder::new().name("glance".to_owned()).spawn(run).is_err() {
                    return Err(glance);
                }
            }
        }
        programs.thread = Thread::Glancing;
        programs.started += 1;
        let number = programs.started;
        programs.glances.insert(number, Box::new(glance));
        Ok(Self(number))
    }
}

impl Drop for Glances {
    fn drop(&mut self) {
        programs().glances.remove(&self.0);
    }
}

fn programs() -> MutexGuard<'static, Programs> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run() {
    let mut idle = 0;
    let mut programs = programs();
    loop {
        if idle < PATIENCE {
            let waited = WOKEN.wait_timeout(programs, INTERVAL);
            programs = waited.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            programs.thread = Thread::Waiting;
            let woken = WOKEN.wait_while(programs, |programs| programs.thread == Thread::Waiting);
            programs = woken.unwrap_or_else(PoisonError::into_inner);
        }
        idle = if programs.glances.is_empty() { idle + 1 } else { 0 };
        programs.glances.values_mut().for_each(|glance| glance());
    }
}
