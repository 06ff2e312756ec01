//! What one machine has computed, the others get.

use serde_json::Value;

use crate::{
    bucket_server::{SECRET_KEY, Treat},
    place::{CHAIN, Machine, THOUSAND, Team},
    run_support::Said,
    signatures::{key, trust},
};

#[test]
fn what_one_machine_gives_another_one_gets_byte_by_byte() {
    for team in Team::all() {
        let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
        first.run_alone();
        let (code, pushed) = first.store("push");
        assert_eq!((code, &pushed["stored"], &pushed["there"]), (Some(0), &3.into(), &0.into()), "{pushed}");
        let (code, pushed) = first.store("push");
        assert_eq!((code, &pushed["stored"], &pushed["there"]), (Some(0), &0.into(), &3.into()), "{pushed}");

        let (_, status) = second.store("status");
        let stages = status["stages"].as_array().unwrap();
        assert!(stages.iter().all(|stage| stage["here"].is_null() && stage["there"].is_string()), "{status}");
        let (code, pulled) = second.store("pull");
        assert_eq!((code, &pulled["fetched"]), (Some(0), &3.into()), "{pulled}");
        assert_eq!(second.here(), ["one", "many", "large"]);
        let files = |machine: &Machine<'_>| machine.place.result("large", "large");
        assert!(files(&first) == files(&second));
        // Who computes it all the same finds the same.
        let check = second.place.output(&["check", "graph.ron"]);
        assert_eq!(check.code, Some(0), "{check:#?}");
        assert_eq!(second.place.output(&["store", "check"]).code, Some(0));
    }
}

#[test]
fn a_store_that_was_emptied_is_noticed_and_filled_again() {
    let team = Team::in_a_folder();
    let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
    first.run_alone();
    first.store("push");
    let root = team.files("segments")[0].ancestors().nth(2).unwrap().to_owned();
    std::fs::remove_dir_all(root).unwrap();
    assert_eq!(first.store("push").1["stored"], 3);
    assert_eq!(second.store("pull").1["fetched"], 3);
}

#[test]
fn a_thousand_small_results_take_few_requests() {
    let Some(team) = Team::in_a_bucket() else { return };
    let stages = &[THOUSAND];
    let (first, second) = (team.machine(stages), team.machine(stages));
    first.run_alone();
    team.requests();
    let (_, pushed) = first.store("push");
    let requests = team.requests().unwrap();
    assert!(requests <= 6, "{requests} to push: {pushed}");
    assert_eq!(pushed["requests"], requests);
    let (_, pulled) = second.store("pull");
    let requests = team.requests().unwrap();
    assert!(requests <= 6, "{requests} to pull: {pulled}");
    assert_eq!(pulled["requests"], requests);
}

#[test]
fn an_index_of_many_segments_is_read_in_few_requests() {
    let stage =
        |number: usize| format!(r#""s{number}": Command(run: ["sh", "-c", "echo {number} > $0/x", "{{out}}"])"#);
    let stages: Vec<String> = (0..30).map(stage).collect();
    let stages: Vec<&str> = stages.iter().map(String::as_str).collect();
    for is_keyed in [false, true] {
        let Some(team) = Team::in_a_bucket() else { return };
        let (first, second) = (team.machine(&stages), team.machine(&stages));
        let (file, public) = key(&first, "own.key");
        let mut push = vec!["store", "push", "graph.ron"];
        if is_keyed {
            trust(&first, &[&public]);
            trust(&second, &[&public]);
            push.extend(["--signing-key", &file]);
        }
        for count in 1..=stages.len() {
            first.place.graph(&stages[..count]);
            first.run_alone();
            assert_eq!(first.output(&push).code, Some(0), "{count}");
        }
        team.requests();
        let (_, status) = second.store("status");
        let there = status["stages"].as_array().unwrap().iter().filter(|stage| stage["there"].is_string()).count();
        assert_eq!(there, 30, "{status}");
        let requests = team.requests().unwrap();
        assert!(requests <= 12, "{requests}");
        assert!(team.proxy.as_ref().unwrap().take().is_empty());
    }
}

#[test]
fn a_second_result_of_the_same_action_is_reported_and_changes_nothing() {
    for team in Team::all() {
        // What the stage reads from its surroundings is in no key.
        let stages = &[r#""clock": Command(run: ["sh", "-c", "cat /proc/sys/kernel/random/uuid > $0/time", "{out}"])"#];
        let (first, second, third) = (team.machine(stages), team.machine(stages), team.machine(stages));
        first.run_alone();
        second.run_alone();
        assert_eq!(first.store("push").0, Some(0));
        let (code, pushed) = second.store("push");
        assert_eq!(code, Some(3), "{pushed}");
        let conflict = &pushed["conflicts"][0];
        assert_ne!(conflict["published"], conflict["found"]);
        let (_, status) = second.store("status");
        assert_eq!(status["stages"][0]["differs"], true, "{status}");
        assert_eq!(status["stages"][0]["there"], conflict["published"]);
        third.store("pull");
        assert_eq!(third.place.result("clock", "time"), first.place.result("clock", "time"));
    }
}

#[test]
fn a_busy_server_and_broken_connections_are_waited_for() {
    let trouble = std::sync::atomic::AtomicUsize::new(0);
    let team = Team::behind(move |request| {
        match (trouble.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3, &*request.method) {
            (0, _) => Treat::Refuse(503),
            (1, "GET") => Treat::Cut(700),
            _ => Treat::Well,
        }
    });
    let Some(team) = team else { return };
    let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
    first.run_alone();
    let (code, pushed) = first.store("push");
    assert_eq!((code, &pushed["stored"]), (Some(0), &3.into()), "{pushed}");
    let (code, pulled) = second.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &3.into()), "{pulled}");
    assert_eq!(first.place.result("large", "large"), second.place.result("large", "large"));
}

