//! A child process in a group of its own, which is ended as a whole.

#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    io::retry_on_intr,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, set_parent_process_death_signal, waitid},
};

/// How long a process has between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);

/// A running process and whatever it starts.
pub(super) struct Group {
    child: Child,
    id: Pid,
}

/// Ends a group. Only as long as its program is not reaped, since its number may be that of others then.
pub(super) struct Ending {
    id: Pid,
    asked: Option<Instant>,
}

impl Group {
    /// Starts the program in a new process group. If this process is killed, its driver or the guard of the run ends the group; where
    /// there is no guard, see [`die_with_this_process`].
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let id = Pid::from_child(&child);
        Ok(Self { child, id })
    }

    /// Waits until the program ends.
    pub(super) fn wait(&self) -> io::Result<()> {
        self.look(WaitIdOptions::empty()).map(drop)
    }

    /// Whether the program has ended.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        self.look(WaitIdOptions::NOHANG)
    }

    fn look(&self, options: WaitIdOptions) -> io::Result<bool> {
        let options = options | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        Ok(retry_on_intr(|| waitid(WaitId::Pid(self.id), options))?.is_some())
    }

    /// How the program ended, which it has. What it left running in its group is killed, so that nothing writes into the output any more.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        // The program is not reaped yet, so its number cannot have gone to another group.
        let _ = kill_process_group(self.id, Signal::KILL);
        self.child.wait()
    }

    /// What ends the group, from whatever thread.
    pub(super) fn ending(&self) -> Ending {
        Ending { id: self.id, asked: None }
    }
}

impl Ending {
    /// Asks the group to end, and after some time no longer asks. Call it until the program has ended.
    pub(super) fn ask(&mut self) {
        match self.asked {
            None => {
                let _ = kill_process_group(self.id, Signal::TERM);
                self.asked = Some(Instant::now());
            }
            Some(asked) if asked.elapsed() >= GRACE => {
                let _ = kill_process_group(self.id, Signal::KILL);
            }
            Some(_) => {}
        }
    }
}

/// Gives up this process's terminal, if it has one, also for all that it starts from now on. A program that asks there for a password
/// would be stopped for ever, since its group is never in the foreground; without a terminal it is told so, and fails.
pub(super) fn leave_terminal() {
    // Which this process gets no other one after.
    #[cfg(target_os = "linux")]
    static LEFT: std::sync::Once = std::sync::Once::new();
    #[cfg(target_os = "linux")]
    LEFT.call_once(|| {
        if let Ok(terminal) = std::fs::File::open("/dev/tty") {
            // SAFETY: this request takes no argument, and the file is open for as long as the call lasts.
            let _ = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
        }
    });
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
