//! Runs that meet each other, are killed, and are interrupted. The processes are real.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use run_support::{Place, Running, lives, pid, send, wait_until};
use rustix::process::Signal;
use std::{
    io::Write as _,
    process::{Child, Stdio},
};

/// A stage that says which process it and its helper are, waits for a gate to open, and then writes its result; and one
/// that reads it.
fn gated(place: &Place) {
    gated_with(place, &[]);
}

/// That, and others.
fn gated_with(place: &Place, others: &[&str]) {
    let (started, gate) = (place.path("started"), place.path("gate"));
    let script = "sleep 600 & echo $$ $! > $1.new; mv $1.new $1; \
                  until test -e $2; do sleep 0.02; done; kill $!; echo result > $0/file";
    let gated = [
        &format!(
            r#""gated": Command(run: ["sh", "-c", "{script}", "{{out}}", "{}", "{}"])"#,
            started.display(),
            gate.display()
        ),
        r#""after": Command(run: ["cp", "-r", "{in.gated}/.", "{out}"], inputs: {"gated": "gated"})"#,
    ];
    place.graph(&[&gated, others].concat());
}

/// The worker and the processes of the stage, once it has started.
fn started(place: &Place, run: &mut Running) -> Vec<i32> {
    let worker = pid(&run.until("stage-started", "gated"));
    let file = place.path("started");
    wait_until("the stage starts", || file.exists());
    let programs = std::fs::read_to_string(file).unwrap();
    let mut processes: Vec<i32> = programs.split_whitespace().map(|process| process.parse().unwrap()).collect();
    assert!(processes.len() == 2 && processes.iter().all(|process| lives(*process)));
    processes.insert(0, worker);
    processes
}

fn all_end(processes: &[i32]) {
    wait_until("worker and programs end", || !processes.iter().any(|process| lives(*process)));
}

/// The gate opens, and a run gives the right result.
fn ends_well(place: &Place) {
    place.write("gate", "");
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.with_outcome("ran"), ["after", "gated"]);
    assert_eq!(place.result("after", "file"), "result\n");
}

#[test]
fn two_runs_of_the_same_graph_compute_it_once() {
    let place = Place::new();
    gated(&place);
    let mut first = place.start(&[]);
    first.until("stage-started", "gated");
    let mut second = place.start(&[]);
    let waiting = second.until("stage-waiting", "gated");
    let owner = waiting["owner"].as_str().unwrap();
    assert!(owner.contains(&format!("process {}", first.pid())), "{owner}");
    place.write("gate", "");
    let (first, second) = (first.end(), second.end());
    assert_eq!((first.code, second.code), (Some(0), Some(0)));
    assert_eq!(first.outcomes()["gated"], "ran");
    assert_eq!(second.outcomes()["gated"], "cached");
    assert_eq!(first.with_outcome("ran").len() + second.with_outcome("ran").len(), 2, "{first:#?} {second:#?}");
}

