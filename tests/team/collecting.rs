//! Collecting in the shared store: what a member keeps stays, what nobody keeps is a miss, whoever runs meanwhile.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    bucket_server::{Request, Treat},
    place::{CHAIN, Machine, THOUSAND, Team},
};

/// Keeps nothing but what members keep, and leaves nothing for later.
pub(crate) const ALL: &[&str] = &["--keep-runs", "0", "--older-than", "0s", "--grace", "0s"];

impl Machine<'_> {
    /// `twdag store gc --remote --json`, and the object that it prints.
    pub(crate) fn collect(&self, more: &[&str]) -> Value {
        let said = self.output(&[&["store", "gc", "--remote", "--json"], more].concat());
        assert_eq!(said.code, Some(0), "{said:#?}");
        serde_json::from_str(&said.stdout).unwrap()
    }

    pub(crate) fn pin(&self) {
        assert_eq!(self.place.output(&["pin", "graph.ron", "--name", "paper"]).code, Some(0));
        assert_eq!(self.store("push").0, Some(0));
    }
}

pub(crate) fn fetched(team: &Team, stages: &[&str]) -> Value {
    let (code, pulled) = team.machine(stages).store("pull");
    assert_eq!(code, Some(0), "{pulled}");
    pulled["fetched"].clone()
}

#[test]
fn what_a_member_pinned_stays_and_what_nobody_keeps_is_a_miss_that_heals() {
    for team in Team::all() {
        let (author, other) = (team.machine(CHAIN), team.machine(&[THOUSAND]));
        author.run(&[]);
        author.pin();
        other.run(&[]);
        let forecast = other.collect(&[ALL, &["--dry-run"]].concat());
        assert_eq!(forecast["removed"]["results"], 1, "{forecast}");
        let kept = &forecast["roots"][0];
        assert_eq!((&kept["sort"], &kept["artifacts"]), (&json!("pin"), &json!(3)), "{forecast}");
        assert!(kept["name"].as_str().unwrap().starts_with("paper of "), "{forecast}");
        assert_eq!((fetched(&team, CHAIN), fetched(&team, &[THOUSAND])), (json!(3), json!(1)), "nothing went yet");

        let collected = other.collect(ALL);
        assert_eq!(collected["removed"]["results"], 1, "{collected}");
        assert_eq!(collected["removed"]["packs"], 1, "{collected}");
        assert_eq!((fetched(&team, CHAIN), fetched(&team, &[THOUSAND])), (json!(3), json!(0)));
        // Its next maker gives it again.
        let maker = team.machine(&[THOUSAND]);
        let ran = maker.run(&[]);
        assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["thousand".to_owned()]), "{ran:#?}");
        assert_eq!(ran.event("remote-summary", "")["stored"], 1, "{ran:#?}");
        assert_eq!(fetched(&team, &[THOUSAND]), 1);
        assert_eq!(other.collect(ALL)["removed"]["results"], 1);
        // What is unpinned and told of goes too.
        assert_eq!(author.place.output(&["unpin", "paper"]).code, Some(0));
        assert_eq!(author.store("push").0, Some(0));
        let collected = author.collect(ALL);
        assert_eq!((&collected["removed"]["results"], &collected["kept_bytes"]), (&json!(3), &json!(0)), "{collected}");
        assert_eq!(fetched(&team, CHAIN), 0);
    }
}

