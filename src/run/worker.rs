//! The process in which stages run, one after another. It may crash, be killed or run out of memory: the driver goes on.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getppid, kill_current_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use twdag_stages::{
    registry,
    stage::{Blame, Context, Stage, StageError, StageEvent},
};

use crate::{failpoint, store};

use super::{
    channel::{self, Handed},
    check::{HOST_NAME, USUAL_NAMESPACE, UTS_NAMESPACE},
    job::{self, Job, Line, Verdict, Work},
    open_files,
    strays::Strays,
};

/// So many bytes a process may keep between jobs.
const SMALL: usize = 64 << 20;
/// The environment variable by which tests make parts small, so that little work has several.
const PART_SIZE: &str = "TWDAG_TEST_PART_SIZE";
/// At most one progress event in this time reaches the driver.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// How often the worker looks whether its driver still lives.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// How long a stage may take to keep its state after its driver has died.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// Does one job after another, as a driver hands them over through `channel`, and tells on `lines` how each ended. The
/// verdict on the last one, if there was any.
///
/// A worker takes another job only if the one before left nothing behind: it succeeded, no program of it lives, and no
/// memory to speak of is kept. Starting a process costs as much as a small stage. If one lies ready by then, it takes that up before
/// anybody has heard how the last one ended, so that no processor waits for the driver.
pub fn serve(mut channel: UnixStream, lines: impl Write + Send + 'static) -> io::Result<Option<Verdict>> {
    let lines = Arc::new(Lines { out: Mutex::new(Box::new(lines)), last: Mutex::new(None) });
    let cancel = Arc::new(AtomicBool::new(false));
    let mut strays = None;
    let mut last = None;
    let memory = File::open("/proc/self/statm");
    let place = Arc::new(OnceLock::new());
    let mut taken = None;
    while let Some(Handed { job, claim, log, next }) = match taken.take() {
        Some(handed) => Some(handed),
        None => channel::receive(&mut channel, &cancel)?,
    } {
        if let Some(next) = next {
            place.get_or_init(|| next);
        }
        rustix::stdio::dup2_stderr(&log)?;
        let prepared = if strays.is_some() { Ok(()) } else { prepare(&job, &cancel, &place) };
        let mut verdict = match prepared.and_then(|()| {
            // After the worker has become the one to whom orphans go.
            strays.get_or_insert_with(Strays::adopt);
            run(&job, &cancel, &lines)
        }) {
            Ok(verdict) => verdict,
            Err(StageError::Canceled) => Verdict::Canceled,
            Err(error) => Verdict::Failed { message: error.to_string(), blame: error.blame() },
        };
        // A test may stop this process here, or let it fail.
        if let Err(error) = failpoint::pass("worker.verdict") {
            verdict = Verdict::Failed { message: format!("cannot end: {error}"), blame: Blame::Environment };
        }
        let ready = verdict == Verdict::Succeeded
            && strays.as_ref().is_some_and(Strays::end_and_wait)
            && memory.as_ref().is_ok_and(is_small)
            && !cancel.load(Ordering::Relaxed);
        drop(claim);
        let mut words = vec![Line::Verdict(verdict.clone())];
        if ready {
            // One that cannot be read is missed by the driver, who hands it to another worker.
            taken = place.get().and_then(|place| channel::take(place).ok()?);
            words.push(Line::Ready { ready, goes_on: taken.is_some() });
        }
        lines.send(&words);
        last = Some(verdict);
        if !ready {
            break;
        }
    }
    Ok(last)
}

/// Whether the process holds little memory of its own, by what the system tells of it; `false` where that cannot be told.
fn is_small(memory: &File) -> bool {
    let pages = || -> Option<usize> {
        let mut text = [0; 128];
        let length = memory.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(&text[..length]).ok()?;
        let mut numbers = text.split_whitespace().skip(1).map_while(|number| number.parse::<usize>().ok());
        let (resident, shared) = (numbers.next()?, numbers.next()?);
        Some(resident.saturating_sub(shared))
    };
    pages().is_some_and(|pages| pages * rustix::param::page_size() <= SMALL)
}

