//! Stages that are looked up before there is room for them, and lie ready at a worker that is at another one. Through the real program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::fs;

use run_support::{Place, Ran, Running, lives, pid, send, wait_until};
use rustix::process::Signal;

/// A stage that runs a script; `$0` is its output folder.
fn script(name: &str, script: &str) -> String {
    format!(r#""{name}": Command(run: ["sh", "-c", "{script}; echo {name} > $0/x", "{{out}}"])"#)
}

/// A graph with policies.
fn set_graph(place: &Place, policies: &[String], stages: &[String]) {
    let (policies, stages) = (policies.join(", "), stages.join(",\n"));
    place.write("graph.ron", &format!("Graph(version: 1, policy: {{{policies}}}, stages: {{\n{stages},\n}})\n"));
}

/// Stages `s0`, `s1` and so on, of these scripts.
fn place(scripts: &[String]) -> Place {
    let stages: Vec<String> =
        scripts.iter().enumerate().map(|(number, text)| script(&format!("s{number}"), text)).collect();
    let place = Place::new();
    place.graph(&stages.iter().map(String::as_str).collect::<Vec<_>>());
    place
}

/// A script that leaves a line each time that it begins.
fn told(place_file: &std::path::Path, then: &str) -> String {
    format!("echo >> {}; {then}", place_file.display())
}

/// The stages in the order in which events of that sort tell of them.
fn order(run: &Ran, sort: &str) -> Vec<String> {
    let events = run.events.iter().filter(|event| event["event"] == sort);
    events.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
}

/// Waits until so many stages have been claimed. That of a stage which may not start yet is looked up then, or was: the file of a claim stays.
fn wait_until_claimed(place: &Place, count: usize) {
    wait_until("the next stage is looked up", || {
        fs::read_dir(place.path("artifacts/local/claims")).is_ok_and(|claims| claims.count() >= count)
    });
}

#[test]
fn stages_start_once_and_in_their_order_whichever_worker_is_done_first() {
    // Some take longer than others, so that workers are done in any order.
    let scripts: Vec<String> = (0..80).map(|number| format!("sleep 0.0{}{number:02}", number * 7 % 3)).collect();
    let place = place(&scripts);
    for jobs in [1, 2, 3] {
        let run = place.run(&["--jobs", &jobs.to_string(), "--store", &format!("store-{jobs}")]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let number = |name: &String| name[1..].parse::<usize>().unwrap();
        let started: Vec<usize> = order(&run, "stage-started").iter().map(number).collect();
        let mut finished: Vec<usize> = order(&run, "stage-finished").iter().map(number).collect();
        // One that was given up meanwhile is looked up once more, and may be overtaken by those who start beside it.
        let is_in_order = |(place, stage): (usize, &usize)| place.abs_diff(*stage) < jobs;
        assert!(started.len() == 80 && started.iter().enumerate().all(is_in_order), "{jobs} jobs: {started:?}");
        finished.sort_unstable();
        assert_eq!(finished, (0..80).collect::<Vec<_>>(), "{jobs} jobs");
    }
}

#[test]
fn a_worker_that_is_killed_takes_nothing_with_it_but_its_stage() {
    let endless = place(&["sleep 600".to_owned(), "true".to_owned(), "true".to_owned()]);
    let mut run = endless.start(&["--jobs", "1", "--keep-going"]);
    let worker = pid(&run.until("stage-started", "s0"));
    wait_until_claimed(&endless, 2);
    send(worker, Signal::KILL);
    let run = run.end();
    assert_eq!(run.with_outcome("failed"), ["s0"], "{:#?}", run.events);
    assert_eq!(run.with_outcome("ran"), ["s1", "s2"], "{:#?}", run.events);
    assert_eq!(order(&run, "stage-started"), ["s0", "s1", "s2"]);
    assert!(!lives(worker));
}

#[test]
fn what_lies_ready_is_free_as_soon_as_its_driver_is_killed() {
    let place = Place::new();
    let begun = place.path("begun");
    // The first time, it ends only when it is killed, some seconds after its driver.
    let deaf = format!("test -e {0} || {{ trap '' TERM; echo $$ > {0}; sleep 600; }}", begun.display());
    let beside_it = format!("kill -0 $(cat {})", begun.display());
    place.graph(&[&script("s0", &deaf), &script("s1", &format!("{beside_it} || exit 1"))]);
    let mut run = place.start(&["--jobs", "1"]);
    run.until("stage-started", "s0");
    wait_until("the first stage is deaf", || fs::read_to_string(&begun).is_ok_and(|text| text.ends_with('\n')));
    wait_until_claimed(&place, 2);
    send(run.pid(), Signal::KILL);
    run.end();
    let run = place.run(&["--jobs", "2"]);
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), 2), "{}", run.stderr);
    assert_eq!(order(&run, "stage-finished"), ["s1", "s0"]);
}

