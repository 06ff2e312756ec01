//! Results that come again after the log has called them lost: the same bytes, or others where an action is not reproducible.

use std::{fs, path::PathBuf, thread};

use serde_json::{Value, json};
use twdag::digest::Digest;

use crate::{
    attacks::rewrite,
    collecting::{ALL, Publication, fetched, with_publication_stopped},
    place::{CHAIN, Machine, THOUSAND, Team},
    signatures::{CLOCK, key, trust},
};

/// Gives everything up, and leaves the bytes for a day.
const GIVE_UP: &[&str] = &["--keep-runs", "0", "--older-than", "0s", "--grace", "1d"];

/// The result of [`CLOCK`] that somebody new gets from the shared store.
fn told_to_newcomers(team: &Team) -> String {
    let newcomer = team.machine(CLOCK);
    assert_eq!(newcomer.store("pull").1["fetched"], 1);
    newcomer.place.result("clock", "time")
}

/// A run that computes [`CLOCK`] anew although it was published, and whose result takes the place of that one.
fn replaces(machine: &Machine<'_>, more: &[&str]) -> Value {
    let ran = machine.run(more);
    assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["clock".to_owned()]), "{ran:#?}");
    let summary = ran.event("remote-summary", "").clone();
    assert_eq!((&summary["stored"], &summary["conflicts"]), (&json!(1), &json!([])), "{summary}");
    assert_ne!(summary["replaced"][0]["published"], summary["replaced"][0]["found"], "{summary}");
    summary
}

#[test]
fn what_comes_out_otherwise_after_it_was_collected_counts_from_then_on() {
    for team in Team::all() {
        let first = team.machine(CLOCK);
        first.run(&[]);
        // So often that somebody new reads a checkpoint.
        for _ in 0..5 {
            assert_eq!(team.machine(CLOCK).collect(ALL)["removed"]["results"], 1);
            let next = team.machine(CLOCK);
            replaces(&next, &[]);
            assert_eq!(next.store("status").1["stages"][0]["differs"], true);
            assert_eq!(told_to_newcomers(&team), next.place.result("clock", "time"));
            // It is told once.
            let (code, pushed) = next.store("push");
            assert_eq!((code, &pushed["there"], &pushed["replaced"]), (Some(0), &json!(1), &json!([])), "{pushed}");
        }
        // What is there stays, also against who has the first result still.
        let other = team.machine(CLOCK);
        other.run_alone();
        let stays = told_to_newcomers(&team);
        for machine in [&other, &first] {
            let (code, pushed) = machine.store("push");
            assert_eq!((code, &pushed["stored"]), (Some(3), &json!(0)), "{pushed}");
            assert_ne!(pushed["conflicts"][0]["published"], pushed["conflicts"][0]["found"], "{pushed}");
        }
        assert_eq!(told_to_newcomers(&team), stays);
    }
}

#[test]
fn who_has_noted_a_result_that_is_gone_gets_what_has_its_place() {
    let team = Team::in_a_folder();
    team.machine(CLOCK).run(&[]);
    let planner = team.machine(CLOCK);
    planner.output(&["plan", "graph.ron"]);
    assert_eq!(team.machine(CLOCK).collect(ALL)["removed"]["results"], 1);
    let next = team.machine(CLOCK);
    replaces(&next, &[]);
    let (code, pulled) = planner.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
    assert_eq!(planner.place.result("clock", "time"), next.place.result("clock", "time"));
}

#[test]
fn who_gives_another_result_than_the_collected_one_is_told_in_words() {
    let team = Team::in_a_folder();
    team.machine(CLOCK).run(&[]);
    team.machine(CLOCK).collect(ALL);
    let second = team.machine(CLOCK);
    second.run_alone();
    let said = second.output(&["store", "push", "graph.ron"]);
    let expected = "has lost: it is not reproducible, and the new result counts there from now on";
    assert!(said.code == Some(0) && said.stderr.contains(expected), "{said:#?}");
    team.machine(CLOCK).collect(ALL);
    let said = team.machine(CLOCK).output(&["run", "graph.ron"]);
    assert!(said.code == Some(0) && said.stderr.contains(expected), "{said:#?}");
}

