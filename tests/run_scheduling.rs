//! How stages share a machine: resources, devices, threads, order, retries, timeouts. Through the real program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{collections::BTreeSet, process::Command};

use run_support::{EXPERIMENT, Place, Ran, Running, Said, lives, send, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// A graph with a policy.
fn set_graph(place: &Place, policy: &str, stages: &[String]) {
    let stages = stages.join(",\n");
    place.write("graph.ron", &format!("Graph(version: 1, policy: {{{policy}}}, stages: {{\n{stages},\n}})\n"));
}

/// A stage that runs a script; `$0` is its output folder.
fn script(name: &str, script: &str) -> String {
    format!(r#""{name}": Command(run: ["sh", "-c", "{script}", "{{out}}"], env: {{"STAGE": "{name}"}})"#)
}

/// A script that waits until all of these files exist.
fn wait_for(place: &Place, names: &[&str]) -> String {
    let tests: Vec<String> = names.iter().map(|name| format!("test -e {}", place.path(name).display())).collect();
    format!("until {}; do sleep 0.02; done;", tests.join(" && "))
}

/// The names in the order in which events of that sort tell of them.
fn order(run: &Ran, sort: &str) -> Vec<String> {
    let events = run.events.iter().filter(|event| event["event"] == sort);
    events.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
}

/// How many workers ran at the same time at most.
fn at_once(run: &Ran) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for event in &run.events {
        match event["event"].as_str().unwrap() {
            "stage-started" => now += 1,
            "stage-finished" | "stage-failed" | "stage-retrying" => now -= 1,
            _ => {}
        }
        most = most.max(now);
    }
    most
}

#[test]
fn a_stage_finds_nothing_of_the_one_before_it() {
    let leave =
        "ls -A .. . ../tmp > $0/found; mkdir -p ../build deep ../tmp/deep; chmod 700 .; touch ../file deep/file";
    let stages: Vec<String> = (0..4).map(|number| script(&format!("s{number}"), leave)).collect();
    let place = Place::new();
    place.graph(&stages.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(place.run(&["--jobs", "1"]).code, Some(0));
    for number in 0..4 {
        assert_eq!(place.result(&format!("s{number}"), "found"), ".:\n\n..:\ntmp\nwork\n\n../tmp:\n");
    }
}

#[test]
fn a_policy_changes_no_key() {
    let place = Place::new();
    let stages = [script("one", "echo > $0/x"), script("two", "echo > $0/y")];
    set_graph(&place, "", &stages);
    let plain = place.output(&["plan", "graph.ron", "--json"]).stdout;
    let policy = r#""one": (resources: {"cpu": 1, "memory": "1 MiB"}, retries: 3, back_off: "2s", timeout: "1h")"#;
    set_graph(&place, policy, &stages);
    assert_eq!(place.output(&["plan", "graph.ron", "--json"]).stdout, plain);
    assert_eq!(place.run(&[]).with_outcome("ran"), ["one", "two"]);
    set_graph(&place, r#""two": (resources: {"gpu": 7, "licence": 100}, timeout: "1ms")"#, &stages);
    let again = place.run(&[]);
    assert_eq!((again.code, again.with_outcome("cached").len()), (Some(0), 2), "what is cached needs nothing");
}

#[test]
fn more_than_there_is_is_refused_before_anything_runs() {
    let place = Place::new();
    let policy = r#"
    "one": (resources: {"cpu": 5, "memory": "2 GiB", "gpus": 1}),
    "two": (resources: {"gpu": 2, "licence": 1}),
"#;
    set_graph(&place, policy, &[script("one", "echo > $0/x"), script("two", "echo > $0/y")]);
    place.write("twdag.ron", r#"Workspace(version: 1, resources: {"cpu": 4, "memory": "1 GiB", "gpu": ["0"]})"#);
    for arguments in [&["run", "graph.ron"][..], &["run", "graph.ron", "--dry-run"]] {
        let said = place.output(arguments);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.stderr, @r#"
            error: graph.ron:2:32: stage `one` asks for 5 of `cpu`, but there is only 4; ask for less, or say what there is with `--resource cpu=5`, or `resources: {"cpu": 5}` in twdag.ron
              and graph.ron:2:62: stage `one` asks for 1 of `gpus`, which does not exist; did you mean `gpu`?
              and graph.ron:2:45: stage `one` asks for 2 GiB of `memory`, but there is only 1 GiB; ask for less, or say what there is with `--resource memory=2GiB`, or `resources: {"memory": "2 GiB"}` in twdag.ron
              and graph.ron:3:32: stage `two` asks for 2 of `gpu`, but there is only 1; ask for less, or say what there is with the names of devices, such as `--resource gpu=0,1`, or `resources: {"gpu": ["0", "1"]}` in twdag.ron
              and graph.ron:3:46: stage `two` asks for 1 of `licence`, of which nothing is known; say how much there is with `--resource licence=1`, or `resources: {"licence": 1}` in twdag.ron
            "#);
        }
    }
    assert!(!place.path("artifacts/local/runs").exists());
    let more = ["cpu=5", "memory=2GiB", "gpu=0,1", "licence=1", "gpus=1"];
    let more: Vec<&str> = more.into_iter().flat_map(|resource| ["--resource", resource]).collect();
    assert_eq!(place.run(&more).code, Some(0));
}

#[test]
fn where_nothing_is_known_of_devices_it_is_told_how_to_name_them() {
    let place = Place::new();
    set_graph(&place, r#""one": (resources: {"gpu": 1})"#, &[script("one", "echo > $0/x")]);
    let said = Said::from(place.twdag(&["run", "graph.ron"]).env_remove("CUDA_VISIBLE_DEVICES").output().unwrap());
    assert_eq!(said.code, Some(2));
    insta::assert_snapshot!(said.stderr, @r#"error: graph.ron:1:55: stage `one` asks for 1 of `gpu`, of which nothing is known; say how much there is with the names of devices, such as `--resource gpu=0,1`, or `resources: {"gpu": ["0", "1"]}` in twdag.ron"#);
}

#[test]
fn a_wrong_resource_on_the_command_line_is_wrong_usage() {
    let place = Place::new();
    set_graph(&place, "", &[script("one", "echo > $0/x")]);
    for wrong in ["cpu", "cpu=0", "memory=4", "gpu=0,0", "a b=1"] {
        let said = place.output(&["run", "graph.ron", "--resource", wrong]);
        assert_eq!(said.code, Some(2), "{wrong}");
        assert!(said.stderr.contains("--resource"), "{}", said.stderr);
    }
    place.write("twdag.ron", "Workspace(version: 1, resources: {\"cpu\": \"many\"})");
    let said = place.output(&["run", "graph.ron"]);
    assert!(said.code == Some(2) && said.stderr.contains("twdag.ron:1:42"), "{said:?}");
}

#[test]
fn stages_that_fit_together_run_together() {
    let place = Place::new();
    let meet = |own: &str, other: &str| {
        script(own, &format!("echo > {}; {} echo x > $0/x", place.path(own).display(), wait_for(&place, &[other])))
    };
    let policy = r#""left": (resources: {"cpu": 1}), "right": (resources: {"cpu": 1})"#;
    set_graph(&place, policy, &[meet("left", "right"), meet("right", "left")]);
    let run = place.run(&["--resource", "cpu=2"]);
    assert_eq!((run.code, at_once(&run)), (Some(0), 2));
    assert_eq!((&run.events[0]["jobs"], &run.events[0]["resources"]["cpu"]), (&Value::from(2), &Value::from(2)));
}

#[test]
fn many_stages_run_at_once_whatever_the_usual_number_of_open_files() {
    let place = Place::new();
    let gate = wait_for(&place, &["gate"]);
    let names: Vec<String> = (0..30).map(|number| format!("s{number}")).collect();
    let policy: Vec<String> = names.iter().map(|name| format!(r#""{name}": (timeout: "20s")"#)).collect();
    let stages: Vec<String> = names.iter().map(|name| script(name, &format!("{gate} ulimit -n > $0/{name}"))).collect();
    set_graph(&place, &policy.join(", "), &stages);
    let mut command = Command::new("sh");
    let program = format!("ulimit -S -n 96 && exec {} run graph.ron --json --jobs 30", env!("CARGO_BIN_EXE_twdag"));
    command.args(["-c", &program]).current_dir(place.path("")).env_remove("TWDAG_STORE");
    let mut run = Running::of(command);
    for _ in 0..30 {
        run.until("stage-started", "");
    }
    place.write("gate", "");
    let run = run.end();
    assert_eq!(run.code, Some(0), "{run:?}");
    // Programs have the usual number.
    assert_eq!(place.result("s7", "s7"), "96\n");
}

#[test]
fn a_resource_of_one_keeps_stages_apart() {
    let place = Place::new();
    // The folder cannot be made by two at the same time.
    let alone = |name: &str| {
        let lock = place.path("lock");
        script(name, &format!("mkdir {0} && sleep 0.1 && rmdir {0} && echo > $0/{name}", lock.display()))
    };
    let names = ["a", "b", "c"];
    let policy: Vec<String> =
        names.iter().map(|name| format!(r#""{name}": (resources: {{"cpu": 1, "licence": 1}})"#)).collect();
    set_graph(&place, &policy.join(", "), &names.map(alone));
    let run = place.run(&["--resource", "licence=1", "--resource", "cpu=3", "--jobs", "3"]);
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), 3), "{run:#?}");
    assert_eq!(order(&run, "stage-started"), names, "of equals the first in the file starts first");
}

/// Two stages that hold a device at the same time, and one that holds none.
fn on_devices(place: &Place) -> [String; 3] {
    let meet = |own: &str, other: &str| {
        let own_file = place.path(own);
        let text = r"echo $CUDA_VISIBLE_DEVICES > $0/device";
        script(own, &format!("echo > {}; {} {text}", own_file.display(), wait_for(place, &[other])))
    };
    let without = script("without", r"echo ${CUDA_VISIBLE_DEVICES-all} > $0/device");
    [meet("left", "right"), meet("right", "left"), without]
}

const DEVICES: &str = r#""left": (resources: {"cpu": 1, "gpu": 1}), "right": (resources: {"cpu": 1, "gpu": 1})"#;

#[test]
fn each_device_is_lent_to_one_stage_at_a_time() {
    type Ways<'a> = [(&'a [&'a str], &'a str, Option<&'a str>); 3];
    let ways: Ways<'_> = [
        (&["--resource", "gpu=4,GPU-5"], "", Some("0,1")),
        (&[], r#"Workspace(version: 1, resources: {"gpu": [4, "GPU-5"]})"#, Some("0,1")),
        (&[], "", Some("4,GPU-5,-1,6")),
    ];
    for (arguments, workspace, environment) in ways {
        let place = Place::new();
        place.write("twdag.ron", workspace);
        set_graph(&place, DEVICES, &on_devices(&place));
        let arguments = [&["run", "graph.ron", "--resource", "cpu=2", "--json"], arguments].concat();
        let mut command = place.twdag(&arguments);
        command.env_remove("CUDA_VISIBLE_DEVICES").envs(environment.map(|devices| ("CUDA_VISIBLE_DEVICES", devices)));
        let run = run_support::Running::of(command).end();
        assert_eq!(run.code, Some(0), "{run:#?}");
        let seen: BTreeSet<String> = ["left", "right"].map(|stage| place.result(stage, "device")).into();
        assert_eq!(seen, BTreeSet::from(["4\n".to_owned(), "GPU-5\n".to_owned()]));
        assert_eq!(place.result("without", "device"), "\n", "what is not lent is not seen");
        let lent = &run.event("stage-started", "left")["devices"];
        assert_eq!(lent.as_array().map(Vec::len), Some(1), "{lent}");
    }
}

#[test]
fn where_nothing_is_known_of_devices_nothing_is_hidden() {
    let place = Place::new();
    set_graph(&place, "", &on_devices(&place)[2..]);
    let output = place.twdag(&["run", "graph.ron"]).env_remove("CUDA_VISIBLE_DEVICES").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(place.result("without", "device"), "all\n");
}

#[test]
fn a_stage_gets_its_cpu_as_threads() {
    let place = Place::new();
    let threads = |name: &str| {
        format!(
            r#""{name}": Command(run: ["sh", "-c", "echo $1 > $0/threads", "{{out}}", "{{threads}}"], env: {{"STAGE": "{name}"}})"#
        )
    };
    set_graph(&place, r#""two": (resources: {"cpu": 2})"#, &["two", "rest"].map(threads));
    let run = place.run(&["--resource", "cpu=5"]);
    assert_eq!((run.code, run.events[0]["threads"].as_u64()), (Some(0), Some(5)));
    assert_eq!(["two", "rest"].map(|stage| place.result(stage, "threads")), ["2\n", "5\n"]);
    assert_eq!(run.event("stage-started", "two")["threads"], 2);
    let place = Place::new();
    set_graph(&place, r#""two": (resources: {"cpu": 2})"#, &["two", "rest"].map(threads));
    let shared = place.run(&["--resource", "cpu=5", "--jobs", "3"]);
    assert_eq!((shared.code, place.result("rest", "threads").as_str()), (Some(0), "1\n"), "an equal share");
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let artifacts = |cpu: usize| {
        let place = Place::new();
        let policy = ["text", "tokenizer", "tokens", "random", "trained", "loss", "sorted"]
            .map(|stage| format!(r#""{stage}": (resources: {{"cpu": {cpu}}})"#));
        set_graph(&place, &policy.join(", "), &EXPERIMENT.iter().map(|stage| (*stage).to_owned()).collect::<Vec<_>>());
        let run = place.run(&["--resource", &format!("cpu={cpu}")]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        run.finished()["stages"].as_array().unwrap().iter().map(|stage| stage["artifact"].clone()).collect::<Vec<_>>()
    };
    let one = artifacts(1);
    assert_eq!(one.len(), EXPERIMENT.len());
    assert_eq!(one, artifacts(3));
}

#[test]
fn what_took_longest_last_time_starts_first() {
    let place = Place::new();
    let stages = |version: &str| {
        let slow = script("slow", &format!("sleep 0.4; echo {version} > $0/x"));
        [script("a", &format!("echo {version} > $0/x")), script("b", &format!("echo {version} > $0/y")), slow]
    };
    set_graph(&place, "", &stages("1"));
    assert_eq!(order(&place.run(&[]), "stage-started"), ["a", "b", "slow"], "nothing is known yet");
    set_graph(&place, "", &stages("2"));
    assert_eq!(order(&place.run(&[]), "stage-started").first().map(String::as_str), Some("slow"));
}

/// A script that succeeds at the `count`-th attempt.
fn fails_before(place: &Place, count: usize) -> String {
    let attempts = place.path("attempts");
    format!("echo >> {0}; test $(wc -l < {0}) -ge {count} && echo done > $0/x", attempts.display())
}

#[test]
fn a_stage_that_says_so_is_tried_again() {
    let place = Place::new();
    let stages = [
        script("shaky", &fails_before(&place, 3)),
        r#""after": Command(run: ["cp", "-r", "{in.x}/.", "{out}"], inputs: {"x": "shaky"})"#.to_owned(),
    ];
    set_graph(&place, r#""shaky": (retries: 2, back_off: "10ms")"#, &stages);
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.with_outcome("ran"), ["after", "shaky"]);
    let retries: Vec<&Value> = run.events.iter().filter(|event| event["event"] == "stage-retrying").collect();
    let told: Vec<_> = retries
        .iter()
        .map(|event| (event["attempt"].as_u64(), event["retries_left"].as_u64(), event["pause"].as_f64()))
        .collect();
    assert_eq!(told, [(Some(1), Some(2), Some(0.01)), (Some(2), Some(1), Some(0.02))]);
    let logs: BTreeSet<&str> = retries.iter().map(|event| event["log"].as_str().unwrap()).collect();
    assert!(logs.len() == 2 && logs.iter().all(|log| std::path::Path::new(log).exists()), "{logs:?}");
    let attempts = run.events.iter().filter(|event| event["event"] == "stage-started" && event["stage"] == "shaky");
    assert_eq!(attempts.map(|event| event["attempt"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn without_a_word_or_beyond_it_a_failure_stays_one() {
    for (policy, attempts) in [("", 1), (r#""shaky": (retries: 1, back_off: "10ms")"#, 2)] {
        let place = Place::new();
        set_graph(&place, policy, &[script("shaky", &fails_before(&place, 9))]);
        let run = place.run(&[]);
        assert_eq!((run.code, run.with_outcome("failed")), (Some(1), vec!["shaky".to_owned()]));
        assert_eq!(std::fs::read_to_string(place.path("attempts")).unwrap().lines().count(), attempts);
    }
}

#[test]
fn what_would_fail_again_is_not_tried_again() {
    let place = Place::new();
    let stages = [r#""wrong": Command(run: ["no-such-program-anywhere", "{out}"])"#.to_owned()];
    set_graph(&place, r#""wrong": (retries: 5, back_off: "1h")"#, &stages);
    let run = place.run(&[]);
    assert_eq!((run.code, order(&run, "stage-retrying").len()), (Some(1), 0), "{run:#?}");
    assert_eq!(run.event("stage-failed", "wrong")["blame"], "graph");
}

#[test]
fn people_are_told_of_attempts() {
    let place = Place::new();
    let _filters = place.filters();
    set_graph(&place, r#""shaky": (retries: 1, back_off: "10ms")"#, &[script("shaky", &fails_before(&place, 2))]);
    let said = place.output(&["run", "graph.ron"]);
    insta::assert_snapshot!(format!("{}--\n{}", said.stdout, said.stderr), @r#"
    graph.ron: 1 run
      run   shaky   Command   never computed here
    1 stage at a time, [threads] each; logs in artifacts/local/runs/[run]
      starts  shaky  Command
      starts  shaky  Command
      done    shaky  [time]  [short]
    succeeded after [time]: 1 stage (1 ran)
      ran   shaky   [time]
    --
    retry: stage `shaky` failed, attempt 1 of 2, next in [time]: the program `sh` ended with exit code 1; it printed nothing
      log: artifacts/local/runs/[run]/logs/000-shaky.log
    "#);
}

#[test]
fn an_interrupt_does_not_wait_for_the_next_attempt() {
    let place = Place::new();
    set_graph(&place, r#""shaky": (retries: 1, back_off: "1h")"#, &[script("shaky", &fails_before(&place, 9))]);
    let mut run = place.start(&[]);
    run.until("stage-retrying", "shaky");
    send(run.pid(), Signal::INT);
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("canceled")), (Some(130), vec!["shaky".to_owned()]));
}

#[test]
fn a_stage_that_takes_too_long_is_ended_with_all_that_it_started() {
    let place = Place::new();
    let file = place.path("processes");
    let endless = format!("sleep 600 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let stages = [script("endless", &endless), script("beside", "echo > $0/x")];
    set_graph(&place, r#""endless": (timeout: "1s")"#, &stages);
    let run = place.run(&["--keep-going"]);
    assert_eq!((run.code, run.with_outcome("failed")), (Some(1), vec!["endless".to_owned()]), "{run:#?}");
    assert_eq!(run.with_outcome("ran"), ["beside"]);
    insta::assert_snapshot!(run.event("stage-failed", "endless")["message"].as_str().unwrap(), @"it did not end within its timeout of 1s and was stopped; the next attempt goes on from what it had kept; give it a longer `timeout` in the graph's `policy` if it needs one");
    let programs = std::fs::read_to_string(file).unwrap();
    let programs: Vec<i32> = programs.split_whitespace().map(|process| process.parse().unwrap()).collect();
    assert_eq!(programs.len(), 2);
    wait_until("the programs end", || !programs.iter().any(|process| lives(*process)));
}

#[test]
fn a_timeout_holds_for_each_attempt() {
    let place = Place::new();
    let attempts = place.path("attempts");
    // The first attempt hangs, the second does not.
    let hangs_once =
        format!("echo >> {0}; test $(wc -l < {0}) -ge 2 || sleep 600; echo done > $0/x", attempts.display());
    set_graph(&place, r#""stuck": (timeout: "1s", retries: 1, back_off: "10ms")"#, &[script("stuck", &hangs_once)]);
    let run = place.run(&[]);
    assert_eq!((run.code, order(&run, "stage-retrying").len()), (Some(0), 1), "{run:#?}");
}
