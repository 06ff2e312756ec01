//! Records and the small things beside them.

use std::io::Write as _;
use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt};

use serde_json::json;
use twdag::{
    blame::Blame,
    store::{Lookup, Store, StoreError, TwoResults},
};

use crate::place::{Place, key, record};

#[test]
fn a_published_record_is_found() {
    let place = Place::new();
    let published = record(key("x"), place.ingest(&[("a.txt", "one")]));
    assert_eq!(place.store.lookup(&key("x")).unwrap(), Lookup::Absent);
    place.store.publish(&published).unwrap();
    assert_eq!(place.store.record(&key("x")).unwrap(), Some(published.clone()));
    assert_eq!(place.store.record(&key("y")).unwrap(), None);
    // It is JSON for anyone's tools.
    let text = fs::read(place.named("actions", key("x").digest())).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["content"]["record"]["artifact"], json!(published.artifact));
}

#[test]
fn the_first_result_stays_and_another_one_is_told() {
    let place = Place::new();
    let first = record(key("x"), place.ingest(&[("a.txt", "one")]));
    let second = record(key("x"), place.ingest(&[("a.txt", "two")]));
    place.store.publish(&first).unwrap();
    let mut again = first.clone();
    again.stage = "other".to_owned();
    place.store.publish(&again).unwrap();
    let error = place.store.publish(&second).unwrap_err();
    assert_eq!(error.blame(), Blame::Stage);
    let results = two_results(error);
    assert_eq!((results.existing, results.new, &results.lost), (first.artifact, second.artifact, &None));
    assert_eq!(place.store.record(&key("x")).unwrap(), Some(first.clone()));
    // Once the first result is lost, the second one takes its place, which is told too.
    fs::remove_file(place.object("one")).unwrap();
    let results = two_results(place.store.publish(&second).unwrap_err());
    assert_eq!((results.existing, results.new), (first.artifact, second.artifact));
    insta::assert_snapshot!(results.lost.unwrap(), @"the content of `a.txt` is no longer in the store");
    assert_eq!(place.store.record(&key("x")).unwrap(), Some(second.clone()));
    place.store.publish(&second).unwrap();
}

#[test]
fn what_is_recorded_early_is_noted_for_others_when_it_is_on_the_disk_and_hashed_before() {
    let place = Place::new();
    if !place.store.can_publish_early() {
        writeln!(std::io::stderr(), "SKIPPED: the file system of temporary files does not flush as a whole").unwrap();
        return;
    }
    let noted = || fs::metadata(place.path("store/local/seals")).map_or(0, |found| found.len());
    let early = record(key("x"), place.ingest(&[("a.txt", "one")]));
    place.store.publish_early(&early).unwrap();
    assert_eq!(place.store.record(&key("x")).unwrap(), Some(early.clone()));
    place.store.view(&early.artifact).unwrap();
    assert_eq!(noted(), 0);
    place.store.secure(&[early.artifact]).unwrap();
    assert!(noted() > 0);

    // As a power cut may leave it: the right length, and bytes that never came to the disk.
    let torn = record(key("y"), place.ingest(&[("b.txt", "two")]));
    place.store.publish_early(&torn).unwrap();
    let object = place.object("two");
    let before = object.metadata().unwrap();
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, "\0\0\0").unwrap();
    fs::File::open(&object).unwrap().set_modified(before.modified().unwrap()).unwrap();
    let after = Store::open(&place.path("store")).unwrap();
    assert!(matches!(after.lookup(&key("y")).unwrap(), Lookup::Lost(_)));
}

fn two_results(error: StoreError) -> TwoResults {
    match error {
        StoreError::Nondeterministic(results) => *results,
        other => panic!("{other}"),
    }
}

#[test]
fn the_first_file_that_differs_is_named() {
    let difference = |before: &[(&str, &str)], now: &[(&str, &str)]| {
        let place = Place::new();
        place.store.publish(&record(key("x"), place.ingest(before))).unwrap();
        let second = record(key("x"), place.ingest(now));
        let results = two_results(place.store.publish(&second).unwrap_err());
        (results.file.unwrap_or_default(), results.difference)
    };
    let before = [("a.txt", "one"), ("b/c.txt", "two"), ("d.txt", "three")];
    let differs = |now: &[(&str, &str)]| difference(&before, now).1;
    insta::assert_snapshot!(differs(&[("a.txt", "one"), ("b/c.txt", "other"), ("d.txt", "")]), @"the first file that differs is `b/c.txt`, of 3 bytes before and 5 bytes now");
    insta::assert_snapshot!(differs(&[("a.txt", "one"), ("d.txt", "")]), @"the first file that differs is `b/c.txt`, which is missing now");
    insta::assert_snapshot!(differs(&[("a.txt", "one"), ("a/x", ""), ("b/c.txt", "two"), ("d.txt", "three")]), @"the first file that differs is `a/x`, which was not there before");
    assert_eq!(difference(&before, &before[..2]).0, "d.txt");
}

