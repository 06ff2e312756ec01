//! What goes wrong, what it stops, and what the exit code says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use run_support::{Place, Ran, Running, Said, send};
use rustix::process::Signal;

const FAILING: [&str; 5] = [
    r#""good": Command(run: ["cp", "{file.0}", "{out}"], files: ["text.txt"])"#,
    r#""bad": Command(run: ["false"], inputs: {"good": "good"})"#,
    r#""below": Command(run: ["cp", "-r", "{in.bad}/.", "{out}"], inputs: {"bad": "bad"})"#,
    r#""further": Command(run: ["cp", "-r", "{in.below}/.", "{out}"], inputs: {"below": "below"})"#,
    r#""beside": Command(run: ["cp", "-r", "{in.good}/.", "{out}"], inputs: {"good": "good"})"#,
];

fn failing() -> Place {
    let place = Place::with(&FAILING);
    place.write("text.txt", "text\n");
    place
}

#[test]
fn after_a_failure_nothing_new_starts() {
    let place = failing();
    let run = place.run(&[]);
    assert_eq!(run.code, Some(1));
    assert_eq!(run.finished()["outcome"], "failed");
    assert_eq!(run.with_outcome("ran"), ["good"]);
    assert_eq!(run.with_outcome("failed"), ["bad"]);
    assert_eq!(run.with_outcome("skipped"), ["below", "beside", "further"]);
    let failed = run.event("stage-failed", "bad");
    assert_eq!(failed["blame"], "stage");
    assert!(std::path::Path::new(failed["log"].as_str().unwrap()).exists());
}

#[test]
fn with_keep_going_independent_stages_run() {
    let place = failing();
    let run = place.run(&["--keep-going"]);
    assert_eq!(run.code, Some(1));
    assert_eq!(run.with_outcome("ran"), ["beside", "good"]);
    assert_eq!(run.with_outcome("skipped"), ["below", "further"]);
    let again = place.run(&["--keep-going"]);
    assert_eq!((again.code, again.with_outcome("cached")), (Some(1), vec!["beside".to_owned(), "good".to_owned()]));
}

#[test]
fn a_result_that_the_disk_does_not_take_fails_its_stage_and_is_looked_at() {
    let place = failing();
    let mut command = place.twdag(&["run", "graph.ron", "good", "--json"]);
    command.env("TWDAG_TEST_FAILPOINT", "refuse store.flush 1");
    let run = Running::of(command).end();
    assert_eq!(run.code, Some(1));
    assert_eq!((&run.finished()["outcome"], run.with_outcome("failed")), (&"failed".into(), vec!["good".to_owned()]));
    let failed = run.event("stage-failed", "good");
    assert_eq!(failed["blame"], "environment");
    assert!(failed["message"].as_str().unwrap().starts_with("its result "), "{failed}");
    // It was read back and found whole.
    assert_eq!(place.run(&["good"]).with_outcome("cached"), ["good"]);
}

#[test]
fn a_result_that_the_disk_did_not_take_has_failed_also_if_nobody_waits_for_the_others() {
    let place = Place::with(&[
        r#""good": Command(run: ["cp", "{file.0}", "{out}"], files: ["text.txt"])"#,
        r#""slow": Command(run: ["sh", "-c", "sleep 4; cp $0/* $1", "{in.good}", "{out}"], inputs: {"good": "good"})"#,
    ]);
    place.write("text.txt", "text\n");
    // Whoever keeps this locked lets the end of the run last for a moment.
    let last = place.path("artifacts/local/last/graph");
    fs::create_dir_all(&last).unwrap();
    let lock = File::create(last.join("lock")).unwrap();
    lock.lock().unwrap();
    let mut command = place.twdag(&["run", "graph.ron", "--json"]);
    command.env("TWDAG_TEST_FAILPOINT", "refuse store.flush 1");
    let mut running = Running::of(command);
    running.until("stage-finished", "slow");
    send(running.pid(), Signal::TERM);
    let run = running.end();
    assert_eq!((run.code, &run.finished()["outcome"]), (Some(1), &"failed".into()), "{run:#?}");
    assert!(run.with_outcome("failed").contains(&"good".to_owned()), "{run:#?}");
}