#[test]
fn what_was_found_to_be_damaged_may_come_out_otherwise_too() {
    let team = Team::in_a_folder();
    team.machine(CLOCK).run(&[]);
    team.files("packs").iter().for_each(|path| fs::remove_file(path).unwrap());
    // As long as the log does not say so, others may have the bytes.
    let hasty = team.machine(CLOCK);
    assert_eq!(hasty.run(&[]).code, Some(3));
    let said = hasty.output(&["store", "check", "--remote", "--json"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    let next = team.machine(CLOCK);
    replaces(&next, &[]);
    assert_eq!(told_to_newcomers(&team), next.place.result("clock", "time"));
}

#[test]
fn of_two_that_give_other_results_at_once_the_first_counts() {
    let Some((team, Publication { is_awaited, comes, go })) = with_publication_stopped() else { return };
    team.machine(CLOCK).run(&[]);
    team.machine(CLOCK).collect(ALL);
    let (one, two) = (team.machine(CLOCK), team.machine(CLOCK));
    one.run_alone();
    two.run_alone();
    is_awaited.store(true, std::sync::atomic::Ordering::SeqCst);
    thread::scope(|scope| {
        let push = scope.spawn(|| one.store("push"));
        comes.recv().unwrap();
        let (code, pushed) = two.store("push");
        assert_eq!((code, &pushed["replaced"].as_array().unwrap().len()), (Some(0), &1), "{pushed}");
        go.send(()).unwrap();
        let (code, pushed) = push.join().unwrap();
        assert_eq!((code, &pushed["stored"], &pushed["replaced"]), (Some(3), &json!(0), &json!([])), "{pushed}");
    });
    assert_eq!(told_to_newcomers(&team), two.place.result("clock", "time"));
}

#[test]
fn a_new_result_counts_for_those_who_trust_its_maker() {
    let team = Team::in_a_folder();
    let (first, second, narrow) = (team.machine(CLOCK), team.machine(CLOCK), team.machine(CLOCK));
    let (one, by_one) = key(&first, "one.key");
    let (two, by_two) = key(&second, "two.key");
    let wide = [by_one.as_str(), by_two.as_str()];
    trust(&first, &wide);
    trust(&second, &wide);
    trust(&narrow, &[&by_one]);
    assert_eq!(first.run(&["--signing-key", &one]).code, Some(0));
    // A stranger's word is none: his loss makes no room for another result, and his result takes none.
    let stranger = team.machine(CLOCK);
    assert_eq!(stranger.run(&[]).with_outcome("cached"), ["clock"]);
    first.collect(&[ALL, &["--signing-key", &one]].concat());
    let unsigned = team.machine(CLOCK);
    replaces(&unsigned, &[]);
    replaces(&second, &["--signing-key", &two]);
    // Who trusts the first key alone does not see what the second one gave.
    replaces(&narrow, &["--signing-key", &one]);
    let told = |trusted: &[&str]| {
        let reader = team.machine(CLOCK);
        trust(&reader, trusted);
        assert_eq!(reader.store("pull").1["fetched"], 1);
        reader.place.result("clock", "time")
    };
    assert_eq!(told(&wide), second.place.result("clock", "time"));
    assert_eq!(told(&[&by_one]), narrow.place.result("clock", "time"));
    assert_eq!(told_to_newcomers(&team), unsigned.place.result("clock", "time"));
}

#[test]
fn what_is_pinned_too_late_does_not_drive_out_a_new_result_and_is_told() {
    let team = Team::in_a_folder();
    let (member, next) = (team.machine(CLOCK), team.machine(CLOCK));
    member.run(&[]);
    assert_eq!(next.collect(GIVE_UP)["removed"]["results"], 1);
    replaces(&next, &[]);
    next.pin();
    assert_eq!(member.place.output(&["pin", "graph.ron", "--name", "first"]).code, Some(0));
    let said = member.output(&[&["store", "gc", "--remote", "--json"], GIVE_UP].concat());
    let collected: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &collected["revived"]), (Some(0), &json!(0)), "{said:#?}");
    assert!(said.stderr.contains("first of ") && said.stderr.contains("another result of it counts now"), "{said:#?}");
    assert_eq!(told_to_newcomers(&team), next.place.result("clock", "time"));
    // When the new one is given up as well, what is pinned has its place again, at once.
    assert_eq!(next.place.output(&["unpin", "paper"]).code, Some(0));
    assert_eq!(next.store("push").0, Some(0));
    let forecast = member.collect(&[GIVE_UP, &["--dry-run"]].concat());
    let collected = member.collect(GIVE_UP);
    assert_eq!((&collected["revived"], &collected["removed"]["results"]), (&json!(1), &json!(1)), "{collected}");
    for told in ["roots", "kept_bytes", "revived", "removed", "waiting_bytes"] {
        assert_eq!(forecast[told], collected[told], "{told}: {forecast}");
    }
    assert_eq!(told_to_newcomers(&team), member.place.result("clock", "time"));
}

