//! Running programs: what they see, how they fail, and how they are stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use twdag_stages::{
    command::Command,
    stage::{Blame, Context, Kind, StageError, StageEvent},
};

fn command(run: &[&str]) -> Command {
    Command {
        run: run.iter().map(|&text| text.to_owned()).collect(),
        inputs: BTreeMap::new(),
        files: Vec::new(),
        env: BTreeMap::new(),
        outputs: Vec::new(),
    }
}

fn shell(script: &str) -> Command {
    command(&["sh", "-c", script, "sh", "{out}"])
}

struct Folders {
    output: tempfile::TempDir,
    scratch: tempfile::TempDir,
}

impl Folders {
    fn new() -> Self {
        Self { output: tempfile::tempdir().unwrap(), scratch: tempfile::tempdir().unwrap() }
    }

    fn run(&self, stage: &Command) -> Result<(), StageError> {
        stage.run(&Context::builder(self.output.path(), self.scratch.path()).build())
    }

    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.output.path().join(name)).unwrap()
    }
}

fn failure(stage: &Command) -> String {
    Folders::new().run(stage).unwrap_err().to_string()
}

#[test]
fn placeholders_become_paths_and_other_braces_stay() {
    let (workspace, input, folders) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Folders::new());
    fs::write(
        workspace.path().join("script.sh"),
        "printf '%s|' \"$@\" > \"$1\"/arguments; cat \"$2\"/text >> \"$1\"/arguments",
    )
    .unwrap();
    fs::write(input.path().join("text"), "from upstream").unwrap();
    let mut stage =
        command(&["sh", "{file.0}", "{out}", "{in.corpus}", "--threads={threads}", "{print $1}", "a b", "$HOME", "{"]);
    stage.inputs.insert("corpus".to_owned(), "stage-of-that-name".into());
    stage.files.push("script.sh".into());
    stage.outputs.push("arguments".to_owned());
    assert_eq!(Kind::sources(&stage)[0].path, "script.sh".into());
    let context = Context::builder(folders.output.path(), folders.scratch.path())
        .workspace(workspace.path())
        .input("stage-of-that-name", input.path())
        .threads(3)
        .build();
    stage.run(&context).unwrap();
    let out = folders.output.path().display();
    let expected = format!("{out}|{}|--threads=3|{{print $1}}|a b|$HOME|{{|from upstream", input.path().display());
    assert_eq!(folders.written("arguments"), expected);
}

#[test]
fn a_program_sees_a_small_world() {
    let folders = Folders::new();
    let mut stage = shell("env > $1/env; pwd > $1/pwd; cat > $1/stdin; touch \"$TMPDIR\"/kept");
    stage.env.insert("DATA".to_owned(), "{out}/data".to_owned());
    folders.run(&stage).unwrap();
    let scratch = folders.scratch.path();
    let mut names: Vec<String> =
        folders.written("env").lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    // The shell itself adds these.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()));
    names.sort();
    assert_eq!(names, ["DATA", "HOME", "LANG", "PATH", "TMPDIR"]);
    let expected = format!("DATA={}/data", folders.output.path().display());
    assert!(folders.written("env").lines().any(|line| line == expected));
    assert_eq!(folders.written("pwd").trim(), scratch.join("work").display().to_string());
    assert_eq!(folders.written("stdin"), "");
    assert!(scratch.join("tmp/kept").exists());
}

