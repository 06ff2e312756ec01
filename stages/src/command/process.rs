//! A child process in a group of its own, which is ended as a whole.

use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, set_parent_process_death_signal, waitid,
};
#[cfg(target_os = "linux")]
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{PidfdFlags, pidfd_open},
};

/// How long a process has between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);

/// A running process and whatever it starts.
pub(super) struct Group {
    child: Child,
    id: Pid,
    /// Becomes readable when the program ends; `None` where the kernel is too old for that.
    #[cfg(target_os = "linux")]
    pidfd: Option<OwnedFd>,
    asked_to_end: Option<Instant>,
}

impl Group {
    /// Starts the program in a new process group. If this process is killed, its driver or the guard of the run ends the group; where
    /// there is no guard, see [`die_with_this_process`].
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let id = Pid::from_child(&child);
        Ok(Self {
            child,
            id,
            #[cfg(target_os = "linux")]
            pidfd: pidfd_open(id, PidfdFlags::empty()).ok(),
            asked_to_end: None,
        })
    }

    /// Waits until the program ends, or for so long, or less if a signal comes.
    pub(super) fn wait_for(&self, time: Duration) {
        #[cfg(target_os = "linux")]
        if let Some(pidfd) = &self.pidfd {
            let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
            // Whatever it says, the caller looks for himself.
            let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit));
            return;
        }
        thread::sleep(time);
    }

    /// How the program ended, if it has. What it left running in its group is killed then, so that nothing writes
    /// into the output any more.
    pub(super) fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        // The program is not reaped yet, so its number cannot have gone to another group when that is killed.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(self.id), options)?.is_none() {
            return Ok(None);
        }
        let _ = kill_process_group(self.id, Signal::KILL);
        self.child.wait().map(Some)
    }

    /// Asks the group to end, and after some time no longer asks. Call it until [`Self::poll`] gives a status.
    pub(super) fn end(&mut self) {
        match self.asked_to_end {
            None => {
                let _ = kill_process_group(self.id, Signal::TERM);
                self.asked_to_end = Some(Instant::now());
            }
            Some(asked) if asked.elapsed() >= GRACE => {
                let _ = kill_process_group(self.id, Signal::KILL);
            }
            Some(_) => {}
        }
    }
}

/// Has the kernel end the program when the thread that starts it ends. This is asked for between fork and exec, and a fork copies this
/// process, which takes as long as a small program.
pub(super) fn die_with_this_process(command: &mut Command) {
    // SAFETY: between fork and exec only functions that are safe in signal handlers may be called; this one is a single system call
    // without any allocation.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// How a process ended, in words that follow "the program".
pub(super) fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return status.code().map_or("ended".to_owned(), |code| format!("ended with exit code {code}"));
    };
    let name = match Signal::from_named_raw(signal) {
        Some(Signal::KILL) => "SIGKILL; the machine may have run out of memory",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::INT) => "SIGINT",
        Some(Signal::HUP) => "SIGHUP",
        Some(Signal::SEGV) => "SIGSEGV, a memory fault",
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::ILL) => "SIGILL, an instruction that this processor does not have",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::PIPE) => "SIGPIPE",
        Some(Signal::XCPU) => "SIGXCPU, the limit of processor time",
        Some(Signal::XFSZ) => "SIGXFSZ, the limit of file size",
        _ => "a signal",
    };
    format!("was ended by signal {signal} ({name})")
}
