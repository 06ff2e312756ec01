//! The work of a `Command` stage: start the program, watch it, check what it wrote.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use walkdir::WalkDir;

use super::{
    Command, FOLDERS, arguments,
    glance::{self, Glances},
    isolation::{self, Declared, IsolationError, Names, Report},
    log::Log,
    process::{Group, describe, die_with_this_process, leave_terminal},
    program,
};
use crate::stage::{Context, Isolation, SettingError, StageError};

/// How often its last line is shown.
const SHOW: Duration = Duration::from_millis(500);

pub(super) fn run(settings: &Command, context: &Context) -> Result<(), StageError> {
    let words = settings.run.iter().map(|text| arguments::fill(settings, text, context));
    let words = words.collect::<Result<Vec<_>, _>>()?;
    let (program, arguments) =
        words.split_first().ok_or_else(|| StageError::Bug("a command without a program".to_owned()))?;
    let [work, temporary] = FOLDERS.map(|name| context.scratch().join(name));
    for folder in [&work, &temporary] {
        // Often they are there, left by another stage.
        if !folder.is_dir() {
            fs::create_dir_all(folder).map_err(StageError::io("create", folder))?;
        }
    }
    let log_path = context.log().map_or_else(|| context.scratch().join("log.txt"), Path::to_owned);
    let (log, output, errors) = Log::open(&log_path).map_err(StageError::io("write", &log_path))?;

    let inherited = ["PATH", "HOME", "CUDA_VISIBLE_DEVICES"]
        .into_iter()
        .filter_map(|name| env::var_os(name).map(|value| (name, value)));
    let mut environment: BTreeMap<&str, OsString> = inherited.collect();
    environment.extend([("LANG", OsString::from("C.UTF-8")), ("TMPDIR", temporary.into_os_string())]);
    for (name, text) in &settings.env {
        environment.insert(name, arguments::fill(settings, text, context)?.into());
    }
    // Where only a path is left to be opened, the system starts a program without copying this process for the search.
    let found = program::find(program, environment.get("PATH").map_or(OsStr::new(""), OsString::as_os_str));
    let mut command = process::Command::new(found.as_deref().unwrap_or(Path::new(program)));
    command.arg0(program).args(arguments).current_dir(&work).env_clear().envs(environment);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    if !context.is_guarded() {
        die_with_this_process(&mut command);
    }

    context.check_canceled()?;
    leave_terminal();
    let watched = start(settings, program, &mut command, context, |group| watch(group, &log, context));
    // Whatever the command holds of the log must not outlive the program.
    drop(command);
    let (status, report) = watched?;
    let status = status?;
    // A program may end well although it was asked to stop, by this worker or by who stops all processes at once; its output may then be
    // a part only.
    context.check_canceled()?;
    let ended = format!("the program `{program}` {}", describe(status));
    judge(settings, program, &ended, &report, &log, context)?;
    if !status.success() {
        return Err(StageError::Failed(with_tail(ended, &log)));
    }
    check_output(settings, program, context.output(), &log)
}

/// Starts the program, as isolated as the run asks for, and watches it.
fn start<R>(
    settings: &Command,
    program: &str,
    command: &mut process::Command,
    context: &Context,
    watch: impl FnOnce(&mut Group) -> R,
) -> Result<(R, Report), StageError> {
    let isolation = context.isolation();
    if isolation == Isolation::Off {
        let mut group = Group::start(command).map_err(|error| cannot_start(program, error))?;
        return Ok((watch(&mut group), Report::default()));
    }
    if let Err(problem) = isolation::probe() {
        if isolation == Isolation::Enforce {
            return Err(lacking(program, problem));
        }
        context.warn(format!(
            "isolation (warn): nothing can be told of the program `{program}` on this machine: {problem}"
        ));
        let mut group = Group::start(command).map_err(|error| cannot_start(program, error))?;
        return Ok((watch(&mut group), Report::default()));
    }
    let declared = declared(settings, program, command, context)?;
    match isolation::supervised(isolation, &declared, command, watch) {
        Ok(watched) => Ok(watched),
        Err(IsolationError::Start(error))
            if isolation == Isolation::Enforce && error.kind() == io::ErrorKind::PermissionDenied =>
        {
            let expected = "an executable program that isolation (enforce) lets start, with its interpreter (the `#!` line): both must \
                            lie in `inputs` or `files`, in a folder of PATH, or where the system has programs";
            Err(SettingError::new("run.0", format!("`{program}`"), expected).into())
        }
        Err(IsolationError::Start(error)) => Err(cannot_start(program, error)),
        Err(IsolationError::Lacking(problem)) => Err(lacking(program, problem)),
    }
}

fn lacking(program: &str, problem: String) -> StageError {
    StageError::Environment { action: format!("isolate the program `{program}`"), source: io::Error::other(problem) }
}

/// What the program may read and write.
fn declared(
    settings: &Command,
    program: &str,
    command: &process::Command,
    context: &Context,
) -> Result<Declared, StageError> {
    // It is looked for in the PATH that the program gets, which the stage may have set.
    let paths = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, paths)| paths).unwrap_or_default();
    let inputs = settings.inputs.values().map(|reference| context.input(reference));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let stated = [context.workspace(), context.output(), context.scratch()];
    let stated: Vec<&Path> = stated.into_iter().chain(inputs.iter().copied()).collect();
    let mut declared = Declared::of_program(program, paths, &stated);
    for input in inputs {
        declared.read(input);
    }
    for path in &settings.files {
        declared.read(&context.source(path));
    }
    declared.write(context.output());
    declared.write(context.scratch());
    for path in &context.allowed().read {
        let place = whole(path, context.workspace());
        if let Err(error) = fs::metadata(&place) {
            context.warn(format!("the policy allows reading `{path}`, which allows nothing: {error}"));
        }
        declared.allow(&place);
    }
    if context.allowed().network {
        declared.allow_network();
    }
    // A program may open its standard output anew, as /dev/stdout.
    context.log().into_iter().for_each(|log| declared.write(log));
    Ok(declared)
}