#[test]
fn a_stage_that_waits_for_room_here_is_left_to_a_run_that_has_some() {
    let place = Place::new();
    gated_with(&place, &[r#""other": Command(run: ["sh", "-c", "echo other > $0/file", "{out}"])"#]);
    let mut first = place.start(&["--jobs", "1"]);
    first.until("stage-started", "gated");
    let mut second = place.start(&["--jobs", "2"]);
    second.until("stage-finished", "other");
    place.write("gate", "");
    let (first, second) = (first.end(), second.end());
    assert_eq!((first.code, second.code), (Some(0), Some(0)));
    assert_eq!((&first.outcomes()["other"], &second.outcomes()["other"]), (&"cached".into(), &"ran".into()));
}

#[test]
fn two_stages_with_the_same_action_are_computed_once_in_one_run() {
    let place = Place::with(&[
        r#""one": Command(run: ["cp", "{file.0}", "{out}"], files: ["text.txt"])"#,
        r#""two": Command(run: ["cp", "{file.0}", "{out}"], files: ["text.txt"])"#,
    ]);
    place.write("text.txt", "text\n");
    let run = place.run(&["--jobs", "2"]);
    assert_eq!(run.code, Some(0));
    assert_eq!((run.with_outcome("ran").len(), run.with_outcome("cached").len()), (1, 1));
}

#[test]
fn a_killed_worker_is_a_failed_stage_and_leaves_nothing() {
    let place = Place::new();
    gated(&place);
    let mut run = place.start(&[]);
    let processes = started(&place, &mut run);
    send(processes[0], Signal::KILL);
    let run = run.end();
    assert_eq!(run.code, Some(1));
    assert_eq!((run.with_outcome("failed"), run.with_outcome("skipped")), (vec!["gated".into()], vec!["after".into()]));
    let failed = run.event("stage-failed", "gated");
    assert!(failed["message"].as_str().unwrap().contains("SIGKILL"), "{failed}");
    assert_eq!(failed["blame"], "environment");
    all_end(&processes);
    ends_well(&place);
}

#[test]
fn a_killed_driver_takes_its_workers_along() {
    let place = Place::new();
    gated(&place);
    let mut run = place.start(&[]);
    let processes = started(&place, &mut run);
    send(run.pid(), Signal::KILL);
    assert_eq!(run.end_killed(), Some(Signal::KILL.as_raw()));
    all_end(&processes);
    ends_well(&place);
}

/// A stage whose program starts two others and waits: one stays in its process group, one leaves it.
fn with_descendants(place: &Place) {
    let file = place.path("started");
    let script = "sleep 600 & echo $! > $1.new; setsid sleep 600 & echo $$ $! >> $1.new; mv $1.new $1; \
                  until test -e $2; do sleep 0.02; done; echo result > $0/file";
    let gate = place.path("gate");
    place.graph(&[&format!(
        r#""gated": Command(run: ["sh", "-c", "{script}", "{{out}}", "{}", "{}"])"#,
        file.display(),
        gate.display()
    )]);
}

/// The worker, then the programs.
fn descendants(place: &Place, run: &mut Running) -> Vec<i32> {
    let worker = pid(&run.until("stage-started", "gated"));
    wait_until("the stage starts", || place.path("started").exists());
    let programs = std::fs::read_to_string(place.path("started")).unwrap();
    let mut processes: Vec<i32> = programs.split_whitespace().map(|process| process.parse().unwrap()).collect();
    assert!(processes.len() == 3 && processes.iter().all(|process| lives(*process)));
    processes.insert(0, worker);
    processes
}

/// The children of a process.
fn children(process: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    list.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Kills processes without any of them seeing another one end.
fn kill_at_the_same_instant(processes: &[i32]) {
    for signal in [Signal::STOP, Signal::KILL] {
        for &process in processes {
            send(process, signal);
        }
    }
}

#[test]
fn a_driver_and_a_worker_that_are_killed_together_leave_no_program_behind() {
    let place = Place::new();
    with_descendants(&place);
    let mut run = place.start(&[]);
    let processes = descendants(&place, &mut run);
    kill_at_the_same_instant(&[run.pid(), processes[0]]);
    assert_eq!(run.end_killed(), Some(Signal::KILL.as_raw()));
    all_end(&processes);
    place.write("gate", "");
    assert_eq!(place.run(&[]).with_outcome("ran"), ["gated"]);
}

#[test]
fn what_even_the_guard_could_not_end_the_next_attempt_does() {
    let place = Place::new();
    with_descendants(&place);
    let mut run = place.start(&[]);
    let processes = descendants(&place, &mut run);
    let guards: Vec<i32> = children(run.pid()).into_iter().filter(|child| *child != processes[0]).collect();
    let [guard] = guards.as_slice() else { panic!("one guard expected: {guards:?}") };
    kill_at_the_same_instant(&[*guard, run.pid(), processes[0]]);
    assert_eq!(run.end_killed(), Some(Signal::KILL.as_raw()));
    let [worker, stays, program, leaves] = processes.as_slice() else { panic!("{processes:?}") };
    all_end(&[*worker]);
    let left = [*stays, *program, *leaves];
    assert!(left.iter().all(|process| lives(*process)), "nobody is left to end them");
    place.write("gate", "");
    assert_eq!(place.run(&[]).with_outcome("ran"), ["gated"]);
    assert!(!left.iter().any(|process| lives(*process)), "before the new attempt writes its output");
}

/// Two stages that hold each other's place side by side when they are computed again: their programs and workers.
fn checked_side_by_side(place: &Place) -> (Child, Vec<i32>) {
    let gate = place.path("gate");
    let started = ["one", "two"].map(|name| place.path(name));
    let script = "echo result > $0/file; test -e $1 || { echo $$ $PPID > $2.new; mv $2.new $2; exec sleep 600; }";
    let stages = started.each_ref().map(|started| {
        let (name, gate, started) = (started.file_name().unwrap().display(), gate.display(), started.display());
        format!(r#""{name}": Command(run: ["sh", "-c", "{script}", "{{out}}", "{gate}", "{started}"])"#)
    });
    let policy = r#"policy: {"one": (resources: {"cpu": 1}), "two": (resources: {"cpu": 1})}"#;
    place.write("graph.ron", &format!("Graph(version: 1, {policy}, stages: {{{}}})\n", stages.join(",\n")));
    place.write("gate", "");
    assert_eq!(place.run(&[]).code, Some(0));
    std::fs::remove_file(&gate).unwrap();
    let mut check = place.twdag(&["check", "graph.ron", "--resource", "cpu=4"]);
    let check = check.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("both stages start", || started.iter().all(|started| started.exists()));
    let processes: String = started.iter().map(|started| std::fs::read_to_string(started).unwrap()).collect();
    (check, processes.split_whitespace().map(|process| process.parse().unwrap()).collect())
}

#[test]
fn a_check_that_is_killed_with_its_workers_leaves_no_program() {
    let place = Place::new();
    let (mut check, processes) = checked_side_by_side(&place);
    kill_at_the_same_instant(&[i32::try_from(check.id()).unwrap(), processes[1], processes[3]]);
    check.wait().unwrap();
    all_end(&processes);
}

#[test]
fn a_check_that_is_killed_alone_leaves_no_program() {
    let place = Place::new();
    let (mut check, processes) = checked_side_by_side(&place);
    send(check.id().try_into().unwrap(), Signal::KILL);
    check.wait().unwrap();
    all_end(&processes);
}

#[test]
fn the_guard_goes_with_the_run_and_does_not_hear_the_terminal() {
    let place = Place::new();
    with_descendants(&place);
    let mut run = place.start(&[]);
    let processes = descendants(&place, &mut run);
    let guard: Vec<i32> = children(run.pid()).into_iter().filter(|child| *child != processes[0]).collect();
    assert!(guard.len() == 1 && lives(guard[0]));
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", guard[0])).unwrap();
    wait_until("the guard has taken its name", || name() == "run-guard\n");
    let group = rustix::process::getpgid(rustix::process::Pid::from_raw(guard[0])).unwrap();
    assert_eq!(group.as_raw_nonzero().get(), guard[0], "a process group of its own");
    place.write("gate", "");
    assert_eq!(run.end().code, Some(0));
    assert!(!lives(guard[0]), "before the driver ends");
    all_end(&processes);
}

#[test]
fn an_interrupt_stops_the_workers_and_exits_with_130() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        if is_ignored(signal) {
            writeln!(
                std::io::stderr(),
                "SKIPPED: the tests run under something such as nohup, and so {signal:?} is ignored"
            )
            .unwrap();
            continue;
        }
        let place = Place::new();
        gated(&place);
        let mut run = place.start(&[]);
        let processes = started(&place, &mut run);
        send(run.pid(), signal);
        let run = run.end();
        assert_eq!(run.code, Some(130), "{signal:?}: {run:#?}");
        assert_eq!(run.finished()["outcome"], "interrupted");
        assert_eq!(run.with_outcome("canceled"), ["after", "gated"]);
        all_end(&processes);
        ends_well(&place);
    }
}

/// Whether whoever has started the tests lets them, and what they start, ignore a signal.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn a_second_interrupt_ends_a_worker_that_does_not_listen() {
    let place = Place::new();
    gated(&place);
    let mut run = place.start(&[]);
    let processes = started(&place, &mut run);
    // A stopped process cannot answer to a polite signal.
    send(processes[0], Signal::STOP);
    send(run.pid(), Signal::INT);
    run.until("run-stopping", "");
    send(run.pid(), Signal::INT);
    let run = run.end();
    assert_eq!(run.code, Some(130));
    assert_eq!(run.with_outcome("canceled"), ["after", "gated"]);
    all_end(&processes);
    ends_well(&place);
}

/// Whether a worker is at a job, by the files that it has open.
fn holds_a_claim(worker: i32) -> bool {
    let files = std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let mut paths = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    paths.any(|path| path.parent().is_some_and(|folder| folder.ends_with("local/claims")))
}

#[test]
fn an_interrupt_is_heard_while_a_result_waits_for_somebody_who_collects() {
    let place = Place::new();
    gated(&place);
    let mut run = place.start(&[]);
    let processes = started(&place, &mut run);
    // What collecting holds for as long as it works.
    let collecting = std::fs::File::open(place.path("artifacts/local/lock")).unwrap();
    collecting.lock().unwrap();
    std::fs::write(place.path("gate"), "").unwrap();
    wait_until("the worker has seen the end of the program", || !holds_a_claim(processes[0]));
    send(run.pid(), Signal::INT);
    run.until("run-stopping", "");
    drop(collecting);
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("canceled")), (Some(130), vec!["after".to_owned()]), "{run:#?}");
    assert_eq!(run.with_outcome("ran"), ["gated"]);
    // Nothing of it is lost.
    assert_eq!(place.run(&[]).with_outcome("ran"), ["after"]);
}