#[test]
fn the_last_runs_of_each_member_stay_and_the_oldest_go_for_a_size() {
    // A bucket tells whole seconds, in which both runs of a machine may fall.
    let team = Team::in_a_folder();
    let (one, two) = (team.machine(CHAIN), team.machine(&[THOUSAND]));
    one.run(&[]);
    two.run(&[]);
    // This one gave nothing and took all: it keeps that, too.
    let reader = team.machine(CHAIN);
    assert_eq!(reader.run(&[]).with_outcome("cached").len(), 3);
    let last = ["--keep-runs", "1", "--older-than", "0s", "--grace", "0s"];
    let collected = one.collect(&last);
    assert_eq!(collected["removed"]["results"], 0, "{collected}");
    assert_eq!(collected["roots"].as_array().unwrap().len(), 3, "one of each member: {collected}");
    one.place.graph(&[THOUSAND]);
    one.run(&[]);
    reader.place.graph(&[THOUSAND]);
    reader.run(&[]);
    let collected = one.collect(&last);
    assert_eq!(collected["removed"]["results"], 3, "what was run before goes: {collected}");
    let collected = one.collect(&[&last[..], &["--max-size", "1B"]].concat());
    assert_eq!(collected["removed"]["results"], 1, "{collected}");
    assert!(!collected["let_go"].as_array().unwrap().is_empty(), "{collected}");
}

#[test]
fn who_planned_a_moment_ago_finds_the_bytes_or_computes() {
    for grace in ["1h", "0s"] {
        for team in Team::all() {
            team.machine(CHAIN).run(&[]);
            let victim = team.machine(CHAIN);
            assert_eq!(victim.output(&["plan", "graph.ron"]).code, Some(0));
            let collected = team.machine(CHAIN).collect(&["--keep-runs", "0", "--older-than", "0s", "--grace", grace]);
            assert_eq!(collected["removed"]["results"], 3, "{collected}");
            let stays = grace == "1h";
            assert_eq!(collected["waiting"].as_u64().unwrap() > 0, stays, "{collected}");
            let ran = victim.run(&["--remote", "read"]);
            assert_eq!(ran.code, Some(0), "{ran:#?}");
            assert_eq!(ran.with_outcome("ran").is_empty(), stays, "{grace}: {ran:#?}");
            if !stays {
                let alone = team.machine(CHAIN);
                alone.run_alone();
                assert_eq!(victim.place.result("large", "large"), alone.place.result("large", "large"));
            }
            // Whoever looks into the log from now on does not count on it.
            assert_eq!(fetched(&team, CHAIN), 0);
            // What waits goes when its time has come, although the log names it no more.
            let collected = team.machine(CHAIN).collect(ALL);
            assert_eq!(collected["removed"]["packs"].as_u64().unwrap() > 0, stays, "{collected}");
        }
    }
}

/// A stage that has the bytes of the last of [`CHAIN`] and another key.
const COPY: &str = r#""copy": Command(run: ["sh", "-c", "cp $0/large $1/large; :", "{in.large}", "{out}"], inputs: {"large": "large"})"#;

/// The next segment that anybody publishes once it is awaited.
pub(crate) struct Publication {
    pub(crate) is_awaited: Arc<AtomicBool>,
    /// It has come as far as the server, and stands still.
    pub(crate) comes: Receiver<()>,
    /// Lets it go on.
    pub(crate) go: Sender<()>,
}

pub(crate) fn with_publication_stopped() -> Option<(Team, Publication)> {
    let ((come, comes), (go, goes)) = (channel(), channel());
    let (come, goes) = (Mutex::new(come), Mutex::new(goes));
    let is_awaited = Arc::new(AtomicBool::new(false));
    let awaited = Arc::clone(&is_awaited);
    let team = Team::behind(move |request: &Request| {
        let is_publication = request.method == "PUT" && request.target.contains("/segments/");
        if is_publication && awaited.swap(false, Ordering::SeqCst) {
            come.lock().unwrap().send(()).unwrap();
            goes.lock().unwrap().recv().unwrap();
        }
        Treat::Well
    });
    Some((team?, Publication { is_awaited, comes, go }))
}

