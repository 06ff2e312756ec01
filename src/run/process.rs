//! Starts a worker process, listens to it, stops it, and makes sure that nothing of it is left.

use std::{
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    sync::watch,
    time::Instant,
};
use twdag_stages::stage::StageEvent;

use super::{
    channel::{self, Next},
    check::Surroundings,
    job::{Job, Line, Verdict},
    open_files,
    resources::VISIBLE_DEVICES,
    strays::Strays,
};

/// How long a stage may take to keep its state after its time has run out.
const TIMEOUT_GRACE: Duration = Duration::from_secs(10);
/// How long a worker may take to take in a job.
const HANDING: Duration = Duration::from_secs(10);
/// How long to listen for last words after a worker's process has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a running stage is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// Go on.
    Run,
    /// Keep your state and stop.
    Stop,
    /// End at once.
    Kill,
}

/// How a worker ended a job.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit status; `None` if it lives on, or was left as it was before the job.
    pub(super) status: Option<ExitStatus>,
    /// What it said last, if it came to that.
    pub(super) verdict: Option<Verdict>,
    /// Whether its time had run out before it ended.
    pub(super) timed_out: bool,
    /// Whether it has taken up the next job.
    pub(super) goes_on: bool,
}

/// What a worker may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    /// Threads.
    pub(super) threads: usize,
    /// Devices by their names; `None` if nothing is known of devices, so that the worker sees what there is.
    pub(super) devices: Option<Vec<String>>,
}

/// The program to start workers and guards with: this very one, even if the file it came from was replaced meanwhile, because
/// keys carry the revisions of the running program.
pub(super) fn program() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe() }
}

/// The command that starts a worker, but for what is the same in all surroundings.
fn command(surroundings: Option<&Surroundings>) -> io::Result<std::process::Command> {
    let Some(Surroundings { folder, variables, namespace, .. }) = surroundings else {
        let mut command = std::process::Command::new(program()?);
        if let Ok(name) = std::env::current_exe() {
            command.arg0(name);
        }
        return Ok(command);
    };
    let mut command = match namespace {
        None => std::process::Command::new(program()?),
        Some(namespace) => namespace.command()?,
    };
    command.current_dir(folder).envs(variables.iter().map(|(name, value)| (*name, value)));
    Ok(command)
}

/// A worker's process, as its driver has it.
pub(super) struct Worker {
    child: Child,
    /// The number of its process, also after it has ended.
    number: u32,
    channel: UnixStream,
    lines: BufReader<ChildStdout>,
    lease: Lease,
    next: Option<Arc<Next>>,
}

impl Worker {
    /// Starts a worker in a process group of its own. Call it from a thread that lives as long as the worker shall: the
    /// kernel ends the worker when that thread ends. Its next job may lie ready for it where it `has_place` for that.
    pub(super) fn start(lease: &Lease, has_place: bool) -> io::Result<Self> {
        let next = if has_place { Next::new().map(Arc::new) } else { None };
        Ok(Self { next, ..Self::start_in(lease, None)? })
    }

    /// As [`Worker::start`], with no such place, and perhaps in other surroundings.
    pub(super) fn start_in(lease: &Lease, surroundings: Option<&Surroundings>) -> io::Result<Self> {
        let (channel, theirs) = UnixStream::pair()?;
        // It reads at once, unless somebody has stopped it.
        channel.set_write_timeout(Some(HANDING))?;
        let mut command = command(surroundings)?;
        command
            .arg("worker")
            .env("RAYON_NUM_THREADS", lease.threads.to_string())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        if let Some(devices) = &lease.devices {
            command.env(VISIBLE_DEVICES, devices.join(","));
        }
        if let Some(usual) = open_files::raise() {
            command.env(open_files::USUAL, usual.to_string());
        }
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("the worker has no standard output"))?;
        let number = child.id().unwrap_or_default();
        Ok(Self { child, number, channel, lines: BufReader::new(stdout), lease: lease.clone(), next: None })
    }

    /// The number of its process, to be told to people; it may have ended.
    pub(super) const fn id(&self) -> u32 {
        self.number
    }

    /// What it was started with.
    pub(super) const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Where its next job may lie.
    pub(super) const fn next(&self) -> Option<&Arc<Next>> {
        self.next.as_ref()
    }

    /// Hands it a job. The claim lives as long as the worker is at it, even if the driver dies.
    pub(super) fn hand(&mut self, job: &Job, claim: &File, log: &File) -> io::Result<()> {
        channel::hand(&mut self.channel, job, claim, log, self.next.as_deref())
    }
}

