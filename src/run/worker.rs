//! The process in which one stage runs. It may crash, be killed or run out of memory: the driver goes on.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getppid, kill_current_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use twdag_stages::{
    registry,
    stage::{Context, Stage, StageError, StageEvent},
};

use crate::failpoint;

use super::{
    job::{self, Job, JobError, Line, Verdict, Work},
    strays::become_reaper,
};

/// The environment variable by which tests make parts small, so that little work has several.
const PART_SIZE: &str = "TWDAG_TEST_PART_SIZE";
/// At most one progress event in this time reaches the driver.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// How often the worker looks whether its driver still lives.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// How long a stage may take to keep its state after its driver has died.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// Runs the stage of a job file to its end and tells how it ended, on `lines` and in the job's verdict file.
/// Fails only if there is no job to speak of.
pub fn work(job_file: &Path, lines: impl Write + Send + 'static) -> Result<Verdict, JobError> {
    let job: Job = job::read(job_file)?;
    let lines = Arc::new(Lines { out: Mutex::new(Box::new(lines)), last: Mutex::new(None) });
    let cancel = Arc::new(AtomicBool::new(false));
    let verdict = match prepare(&job, &cancel).and_then(|()| run(&job, &cancel, &lines)) {
        Ok(verdict) => verdict,
        Err(StageError::Canceled) => Verdict::Canceled,
        Err(error) => Verdict::Failed { message: error.to_string(), blame: error.blame() },
    };
    // A test may stop this process here; the verdict is refused as a file and still gets through as a line.
    let passed = failpoint::pass("worker.verdict");
    // A full disk refuses the file; the line below still gets through.
    let kept = passed
        .map_err(|source| JobError::File { verb: "write", path: job.verdict.clone(), source })
        .and_then(|()| job::write(&job.verdict, &verdict));
    lines.send(&Line::Verdict(verdict.clone()));
    kept.map(|()| verdict)
}

fn prepare(job: &Job, cancel: &Arc<AtomicBool>) -> Result<(), StageError> {
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(cancel))
            .map_err(|source| StageError::Environment { action: "listen to signals".to_owned(), source })?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| StageError::Environment {
        action: "bind the worker to its parent".to_owned(),
        source: error.into(),
    })?;
    let driver = i32::try_from(job.driver).ok().and_then(Pid::from_raw);
    // The driver may have died before the line above took effect.
    if getppid() != driver {
        return Err(StageError::Canceled);
    }
    // What the stage's programs leave behind stays below this process, so that the driver finds it.
    become_reaper();
    // If memory runs out, the kernel shall end the worker and not its driver; under the program's own name, and not
    // that of the link through which it was started, people find it. Neither matters enough to fail.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    let _ = fs::write("/proc/self/comm", "twdag");
    let watched = Arc::clone(cancel);
    thread::spawn(move || die_with(driver, &watched));
    Ok(())
}

/// When the driver is gone, the stage gets a moment to keep its state; then the whole process group ends, with
/// whatever programs the stage has started.
fn die_with(driver: Option<Pid>, cancel: &AtomicBool) {
    while getppid() == driver {
        thread::sleep(WATCH_INTERVAL);
    }
    cancel.store(true, Ordering::Relaxed);
    thread::sleep(ORPHAN_GRACE);
    let _ = kill_current_process_group(Signal::KILL);
}

fn run(job: &Job, cancel: &Arc<AtomicBool>, lines: &Arc<Lines>) -> Result<Verdict, StageError> {
    let broken = |problem: String| StageError::Bug(format!("job of stage `{}`: {problem}", job.stage));
    let entry = registry::find(&job.kind).ok_or_else(|| broken(format!("unknown kind `{}`", job.kind)))?;
    let stage = entry.from_json(&job.settings).map_err(|error| broken(error.to_string()))?;

    if let Err(error) = fs::remove_dir_all(&job.output)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(StageError::io("empty", &job.output)(error));
    }
    failpoint::pass("worker.start").map_err(StageError::io("create", &job.output))?;
    for folder in [&job.output, &job.scratch] {
        fs::create_dir_all(folder).map_err(StageError::io("create", folder))?;
    }

    let sink = Arc::clone(lines);
    let mut builder = Context::builder(&job.output, &job.scratch)
        .workspace(&job.workspace)
        .logs(&job.logs)
        .threads(job.threads)
        .cancel(Arc::clone(cancel))
        .events(move |event| sink.event(event));
    for (reference, path) in &job.inputs {
        builder = builder.input(reference.as_str(), path);
    }
    if let Some(size) = part_size()? {
        builder = builder.part_size(size);
    }
    let context = builder.build();
    context.check_canceled()?;
    // Whatever a panic leaves half-written lies in the output folder, which the next attempt empties.
    let verdict = match catch_unwind(AssertUnwindSafe(|| compute(stage.as_ref(), job, &context))) {
        Ok(result) => result?,
        Err(panic) => return Err(StageError::Bug(panic_message(panic.as_ref()))),
    };
    if verdict == Verdict::Succeeded {
        flush(&job.output)?;
    }
    Ok(verdict)
}

fn compute(stage: &dyn Stage, job: &Job, context: &Context) -> Result<Verdict, StageError> {
    match &job.work {
        Work::Stage => match stage.split(context)? {
            Some(split) => {
                job::write(&job.split, &split).map_err(|error| StageError::Environment {
                    action: "keep the list of parts".to_owned(),
                    source: io::Error::other(error),
                })?;
                return Ok(Verdict::Split);
            }
            None => stage.run(context)?,
        },
        Work::Part(part) => stage.run_part(part, context)?,
        Work::Join(parts) => stage.join(parts, context)?,
    }
    Ok(Verdict::Succeeded)
}

/// The size of parts that a test asks for. Results do not depend on it.
fn part_size() -> Result<Option<u64>, StageError> {
    let Some(text) = env::var_os(PART_SIZE) else { return Ok(None) };
    let size = text.to_str().and_then(|text| text.parse().ok());
    let wrong = || StageError::Failed(format!("{PART_SIZE} is for tests of twdag itself and must be a number"));
    size.map(Some).ok_or_else(wrong)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    format!("the stage panicked: {text}")
}

/// Puts the whole output on the disk, so that a power cut after the record leaves no record of missing bytes.
fn flush(output: &Path) -> Result<(), StageError> {
    for entry in walkdir::WalkDir::new(output).contents_first(true) {
        let entry = entry.map_err(|error| StageError::io("read", output)(error.into()))?;
        if entry.file_type().is_file() || entry.file_type().is_dir() {
            let flushed = failpoint::pass("worker.flush").and_then(|()| File::open(entry.path())?.sync_all());
            flushed.map_err(StageError::io("flush", entry.path()))?;
        }
    }
    Ok(())
}

/// The way to the driver. Nothing that goes wrong on it may harm the stage: if the driver is gone, [`die_with`] acts.
struct Lines {
    out: Mutex<Box<dyn Write + Send>>,
    last: Mutex<Option<Instant>>,
}

impl Lines {
    fn event(&self, event: StageEvent) {
        if let StageEvent::Progress { done, total, .. } = &event {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let too_soon = last.is_some_and(|last| last.elapsed() < PROGRESS_INTERVAL);
            if too_soon && done != total {
                return;
            }
            *last = Some(Instant::now());
        }
        self.send(&Line::Event(event));
    }

    fn send(&self, line: &Line) {
        if let Ok(mut bytes) = serde_json::to_vec(line) {
            bytes.push(b'\n');
            let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = out.write_all(&bytes).and_then(|()| out.flush());
        }
    }
}
