//! A writer with access to the shared store, and a disk that loses things: nothing wrong ever reaches a stage.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use twdag::{
    digest::{ArtifactId, Digest},
    store::{Entry, Manifest},
};

use crate::{
    bucket_server::Treat,
    place::{CHAIN, Machine, THOUSAND, Team},
};

fn filled(team: &Team) -> Machine<'_> {
    let machine = team.machine(CHAIN);
    machine.run_alone();
    assert_eq!(machine.store("push").0, Some(0));
    machine
}

pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Another machine gets none of it, computes what it needs, and what it then gives heals the shared store.
fn refused_and_healed(team: &Team, stages: &[&str]) {
    let victim = team.machine(CHAIN);
    let (code, pulled) = victim.store("pull");
    assert_eq!(code, Some(1), "{pulled}");
    let failed = pulled["failed"].as_array().unwrap();
    assert_eq!(failed.len(), stages.len(), "{pulled}");
    assert!(stages.iter().all(|stage| !victim.here().contains(&(*stage).to_owned())), "{:?}", victim.here());
    assert_eq!(victim.place.output(&["store", "check"]).code, Some(0));
    victim.run_alone();
    let reference = team.machine(CHAIN);
    reference.run_alone();
    assert_eq!(victim.place.result("large", "large"), reference.place.result("large", "large"));
    // Another process knows that what is published is of no use.
    assert_eq!(victim.store("push").1["stored"], stages.len());
    let (code, pulled) = team.machine(CHAIN).store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &3.into()), "{pulled}");
}

#[test]
fn a_swapped_object_is_refused() {
    let team = Team::in_a_folder();
    filled(&team);
    change(&team.files("objects")[0], |bytes| bytes[5_000_000] ^= 1);
    refused_and_healed(&team, &["large"]);
}

#[test]
fn a_pack_with_a_changed_byte_spoils_what_lies_there() {
    let team = Team::in_a_folder();
    filled(&team);
    change(&team.files("packs")[0], |bytes| *bytes.last_mut().unwrap() ^= 1);
    let victim = team.machine(CHAIN);
    let (code, pulled) = victim.store("pull");
    assert_eq!(code, Some(1), "{pulled}");
    assert_eq!(pulled["failed"].as_array().unwrap().len(), 1, "{pulled}");
}

#[test]
fn an_object_that_is_shorter_or_gone_is_a_miss() {
    let cases: [(&str, &[&str]); 3] =
        [("shorter", &["large"]), ("no object", &["large"]), ("no pack", &["one", "many"])];
    for (what, stages) in cases {
        let team = Team::in_a_folder();
        filled(&team);
        match what {
            "shorter" => change(&team.files("objects")[0], |bytes| bytes.truncate(bytes.len() / 2)),
            "no object" => fs::remove_file(&team.files("objects")[0]).unwrap(),
            _ => fs::remove_file(&team.files("packs")[0]).unwrap(),
        }
        refused_and_healed(&team, stages);
    }
}

