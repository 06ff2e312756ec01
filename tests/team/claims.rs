//! Of several machines that want the same stage at the same time, one computes it.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc::channel},
    time::Duration,
};

use serde_json::Value;
use twdag::{
    digest::{Digest, Key},
    remote::{Claimed, Claims, Heartbeat, Keys, Mode, Remote, SigningKey},
    store::Store,
};

use crate::{
    bucket_server::Treat,
    place::{CHAIN, Machine, Team},
    run_support::Ran,
};

/// Longer than anything here takes, and shorter than a request may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A run that goes on, of which the events are read as they come.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
}

impl Running {
    fn start(machine: &Machine<'_>, heartbeat: &str) -> Self {
        let mut command = machine.command(&["run", "graph.ron", "--json", "--remote-heartbeat", heartbeat]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, events: Vec::new() }
    }

    /// Reads on until an event of this sort.
    fn wait_for(&mut self, sort: &str) -> Value {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("no {sort}: {:#?}", self.events)).unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            self.events.push(event.clone());
            if event["event"] == sort {
                return event;
            }
        }
    }

    fn finish(mut self) -> Ran {
        self.events.extend(self.lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()));
        Ran { code: self.child.wait().unwrap().code(), events: self.events, stderr: String::new() }
    }
}

/// A stage that ends when the test lets it, and gives something else each time.
fn held_up(pipe: &Path) -> String {
    format!(
        r#""held": Command(run: ["sh", "-c", "cat {} - < /proc/sys/kernel/random/uuid > $0/held", "{{out}}"])"#,
        pipe.display()
    )
}

struct Pipe(tempfile::TempDir);

impl Pipe {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap();
        assert!(made.success());
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("pipe")
    }

    /// Lets one stage end.
    fn open(&self) {
        fs::write(self.path(), "go\n").unwrap();
    }
}

#[test]
fn one_machine_computes_and_the_other_waits_and_says_for_whom() {
    for team in Team::all() {
        let pipe = Pipe::new();
        let stage = held_up(&pipe.path());
        let (first, second) = (team.machine(&[&stage]), team.machine(&[&stage]));
        let mut one = Running::start(&first, "15s");
        one.wait_for("stage-started");
        let mut other = Running::start(&second, "15s");
        let owner = other.wait_for("stage-waiting")["owner"].as_str().unwrap().to_owned();
        assert!(owner.starts_with("the run of graph.ron in process ") && owner.contains(", since 20"), "{owner}");
        pipe.open();
        let (one, other) = (one.finish(), other.finish());
        assert_eq!((one.code, one.with_outcome("ran")), (Some(0), vec!["held".to_owned()]), "{one:#?}");
        assert_eq!((other.code, other.with_outcome("cached")), (Some(0), vec!["held".to_owned()]), "{other:#?}");
        assert_eq!(first.place.result("held", "held"), second.place.result("held", "held"));
        assert!(team.address.starts_with("s3:") || team.files("claims").is_empty(), "{:?}", team.files("claims"));
    }
}

#[test]
fn a_claim_is_held_as_long_as_its_owner_gives_signs_of_life() {
    let team = Team::in_a_folder();
    let pipe = Pipe::new();
    let stage = held_up(&pipe.path());
    let (first, second) = (team.machine(&[&stage]), team.machine(&[&stage]));
    let mut one = Running::start(&first, "0.02s");
    one.wait_for("stage-started");
    let mut other = Running::start(&second, "0.02s");
    other.wait_for("stage-waiting");
    // Ten more than it takes to count as dead.
    let claim = || team.files("claims").first().map_or(0, |path| beat(path));
    let begin = claim();
    while claim() < begin + 14 {
        assert!(one.child.try_wait().unwrap().is_none(), "it waits for the pipe");
        std::thread::yield_now();
    }
    pipe.open();
    assert_eq!(one.finish().with_outcome("ran"), ["held"]);
    assert_eq!(other.finish().with_outcome("cached"), ["held"]);
}

/// How often the owner of a claim has written it; 0 while it is being replaced.
fn beat(path: &Path) -> u64 {
    let stored = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let claim = stored.and_then(|stored| serde_json::from_str::<Value>(stored["claim"].as_str()?).ok());
    claim.and_then(|claim| claim["beat"].as_u64()).unwrap_or(0)
}