#[test]
fn a_byte_that_changes_on_its_way_is_refused() {
    let team = Team::behind(|request| {
        if request.method == "GET" && request.target.contains("/packs/") { Treat::Flip } else { Treat::Well }
    });
    let Some(team) = team else { return };
    let (first, second) = (team.machine(CHAIN), team.machine(CHAIN));
    first.run_alone();
    assert_eq!(first.store("push").1["stored"], 3);
    let (code, pulled) = second.store("pull");
    assert_eq!(code, Some(1), "{pulled}");
    let message = pulled["failed"][0]["message"].as_str().unwrap();
    assert!(message.ends_with("are others, and were refused"), "{message}");
    assert_eq!(second.place.output(&["store", "check"]).code, Some(0));
}

#[test]
fn no_secret_is_written_or_told() {
    let Some(team) = Team::behind(|request| if request.method == "PUT" { Treat::Refuse(403) } else { Treat::Well })
    else {
        return;
    };
    let machine = team.machine(CHAIN);
    machine.run_alone();
    let mut said = vec![machine.output(&["store", "push", "graph.ron"])];
    assert_eq!(said[0].code, Some(1), "{said:#?}");
    for arguments in [&["store", "status", "graph.ron"][..], &["store", "pull", "graph.ron"], &["run", "graph.ron"]] {
        said.push(machine.output(arguments));
    }
    assert!(!format!("{said:?}").contains(SECRET_KEY), "{said:#?}");
    assert_eq!(machine.holding(SECRET_KEY), Vec::<std::path::PathBuf>::new());
    // An address with a password is refused without saying it again.
    let address = format!("s3://user:{SECRET_KEY}@team/x");
    let said = machine.place.output(&["store", "status", "graph.ron", "--remote-store", &address]);
    assert_eq!(said.code, Some(2), "{said:#?}");
    assert!(!said.stderr.contains(SECRET_KEY) && said.stderr.contains("environment"), "{said:#?}");
}

#[test]
fn the_workspace_file_may_name_the_shared_store() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    machine.place.write("twdag.ron", &format!("Workspace(version: 1, remote_store: \"{}\")\n", team.address));
    machine.run_alone();
    let said = machine.place.output(&["store", "push", "graph.ron", "--json"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    let pushed: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(pushed["remote_store"], team.address.as_str());
    let none = machine.place.output(&["store", "push", "graph.ron", "--remote", "off"]);
    assert_eq!(none.code, Some(2), "{none:#?}");
}

#[test]
fn a_password_in_the_address_of_the_server_is_refused_and_not_shown() {
    let team = Team::in_a_folder();
    let machine = team.machine(&CHAIN[..1]);
    for variable in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        let mut command = machine.place.twdag(&["store", "status", "graph.ron", "--remote-store", "s3://team/x"]);
        command.env(variable, "http://user:geheim@127.0.0.1:9");
        let said = Said::from(command.output().unwrap());
        assert!(said.stderr.contains("holds a user or a password"), "{said:#?}");
        assert!(
            said.code != Some(0) && !said.stderr.contains("geheim") && !said.stdout.contains("geheim"),
            "{said:#?}"
        );
    }
}
