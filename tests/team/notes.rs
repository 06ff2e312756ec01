//! What a machine notes of results that are elsewhere: the next plan asks nothing, and notes that are gone cost one more look.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use twdag::failpoint;

use crate::{
    place::{CHAIN, Machine, Team},
    run_support::Said,
    signatures::{CLOCK, key, trust},
};

/// A shared store with three results, and a machine that has none of them.
fn filled(team: &Team) -> Machine<'_> {
    let first = team.machine(CHAIN);
    first.run_alone();
    assert_eq!(first.store("push").0, Some(0));
    team.machine(CHAIN)
}

/// Whether a plan says that all is cached, and nothing else.
fn knows_all(said: &Said) -> bool {
    let plan: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:#?}"));
    let is_cached = |stage: &Value| stage["status"] == "cached";
    said.code == Some(0) && said.stderr.is_empty() && plan["stages"].as_array().unwrap().iter().all(is_cached)
}

/// Plans with the shared store, which must say that all is cached.
fn plan(machine: &Machine<'_>) {
    let said = machine.output(&["plan", "graph.ron", "--json"]);
    assert!(knows_all(&said), "{said:#?}");
}

/// The same while the shared store cannot be asked.
fn plan_unasked(machine: &Machine<'_>, team: &Team) {
    let folder = Path::new(team.address.strip_prefix("file://").unwrap());
    let hidden = folder.with_extension("hidden");
    fs::rename(folder, &hidden).unwrap();
    plan(machine);
    fs::rename(hidden, folder).unwrap();
}

/// The notes of a machine.
fn notes(machine: &Machine<'_>) -> PathBuf {
    let remotes = fs::read_dir(machine.place.path("artifacts/local/remotes")).unwrap();
    remotes.map(|remote| remote.unwrap().path().join("notes")).next().unwrap()
}

#[test]
fn what_a_plan_finds_lies_in_one_file_and_the_next_one_asks_nothing() {
    let stages: Vec<String> = (0..50)
        .map(|number| format!(r#""s{number}": Command(run: ["sh", "-c", "echo {number} > $0/out", "{{out}}"])"#))
        .collect();
    let stages: Vec<&str> = stages.iter().map(String::as_str).collect();
    let team = Team::in_a_folder();
    let (first, second) = (team.machine(&stages), team.machine(&stages[..30]));
    first.run_alone();
    assert_eq!(first.store("push").0, Some(0));
    plan(&second);
    let before = fs::metadata(notes(&second)).unwrap().len();
    plan_unasked(&second, &team);
    // More of them are added to it, and those that are there are not written again.
    second.place.graph(&stages);
    plan(&second);
    let after = fs::metadata(notes(&second)).unwrap().len();
    assert!(before < after && after < 2 * before, "{before} {after}");
    plan_unasked(&second, &team);
    let mut files: Vec<_> =
        fs::read_dir(notes(&second).parent().unwrap()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["index", "notes"]);
}

#[test]
fn notes_that_were_cut_changed_or_lengthened_are_asked_for_again() {
    let team = Team::in_a_folder();
    let machine = filled(&team);
    plan(&machine);
    let path = notes(&machine);
    let whole = fs::read(&path).unwrap();
    let middle = whole.len() / 2;
    // In what each block begins with, and in what follows.
    for position in [0, 15, 16, 47, 48, 55, 56, middle, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        let longer = [&whole[..], &changed[..middle]].concat();
        for bytes in [&changed, &whole[..position].to_vec(), &longer] {
            fs::write(&path, bytes).unwrap();
            plan(&machine);
            plan_unasked(&machine, &team);
        }
    }
    // What stands before a torn end still counts, and what is noted later can be read.
    machine.place.graph(&CHAIN[..1]);
    fs::remove_file(&path).unwrap();
    plan(&machine);
    File::options().append(true).open(&path).unwrap().write_all(&whole[..middle]).unwrap();
    plan_unasked(&machine, &team);
    machine.place.graph(CHAIN);
    plan(&machine);
    plan_unasked(&machine, &team);
    // Where they cannot be kept at all, everything works without them.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    plan(&machine);
    let (code, pulled) = machine.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &3.into()), "{pulled}");
}

#[test]
fn a_kill_while_something_is_noted_costs_one_more_look() {
    let team = Team::in_a_folder();
    let machine = filled(&team);
    for deed in ["kill", "tear", "refuse"] {
        for count in 1.. {
            assert!(count < 20, "this plan never ends by itself");
            let _ = fs::remove_dir_all(machine.place.path("artifacts/local/remotes"));
            let mut command = machine.command(&["plan", "graph.ron", "--json"]);
            let said = command.env(failpoint::VARIABLE, format!("{deed} derived. {count}")).output().unwrap();
            let is_over = said.status.success() && fs::metadata(notes(&machine)).is_ok_and(|found| found.len() > 0);
            plan(&machine);
            plan_unasked(&machine, &team);
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn plans_at_the_same_time_leave_notes_that_can_be_read() {
    let team = Team::in_a_folder();
    let machine = filled(&team);
    for _ in 0..5 {
        let start = |_| {
            machine
                .command(&["plan", "graph.ron", "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let plans: Vec<_> = (0..6).map(start).collect();
        for plan in plans {
            let said = Said::from(plan.wait_with_output().unwrap());
            assert!(knows_all(&said), "{said:#?}");
        }
        plan_unasked(&machine, &team);
        fs::remove_dir_all(machine.place.path("artifacts/local/remotes")).unwrap();
    }
}

#[test]
fn notes_count_for_those_who_trust_the_same_keys() {
    let team = Team::in_a_folder();
    let machine = team.machine(CLOCK);
    let mut publics = Vec::new();
    let mut given = Vec::new();
    for _ in 0..2 {
        let member = team.machine(CLOCK);
        let (file, public) = key(&member, "own.key");
        trust(&member, &[&public]);
        member.run_alone();
        let said = member.output(&["store", "push", "graph.ron", "--signing-key", &file]);
        assert_eq!(said.code, Some(0), "{said:#?}");
        publics.push(public);
        given.push(member.place.result("clock", "time"));
    }
    // For who trusts the second alone it is his result that is there, and for who trusts both that of the first.
    trust(&machine, &[&publics[1]]);
    plan(&machine);
    plan_unasked(&machine, &team);
    trust(&machine, &[&publics[0], &publics[1]]);
    plan(&machine);
    assert_eq!(machine.store("pull").1["fetched"], 1);
    assert_eq!(machine.place.result("clock", "time"), given[0]);
    // In which order they are named makes no difference.
    fs::remove_dir_all(machine.place.path("artifacts/actions")).unwrap();
    trust(&machine, &[&publics[1], &publics[0]]);
    plan_unasked(&machine, &team);
}
