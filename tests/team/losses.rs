//! Bytes, lists, segments and servers that go away, and results that spoil no others.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    sync::{Mutex, mpsc::channel},
};

use serde_json::{Value, json};
use twdag::digest::Digest;

use crate::{
    attacks::rewrite,
    bucket_server::Treat,
    place::{CHAIN, Machine, THOUSAND, Team},
};

/// Reads one of the files of [`THOUSAND`], of which the index does not hold the list.
const READER: &str = r#""reads": Command(run: ["sh", "-c", "cat $0 > $1/line", "{in.file}", "{out}"], inputs: {"file": "thousand/aaab"})"#;

/// A stage that gives the same bytes as the last of [`CHAIN`].
const COPY: &str =
    r#""copy": Command(run: ["sh", "-c", "cp $0/large $1/copy", "{in.large}", "{out}"], inputs: {"large": "large"})"#;

/// A stage that gives something else on each machine.
const CLOCK: &str = r#""clock": Command(run: ["sh", "-c", "cat /proc/sys/kernel/random/uuid > $0/time", "{out}"])"#;

fn counts_as_not_there(victim: &Machine<'_>) {
    let said = victim.output(&["plan", "graph.ron"]);
    assert!(said.code == Some(0) && said.stdout.contains("1 run, 1 wait"), "{said:#?}");
    assert!(said.stderr.contains("the result that it belongs to counts as not there"), "{said:#?}");
    let ran = victim.run(&["--remote", "read"]);
    // The bytes of the second are among those of the first, so that its record is enough.
    assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["thousand".to_owned()]), "{ran:#?}");
    assert_eq!(victim.here(), ["thousand", "reads"]);
}

#[test]
fn a_list_of_files_that_is_gone_is_a_miss() {
    let team = Team::in_a_folder();
    team.machine(&[THOUSAND, READER]).run(&[]);
    team.files("packs").iter().for_each(|path| fs::remove_file(path).unwrap());
    counts_as_not_there(&team.machine(&[THOUSAND, READER]));
}

#[test]
fn a_list_of_files_that_a_server_refuses_is_a_miss() {
    let is_pack = |target: &str| target.contains("/packs/");
    let team = Team::behind(move |request| {
        if request.method == "GET" && is_pack(&request.target) { Treat::Refuse(403) } else { Treat::Well }
    });
    let Some(team) = team else { return };
    team.machine(&[THOUSAND, READER]).run(&[]);
    let victim = team.machine(&[THOUSAND, READER]);
    counts_as_not_there(&victim);
}

#[test]
fn a_command_that_the_use_of_the_store_forbids_is_refused() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    machine.run_alone();
    for (verb, mode, word) in [("push", "read", "given to"), ("pull", "write", "taken from")] {
        let said = machine.output(&["store", verb, "graph.ron", "--remote", mode]);
        assert_eq!(said.code, Some(2), "{said:#?}");
        let expected = format!("`--remote {mode}` (or TWDAG_REMOTE) does not let results be {word} the remote store");
        assert!(said.stderr.contains(&expected), "{said:#?}");
    }
    assert_eq!(team.files("").len(), 0);
    assert_eq!(machine.output(&["store", "push", "graph.ron", "--remote", "write"]).code, Some(0));
    assert_eq!(machine.output(&["store", "pull", "graph.ron", "--remote", "read"]).code, Some(0));
}

#[test]
fn what_an_interrupted_run_could_not_give_is_counted_and_told() {
    let ((come, comes), (go, goes)) = (channel(), channel::<()>());
    let (come, goes) = (Mutex::new(come), Mutex::new(goes));
    // The request that would publish stays on its way until the test is over.
    let team = Team::behind(move |request| {
        if request.method == "PUT" && request.target.contains("/segments/") {
            let _ = come.lock().unwrap().send(());
            let _ = goes.lock().unwrap().recv();
        }
        Treat::Well
    });
    let Some(team) = team else { return };
    for json in [true, false] {
        let machine = team.machine(&[CLOCK]);
        let arguments: &[&str] = if json { &["run", "graph.ron", "--json"] } else { &["run", "graph.ron"] };
        let mut command = machine.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        comes.recv().unwrap();
        let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        if json {
            let mut events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let summary = events.find(|event| event["event"] == "remote-summary").unwrap();
            assert_eq!((&summary["failed"], &summary["stored"]), (&json!(1), &json!(0)), "{summary}");
            assert_eq!(summary["problem"], "the run was stopped before all results were given");
        } else {
            let word =
                "not stored: the run was stopped before all results were given; give it later with `twdag store push`";
            assert!(out.contains("1 result not stored") && err.contains(word), "{out}{err}");
        }
    }
    drop(go);
}

#[test]
fn what_was_found_to_be_lost_is_not_asked_for_again() {
    let team = Team::in_a_folder();
    team.machine(CHAIN).run(&[]);
    fs::remove_file(&team.files("objects")[0]).unwrap();
    let victim = team.machine(CHAIN);
    let (code, pulled) = victim.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(1), &json!(2)), "{pulled}");
    // Another process plans without it.
    let (code, pulled) = victim.store("pull");
    assert_eq!((code, &pulled["failed"]), (Some(0), &json!([])), "{pulled}");
    // Who gives it heals it, also for those that have noted the loss.
    let ran = team.machine(CHAIN).run(&[]);
    assert_eq!(ran.event("remote-summary", "")["stored"], 1, "{ran:#?}");
    let (code, pulled) = victim.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
}