#[test]
fn the_claim_of_a_dead_machine_is_taken_over() {
    for team in Team::all() {
        let pipe = Pipe::new();
        let stage = held_up(&pipe.path());
        let (first, second) = (team.machine(&[&stage]), team.machine(&[&stage]));
        let mut one = Running::start(&first, "0.1s");
        one.wait_for("stage-started");
        let mut other = Running::start(&second, "0.1s");
        other.wait_for("stage-waiting");
        one.child.kill().unwrap();
        one.child.wait().unwrap();
        other.wait_for("stage-started");
        pipe.open();
        let other = other.finish();
        assert_eq!((other.code, other.with_outcome("ran")), (Some(0), vec!["held".to_owned()]), "{other:#?}");
        // The machine that came back finds it.
        assert_eq!(first.run(&[]).with_outcome("cached"), ["held"]);
        assert!(team.address.starts_with("s3:") || team.files("claims").is_empty(), "{:?}", team.files("claims"));
    }
}

/// Stages that wait for the test: the second one after the first, and a last one after that.
fn one_after_the_other(first: &Pipe, last: &Pipe) -> [String; 2] {
    let stage = |name: &str, pipe: &Pipe, input: &str| {
        let run = format!("cat {} $0/* > $1/{name}", pipe.path().display());
        format!(r#""{name}": Command(run: ["sh", "-c", "{run}", "{{in.it}}", "{{out}}"], inputs: {{"it": "{input}"}})"#)
    };
    [stage("held", first, "one"), stage("last", last, "held")]
}

#[test]
fn after_a_result_could_not_be_given_nobody_waits_for_those_that_follow() {
    let (refused, is_refused) = channel();
    let refused = Mutex::new(Some(refused));
    // The first segment, and no other, is refused.
    let team = Team::behind(move |request| {
        let is_segment = request.method == "PUT" && request.target.contains("/segments/");
        let first = if is_segment { refused.lock().unwrap().take() } else { None };
        first.map_or(Treat::Well, |refused| {
            refused.send(()).unwrap();
            Treat::Refuse(403)
        })
    });
    let Some(team) = team else { return };
    let (held, last) = (Pipe::new(), Pipe::new());
    let stages = one_after_the_other(&held, &last);
    let (first, second) = (team.machine(&[CHAIN[0], &stages[0], &stages[1]]), team.machine(&[CHAIN[0], &stages[0]]));
    let mut one = Running::start(&first, "15s");
    is_refused.recv().unwrap();
    held.open();
    while one.wait_for("stage-started")["stage"] != "last" {}
    // The other machine computes what the first one has and could not give, although that one still runs.
    let other = Running::start(&second, "15s");
    held.open();
    let other = other.finish();
    assert_eq!((other.code, other.with_outcome("ran")), (Some(0), vec!["held".into(), "one".into()]), "{other:#?}");
    last.open();
    let one = one.finish();
    assert_eq!((one.code, &one.event("remote-summary", "")["failed"]), (Some(0), &0.into()), "{one:#?}");
}

#[test]
fn a_machine_does_not_wait_for_its_own_run_that_was_killed() {
    let team = Team::in_a_folder();
    let pipe = Pipe::new();
    let machine = team.machine(&[&held_up(&pipe.path())]);
    let mut one = Running::start(&machine, "150s");
    one.wait_for("stage-started");
    one.child.kill().unwrap();
    one.child.wait().unwrap();
    let mut again = Running::start(&machine, "150s");
    again.wait_for("stage-started");
    pipe.open();
    assert_eq!(again.finish().with_outcome("ran"), ["held"]);
}

#[test]
fn a_claim_of_nobody_who_is_trusted_keeps_nobody_waiting() {
    for content in ["", "{}", "nonsense", "signed by nobody"] {
        let team = Team::in_a_folder();
        let (stranger, member) = (team.machine(&CHAIN[..1]), team.machine(&CHAIN[..1]));
        let said = member.place.output(&["store", "keygen", "own.key"]);
        member.place.write("twdag.ron", &format!("Workspace(version: 1, trusted_keys: [{:?}])\n", said.stdout.trim()));
        let plan: Value = serde_json::from_str(&stranger.output(&["plan", "graph.ron", "--json"]).stdout).unwrap();
        let key = plan["stages"][0]["key"].as_str().unwrap();
        let folder = Path::new(team.address.strip_prefix("file://").unwrap());
        let shelf = folder.join("v1/claims").join(&key[..2]);
        fs::create_dir_all(&shelf).unwrap();
        let stored = if content == "signed by nobody" {
            let nothing = Digest::of(b"");
            let claim = serde_json::json!({
                "key": key, "owner": "\u{1b}[2Jnobody", "since": "2026-01-01T00:00:00Z", "store": nothing, "nonce": nothing,
                "every": 600_000, "beat": 1,
            });
            serde_json::json!({ "claim": claim.to_string() }).to_string()
        } else {
            content.to_owned()
        };
        fs::write(shelf.join(&key[2..]), stored).unwrap();
        let ran = member.run(&["--signing-key", "own.key"]);
        assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["one".to_owned()]), "{content}: {ran:#?}");
        assert!(!ran.events.iter().any(|event| event["event"] == "stage-waiting"), "{content}: {ran:#?}");
    }
}