#[test]
fn a_source_that_changes_while_it_is_read_leaves_no_result() {
    let place = Place::with(&[
        r#""copy": Command(run: ["sh", "-c", "cp $0 $1 && echo more >> $0", "{file.0}", "{out}"], files: ["text.txt"])"#,
    ]);
    place.write("text.txt", "text\n");
    let run = place.run(&[]);
    assert_eq!(run.code, Some(1));
    let failed = run.event("stage-failed", "copy");
    assert_eq!(failed["blame"], "input");
    assert!(
        failed["message"].as_str().unwrap().contains("text.txt was written to while the stage read it"),
        "{failed}"
    );
    assert_eq!(place.output(&["path", "graph.ron", "copy"]).code, Some(1));
    place.write("text.txt", "text\n");
    assert_eq!(place.output(&["path", "graph.ron", "copy"]).code, Some(1), "nothing was recorded for the old content");
}

#[test]
fn a_missing_source_is_told_before_anything_runs() {
    let place = Place::with(&FAILING);
    let said = place.output(&["run", "graph.ron"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("text.txt") && said.stderr.contains("`good`"), "{}", said.stderr);
    assert!(!said.stdout.contains("starts"), "{}", said.stdout);
}

#[test]
fn a_store_that_is_a_file_is_refused() {
    let place = failing();
    place.write("artifacts", "in the way");
    let said = place.output(&["run", "graph.ron"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("the store") && said.stderr.contains("--store"), "{}", said.stderr);
    assert_eq!(fs::read_to_string(place.path("artifacts")).unwrap(), "in the way");
    let elsewhere = place.output(&["run", "graph.ron", "good", "--store", "other"]);
    assert_eq!((elsewhere.code, place.path("other/objects").is_dir()), (Some(0), true), "{elsewhere:?}");
}

#[test]
fn wrong_usage_and_wrong_graphs_exit_with_2() {
    let place = failing();
    let cases: [&[&str]; 7] = [
        &["run"],
        &["run", "absent.ron"],
        &["run", "graph.ron", "--no-such-option"],
        &["run", "graph.ron", "--jobs", "0"],
        &["run", "graph.ron", "--set", "lambda"],
        &["run", "graph.ron", "--set", "absent=1"],
        &["plan", "graph.ron", "absent"],
    ];
    for arguments in cases {
        let said = place.output(arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}: {said:?}");
        assert!(!said.stderr.is_empty() && said.stdout.is_empty(), "{arguments:?}: {said:?}");
    }
    place.write("graph.ron", "Graph(version: 1, stages: {\"a\": Comand(run: [\"true\"])})");
    let said = place.output(&["run", "graph.ron"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("Command"), "{}", said.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = failing();
    for arguments in
        [&["plan", "graph.ron"][..], &["run", "graph.ron", "good"], &["run", "graph.ron", "good", "--json"]]
    {
        let mut child = place.twdag(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_told_when_all_is_done() {
    let place = failing();
    let cases = [
        (&["plan", "graph.ron", "good", "--json"][..], 1),
        (&["run", "graph.ron", "good", "--json"], 1),
        (&["run", "absent.ron", "--json"], 2),
    ];
    for (arguments, code) in cases {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let said = Said::from(place.twdag(arguments).stdout(full).output().unwrap());
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert_eq!(
            said.stderr.contains("cannot write to standard output: No space left"),
            code == 1,
            "{}",
            said.stderr
        );
    }
    assert_eq!(place.run(&["good"]).with_outcome("cached"), ["good"]);
}

#[test]
fn what_stands_in_the_place_of_an_output_folder_is_refused_and_left_as_it_is() {
    for (script, found) in [("ln -s $1 $0", "a symbolic link"), ("mv $1/file $0", "no folder")] {
        let place = Place::new();
        fs::create_dir(place.path("mine")).unwrap();
        place.write("mine/file", "mine\n");
        let before = fs::metadata(place.path("mine/file")).unwrap();
        let mine = place.path("mine");
        place.graph(&[&format!(
            r#""moved": Command(run: ["sh", "-c", "rmdir $0; {script}", "{{out}}", "{}"])"#,
            mine.display()
        )]);
        let run = place.run(&[]);
        assert_eq!(run.code, Some(1), "{run:?}");
        let failed = run.event("stage-failed", "moved");
        assert_eq!(failed["blame"], "stage");
        let message = failed["message"].as_str().unwrap();
        assert!(message.contains(&format!("put {found} in the place of its output folder")), "{message}");
        if let Ok(after) = fs::metadata(place.path("mine/file")) {
            assert_eq!(after.permissions(), before.permissions());
            assert_eq!(after.modified().unwrap(), before.modified().unwrap());
        }
    }
}

/// `run graph.ron --json` as somebody whom the permissions of files bind.
fn run_without_rights(place: &Place) -> Ran {
    let open = Command::new("chmod").args(["a+rwx", "."]).current_dir(place.path("")).status().unwrap();
    assert!(open.success());
    let mut command = place.twdag(&["run", "graph.ron", "--json"]);
    if rustix::process::geteuid().is_root() {
        // The build folder may be closed to others.
        let program = place.path("program");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_twdag"), &program).unwrap();
        }
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command.args(["run", "graph.ron", "--json"]).current_dir(place.path("")).env_remove("TWDAG_STORE");
    }
    Running::of(command).end()
}

#[test]
fn folders_that_a_program_has_closed_keep_no_stage_from_its_result() {
    let place = Place::new();
    let stage = |name: &str, script: &str| format!(r#""{name}": Command(run: ["sh", "-c", "{script}", "{{out}}"])"#);
    let closed = "mkdir -p $0/a/b && echo 1 > $0/a/b/c && echo 2 > $0/a/d && echo 3 > $0/e && echo 4 > $0/f";
    let stages = [
        stage("read_only", &format!("{closed} && chmod 555 $0/a/b $0/a $0")),
        stage(
            "failed",
            &format!("{closed} && test -e {} || {{ chmod 000 $0/a/b $0/a $0; exit 1; }}", place.path("good").display()),
        ),
    ];
    place.graph(&[&stages[0], &stages[1]]);
    let run = run_without_rights(&place);
    assert_eq!((run.code, run.with_outcome("ran")), (Some(1), vec!["read_only".to_owned()]), "{run:?}");
    place.write("good", "");
    let run = run_without_rights(&place);
    assert_eq!((run.code, run.with_outcome("ran")), (Some(0), vec!["failed".to_owned()]), "{run:?}");
    assert_eq!(place.result("failed", "a/b/c"), "1\n");
    assert_eq!(place.result("read_only", "f"), "4\n");
}

#[test]
fn what_cannot_be_read_is_told_as_that() {
    let place =
        Place::with(&[r#""closed": Command(run: ["sh", "-c", "mkdir $0/a; echo > $0/a/b; chmod 000 $0/a", "{out}"])"#]);
    let run = run_without_rights(&place);
    let failed = run.event("stage-failed", "closed");
    let message = failed["message"].as_str().unwrap();
    assert!(message.starts_with("read ") && message.contains("output/a: Permission denied"), "{message}");

    place.write("text.txt", "text\n");
    place.graph(&[FAILING[0]]);
    let close = Command::new("chmod").arg("000").arg(place.path("text.txt")).status().unwrap();
    assert!(close.success());
    let run = run_without_rights(&place);
    assert_eq!((run.code, run.events.len()), (Some(1), 0), "{run:?}");
    assert!(run.stderr.contains("text.txt: Permission denied (os error 13); allow reading it"), "{}", run.stderr);
}

#[test]
fn a_worker_started_by_hand_does_no_harm() {
    let place = failing();
    let said = place.output(&["worker"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("takes its jobs from a run"), "{}", said.stderr);
}

/// A stage with one file that stays the same and one that never is.
const UNSTEADY: [&str; 3] = [
    r#""unsteady": Command(run: ["sh", "-c", "echo same > $0/same.txt && cat /proc/sys/kernel/random/uuid > $0/when.txt", "{out}"])"#,
    r#""below": Command(run: ["cp", "{in.unsteady}/when.txt", "{out}"], inputs: {"unsteady": "unsteady"})"#,
    r#""beside": Command(run: ["false"])"#,
];

fn unsteady() -> (Place, String) {
    let place = Place::with(&UNSTEADY);
    let run = place.run(&["below"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let first = place.result("below", "when.txt");
    (place, first)
}

/// Removes the content of a file of the stage from the store.
fn lose(place: &Place, file: &str) {
    let content = place.result("unsteady", file);
    let digest = blake3::hash(content.as_bytes()).to_hex().to_string();
    fs::remove_file(place.path("artifacts/objects").join(&digest[..2]).join(&digest[2..])).unwrap();
}

#[test]
fn another_result_for_the_same_key_exits_with_3_and_the_first_one_stays() {
    let (place, first) = unsteady();
    lose(&place, "same.txt");
    // The stage brings the lost file back, and another one beside it.
    let run = place.run(&["below"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(run.finished()["outcome"], "failed");
    assert_eq!(
        (run.with_outcome("failed"), run.with_outcome("skipped")),
        (vec!["unsteady".into()], vec!["below".into()])
    );
    let failed = run.event("stage-failed", "unsteady");
    assert_eq!(failed["blame"], "stage");
    let results = &failed["not_reproducible"];
    assert_eq!((&results["file"], &results["recorded"]), (&"when.txt".into(), &results["existing"]));
    assert_ne!(results["existing"], results["new"]);
    assert_eq!(results["key"], run.event("stage-started", "unsteady")["key"]);
    let again = place.run(&["below"]);
    assert_eq!((again.code, again.with_outcome("cached").len()), (Some(0), 2));
    assert_eq!(place.result("below", "when.txt"), first);
}

#[test]
fn another_result_for_a_lost_one_exits_with_3_and_takes_its_place() {
    let (place, first) = unsteady();
    lose(&place, "when.txt");
    let said = place.output(&["run", "graph.ron", "below"]);
    assert_eq!(said.code, Some(3));
    let filters = place.filters();
    insta::assert_snapshot!(said.stderr, @"
    error: stage `unsteady` failed: the result is not reproducible: action [digest] gave artifact [digest] before and [digest] now; the first file that differs is `when.txt`, of 37 bytes before and 37 bytes now; files of the earlier one are lost (the content of `when.txt` is no longer in the store), so the new one is recorded in its place: run again to go on with it, or look for what makes the stage give other bytes for the same settings and inputs: a clock, an unseeded random choice, an undeclared file, another kind of processor
      log: artifacts/local/runs/[run]/logs/000-unsteady.log
    ");
    drop(filters);
    let again = place.run(&["below"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(
        (again.with_outcome("cached"), again.with_outcome("ran")),
        (vec!["unsteady".into()], vec!["below".into()])
    );
    assert_ne!(place.result("below", "when.txt"), first);
}

#[test]
fn a_result_that_could_not_be_reproduced_counts_for_more_than_another_failure() {
    let (place, _) = unsteady();
    lose(&place, "same.txt");
    let run = place.run(&["--keep-going"]);
    assert_eq!((run.code, run.with_outcome("failed")), (Some(3), vec!["beside".into(), "unsteady".into()]));
    assert_eq!(run.event("stage-failed", "beside")["not_reproducible"], serde_json::Value::Null);
    assert_eq!(place.run(&["--keep-going"]).code, Some(1));
}

#[test]
fn the_same_result_for_a_lost_one_is_no_failure() {
    let place = Place::with(&[r#""steady": Command(run: ["sh", "-c", "echo same > $0/same.txt", "{out}"])"#]);
    assert_eq!(place.run(&[]).code, Some(0));
    let digest = blake3::hash(b"same\n").to_hex().to_string();
    fs::remove_file(place.path("artifacts/objects").join(&digest[..2]).join(&digest[2..])).unwrap();
    let run = place.run(&[]);
    assert_eq!((run.code, run.with_outcome("ran")), (Some(0), vec!["steady".to_owned()]));
}