#[test]
fn bytes_that_several_results_share_heal_for_all() {
    let team = Team::in_a_folder();
    let both = [CHAIN, &[COPY]].concat();
    team.machine(&both).run(&[]);
    fs::remove_file(&team.files("objects")[0]).unwrap();
    // This one knows that one of them has lost its bytes, and nothing of the other.
    let victim = team.machine(CHAIN);
    let ran = victim.run(&[]);
    assert_eq!(ran.with_outcome("ran"), ["large"], "{ran:#?}");
    assert_eq!(ran.event("remote-summary", "")["stored"], 1, "{ran:#?}");
    let (code, pulled) = team.machine(&both).store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(4)), "{pulled}");
}

#[test]
fn a_result_that_is_lost_and_comes_out_otherwise_is_told() {
    let team = Team::in_a_folder();
    team.machine(&[CLOCK]).run(&[]);
    team.files("packs").iter().for_each(|path| fs::remove_file(path).unwrap());
    let second = team.machine(&[CLOCK]);
    let ran = second.run(&[]);
    assert_eq!((ran.code, ran.with_outcome("ran")), (Some(3), vec!["clock".to_owned()]), "{ran:#?}");
    let conflict = &ran.event("remote-summary", "")["conflicts"][0];
    assert_ne!(conflict["published"], conflict["found"]);
    assert_eq!(second.store("status").1["stages"][0]["differs"], true);
}

#[test]
fn no_line_of_a_segment_takes_a_result_away() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    machine.run_alone();
    machine.store("push");
    rewrite(&team.files("segments")[0], |text| {
        let keys = text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
        let keys: Vec<Value> = keys.map(|line| json!({"remove": line["publish"]["key"]})).collect();
        keys.iter().fold(text, |text, line| format!("{text}\n{line}"))
    });
    assert_eq!(team.machine(CHAIN).store("pull").1["fetched"], 3);
}

#[test]
fn a_first_segment_that_is_gone_leaves_the_others() {
    let team = Team::in_a_folder();
    let first = team.machine(&CHAIN[..1]);
    first.run(&[]);
    first.place.graph(&CHAIN[..2]);
    first.run(&[]);
    fs::remove_file(&team.files("segments")[0]).unwrap();
    let second = team.machine(CHAIN);
    let (_, status) = second.store("status");
    assert!(status["stages"][1]["there"].is_null(), "nothing says what the first stage gave: {status}");
    let ran = second.run(&[]);
    assert_eq!((ran.code, ran.with_outcome("cached")), (Some(0), vec!["many".to_owned()]), "{ran:#?}");
    // All go on in the same log.
    for machine in [team.machine(CHAIN), first] {
        machine.place.graph(CHAIN);
        let ran = machine.run(&[]);
        assert_eq!(ran.with_outcome("cached"), ["large", "many", "one"], "{ran:#?}");
    }
}

#[test]
fn a_result_that_cannot_be_taken_in_keeps_no_other_from_it() {
    // A name that no artifact can have, one that is too long for a disk, and a file that is a folder too.
    let bad = ["bell\\u0007", &"n".repeat(300), "one/one"];
    for path in bad {
        let team = Team::in_a_folder();
        let machine = team.machine(CHAIN);
        machine.run_alone();
        machine.store("push");
        rewrite(&team.files("segments")[0], |text| {
            let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            // The last stage, which no other reads.
            let record = |line: &Value| line["publish"]["record"].as_str().unwrap_or_default().to_owned();
            let line = lines.iter_mut().find(|line| record(line).contains(r#""stage":"large""#)).unwrap();
            let published = &mut line["publish"];
            let list = published["manifest"].as_str().unwrap();
            let list = if path == "one/one" {
                let file = list.split_once('[').unwrap().1.split_once(']').unwrap().0;
                let other = file.replace(r#""path":"large""#, r#""path":"large/large""#);
                list.replace(file, &format!("{file},{other}"))
            } else {
                list.replace(r#""path":"large""#, &format!("\"path\":\"{path}\""))
            };
            let (old, new) = (published["artifact"].as_str().unwrap().to_owned(), Digest::of(list.as_bytes()));
            let changed = record(&json!({ "publish": published })).replace(&old, &new.to_string());
            published["record"] = changed.into();
            published["manifest"] = list.into();
            published["artifact"] = new.to_string().into();
            lines.iter().map(|line| line.to_string() + "\n").collect()
        });
        let victim = team.machine(CHAIN);
        let (_, pulled) = victim.store("pull");
        assert_eq!(pulled["fetched"], 2, "{path}: {pulled}");
        assert_eq!(victim.here(), ["one", "many"], "{path}");
        let ran = victim.run(&["--remote", "read"]);
        assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["large".to_owned()]), "{path}: {ran:#?}");
    }
}

#[test]
fn a_shared_folder_stays_open_to_those_it_is_open_to() {
    let team = Team::in_a_folder();
    let root = team.address.strip_prefix("file://").unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o2770)).unwrap();
    let machine = team.machine(CHAIN);
    machine.run_alone();
    let command = machine.command(&["store", "push", "graph.ron"]);
    let mut narrow = std::process::Command::new("sh");
    narrow.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    narrow.current_dir(machine.place.path(""));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => narrow.env(name, value),
            None => narrow.env_remove(name),
        };
    }
    let output = narrow.output().unwrap();
    assert!(output.status.success(), "{output:#?}");
    for entry in walkdir::WalkDir::new(root).min_depth(1).into_iter().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        let expected = if entry.file_type().is_dir() { 0o2770 } else { 0o660 };
        assert_eq!(mode, expected, "{}", entry.path().display());
    }
}