#[test]
fn a_program_that_ends_well_because_all_processes_were_asked_to_stop_has_not_done_its_work() {
    let place = Place::new();
    let file = place.path("started");
    let script = "trap 'echo half > $0/file; exit 0' TERM; echo $$ > $1.new; mv $1.new $1; until test -e $1.gate; do sleep 0.02; done; \
                  echo whole > $0/file";
    place.graph(&[&format!(r#""stopped": Command(run: ["sh", "-c", "{script}", "{{out}}", "{}"])"#, file.display())]);
    let mut run = place.start(&[]);
    let worker = pid(&run.until("stage-started", "stopped"));
    wait_until("the stage starts", || file.exists());
    let program = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    // As a service manager does, and before the worker itself can ask the program.
    send(worker, Signal::STOP);
    for process in [program, worker, run.pid()] {
        send(process, Signal::TERM);
    }
    wait_until("the program has ended", || !lives(program));
    send(worker, Signal::CONT);
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("canceled")), (Some(130), vec!["stopped".to_owned()]), "{run:#?}");
    place.write("started.gate", "");
    assert_eq!(place.run(&[]).with_outcome("ran"), ["stopped"]);
    assert_eq!(place.result("stopped", "file"), "whole\n");
}

/// How long a thread may keep a processor while others wait for it, in nanoseconds, if the system tells.
fn time_slice(thread: &str) -> Option<u64> {
    let schedule = std::fs::read_to_string(format!("/proc/{thread}/sched")).ok()?;
    let line = schedule.lines().find(|line| line.starts_with("se.slice"))?;
    line.split_whitespace().last()?.parse().ok()
}

#[test]
fn a_driver_is_let_in_before_the_programs_that_run() {
    const SHORTEST: Option<u64> = Some(100_000);
    let chosen = std::thread::spawn(|| {
        twdag_stages::time_slice::shorten();
        time_slice("thread-self")
    });
    if chosen.join().unwrap() != SHORTEST {
        writeln!(std::io::stderr(), "SKIPPED: no time slices can be chosen here, or the system does not tell of them")
            .unwrap();
        return;
    }
    let place = Place::new();
    gated(&place);
    let mut run = place.start(&[]);
    let processes = started(&place, &mut run);
    assert_eq!(time_slice(&run.pid().to_string()), SHORTEST);
    for process in processes {
        assert_ne!(time_slice(&process.to_string()), SHORTEST);
    }
    place.write("gate", "");
    assert_eq!(run.end().code, Some(0));
}

#[test]
fn a_closed_terminal_does_not_stop_a_run_under_nohup() {
    let place = Place::new();
    gated(&place);
    // The shell ignores the signal, as nohup does, and so does what it becomes.
    let program = place.twdag(&[]).get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" run graph.ron --json"]).arg(program).current_dir(place.path(""));
    let mut run = Running::of(shell);
    started(&place, &mut run);
    send(run.pid(), Signal::HUP);
    place.write("gate", "");
    let run = run.end();
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), 2), "{run:#?}");
}

