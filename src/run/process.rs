//! Starts a worker process, listens to it, stops it, and makes sure that nothing of it is left.

use std::{
    fs::File,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
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
    job::{Line, Verdict},
    resources::VISIBLE_DEVICES,
    strays::Strays,
};

/// How long a stage may take to keep its state after its time has run out.
const TIMEOUT_GRACE: Duration = Duration::from_secs(10);
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

/// How a worker's process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit status.
    pub(super) status: ExitStatus,
    /// What it said last, if it came to that.
    pub(super) verdict: Option<Verdict>,
    /// Whether its time had run out before it ended.
    pub(super) timed_out: bool,
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

/// Starts a worker in a process group of its own. `claim` becomes its standard input, so that the lock on the claim
/// lives as long as the worker, even if the driver dies. Call it from a thread that lives as long as the worker
/// shall: the kernel ends the worker when that thread ends.
pub(super) fn start(job_file: &Path, lease: &Lease, claim: File, log: File) -> io::Result<Child> {
    let mut command = std::process::Command::new(program()?);
    if let Ok(name) = std::env::current_exe() {
        command.arg0(name);
    }
    command
        .arg("worker")
        .arg(job_file)
        .env("RAYON_NUM_THREADS", lease.threads.to_string())
        .stdin(claim)
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0);
    if let Some(devices) = &lease.devices {
        command.env(VISIBLE_DEVICES, devices.join(","));
    }
    Command::from(command).kill_on_drop(true).spawn()
}

/// Listens to a worker until it has ended, and passes wishes on to it. One that takes longer than `timeout` is asked
/// to stop, and after some grace ended.
pub(super) async fn attend(
    mut child: Child,
    mut wish: watch::Receiver<Wish>,
    timeout: Option<Duration>,
    strays: &Strays,
    on_event: impl FnMut(StageEvent) + Send + 'static,
) -> io::Result<Ended> {
    let number = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(number) = number {
        strays.spare(number);
    }
    let group = number.and_then(Pid::from_raw);
    let signal = |signal| {
        if let Some(group) = group {
            // The group may be gone already; there is nothing to do then.
            let _ = kill_process_group(group, signal);
        }
    };
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("the worker has no standard output"))?;
    let listening = tokio::spawn(listen(stdout, on_event));
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
    if let Some(number) = number {
        strays.forget(number);
    }
    strays.end().await;
    let verdict = match tokio::time::timeout(LAST_WORDS, listening).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) | Err(_) => None,
    };
    Ok(Ended { status, verdict, timed_out: out_of_time > Wish::Run })
}

/// Waits until a time comes, and says what is to be wished then; nothing if there is none.
async fn expire(limit: Option<(Wish, Instant)>) -> Option<Wish> {
    let (wish, time) = limit?;
    tokio::time::sleep_until(time).await;
    Some(wish)
}

/// Reads lines until the worker's end closes. Whatever is no line of ours was printed by accident and is dropped.
async fn listen(stdout: ChildStdout, mut on_event: impl FnMut(StageEvent)) -> Option<Verdict> {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    let mut verdict = None;
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(1..)) {
        match serde_json::from_slice(&line) {
            Ok(Line::Event(event)) => on_event(event),
            Ok(Line::Verdict(last)) => verdict = Some(last),
            Err(_) => {}
        }
        line.clear();
    }
    verdict
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
