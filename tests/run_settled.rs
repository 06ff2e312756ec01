//! Plans in which everything is cached are known without reading what they rest on; whatever of that changes is noticed
//! all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use run_support::{Place, Ran, wait_until};
use serde_json::Value;

const STAGES: &[&str] = &[
    r#""one": Command(run: ["cp", "{file.0}", "{out}/one"], files: ["text.txt"])"#,
    r#""two": Command(run: ["sh", "-c", "tr a-z A-Z < $0/one > $1/two", "{in.one}", "{out}"], inputs: {"one": "one"})"#,
    r#""three": Download(from: Folder(path: "data", files: ["*.txt"]))"#,
];

/// A workspace in which everything is cached, and known to be.
fn settled() -> Place {
    let place = Place::with(STAGES);
    place.write("text.txt", "some text\n");
    fs::create_dir(place.path("data")).unwrap();
    place.write("data/a.txt", "a");
    settle(&place, &[]);
    place
}

/// Runs until a run knows at once that there is nothing to do: what was written a moment ago has to be a second old.
fn settle(place: &Place, more: &[&str]) {
    let run = place.run(more);
    assert_eq!(run.code, Some(0), "{run:#?}");
    wait_until("the plan is settled", || is_at_once(&place.run(more)));
}

/// Whether a run did not even look into the graph: its plan is the one that was kept.
fn is_at_once(run: &Ran) -> bool {
    let folder = PathBuf::from(run.events[0]["folder"].as_str().unwrap());
    run.with_outcome("cached").len() == STAGES.len()
        && folder.join("plan.json").metadata().is_ok_and(|plan| plan.nlink() > 1)
}

/// All files of a room.
fn files(place: &Place, room: &str) -> Vec<PathBuf> {
    let shelves = fs::read_dir(place.path("artifacts").join(room)).unwrap();
    shelves.flat_map(|shelf| fs::read_dir(shelf.unwrap().path()).unwrap()).map(|file| file.unwrap().path()).collect()
}