fn prepare(job: &Job, cancel: &Arc<AtomicBool>, place: &Arc<OnceLock<OwnedFd>>) -> Result<(), StageError> {
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
    take_host_name()?;
    open_files::lower();
    // If memory runs out, the kernel shall end the worker and not its driver; under the program's own name, and not
    // that of the link through which it was started, people find it. Neither matters enough to fail.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    let _ = fs::write("/proc/self/comm", "twdag");
    let (watched, place) = (Arc::clone(cancel), Arc::clone(place));
    thread::spawn(move || die_with(driver, &watched, &place));
    Ok(())
}

/// Takes another host name, if the driver asks for it: it has started the worker in a namespace of its own, or else the name of the
/// whole machine would change.
fn take_host_name() -> Result<(), StageError> {
    let Some(name) = env::var_os(HOST_NAME) else { return Ok(()) };
    let failed = |source| StageError::Environment { action: "take another host name".to_owned(), source };
    // From a user namespace of its own a worker may not look at its driver's.
    let usual = env::var_os(USUAL_NAMESPACE);
    let mine = fs::read_link(UTS_NAMESPACE).map_err(failed)?;
    if usual.is_none_or(|usual| mine.as_os_str() == usual) {
        return Err(failed(io::Error::other("the worker is in no namespace of its own")));
    }
    rustix::system::sethostname(name.as_encoded_bytes()).map_err(|error| failed(error.into()))
}

/// When the driver is gone, the stage gets a moment to keep its state; then the whole process group ends, with
/// whatever programs the stage has started. What lies ready is given up at once: whoever waits for it may begin.
fn die_with(driver: Option<Pid>, cancel: &AtomicBool, place: &OnceLock<OwnedFd>) {
    while getppid() == driver {
        thread::sleep(WATCH_INTERVAL);
    }
    cancel.store(true, Ordering::Relaxed);
    // The driver's own duplicate of the claim is gone with it.
    drop(place.get().map(channel::take));
    thread::sleep(ORPHAN_GRACE);
    let _ = kill_current_process_group(Signal::KILL);
}

fn run(job: &Job, cancel: &Arc<AtomicBool>, lines: &Arc<Lines>) -> Result<Verdict, StageError> {
    let broken = |problem: String| StageError::Bug(format!("job of stage `{}`: {problem}", job.stage));
    let entry = registry::find(&job.kind).ok_or_else(|| broken(format!("unknown kind `{}`", job.kind)))?;
    let stage = entry.from_json(&job.settings).map_err(|error| broken(error.to_string()))?;

    failpoint::pass("worker.start").map_err(StageError::io("create", &job.output))?;
    empty(&job.output)?;
    fs::create_dir_all(&job.scratch).map_err(StageError::io("create", &job.scratch))?;

    let sink = Arc::clone(lines);
    let mut builder = Context::builder(&job.output, &job.scratch)
        .workspace(&job.workspace)
        .logs(&job.logs)
        .log(&job.log)
        .threads(job.threads)
        .isolation(job.isolation)
        .guarded(job.guarded)
        .allowed(job.allowed.clone())
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
    match catch_unwind(AssertUnwindSafe(|| compute(stage.as_ref(), job, &context))) {
        Ok(result) => result,
        Err(panic) => Err(StageError::Bug(panic_message(panic.as_ref()))),
    }
}

/// Makes a folder, or an empty one of whatever has its place.
fn empty(folder: &Path) -> Result<(), StageError> {
    let create = || fs::create_dir(folder);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created.map_err(StageError::io("create", folder)),
    }
    let metadata = folder.symlink_metadata().map_err(StageError::io("read", folder))?;
    // One that an earlier attempt has closed cannot be read, but may be removed.
    if metadata.is_dir() && fs::read_dir(folder).is_ok_and(|mut files| files.next().is_none()) {
        return Ok(());
    }
    if metadata.is_dir() {
        store::remove_folder(folder).map_err(|error| StageError::io("empty", folder)(io::Error::other(error)))?;
    } else {
        fs::remove_file(folder).map_err(StageError::io("remove", folder))?;
    }
    create().map_err(StageError::io("create", folder))
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
        Work::Whole => stage.run(context)?,
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
        self.send(&[Line::Event(event)]);
    }

    fn send(&self, lines: &[Line]) {
        // Ends what a library may have printed there without ending its line.
        let mut bytes = vec![b'\n'];
        for line in lines {
            bytes.extend(serde_json::to_vec(line).unwrap_or_default());
            bytes.push(b'\n');
        }
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    }
}