#[test]
fn a_name_that_was_taken_for_other_bytes_is_refused() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    machine.run_alone();
    // Somebody knows what will come and puts other bytes of the same length there first.
    let said = machine.place.output(&["show", "graph.ron", "large", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let (digest, size) = (shown["files"][0]["digest"].as_str().unwrap(), shown["files"][0]["size"].as_u64().unwrap());
    let folder = Path::new(team.address.strip_prefix("file://").unwrap()).join("v1/objects").join(&digest[..2]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(&digest[2..]), vec![b'x'; size as usize]).unwrap();
    let victim = team.machine(CHAIN);
    assert_eq!(machine.store("push").0, Some(0));
    let (_, pulled) = victim.store("pull");
    assert_eq!(pulled["failed"], serde_json::json!([]), "the true bytes took its place");
    assert_eq!(victim.place.result("large", "large"), machine.place.result("large", "large"));
}

/// A segment in which some text is replaced; its own check is right again.
pub(crate) fn rewrite(path: &Path, replace: impl FnOnce(String) -> String) {
    change(path, |bytes| {
        let text = String::from_utf8(zstd::decode_all(&bytes[48..]).unwrap()).unwrap();
        let packed = zstd::encode_all(replace(text).as_bytes(), 3).unwrap();
        bytes.truncate(16);
        bytes.extend_from_slice(Digest::of(&packed).as_bytes());
        bytes.extend_from_slice(&packed);
    });
}

/// Other lists of files in the first segment; all that names them is right again.
fn change_list(team: &Team, change: impl Fn(&str) -> String) {
    rewrite(&team.files("segments")[0], |text| {
        let (heading, operations) = text.split_once('\n').unwrap();
        let changed = operations.lines().map(|operation| {
            let mut operation: serde_json::Value = serde_json::from_str(operation).unwrap();
            let published = &mut operation["publish"];
            let list = published["manifest"].as_str().unwrap();
            let (honest, list) = (Digest::of(list.as_bytes()).to_string(), change(list));
            let evil = Digest::of(list.as_bytes()).to_string();
            let record = published["record"].as_str().unwrap().replace(&honest, &evil);
            published["manifest"] = list.into();
            published["record"] = record.into();
            published["artifact"] = evil.into();
            operation.to_string()
        });
        [heading.to_owned()].into_iter().chain(changed).collect::<Vec<_>>().join("\n")
    });
}

#[test]
fn a_false_size_does_no_harm_to_what_is_there() {
    const TWICE: &str = r#""twice": Command(run: ["sh", "-c", "echo one > $0/a; echo one > $0/b", "{out}"])"#;
    // Of both files, or of one of them.
    for first in [false, true] {
        let team = Team::in_a_folder();
        let machine = team.machine(&[TWICE]);
        machine.run_alone();
        machine.store("push");
        change_list(&team, |list| {
            let list = if first {
                list.replace("\"size\":4", "\"size\":3")
            } else {
                list.replacen("\"size\":4", "\"size\":3", 1)
            };
            assert!(list.contains("\"size\":3"), "{list}");
            list
        });
        // It has the same bytes of a stage of its own.
        let victim = team.machine(&CHAIN[..1]);
        victim.run_alone();
        victim.place.graph(&[CHAIN[0], TWICE]);
        let (_, pulled) = victim.store("pull");
        assert_eq!((&pulled["fetched"], victim.here()), (&0.into(), vec!["one".to_owned()]), "{pulled}");
        let said = victim.place.output(&["store", "check", "--json"]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        assert!(!victim.place.path("artifacts/local/quarantine").exists());
        victim.run_alone();
    }
}

#[test]
fn a_list_of_files_that_leads_out_of_its_folder_is_refused() {
    for path in ["../../../../evil", "/tmp/evil", "a/../../evil", "", "a//b", "."] {
        let team = Team::in_a_folder();
        let machine = team.machine(&CHAIN[..1]);
        machine.run_alone();
        machine.store("push");
        change_list(&team, |list| {
            let artifact: ArtifactId = Digest::of(list.as_bytes()).into();
            let honest = Manifest::of_artifact(&artifact, list.as_bytes()).unwrap();
            let Entry { path: old, .. } = honest.files()[0].clone();
            list.replace(&format!("\"path\":\"{old}\""), &format!("\"path\":\"{path}\""))
        });
        let victim = team.machine(&CHAIN[..1]);
        let (_, pulled) = victim.store("pull");
        assert_eq!(pulled["fetched"], 0, "{path}: {pulled}");
        assert_eq!(victim.here(), Vec::<String>::new());
        assert!(!victim.place.path("evil").exists() && !Path::new("/tmp/evil").exists());
        victim.run_alone();
    }
}

#[test]
fn a_record_of_another_action_or_another_result_is_refused() {
    for what in ["key", "artifact"] {
        let team = Team::in_a_folder();
        let machine = team.machine(&CHAIN[..1]);
        machine.run_alone();
        machine.store("push");
        rewrite(&team.files("segments")[0], |text| {
            let (heading, operation) = text.split_once('\n').unwrap();
            let mut operation: serde_json::Value = serde_json::from_str(operation).unwrap();
            let published = &mut operation["publish"];
            let honest = published[what].as_str().unwrap().to_owned();
            let other = Digest::of(b"other").to_string();
            published["record"] = published["record"].as_str().unwrap().replace(&honest, &other).into();
            format!("{heading}\n{operation}")
        });
        let victim = team.machine(&CHAIN[..1]);
        assert_eq!(victim.store("pull").1["fetched"], 0, "{what}");
        victim.run_alone();
    }
}

#[test]
fn a_segment_that_was_cut_short_changed_or_moved_is_passed_over_and_told() {
    for attack in ["cut", "flip", "move"] {
        let team = Team::in_a_folder();
        let machine = team.machine(&CHAIN[..1]);
        machine.run_alone();
        machine.store("push");
        machine.place.graph(CHAIN);
        machine.run_alone();
        machine.store("push");
        let segments = team.files("segments");
        match attack {
            "cut" => change(&segments[1], |bytes| bytes.truncate(bytes.len() - 7)),
            "flip" => change(&segments[1], |bytes| bytes[60] ^= 1),
            _ => change(&segments[1], |bytes| *bytes = fs::read(&segments[0]).unwrap()),
        }
        let victim = team.machine(CHAIN);
        let said = victim.output(&["store", "pull", "graph.ron"]);
        assert!(said.stderr.contains("v1/segments/000000000002"), "{attack}: {said:#?}");
        assert_eq!(victim.here(), ["one"]);
        victim.run_alone();
        // Whoever publishes it again makes it known again.
        assert_eq!(victim.store("push").1["stored"], 2, "{attack}");
        let third = team.machine(CHAIN);
        assert_eq!(third.store("pull").1["fetched"], 3, "{attack}");
    }
}

#[test]
fn an_unbelievably_long_list_of_files_is_refused() {
    let team = Team::in_a_folder();
    let machine = team.machine(&[THOUSAND]);
    machine.run_alone();
    machine.store("push");
    for length in [1_u64 << 20, 1 << 60, u64::MAX] {
        rewrite(&team.files("segments")[0], |text| {
            let (heading, operation) = text.split_once('\n').unwrap();
            let mut operation: serde_json::Value = serde_json::from_str(operation).unwrap();
            operation["publish"]["list"]["length"] = length.into();
            format!("{heading}\n{operation}")
        });
        let victim = team.machine(&[THOUSAND]);
        let said = victim.output(&["store", "pull", "graph.ron"]);
        assert_eq!(said.code, Some(1), "{length}: {said:#?}");
        assert!(said.stderr.contains("expected"), "{length}: {said:#?}");
        victim.run_alone();
    }
}

#[test]
fn sizes_that_come_to_more_than_a_number_holds_are_told_and_wrap_nowhere() {
    const ONE: &str = r#""first": Command(run: ["sh", "-c", "echo 1 > $0/a; echo 2 > $0/b", "{out}"])"#;
    const THREE: &[&str] = &[
        ONE,
        r#""second": Command(run: ["sh", "-c", "echo 3 > $0/a; echo 4 > $0/b", "{out}"])"#,
        r#""third": Command(run: ["sh", "-c", "echo 5 > $0/a; echo 6 > $0/b", "{out}"])"#,
    ];
    // The lists of each of three results come to as much as a file system holds, and all to more than a number does.
    let team = Team::in_a_folder();
    let machine = team.machine(THREE);
    machine.run_alone();
    assert_eq!(machine.store("push").1["stored"], 3);
    change_list(&team, |list| {
        assert_eq!(list.matches("\"size\":2").count(), 2, "{list}");
        list.replacen("\"size\":2", &format!("\"size\":{}", i64::MAX - 2), 1)
    });
    for more in [&[][..], &["--max-size", "1B"]] {
        let forecast = machine.collect(&[&["--dry-run"], more].concat());
        let expected = if more.is_empty() { u64::MAX } else { 0 };
        assert_eq!(forecast["kept_bytes"], expected, "{forecast}");
    }
    let (_, pulled) = team.machine(THREE).store("pull");
    assert_eq!((&pulled["fetched"], pulled["failed"].as_array().unwrap().len()), (&0.into(), 3), "{pulled}");

    // One that comes to more is no list.
    let team = Team::in_a_folder();
    let machine = team.machine(&[ONE]);
    machine.run_alone();
    assert_eq!(machine.store("push").1["stored"], 1);
    change_list(&team, |list| list.replace("\"size\":2", &format!("\"size\":{}", u64::MAX - 7)));
    let problem = "its files have more than 9223372036854775807 bytes together, which no file system holds";
    let said = team.machine(&[ONE]).output(&["store", "gc", "--remote", "--dry-run"]);
    assert!(said.code != Some(0) && said.stderr.contains(problem), "{said:#?}");
    let said = team.machine(&[ONE]).output(&["store", "check", "--remote", "--json"]);
    assert!(said.code == Some(1) && said.stdout.contains(problem), "{said:#?}");
    // Who has the result gives it again.
    assert_eq!(machine.store("push").1["stored"], 1);
    assert_eq!(team.machine(&[ONE]).store("pull").1["fetched"], 1);
}

#[test]
fn a_pack_that_a_server_has_shortened_is_a_miss() {
    let is_pack = |target: &str| target.contains("/packs/");
    let team =
        Team::behind(
            move |request| {
                if request.method == "GET" && is_pack(&request.target) { Treat::Shorten } else { Treat::Well }
            },
        );
    let Some(team) = team else { return };
    for stages in [CHAIN, &[THOUSAND]] {
        let (machine, victim) = (team.machine(stages), team.machine(stages));
        machine.run_alone();
        assert_eq!(machine.store("push").0, Some(0));
        let said = victim.output(&["store", "pull", "graph.ron"]);
        assert_eq!(said.code, Some(1), "{said:#?}");
        assert!(said.stderr.contains("bytes; expected bytes") && !said.stderr.contains("panicked"), "{said:#?}");
        victim.run_alone();
    }
}

#[test]
fn a_hint_that_names_segments_which_are_not_there_costs_nothing_but_a_word() {
    for number in [40_u64, 1 << 39, 1 << 60, u64::MAX] {
        let team = Team::in_a_folder();
        let machine = team.machine(&CHAIN[..1]);
        machine.run_alone();
        machine.store("push");
        let latest = team.files("").into_iter().find(|path| path.ends_with("latest")).unwrap();
        let mut hint: serde_json::Value = serde_json::from_slice(&fs::read(&latest).unwrap()).unwrap();
        hint["segment"] = number.into();
        hint["checkpoint"] = number.into();
        fs::write(&latest, hint.to_string()).unwrap();
        let victim = team.machine(CHAIN);
        let said = victim.output(&["store", "pull", "graph.ron"]);
        assert_eq!((said.code, victim.here()), (Some(0), vec!["one".to_owned()]), "{number}: {said:#?}");
        assert!(said.stderr.lines().count() < 40, "{said:#?}");
        // The log goes on where it ends.
        victim.run_alone();
        assert_eq!(victim.store("push").1["stored"], 2, "{number}");
        assert_eq!(team.files("segments").len(), 2, "{number}");
        assert_eq!(team.machine(CHAIN).store("pull").1["fetched"], 3, "{number}");
    }
}

#[test]
fn a_segment_that_unpacks_to_too_much_is_passed_over() {
    let team = Team::in_a_folder();
    let machine = team.machine(&CHAIN[..1]);
    machine.run_alone();
    machine.store("push");
    rewrite(&team.files("segments")[0], |text| text + &"\n".repeat(65 << 20));
    let victim = team.machine(&CHAIN[..1]);
    let said = victim.output(&["store", "pull", "graph.ron"]);
    assert!(said.code == Some(0) && said.stderr.contains("it unpacks to more than"), "{said:#?}");
    assert_eq!(victim.here(), Vec::<String>::new());
}