#[test]
fn stages_end_well_under_one_who_ignores_that_children_end() {
    let place = Place::new();
    let script = r#"["sh", "-c", "ls / | wc -l > $0/count", "{out}"]"#;
    place.write("graph.ron", &format!(r#"Graph(version: 1, stages: {{"lists": Command(run: {script})}})"#));
    // Shells keep this signal for themselves.
    let mut program = std::process::Command::new("env");
    program.arg("--ignore-signal=CHLD").arg(place.twdag(&[]).get_program()).args(["run", "graph.ron", "--json"]);
    program.current_dir(place.path(""));
    let run = Running::of(program).end();
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), 1), "{run:#?}");
}

#[test]
fn a_program_that_asks_the_terminal_is_told_that_there_is_none() {
    // In the background of a terminal it would be stopped for ever.
    let script = "if read answer < /dev/tty; then echo asked; else echo none; fi > $0/terminal";
    let place = Place::new();
    place.write(
        "graph.ron",
        &format!(
            r#"Graph(version: 1, stages: {{"asks": Command(run: ["sh", "-c", "{script}", "{{out}}"])}}, policy: {{"asks": (timeout: "5s")}})"#
        ),
    );
    let run = format!("{} run graph.ron", env!("CARGO_BIN_EXE_twdag"));
    let terminal = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &run, "/dev/null"])
        .current_dir(place.path(""))
        .env_remove("TWDAG_STORE")
        .stdin(Stdio::null())
        .output();
    let Ok(ran) = terminal else {
        writeln!(std::io::stderr(), "SKIPPED: a terminal needs the program `script`").unwrap();
        return;
    };
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    assert_eq!(place.result("asks", "terminal"), "none\n");
}