#[test]
fn workers_that_are_killed_at_any_moment_cost_no_more_than_their_stages_one_attempt() {
    let place = Place::new();
    let stages: Vec<String> = (0..60).map(|number| script(&format!("s{number}"), "sleep 0.002")).collect();
    let policy = |number| format!(r#""s{number}": (retries: 100, back_off: "1ms")"#);
    set_graph(&place, &(0..60).map(policy).collect::<Vec<_>>(), &stages);
    let mut run = place.start(&["--jobs", "2"]);
    // Each is killed about when it has heard of its next stage, or is at it.
    for stage in (2..60).step_by(4) {
        let worker = pid(&run.until("stage-started", &format!("s{stage}")));
        let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(worker).unwrap(), Signal::KILL);
    }
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), 60), "{}", run.stderr);
    let retried = order(&run, "stage-retrying").len();
    assert_eq!(order(&run, "stage-started").len(), 60 + retried);
    assert!(retried <= 15, "{retried}");
}

#[test]
fn what_lies_ready_when_a_stage_fails_is_not_begun() {
    let begun = Place::new();
    let marks = begun.path("begun");
    let gate = begun.path("gate");
    let (fails, waits) =
        ("sleep 0.05; exit 1".to_owned(), format!("until test -e {}; do sleep 0.01; done", gate.display()));
    // The third one lies ready at the worker that fails, and then at the other one.
    for (number, (one, other)) in [(&fails, &waits), (&waits, &fails)].into_iter().enumerate() {
        let place = place(&[one.clone(), other.clone(), told(&marks, "true")]);
        let mut run = place.start(&["--jobs", "2"]);
        run.until("stage-failed", &format!("s{number}"));
        fs::write(&gate, "").unwrap();
        let run = run.end();
        let (failed, ran) = (format!("s{number}"), format!("s{}", 1 - number));
        assert_eq!((run.code, run.with_outcome("failed"), run.with_outcome("ran")), (Some(1), vec![failed], vec![ran]));
        assert_eq!(run.with_outcome("skipped"), ["s2"]);
        assert!(!order(&run, "stage-started").contains(&"s2".to_owned()));
        assert!(!marks.exists());
        fs::remove_file(&gate).unwrap();
    }
}

#[test]
fn an_interrupt_ends_what_was_begun_and_begins_nothing() {
    let place = place(&(0..400).map(|number| format!("sleep 0.00{}", number % 4)).collect::<Vec<_>>());
    let mut ran = 0;
    for stop in [1, 5, 13, 21, 30, 38, 44] {
        let mut run: Running = place.start(&["--jobs", "2"]);
        let mut workers = Vec::new();
        for _ in 0..stop {
            workers.push(pid(&run.until("stage-started", "")));
        }
        send(run.pid(), Signal::INT);
        let run = run.end();
        assert_eq!(run.code, Some(130), "{}", run.stderr);
        let (started, finished) = (order(&run, "stage-started"), order(&run, "stage-finished"));
        assert!(started.iter().all(|name| finished.contains(name)), "{:#?}", run.events);
        ran += run.with_outcome("ran").len();
        assert!(!workers.iter().any(|worker| lives(*worker)));
    }
    // Whatever was done stays.
    let run = place.run(&["--jobs", "2"]);
    assert_eq!((run.code, run.with_outcome("cached").len()), (Some(0), ran));
}

#[test]
fn a_stage_that_takes_more_than_the_one_before_it_waits_for_room() {
    let place = Place::new();
    let lock = place.path("lock");
    // Whoever takes both processors is alone.
    let alone = format!("mkdir {0} && sleep 0.01 && rmdir {0}", lock.display());
    let beside = format!("test ! -e {0} && sleep 0.01 && test ! -e {0}", lock.display());
    let scripts: Vec<String> = (0..30)
        .map(|number| {
            script(&format!("s{number}"), &format!("{} || exit 1", if number % 3 == 2 { &alone } else { &beside }))
        })
        .collect();
    let cpu = |number| if number % 3 == 2 { 2 } else { 1 };
    let policies: Vec<String> =
        (0..30).map(|number| format!(r#""s{number}": (resources: {{"cpu": {}}})"#, cpu(number))).collect();
    set_graph(&place, &policies, &scripts);
    let run = place.run(&["--resource", "cpu=2"]);
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), 30), "{}", run.stderr);
}

#[test]
fn programs_get_no_file_of_their_worker() {
    let place = place(&vec!["readlink /proc/self/fd/* | grep -v ^/proc > $0/files".to_owned(); 12]);
    assert_eq!(place.run(&["--jobs", "2"]).code, Some(0));
    let files: Vec<usize> = (0..12)
        .map(|number| place.result(&format!("s{number}"), "files"))
        .map(|files| files.lines().filter(|line| line.starts_with("socket:") || line.contains("claims")).count())
        .collect();
    assert_eq!(files, [0; 12]);
}
