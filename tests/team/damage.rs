//! Damage on this machine while results are given: the others arrive, and what is damaged is told.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{
    bucket_server::{Request, Treat},
    place::{CHAIN, Machine, Team},
};

/// Changes a byte of a file in the store, as a bad disk does.
fn spoil(path: &Path, position: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 1], position).unwrap();
}

/// The object that holds the first file of a stage's result.
fn object(machine: &Machine<'_>, stage: &str) -> PathBuf {
    let said = machine.place.output(&["show", "graph.ron", stage, "--json"]);
    let shown: Value = serde_json::from_str(&said.stdout).unwrap();
    let digest = shown["files"][0]["digest"].as_str().unwrap();
    machine.place.path("artifacts/objects").join(&digest[..2]).join(&digest[2..])
}

/// A team behind a server, and a slot for what shall happen when it is first asked for something.
#[allow(clippy::type_complexity, reason = "the names of a type would say no more")]
fn team_with(when: fn(&Request) -> bool) -> Option<(Team, Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>)> {
    let deed: Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>> = Arc::default();
    let slot = Arc::clone(&deed);
    let team = Team::behind(move |request| {
        let deed = if when(request) { slot.lock().unwrap().take() } else { None };
        if let Some(deed) = deed {
            deed();
        }
        Treat::Well
    })?;
    Some((team, deed))
}

/// Stages that do not read each other, so that one that is lost keeps no other from being planned.
const STAGES: [&str; 3] = [
    CHAIN[0],
    r#""two": Command(run: ["sh", "-c", "echo two > $0/two", "{out}"])"#,
    r#""large": Command(run: ["sh", "-c", "seq 20000000 > $0/large", "{out}"])"#,
];

/// What another machine gets of it.
fn others_get(team: &Team, stages: &[&str]) {
    let other = team.machine(&STAGES);
    let (code, pulled) = other.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(stages.len())), "{pulled}");
    assert_eq!(other.here(), stages);
}

#[test]
fn a_result_that_was_damaged_before_is_told_and_the_others_are_given() {
    let team = Team::in_a_folder();
    let machine = team.machine(&STAGES[..2]);
    machine.run_alone();
    spoil(&object(&machine, "one"), 1);
    let said = machine.output(&["store", "push", "graph.ron"]);
    // As far as the plan is concerned, it is not computed.
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(said.stdout.contains("1 result stored") && said.stdout.contains("1 stage not computed"), "{said:#?}");
    assert!(said.stderr.contains("the content of `one` was changed in the store"), "{said:#?}");
    others_get(&team, &["two"]);
    // It heals as always.
    assert_eq!(machine.run(&[]).with_outcome("ran"), ["one"]);
    others_get(&team, &["one", "two"]);
}

#[test]
fn a_result_that_is_damaged_meanwhile_is_told_and_the_others_are_given() {
    // When the plan is made, the index is read.
    let Some((team, deed)) = team_with(|request| request.target.ends_with("/latest")) else { return };
    let machine = team.machine(&STAGES[..2]);
    machine.run_alone();
    let path = object(&machine, "one");
    *deed.lock().unwrap() = Some(Box::new(move || spoil(&path, 1)));
    let (code, pushed) = machine.store("push");
    assert_eq!(
        (code, &pushed["stored"], pushed["failed"].as_array().unwrap().len()),
        (Some(1), &json!(1), 1),
        "{pushed}"
    );
    assert_eq!(pushed["failed"][0]["message"], "the store of this machine does not have it");
    others_get(&team, &["two"]);
}

#[test]
fn a_large_file_that_is_damaged_on_its_way_is_told_and_the_others_are_given() {
    // Of its 21 parts the last ones have not been read when the first one is sent.
    let Some((team, deed)) = team_with(|request| request.target.contains("partNumber=1&")) else { return };
    let machine = team.machine(&STAGES);
    machine.run_alone();
    let path = object(&machine, "large");
    let end = fs::metadata(&path).unwrap().len() - 1;
    *deed.lock().unwrap() = Some(Box::new(move || spoil(&path, end)));
    let (code, pushed) = machine.store("push");
    assert!(deed.lock().unwrap().is_none(), "no part was sent: {pushed}");
    assert_eq!(
        (code, &pushed["stored"], pushed["failed"].as_array().unwrap().len()),
        (Some(1), &json!(2), 1),
        "{pushed}"
    );
    let message = pushed["failed"][0]["message"].as_str().unwrap();
    assert!(message.contains("is damaged in the store of this machine; run `twdag store check`"), "{message}");
    others_get(&team, &["one", "two"]);
    // What was sent of it is no object.
    let (_, checked) = (machine.place.run(&[]), machine.store("push"));
    assert_eq!((checked.0, &checked.1["stored"]), (Some(0), &json!(1)), "{checked:?}");
    others_get(&team, &["one", "two", "large"]);
}