#[test]
fn a_heartbeat_that_would_count_the_living_as_dead_is_refused() {
    let team = Team::in_a_folder();
    let machine = team.machine(&CHAIN[..1]);
    for wrong in ["0s", "0.009s", "151s", "10min"] {
        let said = machine.output(&["run", "graph.ron", "--remote-heartbeat", wrong]);
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert!(said.stderr.contains(&format!("invalid value '{wrong}'")), "{said:#?}");
        assert!(said.stderr.contains("expected 0.01s to 150s: other machines wait"), "{said:#?}");
    }
    assert_eq!(machine.run(&["--remote-heartbeat", "150s"]).code, Some(0));
}

/// A machine without a run: its claims, and the store that they are told from others by.
struct Claimant {
    claims: Claims,
    store: Store,
    _folder: tempfile::TempDir,
}

impl Claimant {
    fn new(team: &Team, key: &Path, heartbeat: Heartbeat) -> Self {
        let signing = SigningKey::read(key).unwrap();
        let keys = Keys { trusted: vec![signing.public()], signing: Some(signing) };
        let remote = Remote::new(team.address.parse().unwrap(), Mode::ReadWrite, keys);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { claims: Claims::new(Arc::new(remote), heartbeat), store, _folder: folder }
    }

    fn claim(&self, key: &Key) -> Claimed {
        self.claims.claim(&self.store, key, "a test").unwrap()
    }
}

/// A key that signs claims, in a folder of its own.
fn signing_key() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.key");
    SigningKey::create(&path).unwrap();
    (folder, path)
}

fn shortest() -> Heartbeat {
    Heartbeat::new(Heartbeat::SHORTEST).unwrap()
}

/// So many looks take longer than the longest silence of a claim that is written anew so often.
const MANY: usize = 100_000;

#[test]
fn claims_of_the_past_keep_nobody_waiting_who_has_seen_them() {
    let team = Team::in_a_folder();
    let (_folder, signing) = signing_key();
    let action: Key = Digest::of(b"an action").into();
    let old: Vec<(PathBuf, Vec<u8>)> = (0..2)
        .map(|_| {
            let owner = Claimant::new(&team, &signing, shortest());
            let held = owner.claim(&action);
            let path = team.files("claims").remove(0);
            let bytes = fs::read(&path).unwrap();
            drop(held);
            owner.claims.finish();
            (path, bytes)
        })
        .collect();
    assert_ne!(old[0].1, old[1].1);
    // Somebody puts one of them back before each look.
    let waits = Claimant::new(&team, &signing, shortest());
    let mut put_back = old.iter().cycle().take(MANY);
    let is_held = put_back.any(|(path, bytes)| {
        fs::write(path, bytes).unwrap();
        matches!(waits.claim(&action), Claimed::Held(_))
    });
    assert!(is_held, "old claims are no sign of life");
}

#[test]
fn a_claim_that_ends_leaves_that_of_a_successor() {
    let team = Team::in_a_folder();
    let (_folder, signing) = signing_key();
    let action: Key = Digest::of(b"an action").into();
    let longest = Heartbeat::new(Heartbeat::LONGEST).unwrap();
    let owner = Claimant::new(&team, &signing, longest);
    let Claimed::Held(first) = owner.claim(&action) else { panic!("nobody else wants it") };
    // Another process of the same store counts it as left behind.
    let next = Claimant { store: Store::open(owner.store.root()).unwrap(), ..Claimant::new(&team, &signing, longest) };
    let Claimed::Held(_second) = next.claim(&action) else { panic!("it is the same machine") };
    let path = team.files("claims").remove(0);
    let nonce = |bytes: Vec<u8>| {
        let stored: Value = serde_json::from_slice(&bytes).unwrap();
        serde_json::from_str::<Value>(stored["claim"].as_str().unwrap()).unwrap()["nonce"].clone()
    };
    let before = nonce(fs::read(&path).unwrap());
    drop(first);
    owner.claims.finish();
    assert_eq!(nonce(fs::read(&path).unwrap()), before);
}