/// Listens to a worker until it has ended its job, and passes wishes on to it. One that takes longer than `timeout` is
/// asked to stop, and after some grace ended. A worker that can take another job is given back.
pub(super) async fn attend(
    worker: Worker,
    mut wish: watch::Receiver<Wish>,
    timeout: Option<Duration>,
    strays: &Strays,
    mut on_event: impl FnMut(StageEvent),
) -> io::Result<(Ended, Option<Worker>)> {
    let Worker { mut child, number, channel, mut lines, lease, next } = worker;
    let mut channel = Some(channel);
    let living = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(living) = living {
        strays.spare(living);
    }
    let group = living.and_then(Pid::from_raw);
    let signal = |signal| {
        if let Some(group) = group {
            // The group may be gone already; there is nothing to do then.
            let _ = kill_process_group(group, signal);
        }
    };
    let (mut line, mut heard, mut listening) = (Vec::new(), Heard::default(), true);
    let mut told = Wish::Run;
    let mut open = true;
    let mut limit = timeout.map(|timeout| (Wish::Stop, Instant::now() + timeout));
    let mut out_of_time = Wish::Run;
    let status = loop {
        let now = out_of_time.max(*wish.borrow_and_update());
        if now > told {
            told = now;
            signal(if now == Wish::Kill { Signal::KILL } else { Signal::TERM });
        }
        tokio::select! {
            read = lines.read_until(b'\n', &mut line), if listening => {
                listening = matches!(read, Ok(1..));
                heard.hear(&mut line, &mut on_event);
                if let Some(goes_on) = heard.ready && let Some(channel) = channel.take() {
                    // Where the run is to stop, so is the next job, which is asked on its own.
                    if told == Wish::Run || (goes_on && out_of_time == Wish::Run) {
                        let ended = Ended { status: None, verdict: heard.verdict, timed_out: false, goes_on };
                        return Ok((ended, Some(Worker { child, number, channel, lines, lease, next })));
                    }
                    // Without the channel it ends. What it was asked for as its time ran out is not meant for the next job, which has just begun.
                    if goes_on {
                        signal(Signal::KILL);
                    }
                }
            }
            status = child.wait() => break status?,
            changed = wish.changed(), if open => open = changed.is_ok(),
            Some(next) = expire(limit) => {
                out_of_time = next;
                limit = (next == Wish::Stop).then(|| (Wish::Kill, Instant::now() + TIMEOUT_GRACE));
            }
        }
    };
    // Programs that the stage had started and not ended.
    signal(Signal::KILL);
    if let Some(living) = living {
        strays.forget(living);
    }
    strays.end().await;
    let last_words = async {
        // What comes then is said of the next job.
        while listening && heard.ready.is_none() {
            listening = matches!(lines.read_until(b'\n', &mut line).await, Ok(1..));
            heard.hear(&mut line, &mut on_event);
        }
    };
    // Whoever else holds its standard output open has nothing to say.
    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    // How a worker ends that was ready for more says nothing of the job.
    let status = heard.ready.is_none().then_some(status);
    let timed_out = out_of_time > Wish::Run;
    let goes_on = heard.ready == Some(true);
    // If nobody asked it to end, the next job has failed with it, and is told to have.
    let worker = channel.filter(|_| goes_on && told == Wish::Run);
    let worker = worker.map(|channel| Worker { child, number, channel, lines, lease, next });
    Ok((Ended { status, verdict: heard.verdict, timed_out, goes_on }, worker))
}

/// What a worker has said of its job.
#[derive(Default)]
struct Heard {
    verdict: Option<Verdict>,
    /// Whether it is ready for more: if so, whether it has taken up the next job.
    ready: Option<bool>,
}

impl Heard {
    /// Takes a line in. Whatever is no line of ours was printed by accident and is dropped, and so is what is said of the next job.
    fn hear(&mut self, line: &mut Vec<u8>, on_event: &mut impl FnMut(StageEvent)) {
        let heard = serde_json::from_slice(line);
        line.clear();
        match heard {
            _ if self.ready.is_some() => {}
            Ok(Line::Event(event)) => on_event(event),
            Ok(Line::Verdict(last)) => self.verdict = Some(last),
            Ok(Line::Ready { ready: true, goes_on }) if self.verdict.is_some() => self.ready = Some(goes_on),
            Ok(Line::Ready { .. }) | Err(_) => {}
        }
    }
}

/// Waits until a time comes, and says what is to be wished then; nothing if there is none.
async fn expire(limit: Option<(Wish, Instant)>) -> Option<Wish> {
    let (wish, time) = limit?;
    tokio::time::sleep_until(time).await;
    Some(wish)
}

/// Says in words how a process without a verdict ended.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = signal_name(signal);
            let cause = if signal == Signal::KILL.as_raw() {
                " (by hand, or by the kernel because memory ran out)"
            } else {
                ""
            };
            format!("the worker was killed by {name}{cause}; run again, and it goes on from what it had kept")
        }
        (None, Some(code)) => format!("the worker ended with exit code {code} and without a verdict"),
        (None, None) => "the worker ended without a verdict".to_owned(),
    }
}

/// `SIGKILL` for 9, and so on.
pub(super) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_worker_is_described_by_its_signal() {
        insta::assert_snapshot!(
            describe(ExitStatus::from_raw(9)),
            @"the worker was killed by SIGKILL (by hand, or by the kernel because memory ran out); run again, and it goes on from what it had kept"
        );
        insta::assert_snapshot!(
            describe(ExitStatus::from_raw(11)),
            @"the worker was killed by SIGSEGV; run again, and it goes on from what it had kept"
        );
        insta::assert_snapshot!(
            describe(ExitStatus::from_raw(3 << 8)),
            @"the worker ended with exit code 3 and without a verdict"
        );
    }
}
