//! A writer with access to the shared store who is not trusted: a run that names the keys it trusts uses none of his results.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};
use twdag::digest::Digest;

use crate::{
    attacks::rewrite,
    place::{CHAIN, Machine, Team},
    run_support::Said,
};

/// A stage that gives something else on each machine.
pub(crate) const CLOCK: &[&str] =
    &[r#""clock": Command(run: ["sh", "-c", "cat /proc/sys/kernel/random/uuid > $0/time", "{out}"])"#];

/// Makes a key; its file and its public half.
pub(crate) fn key(machine: &Machine<'_>, name: &str) -> (String, String) {
    let file = machine.place.path(name).display().to_string();
    let said = machine.place.output(&["store", "keygen", &file]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    (file, said.stdout.trim().to_owned())
}

pub(crate) fn trust(machine: &Machine<'_>, keys: &[&str]) {
    machine.place.write("twdag.ron", &format!("Workspace(version: 1, trusted_keys: {keys:?})\n"));
}

fn push_with(machine: &Machine<'_>, key: &str) -> Value {
    let said = machine.output(&["store", "push", "graph.ron", "--json", "--signing-key", key]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn a_key_is_made_once_for_its_owner_alone() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    let (file, public) = key(&machine, "ci.key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(public.starts_with("ed25519:") && public.len() == 8 + 64, "{public}");
    assert_eq!(machine.place.output(&["store", "keygen", &file]).code, Some(2));
    machine.run_alone();
    push_with(&machine, &file);
    let secret = fs::read_to_string(&file).unwrap();
    assert_eq!(machine.holding(secret.trim()), [std::path::PathBuf::from(&file)]);
    let everything = team.files("");
    assert!(everything.iter().all(|path| !String::from_utf8_lossy(&fs::read(path).unwrap()).contains(secret.trim())));
    let said = machine.output(&["store", "push", "graph.ron", "--signing-key", "graph.ron"]);
    assert_eq!(said.code, Some(2), "{said:#?}");
    assert!(said.stderr.contains("it holds no key"), "{said:#?}");
    trust(&machine, &["ed25519:12"]);
    let said = machine.output(&["store", "status", "graph.ron"]);
    assert!(said.code == Some(2) && said.stderr.contains("`ed25519:12` is no public key"), "{said:#?}");
}

#[test]
fn a_trusted_run_takes_nothing_from_who_came_first() {
    for team in Team::all() {
        let (stranger, ci, member, guest) =
            (team.machine(CLOCK), team.machine(CLOCK), team.machine(CLOCK), team.machine(CLOCK));
        let (file, public) = key(&ci, "ci.key");
        trust(&ci, &[&public]);
        trust(&member, &[&public]);
        let (foreign, _) = key(&stranger, "own.key");
        // He fills the place of a result that others will look for, unsigned and with a key of his own.
        stranger.run_alone();
        assert_eq!(stranger.store("push").1["stored"], 1);
        push_with(&stranger, &foreign);

        let status = &member.store("status").1["stages"][0];
        assert_eq!((&status["there"], &status["untrusted"]), (&Value::Null, &json!(true)), "{status}");
        assert_eq!(member.store("pull").1["fetched"], 0);
        let ran = ci.run(&["--signing-key", &file]);
        assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["clock".to_owned()]), "{ran:#?}");
        assert_eq!(ran.event("remote-summary", "")["stored"], 1, "{ran:#?}");
        let ran = member.run(&[]);
        assert_eq!(ran.with_outcome("cached"), ["clock"], "{ran:#?}");
        assert_eq!(member.place.result("clock", "time"), ci.place.result("clock", "time"));
        // Who trusts everybody gets what was first.
        guest.run(&[]);
        assert_eq!(guest.place.result("clock", "time"), stranger.place.result("clock", "time"));
        // Results of who is not trusted do not add up.
        assert_eq!(stranger.store("push").1["stored"], 0);
    }
}

/// Strangers' results that a machine once fetched stay strangers', although it signs what it gives.
#[test]
fn what_was_fetched_from_others_is_never_signed_as_ones_own() {
    for later in ["as it is", "collected", "checked", "with a note that was changed"] {
        let team = Team::in_a_folder();
        let (stranger, member, victim) = (team.machine(CLOCK), team.machine(CLOCK), team.machine(CLOCK));
        let (file, public) = key(&member, "member.key");
        trust(&victim, &[&public]);
        stranger.run_alone();
        stranger.store("push");
        // There was no policy then.
        assert_eq!(member.store("pull").1["fetched"], 1);
        match later {
            "collected" => assert_eq!(member.place.output(&["store", "gc"]).code, Some(0)),
            "checked" => assert_eq!(member.place.output(&["store", "check"]).code, Some(0)),
            "with a note that was changed" => {
                let note = files_below(&member.place.path("artifacts/origins")).remove(0);
                fs::set_permissions(&note, fs::Permissions::from_mode(0o644)).unwrap();
                fs::write(&note, b"{}").unwrap();
            }
            _ => {}
        }
        assert_eq!(files_below(&member.place.path("artifacts/origins")).len(), 1, "{later}");
        let with_key = push_with(&member, &file);
        trust(&member, &[&public]);
        for pushed in [with_key, push_with(&member, &file)] {
            assert_eq!((&pushed["stored"], &pushed["failed"]), (&json!(0), &json!([])), "{later}: {pushed}");
            let why = pushed["withheld"][0]["message"].as_str().unwrap();
            assert!(why.ends_with("compute it on this machine to vouch for it"), "{later}: {why}");
        }
        assert_eq!(victim.store("pull").1["fetched"], 0, "{later}");
        assert_eq!(victim.run(&[]).with_outcome("ran"), ["clock"], "{later}");
        // What it computes itself it vouches for.
        fs::remove_dir_all(member.place.path("artifacts/actions")).unwrap();
        member.run_alone();
        assert_eq!(push_with(&member, &file)["stored"], 1, "{later}");
        assert_eq!(team.machine(CLOCK).store("pull").1["fetched"], 1, "{later}");
    }
}

#[test]
fn the_note_of_an_origin_goes_with_its_result() {
    let team = Team::in_a_folder();
    let (stranger, member) = (team.machine(CLOCK), team.machine(CLOCK));
    stranger.run_alone();
    stranger.store("push");
    member.store("pull");
    let notes = || files_below(&member.place.path("artifacts/origins")).len();
    assert_eq!(notes(), 1);
    let said = member.place.output(&["store", "gc", "--older-than", "0s"]);
    assert_eq!((said.code, notes()), (Some(0), 0), "{said:#?}");
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

#[test]
fn a_signature_stays_with_a_result_that_is_passed_on() {
    let (one, other) = (Team::in_a_folder(), Team::in_a_folder());
    let ci = one.machine(CLOCK);
    let (file, public) = key(&ci, "ci.key");
    ci.run_alone();
    push_with(&ci, &file);
    let member = one.machine(CLOCK);
    let (own, _) = key(&member, "own.key");
    trust(&member, &[&public]);
    assert_eq!(member.store("pull").1["fetched"], 1);
    let address = &other.address;
    let said = member.place.output(&[
        "store",
        "push",
        "graph.ron",
        "--json",
        "--signing-key",
        &own,
        "--remote-store",
        address,
    ]);
    let pushed: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&pushed["stored"], &pushed["withheld"]), (&json!(1), &json!([])), "{pushed}");
    let guest = other.machine(CLOCK);
    trust(&guest, &[&public]);
    assert_eq!(guest.store("pull").1["fetched"], 1);
    assert_eq!(guest.place.result("clock", "time"), ci.place.result("clock", "time"));
    let origin = |machine: &Machine<'_>| {
        let said = machine.place.output(&["provenance", "graph.ron:clock"]);
        let document: Value = serde_json::from_str(&said.stdout).unwrap();
        (document["actions"][0]["fetched_from"].clone(), document["actions"][0]["signed_by"].clone())
    };
    assert_eq!(origin(&ci), (Value::Null, Value::Null), "what was computed here");
    assert_eq!(origin(&member), (json!(one.address), json!(public)));
    assert_eq!(origin(&guest), (json!(other.address), json!(public)), "not the key of who passed it on");
}