#[test]
fn scratch_survives_until_it_is_discarded_and_belongs_to_one_action() {
    let place = Place::new();
    let scratch = place.store.scratch(&key("x")).unwrap();
    fs::write(scratch.join("checkpoint"), "step 7").unwrap();
    assert_eq!(place.store.scratch(&key("x")).unwrap(), scratch);
    assert_ne!(place.store.scratch(&key("y")).unwrap(), scratch);
    assert_eq!(fs::read_to_string(scratch.join("checkpoint")).unwrap(), "step 7");
    place.store.discard_scratch(&key("x"), &["work"]).unwrap();
    assert!(!scratch.exists());
    place.store.discard_scratch(&key("x"), &["work"]).unwrap();
}

#[test]
fn a_scratch_folder_that_nobody_worked_in_can_be_left_and_a_checkpoint_in_one_stays() {
    let place = Place::new();
    let scratch = place.store.scratch(&key("x")).unwrap();
    fs::create_dir_all(scratch.join("kept/work")).unwrap();
    place.store.leave_scratch(&key("x"));
    assert!(!scratch.exists());
    place.store.leave_scratch(&key("x"));
    fs::create_dir_all(scratch.join("kept/work")).unwrap();
    fs::write(scratch.join("kept/checkpoint"), "step 7").unwrap();
    place.store.leave_scratch(&key("x"));
    assert_eq!(fs::read_to_string(scratch.join("kept/checkpoint")).unwrap(), "step 7");
}

#[test]
fn what_is_left_of_a_discarded_scratch_folder_tells_the_next_action_nothing() {
    let place = Place::new();
    let scratch = place.store.scratch(&key("x")).unwrap();
    for folder in ["kept/deep/er", "kept/work/deep", "kept/work", "kept/tmp", "output"] {
        fs::create_dir_all(scratch.join(folder)).unwrap();
        fs::write(scratch.join(folder).join("file"), "x").unwrap();
    }
    fs::write(scratch.join("split.json"), "{}").unwrap();
    fs::set_permissions(scratch.join("kept/deep"), fs::Permissions::from_mode(0o555)).unwrap();
    // Another mode is something that the next action could see.
    fs::set_permissions(scratch.join("kept/tmp"), fs::Permissions::from_mode(0o700)).unwrap();
    place.store.discard_scratch(&key("x"), &["work", "tmp"]).unwrap();
    for (name, left) in [("y", &["kept", "kept/work", "output"][..]), ("z", &[])] {
        let next = place.store.scratch(&key(name)).unwrap();
        let below = walkdir::WalkDir::new(&next).min_depth(1).sort_by_file_name().into_iter().map(Result::unwrap);
        let found: Vec<_> = below.map(|entry| entry.path().strip_prefix(&next).unwrap().to_owned()).collect();
        assert_eq!(found, left.iter().map(std::path::PathBuf::from).collect::<Vec<_>>());
    }
    place.store.discard_scratch(&key("y"), &["work"]).unwrap();
    place.store.discard_scratch(&key("z"), &["work"]).unwrap();
    let scratches = place.store.root().join("local/scratch");
    drop(place.store);
    assert_eq!(fs::read_dir(scratches).unwrap().count(), 0);
}

#[test]
fn results_that_are_recorded_at_the_same_time_are_all_there() {
    let place = Place::new();
    let compute = |number: usize| {
        let text = number.to_string();
        let recorded = record(key(&text), place.ingest(&[("text", &text)]));
        place.store.publish(&recorded).unwrap();
        (recorded.key, recorded.artifact)
    };
    let recorded: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|number| scope.spawn(move || compute(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    place.store.flush_names().unwrap();
    for (key, artifact) in recorded {
        assert_eq!(place.store.record(&key).unwrap().unwrap().artifact, artifact);
    }
}

#[test]
fn every_run_has_a_folder_of_its_own() {
    let place = Place::new();
    let folders: HashSet<_> = (0..20).map(|_| place.store.run_folder().unwrap()).collect();
    assert_eq!(folders.len(), 20);
    assert!(folders.iter().all(|folder| folder.is_dir()));
}