#[test]
fn whoever_is_always_second_to_take_a_claim_over_waits_no_more() {
    let team = Team::in_a_folder();
    let (_folder, signing) = signing_key();
    let action: Key = Digest::of(b"an action").into();
    let claim = Path::new(team.address.strip_prefix("file://").unwrap()).join("v1/claims").join({
        let name = action.to_string();
        format!("{}/{}", &name[..2], &name[2..])
    });
    fs::create_dir_all(claim.parent().unwrap()).unwrap();
    let waits = Claimant::new(&team, &signing, shortest());
    // Each look finds another claim of nobody, and that somebody takes it over.
    let first = (0..MANY).find(|number| {
        let nobody = number.to_string();
        fs::write(&claim, &nobody).unwrap();
        fs::write(claim.with_extension(format!("{}.0", Digest::of(nobody.as_bytes()))), "").unwrap();
        matches!(waits.claim(&action), Claimed::Held(_))
    });
    assert_eq!(first, Some(4));
}

/// Stages that give something else on each machine, and that read each other.
fn graph() -> Vec<String> {
    let uuid = "/proc/sys/kernel/random/uuid";
    let first = (0..3)
        .map(|number| format!(r#""first{number}": Command(run: ["sh", "-c", "cat {uuid} > $0/{number}", "{{out}}"])"#));
    let second = (0..3).map(|number| {
        let next = (number + 1) % 3;
        format!(
            r#""second{number}": Command(run: ["sh", "-c", "cat $0/* $1/* {uuid} > $2/{number}", "{{in.a}}", "{{in.b}}", "{{out}}"], inputs: {{"a": "first{number}", "b": "first{next}"}})"#
        )
    });
    let last = r#""last": Command(run: ["sh", "-c", "cat $0/* $1/* $2/* > $3/all", "{in.a}", "{in.b}", "{in.c}", "{out}"], inputs: {"a": "second0", "b": "second1", "c": "second2"})"#;
    first.chain(second).chain([last.to_owned()]).collect()
}

#[test]
fn eight_machines_at_once_compute_every_stage_once() {
    let stages = graph();
    let stages: Vec<&str> = stages.iter().map(String::as_str).collect();
    for team in Team::all() {
        let machines: Vec<Machine<'_>> = (0..8).map(|_| team.machine(&stages)).collect();
        let running: Vec<Running> = machines.iter().map(|machine| Running::start(machine, "15s")).collect();
        let ran: Vec<Ran> = running.into_iter().map(Running::finish).collect();
        let mut computed: Vec<String> = Vec::new();
        for ran in &ran {
            assert_eq!(ran.code, Some(0), "{ran:#?}");
            computed.extend(ran.with_outcome("ran"));
        }
        computed.sort();
        let all: Vec<String> =
            ["first0", "first1", "first2", "last", "second0", "second1", "second2"].map(String::from).into();
        assert_eq!(computed, all, "each once: {ran:#?}");
        let artifacts = |ran: &Ran| -> Vec<String> {
            let stages = ran.events.last().unwrap()["stages"].as_array().unwrap().clone();
            let mut artifacts: Vec<String> =
                stages.iter().map(|stage| format!("{} {}", stage["name"], stage["artifact"])).collect();
            artifacts.sort();
            artifacts
        };
        assert!(ran.iter().all(|one| artifacts(one) == artifacts(&ran[0])), "{ran:#?}");
    }
}

#[test]
fn many_claims_are_written_anew_at_the_same_time() {
    const STAGES: usize = 30;
    const TOGETHER: usize = 8;
    // A result is given when so many claims are being written anew at the same moment.
    let meeting = Arc::new((Mutex::new((0, false)), Condvar::new()));
    let (shared, seen) = (Arc::clone(&meeting), Mutex::new(HashSet::new()));
    let team = Team::behind(move |request| {
        let (lock, changed) = &*shared;
        let is_put = request.method == "PUT";
        let is_again =
            is_put && request.target.contains("/claims/") && !seen.lock().unwrap().insert(request.target.clone());
        if is_again || is_put && request.target.contains("/packs/") {
            let mut met = lock.lock().unwrap();
            met.0 += usize::from(is_again);
            met.1 |= met.0 >= TOGETHER;
            changed.notify_all();
            let (mut met, _) = changed.wait_timeout_while(met, DEADLINE, |(_, have_met)| !*have_met).unwrap();
            met.0 -= usize::from(is_again);
        }
        Treat::Well
    });
    let Some(team) = team else { return };
    let stage = |number| format!(r#""s{number}": Command(run: ["sh", "-c", "echo {number} > $0/out", "{{out}}"])"#);
    let stages: Vec<String> = (0..STAGES).map(stage).collect();
    let machine = team.machine(&stages.iter().map(String::as_str).collect::<Vec<_>>());
    let ran = machine.run(&["--remote-heartbeat", "0.2s"]);
    assert!(meeting.0.lock().unwrap().1, "one claim waits for the other");
    assert_eq!((ran.code, &ran.event("remote-summary", "")["stored"]), (Some(0), &STAGES.into()), "{ran:#?}");
}