#[test]
fn what_was_pinned_in_time_and_displaced_while_it_was_damaged_is_told_and_comes_back_from_its_keeper() {
    let team = Team::in_a_folder();
    let (member, next) = (team.machine(CLOCK), team.machine(CLOCK));
    member.run(&[]);
    assert_eq!(member.place.output(&["pin", "graph.ron", "--name", "first"]).code, Some(0));
    assert_eq!(member.store("push").0, Some(0));
    team.files("packs").iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_eq!(next.output(&["store", "check", "--remote"]).code, Some(1));
    let told = |collector: &Machine<'_>| {
        let said = collector.output(&[&["store", "gc", "--remote", "--json"], GIVE_UP].concat());
        assert_eq!(said.code, Some(0), "{said:#?}");
        said.stderr.contains("first of ") && said.stderr.contains("another result of it counts now")
    };
    // Nobody else gave anything: it can be given again.
    assert!(!told(&next));
    replaces(&next, &[]);
    next.pin();
    assert!(told(&next));
    let (code, pushed) = member.store("push");
    assert_eq!((code, &pushed["stored"]), (Some(3), &json!(0)), "{pushed}");
    assert_eq!(told_to_newcomers(&team), next.place.result("clock", "time"));
    // No bytes of it are there that could come back, but its keeper has them.
    assert_eq!(next.place.output(&["unpin", "paper"]).code, Some(0));
    let collected = next.collect(GIVE_UP);
    assert_eq!((&collected["revived"], &collected["removed"]["results"]), (&json!(0), &json!(1)), "{collected}");
    let (code, pushed) = member.store("push");
    assert_eq!((code, &pushed["stored"]), (Some(0), &json!(1)), "{pushed}");
    assert!(!told(&next));
    assert_eq!(told_to_newcomers(&team), member.place.result("clock", "time"));
}

#[test]
fn what_was_noted_of_a_result_gives_way_to_the_one_that_counts_now() {
    let more = r#""more": Command(run: ["sh", "-c", "cat $0/time > $1/more", "{in.clock}", "{out}"], inputs: {"clock": "clock"})"#;
    let both = [CLOCK, &[more]].concat();
    let team = Team::in_a_folder();
    team.machine(&both).run(&[]);
    let reader = team.machine(&both);
    // It notes what is there, and fetches nothing.
    assert_eq!(reader.output(&["plan", "graph.ron"]).code, Some(0));
    team.machine(CLOCK).collect(ALL);
    let next = team.machine(&both);
    assert_eq!(next.run(&[]).code, Some(0));
    // It has to ask, and hears of the new one; then it knows that and has no need to.
    for (stages, ran) in [(&[&both[..], &[CHAIN[0]]].concat(), &["one"][..]), (&both, &[])] {
        reader.place.graph(stages);
        let said = reader.run(&[]);
        assert_eq!(
            (said.code, said.with_outcome("ran")),
            (Some(0), ran.iter().map(|name| (*name).to_owned()).collect())
        );
        assert!(!said.events.iter().any(|event| event["event"] == "run-warning"), "{said:#?}");
    }
    let said = reader.output(&["path", "graph.ron", "more"]);
    let more = fs::read_to_string(PathBuf::from(said.stdout.trim_end()).join("more")).unwrap();
    assert_eq!(more, next.place.result("clock", "time"));
}

