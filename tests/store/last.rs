//! What stages were last keyed by.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
};

use serde_json::{Value, json};
use twdag::{
    digest::{Digest, Key},
    store::Store,
};

use crate::place::Place;

fn key(number: usize) -> Key {
    Digest::of(&number.to_le_bytes()).into()
}

fn keep(store: &Store, stages: &[(&str, usize)]) {
    let stages = stages.iter().map(|(stage, number)| (*stage, key(*number), None));
    store.remember_keys::<Value>("graph", stages, None).unwrap();
}

fn file(store: &Store) -> PathBuf {
    store.root().join("local/last/graph/keys")
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn they_are_kept_for_any_name_and_with_what_is_not_recorded() {
    let place = Place::new();
    let long = "x".repeat(400);
    let names = ["stage", "Stage", "a/b", "../up", "é", ".", "", "two words", "a\nb", long.as_str()];
    let action = json!({ "text": "one\ntwo", "words": "a b" });
    for (number, name) in names.iter().enumerate() {
        let action = (number % 2 == 0).then_some(&action);
        place.store.remember_keys("graph", [(*name, key(number), action)], None).unwrap();
    }
    let (last, other) = (place.store.last_keys("graph"), place.store.last_keys("other"));
    for (number, name) in names.iter().enumerate() {
        assert_eq!(last.key(name), Some(key(number)), "{name}");
        assert_eq!(last.action(name), (number % 2 == 0).then(|| action.clone()), "{name}");
        assert_eq!(other.key(name), None, "{name}");
    }
}

#[test]
fn a_torn_line_costs_itself_and_processes_see_what_others_keep() {
    let place = Place::new();
    let other = Store::open(place.store.root()).unwrap();
    keep(&place.store, &[("a", 1), ("b", 1)]);
    keep(&other, &[("b", 2)]);
    let path = file(&other);
    let whole = fs::read(&path).unwrap();
    for torn in [1, 2, 30, whole.len() / 3] {
        File::options().append(true).open(&path).unwrap().write_all(&whole[..torn]).unwrap();
        keep(&place.store, &[("c", torn)]);
        let last = other.last_keys("graph");
        assert_eq!(
            ["a", "b", "c"].map(|stage| last.key(stage)),
            [1, 2, torn].map(|number| Some(key(number))),
            "{torn}"
        );
    }
    let before = lines(&path);
    keep(&other, &[("a", 1), ("b", 2)]);
    assert_eq!(lines(&path), before, "nothing is kept twice");
}

#[test]
fn nothing_to_keep_waits_for_nobody_and_folders_in_the_way_go() {
    let place = Place::new();
    let plan = Digest::of(b"plan");
    let keep_plan = |number| place.store.remember_keys::<Value>("graph", [("a", key(number), None)], Some(&plan));
    keep_plan(1).unwrap();
    let folder = file(&place.store).parent().unwrap().to_owned();
    let lock = File::open(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    keep_plan(1).unwrap();
    assert!(keep_plan(2).unwrap_err().to_string().contains("another process keeps it locked"));
    drop(lock);
    for name in ["keys", "lock", ".settled"] {
        fs::remove_file(folder.join(name)).unwrap();
        fs::create_dir(folder.join(name)).unwrap();
        keep_plan(name.len()).unwrap();
        assert_eq!(place.store.last_keys("graph").key("a"), Some(key(name.len())), "{name}");
    }
}

#[test]
fn an_action_is_kept_as_soon_as_it_is_not_recorded_and_one_cut_short_is_none() {
    let place = Place::new();
    let action = json!({ "number": 1 });
    let keep = |action| place.store.remember_keys::<Value>("graph", [("a", key(1), action)], None).unwrap();
    keep(None);
    keep(Some(&action));
    keep(None);
    assert_eq!(place.store.last_keys("graph").action("a"), Some(action));
    let mut cut = File::options().append(true).open(file(&place.store)).unwrap();
    cut.write_all(format!("a {} {{\"number\":\n", key(2)).as_bytes()).unwrap();
    assert_eq!(place.store.last_keys("graph").key("a"), Some(key(1)));
}

#[test]
fn what_earlier_versions_kept_goes() {
    let place = Place::new();
    let folder = file(&place.store).parent().unwrap().to_owned();
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a.json"), "{}").unwrap();
    keep(&place.store, &[("a", 1)]);
    assert!(!folder.join("a.json").exists());
    assert_eq!(place.store.last_keys("graph").key("a"), Some(key(1)));
}

#[test]
fn it_is_known_of_which_plan_they_are_until_another_stage_is_kept() {
    let place = Place::new();
    let plans = ["one", "two"].map(|plan| Digest::of(plan.as_bytes()));
    let known = || place.store.remembered_plan("graph");
    for plan in plans {
        place.store.remember_keys::<Value>("graph", [("a", key(1), None)], Some(&plan)).unwrap();
        assert_eq!(known(), Some(plan));
    }
    keep(&place.store, &[("a", 1)]);
    assert_eq!(known(), Some(plans[1]));
    // As after a power cut.
    let path = file(&place.store);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[1..]).unwrap();
    assert_eq!(known(), None);
    fs::write(&path, &whole).unwrap();
    assert_eq!(known(), Some(plans[1]));
    keep(&place.store, &[("a", 2)]);
    assert_eq!(known(), None);
}

/// Each of several processes keeps its own stages, again and again, so that the file is written anew while others add to it.
#[test]
fn nobody_loses_what_others_keep_while_the_file_shrinks() {
    const PROCESSES: usize = 4;
    const ROUNDS: usize = 1_500;
    let place = Place::new();
    let root = place.store.root();
    thread::scope(|scope| {
        for process in 0..PROCESSES {
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                let name = format!("of-{process}");
                keep(&store, &[(&format!("once-{process}"), process)]);
                for round in 0..ROUNDS {
                    keep(&store, &[(&name, round)]);
                }
            });
        }
    });
    let last = place.store.last_keys("graph");
    for process in 0..PROCESSES {
        assert_eq!(last.key(&format!("of-{process}")), Some(key(ROUNDS - 1)));
        assert_eq!(last.key(&format!("once-{process}")), Some(key(process)));
    }
    assert!(lines(&file(&place.store)) < PROCESSES * ROUNDS / 2);
}