#[test]
fn failures_say_how_and_repeat_the_last_lines() {
    insta::assert_snapshot!(failure(&shell("for n in $(seq 30); do echo line $n; done; echo oh no >&2; exit 3")), @r#"
    the program `sh` ended with exit code 3; its last lines were:
        line 12
        line 13
        line 14
        line 15
        line 16
        line 17
        line 18
        line 19
        line 20
        line 21
        line 22
        line 23
        line 24
        line 25
        line 26
        line 27
        line 28
        line 29
        line 30
        oh no
    "#);
    insta::assert_snapshot!(failure(&shell("exit 1")), @"the program `sh` ended with exit code 1; it printed nothing");
    insta::assert_snapshot!(failure(&shell("kill -9 $$")), @"the program `sh` was ended by signal 9 (SIGKILL; the machine may have run out of memory); it printed nothing");
    insta::assert_snapshot!(failure(&shell("echo hello")), @r#"
    the program `sh` ended well but wrote nothing into the output folder; pass it `{out}`; its last lines were:
        hello
    "#);
    let mut stage = shell("echo x > $1/a; mkdir $1/c; echo x > $1/c/d");
    stage.outputs = vec!["a".to_owned(), "b".to_owned()];
    insta::assert_snapshot!(failure(&stage), @"the program `sh` ended well but did not write b; the output folder holds a, c/d; it printed nothing");
    insta::assert_snapshot!(failure(&command(&["no-such-program-anywhere"])), @"setting `run.0` is `no-such-program-anywhere`, expected a program that PATH leads to on this machine; install it or correct its name");
    insta::assert_snapshot!(failure(&command(&["/etc/passwd"])), @r#"setting `run.0` is `/etc/passwd`, expected an executable program; use `chmod +x`, or name its interpreter first, as in ["python3", "{file.0}"]"#);
    let error = Folders::new().run(&shell("exit 1")).unwrap_err();
    assert_eq!(error.blame(), Blame::Stage);
}

#[test]
fn settings_that_cannot_work_are_refused_without_running_anything() {
    let refused = |stage: &Command| stage.check().unwrap_err().to_string();
    insta::assert_snapshot!(refused(&command(&[])), @"setting `run` is empty, expected a program and its arguments");
    insta::assert_snapshot!(refused(&command(&["./script.sh"])), @r#"setting `run.0` is `./script.sh`, expected a program in PATH, or `{file.0}` with `files: ["./script.sh"]`"#);
    let mut stage = command(&["cat", "{in.tokens}"]);
    insta::assert_snapshot!(refused(&stage), @"setting `run.1` is `{in.tokens}`, expected a name declared in `inputs` (none is declared)");
    stage.inputs.insert("text".to_owned(), "corpus".into());
    insta::assert_snapshot!(refused(&stage), @"setting `run.1` is `{in.tokens}`, expected a name declared in `inputs` (`{in.text}`)");
    insta::assert_snapshot!(refused(&command(&["sh", "{file.0}"])), @"setting `run.1` is `{file.0}`, expected a number below 0, the number of `files`");
    let mut stage = command(&["true"]);
    stage.outputs.push("../x".to_owned());
    insta::assert_snapshot!(refused(&stage), @"setting `outputs.0` is `../x`, expected a path relative to the output folder, without `.` and `..`");
}

/// Whether a process is alive (and no zombie).
fn is_alive(id: &str) -> bool {
    fs::read_to_string(Path::new("/proc").join(id).join("stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with('Z'))
}

/// Waits until a process has ended: a signal is sent before the stage returns, and the kernel may take a moment to carry it out.
fn ends(id: &str) {
    while is_alive(id) {
        std::thread::yield_now();
    }
}

/// Runs a program that prints `ready` once its children run, and asks it to stop then.
fn stop_when_ready(folders: &Folders, stage: &Command) -> StageError {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    let context = Context::builder(folders.output.path(), folders.scratch.path())
        .cancel(cancel)
        .events(move |event| {
            if matches!(event, StageEvent::Progress { detail, .. } if detail == "ready") {
                flag.store(true, Ordering::Relaxed);
            }
        })
        .build();
    stage.run(&context).unwrap_err()
}

#[test]
fn a_wish_to_stop_reaches_the_program_and_its_children() {
    let folders = Folders::new();
    let script = "sleep 1000 & echo $! > $1/child; trap 'echo stopped > $1/trap; exit 0' TERM; echo ready; wait";
    assert!(matches!(stop_when_ready(&folders, &shell(script)), StageError::Canceled));
    assert_eq!(folders.written("trap"), "stopped\n");
    ends(folders.written("child").trim());
}

#[test]
fn a_program_that_does_not_listen_is_killed() {
    let folders = Folders::new();
    let script = "trap '' TERM; echo $$ > $1/own; echo ready; while :; do sleep 0.1; done";
    assert!(matches!(stop_when_ready(&folders, &shell(script)), StageError::Canceled));
    assert!(!is_alive(folders.written("own").trim()));
}

#[test]
fn what_a_program_leaves_behind_is_killed_when_it_ends() {
    let folders = Folders::new();
    folders.run(&shell("sleep 1000 & echo $! > $1/child")).unwrap();
    ends(folders.written("child").trim());
}
