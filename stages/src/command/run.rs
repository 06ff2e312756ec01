//! The work of a `Command` stage: start the program, watch it, check what it wrote.

use std::{
    env, fs, io,
    path::Path,
    process::{self, Stdio},
    time::{Duration, Instant},
};

use walkdir::WalkDir;

use super::{
    Command, arguments,
    log::Log,
    process::{Group, describe},
};
use crate::stage::{Context, SettingError, StageError};

/// How often it is looked whether the stage shall stop.
const GLANCE: Duration = Duration::from_millis(20);
/// How often its last line is shown.
const SHOW: Duration = Duration::from_millis(500);

pub(super) fn run(settings: &Command, context: &Context) -> Result<(), StageError> {
    let words = settings.run.iter().map(|text| arguments::fill(settings, text, context));
    let words = words.collect::<Result<Vec<_>, _>>()?;
    let (program, arguments) =
        words.split_first().ok_or_else(|| StageError::Bug("a command without a program".to_owned()))?;
    let work = context.scratch().join("work");
    let temporary = context.scratch().join("tmp");
    for folder in [&work, &temporary] {
        fs::create_dir_all(folder).map_err(StageError::io("create", folder))?;
    }
    let log_path = context.scratch().join("log.txt");
    let (log, output, errors) = Log::create(&log_path).map_err(StageError::io("write", &log_path))?;

    let mut command = process::Command::new(program);
    command.args(arguments).current_dir(&work).stdin(Stdio::null()).stdout(output).stderr(errors).env_clear();
    let inherited = ["PATH", "HOME", "CUDA_VISIBLE_DEVICES"]
        .into_iter()
        .filter_map(|name| env::var_os(name).map(|value| (name, value)));
    command.envs(inherited).env("LANG", "C.UTF-8").env("TMPDIR", &temporary);
    for (name, text) in &settings.env {
        command.env(name, arguments::fill(settings, text, context)?);
    }

    context.check_canceled()?;
    let mut group = Group::start(&mut command).map_err(|error| cannot_start(program, error))?;
    // Whatever the command holds of the log must not outlive the program.
    drop(command);
    let status = watch(&mut group, &log, context)?;
    // A program may end well although it was asked to stop; its output may then be a part only.
    context.check_canceled()?;
    if !status.success() {
        return Err(StageError::Failed(with_tail(format!("the program `{program}` {}", describe(status)), &log)));
    }
    check_output(settings, program, context.output(), &log)
}

fn watch(group: &mut Group, log: &Log, context: &Context) -> Result<process::ExitStatus, StageError> {
    let started = Instant::now();
    let mut shown = started;
    loop {
        if let Some(status) = group.poll().map_err(StageError::io("wait for", "the program"))? {
            return Ok(status);
        }
        if context.is_canceled() {
            group.end();
        }
        if shown.elapsed() >= SHOW {
            context.progress(started.elapsed().as_secs(), 0, "seconds", log.last_line());
            shown = Instant::now();
        }
        group.wait_for(GLANCE);
    }
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
        _ => return StageError::Environment { action: format!("start `{program}`"), source: error },
    };
    SettingError::new("run.0", format!("`{program}`"), expected).into()
}

fn check_output(settings: &Command, program: &str, output: &Path, log: &Log) -> Result<(), StageError> {
    let mut found: Vec<String> = WalkDir::new(output)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_type().is_dir())
        .filter_map(|entry| Some(entry.path().strip_prefix(output).ok()?.display().to_string()))
        .collect();
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