/// Writes the lines of the first segment once more, changed, as the next segment of the log: whoever may create objects can.
fn copy_first_segment(team: &Team, change: impl Fn(&mut Value)) {
    let segments = team.files("segments");
    let next = segments[0].with_file_name(format!("{:012}", segments.len() + 1));
    fs::copy(&segments[0], &next).unwrap();
    let origin = Digest::of(&fs::read(&segments[0]).unwrap());
    rewrite(&next, |text| {
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines[0] = json!({"number": segments.len() + 1, "origin": origin.to_string(), "checkpoint": 0});
        lines[1..].iter_mut().for_each(|line| change(&mut line["publish"]));
        lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
    });
}

#[test]
fn a_copy_of_a_lost_result_does_not_keep_the_real_one_from_coming_back() {
    for case in ["a pack that is nowhere", "a pack of other results", "names that are taken"] {
        let team = Team::in_a_folder();
        let member = team.machine(&CHAIN[..2]);
        member.run_alone();
        assert_eq!(member.store("push").1["stored"], 2, "{case}");
        let other = team.machine(&[THOUSAND]);
        other.run_alone();
        let before = team.files("packs");
        other.pin();
        let packs: Vec<PathBuf> = team.files("packs").into_iter().filter(|pack| !before.contains(pack)).collect();
        let foreign = packs[0].parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
            + packs[0].file_name().unwrap().to_str().unwrap();
        let elsewhere = if case == "a pack that is nowhere" { Digest::of(b"nowhere").to_string() } else { foreign };
        if case == "names that are taken" {
            // It will be the third publication of its action.
            copy_first_segment(&team, |published| published["again"] = json!(2));
        }
        let collected = other.collect(GIVE_UP);
        assert!(collected["removed"]["results"].as_u64().unwrap() >= 2, "{case}: {collected}");
        if case != "names that are taken" {
            copy_first_segment(&team, |published| {
                published["again"] = json!(1);
                published["packed"].as_array_mut().unwrap().iter_mut().for_each(|pack| pack["pack"] = json!(elsewhere));
            });
        }
        assert_eq!(member.place.output(&["pin", "graph.ron", "--name", "paper"]).code, Some(0));
        let collected = member.collect(GIVE_UP);
        assert_eq!(collected["revived"], 2, "{case}: {collected}");
        assert_eq!(fetched_at_last(&team), 2, "{case}");
        // Once is enough.
        assert_eq!(member.collect(GIVE_UP)["revived"], 0, "{case}");
        assert_eq!(fetched(&team, &[THOUSAND]), 1, "{case}");
    }
}

/// What somebody new has after he has found out which publications are worth nothing.
fn fetched_at_last(team: &Team) -> usize {
    let reader = team.machine(&CHAIN[..2]);
    reader.store("pull");
    reader.store("pull");
    reader.here().len()
}

#[test]
fn a_copy_that_nobody_who_is_trusted_has_signed_does_not_keep_the_real_one_from_coming_back() {
    let team = Team::in_a_folder();
    let member = team.machine(&CHAIN[..2]);
    let (file, public) = key(&member, "member.key");
    trust(&member, &[&public]);
    let signed = |arguments: &[&str]| {
        let said = member.output(&[arguments, &["--json", "--signing-key", &file]].concat());
        assert_eq!(said.code, Some(0), "{said:#?}");
        serde_json::from_str::<Value>(&said.stdout).unwrap()
    };
    member.run_alone();
    assert_eq!(signed(&["store", "push", "graph.ron"])["stored"], 2);
    let give_up = [&["store", "gc", "--remote"], GIVE_UP].concat();
    assert_eq!(signed(&give_up)["removed"]["results"], 2);
    // The same places, and no signature.
    copy_first_segment(&team, |published| drop(published.as_object_mut().unwrap().remove("signature")));
    assert_eq!(member.place.output(&["pin", "graph.ron", "--name", "paper"]).code, Some(0));
    // Nobody gives up what was published a moment ago, by whomever.
    assert_eq!(signed(&["store", "gc", "--remote", "--keep-runs", "0"])["revived"], 2);
    let reader = team.machine(&CHAIN[..2]);
    trust(&reader, &[&public]);
    assert_eq!(reader.store("pull").1["fetched"], 2);
}
