//! Copies of a machine's store, as a backup or a CI's cache makes them: what one says of its pins is not the other's word.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::{
    collecting::{ALL, fetched},
    place::{CHAIN, Machine, Team},
};

/// How many members have said what they keep.
fn members(team: &Team) -> usize {
    fs::read_dir(PathBuf::from(team.address.trim_start_matches("file://")).join("v1/roots")).unwrap().count()
}

fn with_pin(team: &Team) -> Machine<'_> {
    let member = team.machine(CHAIN);
    member.run(&[]);
    member.pin();
    member
}

/// All of it, with rights and times, as a careful backup does.
fn copy_store(from: &Machine<'_>, to: &Machine<'_>) {
    let _ = fs::remove_dir_all(to.place.path("artifacts"));
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([from.place.path("artifacts"), to.place.path("artifacts")])
        .status()
        .unwrap();
    assert!(copied.success());
}

#[test]
fn what_a_copy_of_a_store_unpins_stays_pinned_by_the_first() {
    for how in ["push", "run", "gc"] {
        let team = Team::in_a_folder();
        let (member, copy) = (with_pin(&team), team.machine(CHAIN));
        copy_store(&member, &copy);
        assert_eq!(copy.place.output(&["unpin", "paper"]).code, Some(0));
        match how {
            "push" => assert_eq!(copy.store("push").0, Some(0)),
            "run" => {
                fs::remove_dir_all(copy.place.path("artifacts/actions")).unwrap();
                assert_eq!(copy.run(&[]).code, Some(0));
            }
            _ => assert_eq!(copy.collect(ALL)["removed"]["results"], 0),
        }
        assert_eq!(copy.collect(ALL)["removed"]["results"], 0, "{how}");
        assert_eq!(fetched(&team, CHAIN), 3, "{how}");
        // Who pinned it lets it go.
        assert_eq!(member.place.output(&["unpin", "paper"]).code, Some(0));
        assert_eq!(member.store("push").0, Some(0));
        assert_eq!(copy.collect(ALL)["removed"]["results"], 3, "{how}");
    }
}

#[test]
fn what_a_copy_of_a_store_pins_is_not_the_firsts_to_unpin() {
    let team = Team::in_a_folder();
    let (member, copy) = (with_pin(&team), team.machine(CHAIN));
    copy_store(&member, &copy);
    assert_eq!(copy.store("push").0, Some(0));
    assert_eq!(members(&team), 2);
    assert_eq!(member.place.output(&["unpin", "paper"]).code, Some(0));
    assert_eq!(member.collect(ALL)["removed"]["results"], 0);
    assert_eq!(fetched(&team, CHAIN), 3);
}

#[test]
fn a_store_that_is_moved_is_the_same_member() {
    let team = Team::in_a_folder();
    let (member, moved) = (with_pin(&team), team.machine(CHAIN));
    let _ = fs::remove_dir_all(moved.place.path("artifacts"));
    fs::rename(member.place.path("artifacts"), moved.place.path("artifacts")).unwrap();
    assert_eq!(moved.store("push").0, Some(0));
    assert_eq!(members(&team), 1);
    assert_eq!(moved.place.output(&["unpin", "paper"]).code, Some(0));
    let collected = moved.collect(ALL);
    assert_eq!(collected["removed"]["results"], json!(3), "it has unpinned its own: {collected}");
}