#[test]
fn no_signature_stands_for_another_record_and_none_is_forged() {
    for attack in ["another result", "of another record", "of another key", "none", "cut"] {
        let team = Team::in_a_folder();
        let (ci, member) = (team.machine(CHAIN), team.machine(CHAIN));
        let (file, public) = key(&ci, "ci.key");
        let (_, foreign) = key(&ci, "foreign.key");
        trust(&member, &[&public]);
        ci.run_alone();
        push_with(&ci, &file);
        rewrite(&team.files("segments")[0], |text| {
            let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let signatures: Vec<Value> = lines[1..].iter().map(|line| line["publish"]["signature"].clone()).collect();
            for (number, line) in lines[1..].iter_mut().enumerate() {
                let published = &mut line["publish"];
                match attack {
                    "another result" => {
                        let list = r#"{"version":1,"files":[]}"#;
                        let (old, new) =
                            (published["artifact"].as_str().unwrap().to_owned(), Digest::of(list.as_bytes()));
                        published["record"] =
                            published["record"].as_str().unwrap().replace(&old, &new.to_string()).into();
                        published["artifact"] = new.to_string().into();
                        published["manifest"] = list.into();
                    }
                    "of another record" => published["signature"] = signatures[(number + 1) % signatures.len()].clone(),
                    "of another key" => published["signature"]["by"] = foreign.clone().into(),
                    "none" => drop(published.as_object_mut().unwrap().remove("signature")),
                    _ => {
                        let signature = published["signature"]["signature"].as_str().unwrap();
                        published["signature"]["signature"] = signature[..126].into();
                    }
                }
            }
            lines.iter().map(|line| line.to_string() + "\n").collect()
        });
        assert_eq!(member.store("pull").1["fetched"], 0, "{attack}");
        let ran = member.run(&[]);
        assert_eq!(ran.with_outcome("ran"), ["large", "many", "one"], "{attack}: {ran:#?}");
    }
}