/// Another byte, without a trace in size, mode and modification time.
fn change(path: &Path) {
    let before = path.metadata().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    File::open(path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
}

#[test]
fn whatever_a_settled_plan_rests_on_is_noticed_when_it_changes() {
    let place = settled();
    for room in ["actions", "trees", "objects"] {
        for file in files(&place, room) {
            change(&file);
            let run = place.run(&[]);
            assert_eq!(run.code, Some(0), "{run:#?}");
            assert_eq!(run.event("store-damaged", "")["path"], file.to_str().unwrap());
            assert_eq!(run.with_outcome("ran").len(), 1, "{room}: {run:#?}");
        }
        settle(&place, &[]);
        for file in files(&place, room) {
            fs::remove_file(&file).unwrap();
            assert_eq!(place.run(&[]).with_outcome("ran").len(), 1, "{room}");
        }
        settle(&place, &[]);
    }
    change(&place.path("text.txt"));
    assert_eq!(place.run(&[]).with_outcome("ran"), ["one", "two"]);
    settle(&place, &[]);
    place.write("data/b.txt", "b");
    assert_eq!(place.run(&[]).with_outcome("ran"), ["three"]);
    settle(&place, &[]);
    place.write("graph.ron", &fs::read_to_string(place.path("graph.ron")).unwrap().replace("a-z", "a-y"));
    assert_eq!(place.run(&[]).with_outcome("ran"), ["two"]);
}

#[test]
fn a_damaged_settled_plan_is_none() {
    let place = settled();
    let answers: Vec<PathBuf> = fs::read_dir(place.path("artifacts/local/settled"))
        .unwrap()
        .flat_map(|answer| fs::read_dir(answer.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    assert_eq!(answers.len(), 3);
    let plan = place.output(&["plan", "graph.ron", "--json"]).stdout;
    let table = place.output(&["plan", "graph.ron"]).stdout;
    for file in answers {
        for position in [0, 20, 60, usize::MAX] {
            // It is written anew after each damage, and times in it may take a byte more or less.
            let mut bytes = fs::read(&file).unwrap();
            let position = position.min(bytes.len() - 1);
            bytes[position] ^= 1;
            fs::write(&file, bytes).unwrap();
            assert_eq!(place.output(&["plan", "graph.ron", "--json"]).stdout, plan);
            assert_eq!(place.output(&["plan", "graph.ron"]).stdout, table);
            assert_eq!(place.run(&[]).with_outcome("cached").len(), STAGES.len());
        }
    }
}

#[test]
fn a_settled_run_is_a_run_like_others() {
    let place = settled();
    let run = place.run(&[]);
    assert!(is_at_once(&run));
    let sorts: Vec<&str> = run.events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(sorts, ["run-started", "stage-cached", "stage-cached", "stage-cached", "run-finished"]);
    assert_eq!(run.events[0]["stages"].as_array().unwrap().len(), STAGES.len());
    assert_eq!(place.output(&["run", "graph.ron"]).stdout, "graph.ron: all 3 stages are cached, nothing to run\n");
    // The last run is the only one that keeps anything.
    let gone = place.output(&["store", "gc", "--keep-runs", "1", "--older-than", "0s"]);
    assert_eq!(gone.code, Some(0), "{}", gone.stderr);
    let runs: Value = serde_json::from_str(&place.output(&["runs", "--json"]).stdout).unwrap();
    let last = &runs["runs"][0];
    assert_eq!((&last["outcome"], last["stages"].as_array().unwrap().len()), (&"succeeded".into(), STAGES.len()));
    assert_eq!(place.run(&[]).with_outcome("cached").len(), STAGES.len());
    // Nothing keeps them any more.
    let gone = place.output(&["store", "gc", "--keep-runs", "0", "--older-than", "0s"]);
    assert_eq!(gone.code, Some(0), "{}", gone.stderr);
    assert_eq!(place.run(&[]).with_outcome("ran").len(), STAGES.len());
}

#[test]
fn reasons_speak_of_the_last_run_though_that_was_settled() {
    let place = Place::new();
    place.write(
        "graph.ron",
        r#"Graph(version: 1, params: {"word": "one"}, stages: {"a": Command(run: ["sh", "-c", "echo $0 > $1/a", param("word"), "{out}"])})"#,
    );
    let reason = |word: &str| {
        let set = format!("word=\"{word}\"");
        let plan = place.output(&["plan", "graph.ron", "--json", "--set", &set]).stdout;
        serde_json::from_str::<Value>(&plan).unwrap()["stages"][0]["reason"].as_str().unwrap().to_owned()
    };
    for more in [&[][..], &["--set", "word=\"two\""]] {
        let settled = || place.path("artifacts/local/settled").read_dir().map_or(0, Iterator::count);
        let before = settled();
        wait_until("the plan is settled", || place.run(more).code == Some(0) && settled() > before);
    }
    assert_eq!(reason("three"), "setting `run.3` changed: \"two\" → \"three\"");
    assert_eq!(place.run(&[]).code, Some(0));
    assert_eq!(reason("three"), "setting `run.3` changed: \"one\" → \"three\"");
}

#[test]
fn a_profile_has_a_plan_of_its_own_and_enters_no_key() {
    let place = Place::new();
    place.write(
        "graph.ron",
        r#"Graph(
            version: 1,
            params: {"word": "one"},
            profiles: {"other": {"word": "two"}, "same": {"word": "one"}},
            stages: {"a": Command(run: ["sh", "-c", "echo $0 > $1/a", param("word"), "{out}"])},
        )"#,
    );
    let settled = || place.path("artifacts/local/settled").read_dir().map_or(0, Iterator::count);
    wait_until("the plan is settled", || place.run(&[]).code == Some(0) && settled() == 1);
    for command in [&["show"][..], &["path"], &["plan"], &["run"], &["pin"], &["graph"]] {
        let more: &[&str] = if matches!(command, ["show" | "path"]) { &["a"] } else { &[] };
        let said = place.output(&[command, &["graph.ron"], more, &["--profile", "othr"]].concat());
        assert_eq!(said.code, Some(2), "{command:?}: {said:#?}");
        assert!(said.stderr.contains("a profile with a similar name exists: `--profile other`"), "{}", said.stderr);
    }
    assert_eq!(place.run(&["--profile", "other"]).with_outcome("ran"), ["a"]);
    let word = |more: &[&str]| {
        let said = place.output(&[&["path", "graph.ron", "a"], more].concat());
        fs::read_to_string(Path::new(said.stdout.trim_end()).join("a")).unwrap()
    };
    assert_eq!((word(&[]), word(&["--profile", "other"])), ("one\n".to_owned(), "two\n".to_owned()));
    // What counts are the values, whoever gives them.
    for more in [&["--profile", "same"][..], &["--profile", "other", "--set", "word=one"], &["--set", "word=two"]] {
        assert_eq!(place.run(more).with_outcome("cached"), ["a"], "{more:?}");
    }
}