/// A path that a policy names: whole, from the home folder on, or from the workspace on.
fn whole(path: &str, workspace: &Path) -> PathBuf {
    let below = if path == "~" { Some("") } else { path.strip_prefix("~/") };
    match (below, env::var_os("HOME")) {
        (Some(below), Some(home)) => Path::new(&home).join(below),
        _ => workspace.join(path),
    }
}

/// Tells what the program did beyond what is declared. Where it was refused that, the stage fails, even if the program ended well:
/// it may have gone another way than without isolation, and the key would not tell.
fn judge(
    settings: &Command,
    program: &str,
    ended: &str,
    report: &Report,
    log: &Log,
    context: &Context,
) -> Result<(), StageError> {
    if *report == Report::default() {
        return Ok(());
    }
    let isolation = context.isolation();
    for gap in &report.gaps {
        context.warn(format!("isolation ({}): {gap}", isolation.name()));
    }
    let mut names = Names::new(context.workspace());
    names.add(context.output(), "{out}");
    for (name, reference) in &settings.inputs {
        names.add(context.input(reference)?, format!("{{in.{name}}}"));
    }
    if let Some(home) = env::var_os("HOME").filter(|home| !home.is_empty()) {
        names.add(Path::new(&home), "~");
    }
    let did = report.sentences(&names);
    if isolation == Isolation::Enforce && !did.is_empty() {
        let problem = format!(
            "isolation (enforce) kept the program `{program}` from what its stage does not declare. It tried to {}. `--isolation warn` \
             lets it go on; {ended}",
            did.join(". It tried to ")
        );
        return Err(StageError::Failed(with_tail(problem, log)));
    }
    for sentence in did {
        context
            .warn(format!("isolation (warn): the program `{program}` did what the stage does not declare: {sentence}"));
    }
    Ok(())
}

fn watch(group: &mut Group, log: &Log, context: &Context) -> Result<process::ExitStatus, StageError> {
    let started = Instant::now();
    let mut shown = started;
    let (line, mut ending, log) = (context.line(), group.ending(), log.clone());
    let glance = move || {
        if line.is_canceled() {
            ending.ask();
        }
        if shown.elapsed() >= SHOW {
            line.progress(started.elapsed().as_secs(), 0, "seconds", log.last_line());
            shown = Instant::now();
        }
    };
    let failed = StageError::io("wait for", "the program");
    let ended = match Glances::begin(glance) {
        // Which ends before the program is reaped.
        Ok(_glances) => group.wait(),
        Err(mut glance) => loop {
            match group.has_ended() {
                Ok(false) => glance(),
                ended => break ended.map(drop),
            }
            thread::sleep(glance::INTERVAL);
        },
    };
    ended.and_then(|()| group.reap()).map_err(failed)
}

fn cannot_start(program: &str, error: io::Error) -> StageError {
    let expected = match error.kind() {
        io::ErrorKind::NotFound if Path::new(program).exists() => {
            "a program whose interpreter (the `#!` line) exists on this machine"
        }
        io::ErrorKind::NotFound => "a program that PATH leads to on this machine; install it or correct its name",
        io::ErrorKind::PermissionDenied => {
            "an executable program; use `chmod +x`, or name its interpreter first, as in [\"python3\", \"{file.0}\"]"
        }
        _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            "a program for this machine, or a script whose first line names its interpreter (`#!/bin/sh`); or name the \
             interpreter first, as in [\"sh\", \"{file.0}\"]"
        }
        _ => return StageError::Environment { action: format!("start `{program}`"), source: error },
    };
    SettingError::new("run.0", format!("`{program}`"), expected).into()
}

fn check_output(settings: &Command, program: &str, output: &Path, log: &Log) -> Result<(), StageError> {
    let mut found = Vec::new();
    for entry in WalkDir::new(output) {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) => found.extend(entry.path().strip_prefix(output).ok().map(|name| name.display().to_string())),
            // The program may have removed the whole folder.
            Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
            Err(error) => {
                let folder = error.path().unwrap_or(output).to_owned();
                let source = error.into_io_error().unwrap_or_else(|| io::Error::other("the folder contains itself"));
                return Err(StageError::io("read", folder)(source));
            }
        }
    }
    found.sort();
    let missing: Vec<&str> =
        settings.outputs.iter().map(String::as_str).filter(|name| !output.join(name).exists()).collect();
    let problem = if found.is_empty() {
        format!("the program `{program}` ended well but wrote nothing into the output folder; pass it `{{out}}`")
    } else if missing.is_empty() {
        return Ok(());
    } else {
        format!(
            "the program `{program}` ended well but did not write {}; the output folder holds {}",
            missing.join(", "),
            found.join(", ")
        )
    };
    Err(StageError::Failed(with_tail(problem, log)))
}

fn with_tail(problem: String, log: &Log) -> String {
    let tail = log.tail();
    if tail.is_empty() {
        format!("{problem}; it printed nothing")
    } else {
        format!("{problem}; its last lines were:\n    {}", tail.join("\n    "))
    }
}
