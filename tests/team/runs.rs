//! Runs that look into the shared store, and give to it.

use std::fs;

use serde_json::{Value, json};

use crate::{
    bucket_server::Treat,
    place::{CHAIN, Team},
    run_support::Ran,
};

fn summary(ran: &Ran) -> &Value {
    ran.event("remote-summary", "")
}

#[test]
fn a_run_fetches_what_is_read_and_nothing_else() {
    for team in Team::all() {
        let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
        let ran = first.run(&[]);
        assert_eq!((ran.code, &summary(&ran)["stored"]), (Some(0), &json!(3)), "{ran:#?}");
        let ran = second.run(&[]);
        assert_eq!(ran.with_outcome("cached"), ["large", "many", "one"], "{ran:#?}");
        let told = summary(&ran);
        assert_eq!((&told["hits"], &told["fetched"], &told["stored"]), (&json!(3), &json!(1), &json!(0)), "{told}");
        assert_eq!(fs::read_dir(second.place.path("artifacts/objects")).unwrap().count(), 1);

        // What is known needs no request, as long as nothing else is needed.
        team.requests();
        let ran = second.run(&[]);
        assert_eq!(ran.with_outcome("cached"), ["large", "many", "one"], "{ran:#?}");
        assert_eq!(team.requests().unwrap_or(0), 0);
        assert!(first.place.result("large", "large") == fs::read_to_string(path(&second, "large")).unwrap());

        // Another reader of an intermediate result needs its bytes, and not those of the first stage.
        let more = r#""count": Command(run: ["sh", "-c", "cat $0/* | wc -l > $1/lines", "{in.many}", "{out}"], inputs: {"many": "many"})"#;
        second.place.graph(&[CHAIN, &[more]].concat());
        let ran = second.run(&[]);
        assert_eq!(ran.with_outcome("ran"), ["count"], "{ran:#?}");
        let told = summary(&ran);
        assert_eq!((&told["fetched"], &told["stored"]), (&json!(1), &json!(1)), "{told}");
        assert_eq!(second.here().len(), 0, "without the shared store the first stage is unknown");
        first.place.graph(&[CHAIN, &[more]].concat());
        assert_eq!(first.run(&[]).with_outcome("cached"), ["count", "large", "many", "one"]);
    }
}

/// Where the result of a stage lies, which may have to be fetched.
fn path(machine: &crate::place::Machine<'_>, stage: &str) -> std::path::PathBuf {
    let said = machine.output(&["path", "graph.ron", stage]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    std::path::Path::new(said.stdout.trim_end()).join(stage)
}

#[test]
fn a_path_and_a_plan_see_the_shared_store() {
    let team = Team::in_a_folder();
    let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
    first.run(&[]);
    let said = second.output(&["plan", "graph.ron"]);
    assert_eq!(said.stdout.matches("its result is in the remote store").count(), 3, "{said:#?}");
    assert_eq!(fs::read_to_string(path(&second, "one")).unwrap(), "one\n");
    assert_eq!(second.here(), ["one"]);
}

#[test]
fn a_run_goes_on_without_a_store_that_cannot_be_reached() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    let address = machine.place.path("nowhere").display().to_string();
    let said = machine.place.output(&["run", "graph.ron", "--json", "--remote-store", &format!("file://{address}")]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(said.stderr.contains("there is no such folder; create it, or mount it; the run goes on without it"));
    let told: Value = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).find(is_summary).unwrap();
    assert_eq!((&told["failed"], &told["stored"]), (&json!(3), &json!(0)), "{told}");
    assert_eq!(machine.here(), ["one", "many", "large"]);
    // Later is soon enough.
    assert_eq!(machine.store("push").1["stored"], 3);
}

fn is_summary(event: &Value) -> bool {
    event["event"] == "remote-summary"
}

#[test]
fn a_server_that_is_not_there_or_refuses_loses_no_result() {
    let Some(team) = Team::behind(|request| if request.method == "PUT" { Treat::Refuse(403) } else { Treat::Well })
    else {
        return;
    };
    let machine = team.machine(CHAIN);
    let ran = machine.run(&[]);
    assert_eq!((ran.code, &summary(&ran)["failed"]), (Some(0), &json!(3)), "{ran:#?}");
    assert_eq!(machine.here(), ["one", "many", "large"]);
    let other = team.machine(CHAIN);
    let mut command = other.command(&["run", "graph.ron", "--json"]);
    let output = command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").output().unwrap();
    let said = crate::run_support::Said::from(output);
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(said.stderr.contains("the run goes on without it"), "{said:#?}");
    assert_eq!(other.here(), ["one", "many", "large"]);
}

#[test]
fn what_is_lost_there_is_computed_and_given_again() {
    let team = Team::in_a_folder();
    team.machine(CHAIN).run(&[]);
    fs::remove_file(&team.files("objects")[0]).unwrap();
    let second = team.machine(CHAIN);
    let ran = second.run(&[]);
    assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["large".to_owned()]), "{ran:#?}");
    assert_eq!(summary(&ran)["stored"], 1, "{ran:#?}");
    assert!(ran.events.iter().any(|event| event["event"] == "run-warning"), "{ran:#?}");
    let third = team.machine(CHAIN);
    assert_eq!(third.run(&[]).with_outcome("cached"), ["large", "many", "one"]);
    assert_eq!(fs::read(path(&second, "large")).unwrap(), fs::read(path(&third, "large")).unwrap());
}

#[test]
fn a_store_is_used_for_what_it_may_be_used_for() {
    let team = Team::in_a_folder();
    let (first, second, third) = (team.machine(CHAIN), team.machine(CHAIN), team.machine(CHAIN));
    let ran = first.run(&["--remote", "read"]);
    assert_eq!(summary(&ran)["stored"], 0);
    assert_eq!(team.files("segments").len(), 0);
    let ran = first.run(&["--remote", "off"]);
    assert!(!ran.events.iter().any(is_summary), "{ran:#?}");
    let ran = second.run(&["--remote", "write"]);
    assert_eq!(summary(&ran)["stored"], 3);
    let ran = third.run(&["--remote", "write"]);
    assert_eq!(ran.with_outcome("ran").len(), 3);
    assert_eq!(third.run(&["--remote", "sometimes"]).code, Some(2));
}

#[test]
fn a_run_that_gives_another_result_says_so() {
    let team = Team::in_a_folder();
    let stages = &[r#""clock": Command(run: ["sh", "-c", "cat /proc/sys/kernel/random/uuid > $0/time", "{out}"])"#];
    team.machine(stages).run(&[]);
    let second = team.machine(stages);
    let ran = second.run(&["--remote", "write"]);
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    let conflict = &summary(&ran)["conflicts"][0];
    assert_ne!(conflict["published"], conflict["found"]);
}