#[test]
fn stages_run_at_the_same_time_if_they_may() {
    let place = Place::new();
    // Each of the two waits for the other one to have started.
    let meet = |own: &str, other: &str| {
        format!(
            r#""{own}": Command(run: ["sh", "-c", "echo > $1; until test -e $2; do sleep 0.02; done; echo x > $0/x", "{{out}}", "{}", "{}"])"#,
            place.path(own).display(),
            place.path(other).display()
        )
    };
    place.graph(&[&meet("left", "right"), &meet("right", "left")]);
    let run = place.run(&["--jobs", "2"]);
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(0), 2));
}

/// The processes of the stages that were started, in that order.
fn workers(run: &run_support::Ran) -> Vec<i32> {
    run.events.iter().filter(|event| event["event"] == "stage-started").map(pid).collect()
}

#[test]
fn a_worker_takes_one_job_after_another_until_one_fails() {
    let place = Place::with(&[
        r#""one": Command(run: ["sh", "-c", "echo $PPID > $0/x", "{out}"])"#,
        r#""two": Command(run: ["sh", "-c", "echo again $PPID > $0/x", "{out}"], inputs: {"one": "one"})"#,
        r#""fails": Command(run: ["false"], inputs: {"two": "two"})"#,
        r#""last": Command(run: ["sh", "-c", "echo last > $0/x", "{out}"], inputs: {"two": "two"})"#,
    ]);
    let run = place.run(&["--jobs", "1", "--keep-going"]);
    assert_eq!((run.code, run.with_outcome("ran").len()), (Some(1), 3), "{run:#?}");
    let [one, two, fails, last] = workers(&run)[..] else { panic!("{run:#?}") };
    assert!(one == two && two == fails && fails != last, "{run:#?}");
    assert_eq!(place.result("one", "x"), format!("{one}\n"));
    all_end(&[one, last]);
}

#[test]
fn what_a_stage_leaves_running_does_not_see_the_next_one() {
    let place = Place::new();
    let file = place.path("started");
    place.graph(&[
        &format!(
            r#""leaves": Command(run: ["sh", "-c", "setsid sleep 600 & echo $! > $1; echo x > $0/x", "{{out}}", "{}"])"#,
            file.display()
        ),
        &format!(
            r#""looks": Command(run: ["sh", "-c", "kill -0 $(cat $1) && echo lives > $0/x || echo gone > $0/x", "{{out}}", "{}"], inputs: {{"leaves": "leaves"}})"#,
            file.display()
        ),
    ]);
    let run = place.run(&["--jobs", "1"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(place.result("looks", "x"), "gone\n");
    let [leaves, looks] = workers(&run)[..] else { panic!("{run:#?}") };
    assert_eq!(leaves, looks);
}
