//! Looking after a store through the program: check, collect, sizes, past runs, pins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use run_support::{Place, Said, wait_until};
use serde_json::{Value, json};
use twdag::digest::Digest;

const STAGES: &[&str] = &[
    r#""one": Command(run: ["cp", "{file.0}", "{out}/one"], files: ["text.txt"])"#,
    r#""two": Command(run: ["sh", "-c", "tr a-z A-Z < $0/one > $1/two", "{in.one}", "{out}"], inputs: {"one": "one"})"#,
];

/// A graph of two stages that has run with this text.
fn ran(place: &Place, text: &str) {
    place.write("text.txt", text);
    assert_eq!(place.run(&[]).code, Some(0));
}

fn place() -> Place {
    let place = Place::with(STAGES);
    ran(&place, "some text\n");
    place
}

fn object(place: &Place, content: &str) -> PathBuf {
    let name = Digest::of(content.as_bytes()).to_string();
    place.path("artifacts/objects").join(&name[..2]).join(&name[2..])
}

fn write(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Enters a file into the index of objects as if it had been found to hold this.
fn note(place: &Place, file: &Path, digest: &Digest) {
    let metadata = file.metadata().unwrap();
    let changed = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
    let mut entry = [&digest.as_bytes()[..], &metadata.ino().to_le_bytes(), &changed.to_le_bytes()].concat();
    let check = Digest::of(&entry);
    entry.extend_from_slice(&check.as_bytes()[..8]);
    fs::write(place.path("artifacts/local/seals"), entry).unwrap();
}

fn json_of(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn check(place: &Place) -> (Option<i32>, Value) {
    let said = place.output(&["store", "check", "--json"]);
    (said.code, json_of(&said))
}

fn sorts(checked: &Value) -> Vec<&str> {
    checked["findings"].as_array().unwrap().iter().map(|finding| finding["sort"].as_str().unwrap()).collect()
}

fn cached(place: &Place) -> usize {
    let said = place.output(&["plan", "graph.ron", "--json"]);
    json_of(&said)["stages"].as_array().unwrap().iter().filter(|stage| stage["status"] == "cached").count()
}

/// Collects what no root keeps, however young it is.
fn collect(place: &Place, more: &[&str]) -> Value {
    let said = place.output(&[&["store", "gc", "--older-than", "0s", "--json"], more].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    json_of(&said)
}

#[test]
fn a_whole_store_is_found_whole() {
    let place = place();
    assert_eq!(place.output(&["path", "graph.ron", "two"]).code, Some(0));
    let (code, checked) = check(&place);
    assert_eq!((code, &checked["whole"]), (Some(0), &json!(true)), "{checked}");
    assert_eq!((&checked["records"], &checked["artifacts"], &checked["objects"]), (&json!(2), &json!(2), &json!(2)));
    assert_eq!((&checked["bytes"], sorts(&checked)), (&json!(20), vec![]));
    assert_eq!(cached(&place), 2);
    let said = place.output(&["store", "check"]);
    assert_eq!(said.stdout, "artifacts: whole; 2 records, 2 artifacts, 2 objects, 20 B are as they should be\n");
}

#[test]
fn a_check_finds_what_no_look_from_outside_could_and_repairs_it() {
    let place = place();
    let _filters = place.filters();
    // As a disk does that rots: nothing that `stat` tells has changed, which the index says here.
    let two = object(&place, "SOME TEXT\n");
    let before = two.metadata().unwrap();
    write(&two, b"SOME TEXF\n");
    fs::File::open(&two).unwrap().set_modified(before.modified().unwrap()).unwrap();
    note(&place, &two, &Digest::of(b"SOME TEXT\n"));
    assert_eq!(cached(&place), 2);
    let (code, checked) = check(&place);
    assert_eq!((code, sorts(&checked)), (Some(1), vec!["damaged", "lost"]), "{checked}");
    let lost = checked["findings"][1]["problem"].as_str().unwrap();
    insta::assert_snapshot!(lost, @"the result of stage `two` of graph `graph`: the content of `two` is no longer in the store");
    // All that could be repaired is: the same check again finds nothing.
    let (code, checked) = check(&place);
    assert_eq!((code, sorts(&checked)), (Some(0), vec![]), "{checked}");
    let run = place.run(&[]);
    assert_eq!((run.code, run.with_outcome("ran")), (Some(0), vec!["two".to_owned()]));
    assert_eq!(place.result("two", "two"), "SOME TEXT\n");
}

#[test]
fn a_check_tells_damage_from_strangers_and_leftovers() {
    let place = place();
    let view = PathBuf::from(place.output(&["path", "graph.ron", "one"]).stdout.trim_end());
    let store = place.path("artifacts");
    let shelf = object(&place, "some text\n").parent().unwrap().to_owned();
    fs::write(shelf.join(".new-AbCdEf"), "half a fi").unwrap();
    fs::write(shelf.join("notes.txt"), "mine").unwrap();
    fs::create_dir_all(store.join("local/claims")).unwrap();
    let claim = store.join(format!("local/claims/{}.lock", Digest::of(b"x")));
    fs::write(&claim, "somebody who left").unwrap();
    fs::set_permissions(&view, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(view.join("stray"), "").unwrap();
    fs::write(store.join("local/stat-index.json"), "{\"check\":").unwrap();
    let (code, checked) = check(&place);
    assert_eq!((code, sorts(&checked)), (Some(1), vec!["damaged", "foreign", "leftover"]), "{checked}");
    assert!(shelf.join("notes.txt").exists() && !shelf.join(".new-AbCdEf").exists());
    assert!(!claim.exists() && !store.join("local/stat-index.json").exists() && !view.exists());
    let (code, checked) = check(&place);
    assert_eq!((code, sorts(&checked)), (Some(0), vec!["foreign"]), "{checked}");
    assert_eq!((cached(&place), place.result("one", "one")), (2, "some text\n".to_owned()));
}

#[test]
fn every_sort_of_damage_is_found_and_healed_by_a_run() {
    let damages: [&dyn Fn(&Path); 4] = [
        &|path| write(path, b""),
        &|path| {
            let bytes = fs::read(path).unwrap();
            write(path, &bytes[..bytes.len() - 1]);
        },
        &|path| fs::remove_file(path).unwrap(),
        &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
    ];
    for room in ["objects", "trees", "actions"] {
        for (number, damage) in damages.iter().enumerate() {
            let place = place();
            let files = walkdir::WalkDir::new(place.path("artifacts").join(room)).sort_by_file_name();
            let file = files.into_iter().flatten().find(|entry| entry.file_type().is_file()).unwrap();
            damage(file.path());
            let (code, checked) = check(&place);
            // A record that is gone is as if it had never been.
            let expected = if (room, number) == ("actions", 2) { Some(0) } else { Some(1) };
            assert_eq!(code, expected, "{room} {number} {checked}");
            assert_eq!(check(&place).0, Some(0), "{room} {number}");
            assert_eq!(place.run(&[]).code, Some(0), "{room} {number}");
            assert_eq!(place.result("two", "two"), "SOME TEXT\n", "{room} {number}");
        }
    }
}

#[test]
fn what_is_in_the_way_of_a_folder_is_set_aside() {
    let place = place();
    let shelf = object(&place, "SOME TEXT\n").parent().unwrap().to_owned();
    fs::remove_dir_all(&shelf).unwrap();
    fs::write(&shelf, "as a repaired file system leaves it").unwrap();
    let (code, checked) = check(&place);
    assert_eq!((code, sorts(&checked)), (Some(1), vec!["damaged", "lost"]), "{checked}");
    assert_eq!(check(&place).0, Some(0));
    assert_eq!(place.run(&[]).with_outcome("ran"), ["two"]);
    // What only serves to explain heals without a check.
    let last = place.path("artifacts/local/last/graph/keys");
    fs::remove_file(&last).unwrap();
    fs::create_dir(&last).unwrap();
    ran(&place, "another text\n");
    assert!(last.is_file());
}

#[test]
fn who_keeps_explanations_locked_delays_a_run_once() {
    let place = place();
    let lock = fs::File::open(place.path("artifacts/local/last/graph/lock")).unwrap();
    lock.lock().unwrap();
    place.write("text.txt", "another text\n");
    let run = place.run(&[]);
    let warnings: Vec<_> = run.events.iter().filter(|event| event["event"] == "run-warning").collect();
    assert_eq!((run.code, warnings.len()), (Some(0), 1), "{warnings:?}");
    assert!(
        warnings[0]["message"].as_str().unwrap().starts_with("later plans cannot tell what changed"),
        "{warnings:?}"
    );
    drop(lock);
    ran(&place, "more text\n");
}

#[test]
fn nobody_waits_for_a_pipe_that_has_the_name_of_a_file() {
    let place = place();
    assert_eq!(place.run(&[]).code, Some(0));
    let files = walkdir::WalkDir::new(place.path("artifacts")).into_iter().flatten();
    let is_read = |path: &Path| !["lock", "log"].iter().any(|sort| path.to_string_lossy().ends_with(sort));
    let files = files.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
    let files: Vec<PathBuf> = files.filter(|path| is_read(path)).collect();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        fs::remove_file(&file).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    }
    let commands: [&[&str]; 5] =
        [&["plan", "graph.ron"], &["run", "graph.ron"], &["runs"], &["store", "check"], &["store", "gc"]];
    for command in commands {
        let mut started = place.twdag(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Mutex::new(&mut started);
        wait_until(&command.join(" "), || started.lock().unwrap().try_wait().unwrap().is_some());
    }
    assert_eq!(check(&place).0, Some(0));
    assert_eq!(place.result_after_run("two", "two"), "SOME TEXT\n");
}

#[test]
fn on_a_full_disk_a_plan_is_told_and_damage_is_not_trusted() {
    // It was not changed for long, so that what it holds is worth keeping.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE-MIT");
    let stage = format!(r#""one": Command(run: ["cp", "{{file.0}}", "{{out}}/one"], files: ["{path}"])"#);
    let place = Place::with(&[&stage]);
    let full = |arguments: &[&str]| {
        let command = &mut place.twdag(arguments);
        Said::from(command.env("TWDAG_TEST_FAILPOINT", "refuse derived.write 1").output().unwrap())
    };
    let said = full(&["plan", "graph.ron"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(place.run(&[]).code, Some(0));
    // As a disk does that rots.
    let license = fs::read_to_string(path).unwrap();
    let one = object(&place, &license);
    let before = one.metadata().unwrap();
    write(&one, license.to_lowercase().as_bytes());
    fs::File::open(&one).unwrap().set_modified(before.modified().unwrap()).unwrap();
    note(&place, &one, &Digest::of(license.as_bytes()));
    assert_eq!(cached(&place), 1);
    let said = full(&["store", "check", "--json"]);
    let checked = json_of(&said);
    assert_eq!((said.code, sorts(&checked)), (Some(1), vec!["damaged", "lost"]), "{checked}");
    assert_eq!(checked["findings"][0]["repair"], "it could not be moved and is not used");
    assert_eq!(cached(&place), 0);
    assert_eq!(place.result_after_run("one", "one"), license);
}

#[test]
fn what_others_who_use_the_store_must_read_has_the_mode_of_any_new_file() {
    let place = place();
    assert_eq!(place.run(&[]).code, Some(0));
    assert_eq!(check(&place).0, Some(0));
    place.write("usual", "");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    let files = walkdir::WalkDir::new(place.path("artifacts/local")).into_iter().flatten();
    for file in files.filter(|entry| entry.file_type().is_file()) {
        let may = |mode: u32| mode & 0o444;
        assert_eq!(may(mode(file.path())), may(mode(&place.path("usual"))), "{}", file.path().display());
    }
}

#[test]
fn a_run_that_tells_of_no_result_takes_the_place_of_none() {
    let place = place();
    assert_eq!(place.run(&[]).with_outcome("cached").len(), 2);
    let last = fs::read_dir(place.path("artifacts/local/runs")).unwrap().flatten().map(|run| run.path()).max().unwrap();
    fs::remove_file(last.join("plan.json")).unwrap();
    collect(&place, &["--keep-runs", "1"]);
    assert_eq!(cached(&place), 2);
    collect(&place, &["--keep-runs", "0"]);
    assert_eq!(cached(&place), 0);
}

#[test]
fn only_what_no_root_reaches_is_collected() {
    let place = place();
    ran(&place, "other text\n");
    // Both runs are kept, and both results are young.
    assert_eq!(collect(&place, &[])["removed"]["bytes"], 0);
    let would = collect(&place, &["--keep-runs", "1", "--dry-run"]);
    assert_eq!((&would["removed"]["objects"], &would["removed"]["records"]), (&json!(2), &json!(2)), "{would}");
    assert!(object(&place, "some text\n").exists());
    let young = json_of(&place.output(&["store", "gc", "--keep-runs", "1", "--json"]));
    assert_eq!(young["removed"]["bytes"], 0, "{young}");
    let gone = collect(&place, &["--keep-runs", "1"]);
    assert_eq!(gone["removed"]["bytes"], would["removed"]["bytes"], "{gone}");
    assert!(!object(&place, "some text\n").exists() && object(&place, "other text\n").exists());
    assert_eq!(cached(&place), 2);
    assert_eq!(check(&place).0, Some(0));
    // What is gone is computed again when it is asked for.
    place.write("text.txt", "some text\n");
    assert_eq!((cached(&place), place.run(&[]).code), (0, Some(0)));
    assert_eq!(place.result("two", "two"), "SOME TEXT\n");
}

#[test]
fn a_pin_keeps_results_until_it_is_taken_away() {
    let place = place();
    let said = place.output(&["pin", "graph.ron", "--name", "paper"]);
    assert_eq!((said.code, &*said.stdout), (Some(0), "pinned paper: the results of 2 stages, 20 B\n"), "{said:?}");
    ran(&place, "other text\n");
    let kept = collect(&place, &["--keep-runs", "0"]);
    assert_eq!(
        kept["roots"],
        json!([{"sort": "pin", "name": "paper", "artifacts": 2, "bytes": 20, "alone_bytes": 20}])
    );
    assert_eq!((&kept["removed"]["objects"], cached(&place)), (&json!(2), 0));
    place.write("text.txt", "some text\n");
    assert_eq!(cached(&place), 2);
    let pins = json_of(&place.output(&["pins", "--json"]));
    assert_eq!((&pins["pins"][0]["name"], &pins["pins"][0]["stages"][1]["name"]), (&json!("paper"), &json!("two")));
    let wrong = place.output(&["unpin", "papers"]);
    assert_eq!(wrong.code, Some(2));
    insta::assert_snapshot!(wrong.stderr, @"error: there is no pin `papers`; there is `paper`");
    assert_eq!(place.output(&["unpin", "paper"]).stdout, "unpinned paper\n");
    assert_eq!(place.output(&["pins"]).stdout, "nothing is pinned\n");
    assert_eq!(collect(&place, &["--keep-runs", "0"])["removed"]["objects"], 2);
    assert_eq!(cached(&place), 0);
}

#[test]
fn what_is_not_computed_cannot_be_pinned_and_a_past_run_can() {
    let place = place();
    place.write("text.txt", "other text\n");
    let refused = place.output(&["pin", "graph.ron"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("stage `one` has not been computed"), "{}", refused.stderr);
    let runs = json_of(&place.output(&["runs", "--json"]));
    let run = runs["runs"][0]["name"].as_str().unwrap();
    assert_eq!(place.output(&["pin", "--run", run, "--name", "first"]).code, Some(0));
    assert_eq!(place.run(&[]).code, Some(0));
    collect(&place, &["--keep-runs", "0"]);
    place.write("text.txt", "some text\n");
    assert_eq!(cached(&place), 2);
}

#[test]
fn nothing_is_collected_while_a_pin_cannot_be_read() {
    let place = place();
    assert_eq!(place.output(&["pin", "graph.ron"]).code, Some(0));
    let pin = place.path("artifacts/pins/graph.json");
    let bytes = fs::read(&pin).unwrap();
    write(&pin, &bytes[..40]);
    let refused = place.output(&["store", "gc", "--keep-runs", "0", "--older-than", "0s"]);
    assert_eq!((refused.code, cached(&place)), (Some(1), 2), "{refused:?}");
    assert!(refused.stderr.contains("remove the file and pin again"), "{}", refused.stderr);
    let (code, checked) = check(&place);
    assert_eq!((code, sorts(&checked)), (Some(1), vec!["damaged"]));
}

#[test]
fn the_oldest_runs_go_until_the_rest_fits() {
    let place = Place::with(STAGES);
    for text in ["text number 1\n", "text number 2\n", "text number 3\n"] {
        ran(&place, text);
    }
    // 28 bytes for each run.
    let collected = collect(&place, &["--max-size", "60B"]);
    assert_eq!((&collected["kept_bytes"], &collected["removed"]["objects"]), (&json!(56), &json!(2)), "{collected}");
    assert_eq!(collected["let_go"].as_array().unwrap().len(), 1);
    assert_eq!(cached(&place), 2);
    assert_eq!(place.output(&["pin", "graph.ron"]).code, Some(0));
    let collected = collect(&place, &["--max-size", "10B"]);
    assert_eq!((&collected["kept_bytes"], &collected["over_size"]), (&json!(28), &json!(true)), "{collected}");
    assert_eq!(cached(&place), 2);
}

/// A stage that reads another one's result only when a gate opens.
fn gated(place: &Place) {
    let wait = format!("until test -e {}; do sleep 0.02; done", place.path("gate").display());
    place.graph(&[
        STAGES[0],
        STAGES[1],
        &format!(r#""slow": Command(run: ["sh", "-c", "{wait}; cat $0/one > $1/slow", "{{in.one}}", "{{out}}"], inputs: {{"one": "one"}})"#),
        r#""late": Command(run: ["sh", "-c", "cat $0/slow $1/two > $2/late", "{in.slow}", "{in.two}", "{out}"], inputs: {"slow": "slow", "two": "two"})"#,
    ]);
}

#[test]
fn what_a_run_in_another_process_needs_is_never_collected() {
    let place = Place::new();
    gated(&place);
    place.write("text.txt", "some text\n");
    assert_eq!(place.run(&["two"]).code, Some(0));
    // Nothing but the run that goes on needs `one` and `two` from now on.
    let mut run = place.start(&["--jobs", "2"]);
    run.until("stage-started", "slow");
    let kept = collect(&place, &["--keep-runs", "0"]);
    assert_eq!((&kept["roots"][0]["sort"], &kept["removed"]["objects"]), (&json!("running"), &json!(0)), "{kept}");
    let (code, checked) = check(&place);
    assert_eq!((code, sorts(&checked)), (Some(0), vec![]), "{checked}");
    let runs = json_of(&place.output(&["runs", "--json"]));
    assert_eq!(runs["runs"][0]["outcome"], "running");
    place.write("gate", "");
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("ran")), (Some(0), vec!["late".to_owned(), "slow".to_owned()]), "{run:#?}");
    assert_eq!(place.result("late", "late"), "some text\nSOME TEXT\n");
    assert!(collect(&place, &["--keep-runs", "0"])["removed"]["objects"].as_u64() > Some(0));
}

#[test]
fn collecting_again_and_again_disturbs_no_run() {
    let place = Place::new();
    let names: Vec<String> = (0..12).map(|number| format!("stage{number}")).collect();
    let stage = |number: usize| {
        if number == 0 {
            r#""stage0": Command(run: ["cp", "{file.0}", "{out}/text"], files: ["text.txt"])"#.to_owned()
        } else {
            let before = number - 1;
            format!(
                r#""stage{number}": Command(run: ["sh", "-c", "(cat $0/text; echo {number}) > $1/text", "{{in.before}}", "{{out}}"], inputs: {{"before": "stage{before}"}})"#
            )
        }
    };
    let stages: Vec<String> = (0..names.len()).map(stage).collect();
    place.graph(&stages.iter().map(String::as_str).collect::<Vec<_>>());
    for text in ["one\n", "two\n"] {
        place.write("text.txt", text);
        let mut run = place.start(&[]);
        run.until("stage-started", "stage1");
        let mut collected = 0;
        while fs::read_dir(place.path("artifacts/local/leases")).unwrap().next().is_some() && collected < 200 {
            collect(&place, &["--keep-runs", "0"]);
            collected += 1;
        }
        let run = run.end();
        assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), names.len()), "{run:#?}");
        assert!(collected > 0);
    }
}

#[test]
fn past_runs_are_listed_with_their_outcome() {
    let place = place();
    place.graph(&[r#""bad": Command(run: ["false"])"#]);
    assert_eq!(place.run(&[]).code, Some(1));
    gated(&place);
    let mut killed = place.start(&[]);
    killed.until("stage-started", "slow");
    run_support::send(killed.pid(), rustix::process::Signal::KILL);
    killed.end_killed();
    let lease = place.path("artifacts/local/leases");
    wait_until("the lease is free", || {
        fs::read_dir(&lease).unwrap().flatten().all(|entry| fs::File::open(entry.path()).unwrap().try_lock().is_ok())
    });
    let runs = json_of(&place.output(&["runs", "--json"]));
    let outcomes: Vec<&str> =
        runs["runs"].as_array().unwrap().iter().map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["killed", "failed", "succeeded"]);
    let text = place.output(&["runs", "--last", "1"]).stdout;
    assert!(text.contains("graph.ron   killed") && text.lines().count() == 1, "{text}");
    let size = json_of(&place.output(&["store", "size", "--json"]));
    let objects = &size["rooms"][0];
    assert_eq!((&objects["room"], &objects["files"], &objects["bytes"]), (&json!("objects"), &json!(2), &json!(20)));
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let place = Place::new();
    for command in [&["store", "check"][..], &["store", "gc"], &["store", "size"], &["runs"], &["pins"]] {
        let said = place.output(command);
        assert_eq!((said.code, said.stderr.contains("there is no store in")), (Some(2), true), "{said:?}");
    }
    assert!(!place.path("artifacts").exists());
}