#[test]
fn what_is_collected_while_a_result_is_published_that_shares_it_is_sent_again() {
    let Some((team, Publication { is_awaited, comes, go })) = with_publication_stopped() else { return };
    team.machine(CHAIN).run(&[]);
    let member = team.machine(&[CHAIN, &[COPY]].concat());
    member.run_alone();
    is_awaited.store(true, Ordering::SeqCst);
    let (code, pushed) = thread::scope(|scope| {
        let push = scope.spawn(|| member.store("push"));
        // It was told that the large file is there, and is about to name it.
        comes.recv().unwrap();
        let collected = team.machine(CHAIN).collect(ALL);
        assert_eq!((&collected["removed"]["results"], &collected["removed"]["objects"]), (&json!(3), &json!(1)));
        go.send(()).unwrap();
        push.join().unwrap()
    });
    assert_eq!(code, Some(1), "{pushed}");
    let message = pushed["failed"][0]["message"].as_str().unwrap();
    assert!(message.contains("were collected from the remote store meanwhile; push again"), "{pushed}");
    let (code, pushed) = member.store("push");
    assert_eq!((code, &pushed["stored"]), (Some(0), &json!(4)), "{pushed}");
    assert_eq!(fetched(&team, &[CHAIN, &[COPY]].concat()), 4);
}

/// A stage that has the bytes of the first of [`CHAIN`] and another key.
const SMALL_COPY: &str =
    r#""again": Command(run: ["sh", "-c", "cat $0/one > $1/again", "{in.one}", "{out}"], inputs: {"one": "one"})"#;

#[test]
fn a_content_that_is_elsewhere_by_now_is_not_published_where_it_was() {
    let Some((team, Publication { is_awaited, comes, go })) = with_publication_stopped() else { return };
    let maker = team.machine(CHAIN);
    maker.run_alone();
    assert_eq!(maker.store("push").0, Some(0));
    let member = team.machine(&[&CHAIN[..1], &[SMALL_COPY]].concat());
    member.run_alone();
    is_awaited.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let push = scope.spawn(|| member.store("push"));
        comes.recv().unwrap();
        assert_eq!(team.machine(CHAIN).collect(ALL)["removed"]["packs"], 1);
        // Now it lies in another pack.
        let other = team.machine(&CHAIN[..1]);
        other.run_alone();
        assert_eq!(other.store("push").1["stored"], 1);
        go.send(()).unwrap();
        let (code, pushed) = push.join().unwrap();
        let message = pushed["failed"][0]["message"].as_str().unwrap_or_default();
        assert!(code == Some(1) && message.contains("were collected from the remote store meanwhile"), "{pushed}");
    });
    assert_eq!(member.store("push").1["stored"], 1);
    assert_eq!(fetched(&team, &[&CHAIN[..1], &[SMALL_COPY]].concat()), 2);
}

#[test]
fn members_that_run_while_others_collect_lose_no_result() {
    let team = Team::in_a_folder();
    let machines: Vec<Machine<'_>> = (0..3).map(|_| team.machine(&[CHAIN, &[COPY]].concat())).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let collector = team.machine(CHAIN);
            while !is_over.load(Ordering::SeqCst) {
                collector.collect(ALL);
            }
        });
        let runs: Vec<_> = machines
            .iter()
            .map(|machine| {
                scope.spawn(|| {
                    let ran = machine.run(&[]);
                    assert_eq!(ran.code, Some(0), "{ran:#?}");
                })
            })
            .collect();
        let ends: Vec<_> = runs.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::SeqCst);
        collector.join().unwrap();
        assert!(ends.iter().all(Result::is_ok), "{ends:?}");
    });
    // Without a grace period, what was published late may lack bytes: collecting says so.
    team.machine(CHAIN).collect(ALL);
    for machine in &machines {
        assert_eq!(machine.place.output(&["store", "check"]).code, Some(0));
        let (code, pushed) = machine.store("push");
        assert_eq!(code, Some(0), "{pushed}");
    }
    assert_eq!(fetched(&team, &[CHAIN, &[COPY]].concat()), 4);
}