#[test]
fn a_signed_record_under_another_action_or_result_does_not_stand_before_the_right_one() {
    for what in ["key", "artifact", "manifest"] {
        let team = Team::in_a_folder();
        let (ci, member) = (team.machine(CHAIN), team.machine(CHAIN));
        let (file, public) = key(&ci, "ci.key");
        trust(&member, &[&public]);
        trust(&ci, &[&public]);
        ci.run_alone();
        push_with(&ci, &file);
        rewrite(&team.files("segments")[0], |text| {
            let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let honest = lines.split_off(1);
            for (number, line) in honest.iter().enumerate() {
                let mut copy = line.clone();
                copy["publish"][what] = honest[(number + 1) % honest.len()]["publish"][what].clone();
                lines.push(copy);
            }
            lines.extend(honest);
            lines.iter().map(|line| line.to_string() + "\n").collect()
        });
        let (code, pulled) = member.store("pull");
        assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(3)), "{what}: {pulled}");
        assert_eq!(push_with(&ci, &file)["there"], 3, "{what}");
    }
}

#[test]
fn what_was_noted_of_who_is_trusted_no_more_is_not_used() {
    let team = Team::in_a_folder();
    let (ci, member) = (team.machine(CHAIN), team.machine(CHAIN));
    let (file, public) = key(&ci, "ci.key");
    let (_, later) = key(&ci, "later.key");
    trust(&member, &[&public]);
    ci.run_alone();
    push_with(&ci, &file);
    let planned = |machine: &Machine<'_>| -> Said { machine.output(&["plan", "graph.ron"]) };
    assert!(planned(&member).stdout.contains("3 cached"), "{:#?}", planned(&member));
    trust(&member, &[&later]);
    assert!(planned(&member).stdout.contains("1 run, 2 wait"), "{:#?}", planned(&member));
}