#[test]
fn a_collector_that_is_killed_leaves_nothing_to_repair() {
    let (come, comes) = channel();
    let come = Mutex::new(come);
    let is_armed = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&is_armed);
    // Its first request that removes something never gets an answer.
    let team = Team::behind(move |request: &Request| {
        let removes = request.method == "DELETE" || request.method == "POST" && request.target.contains("delete");
        if removes && armed.load(Ordering::SeqCst) {
            let _ = come.lock().unwrap().send(());
            return Treat::Refuse(503);
        }
        Treat::Well
    });
    let Some(team) = team else { return };
    team.machine(&[THOUSAND]).run(&[]);
    let author = team.machine(CHAIN);
    author.run(&[]);
    author.pin();
    let collector = team.machine(CHAIN);
    is_armed.store(true, Ordering::SeqCst);
    let mut command = collector.command(&[&["store", "gc", "--remote"], ALL].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    comes.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((fetched(&team, CHAIN), fetched(&team, &[THOUSAND])), (json!(3), json!(0)));
    is_armed.store(false, Ordering::SeqCst);
    let collected = collector.collect(ALL);
    assert_eq!(
        (&collected["removed"]["results"], &collected["removed"]["packs"]),
        (&json!(0), &json!(1)),
        "{collected}"
    );
    assert_eq!(fetched(&team, CHAIN), 3);
}

#[test]
fn what_is_published_while_collecting_says_what_is_lost_keeps_what_it_shares() {
    let Some((team, Publication { is_awaited, comes, go })) = with_publication_stopped() else { return };
    team.machine(CHAIN).run(&[]);
    let member = team.machine(&[CHAIN, &[COPY]].concat());
    member.run_alone();
    is_awaited.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let collecting = scope.spawn(|| team.machine(CHAIN).collect(ALL));
        // It has chosen what goes, and is about to say so.
        comes.recv().unwrap();
        let (code, pushed) = member.store("push");
        assert_eq!((code, &pushed["stored"], &pushed["there"]), (Some(0), &json!(1), &json!(3)), "{pushed}");
        go.send(()).unwrap();
        let collected = collecting.join().unwrap();
        assert_eq!((&collected["removed"]["results"], &collected["removed"]["objects"]), (&json!(3), &json!(0)));
        // It was told that they are there, and said that it keeps them before they could go.
        assert_eq!(collected["revived"], 3, "{collected}");
    });
    assert_eq!(fetched(&team, &[CHAIN, &[COPY]].concat()), 4);
}

#[test]
fn claims_of_the_dead_go_by_the_servers_time() {
    let team = Team::in_a_folder();
    team.machine(CHAIN).run(&[]);
    let claims = PathBuf::from(team.address.trim_start_matches("file://")).join("v1/claims/ab");
    fs::create_dir_all(&claims).unwrap();
    for (name, age) in [("dead", 61), ("living", 59)] {
        let file = fs::File::create(claims.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_mins(age)).unwrap();
    }
    let collected = team.machine(CHAIN).collect(&[]);
    assert_eq!(collected["removed"]["leftovers"], 1, "{collected}");
    assert!(!claims.join("dead").exists() && claims.join("living").exists());
}

#[test]
fn collecting_takes_as_many_requests_as_it_is_said_to() {
    let Some(team) = Team::in_a_bucket() else { return };
    let (author, other) = (team.machine(CHAIN), team.machine(&[THOUSAND]));
    author.run_alone();
    author.pin();
    other.run_alone();
    assert_eq!(other.store("push").0, Some(0));
    // As docs/team-cache.md has it: what is there, of which one list of files is long, and what goes, in so many batches.
    let expected = |written: usize, goes: usize, batches: usize| {
        let (segments, roots, lists) = (2, 3, 1);
        7 + 2 * written + segments + roots + lists + goes + batches + if goes > 0 { 2 } else { 0 }
    };
    let collector = team.machine(CHAIN);
    for (more, written, goes, batches) in [(&["--keep-runs", "10"][..], 0, 0, 0), (ALL, 1, 3, 2)] {
        team.requests();
        let collected = collector.collect(more);
        assert_eq!(collected["requests"], json!(team.requests()), "{collected}");
        assert_eq!(collected["requests"], expected(written, goes, batches), "{collected}");
        let removed = &collected["removed"];
        let gone = removed["packs"].as_u64().unwrap() + removed["roots"].as_u64().unwrap();
        assert_eq!(gone, goes as u64, "one pack, and what both pushes said: {collected}");
    }
}
