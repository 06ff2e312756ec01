//! A thousand deaths: the program and its workers are killed at every failpoint and at random instants, writes are torn,
//! the disk is full, files are cut and flipped. After each, one ordinary run must succeed with the bytes of a store
//! that nothing ever happened to, and with at most one finished stage lost for each one that was running, besides that one.
//!
//! `tests/crash-long.sh` makes more of it (`TWDAG_TEST_TRIALS`, `TWDAG_TEST_SEED`). A failure names its trial, which
//! `TWDAG_TEST_ONLY` repeats; it decides all that happens but for the moment at which a random kill strikes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use run_support::Said;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use twdag::{digest::Digest, failpoint};

const TRIALS: usize = 1000;
const JOBS: usize = 2;
const STAGES: usize = 4;
/// A run of the graph takes about this long; random kills strike within it.
const RUN: Duration = Duration::from_millis(90);

const RUN_AGAIN: &[&str] = &["run", "graph.ron", "--json", "--jobs", "2"];
const COLLECT: &[&str] = &["store", "gc", "--keep-runs", "0", "--older-than", "0s"];

/// A diamond whose stages note each time they run. One result is a program, which the store copies instead of linking.
const GRAPH: &str = r#"Graph(version: 1, stages: {
    "one": Command(run: ["sh", "-c", "cp $0 $1/one; echo one >> $2", "{file.0}", "{out}", "LOG"], files: ["text.txt"]),
    "left": Command(run: ["sh", "-c", "mkdir $1/d; tr a-z A-Z < $0/one > $1/d/left; cp $0/one $1/same; echo left >> $2", "{in.one}", "{out}", "LOG"], inputs: {"one": "one"}),
    "right": Command(run: ["sh", "-c", "(echo '#!/bin/sh'; cat $0/one) > $1/right; chmod +x $1/right; echo right >> $2", "{in.one}", "{out}", "LOG"], inputs: {"one": "one"}),
    "join": Command(run: ["sh", "-c", "cat $0/d/left $1/right > $2/join; echo join >> $3", "{in.left}", "{in.right}", "{out}", "LOG"], inputs: {"left": "left", "right": "right"}),
})
"#;

/// A stage that falls into three parts.
const SPLIT_GRAPH: &str = r#"Graph(version: 1, stages: {
    "tokenizer": Download(from: Folder(path: "tokenizer")),
    "text": Download(from: Folder(path: "text")),
    "tokens": Tokenize(text: ["text"], tokenizer: "tokenizer", length: 8, shuffle: 1),
})
"#;
/// In bytes: one text of three.
const PART_SIZE: &str = "400";
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "some": 1, "text": 2}, "unk_token": "<unk>"}}"#;

/// What is run until it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Diamond,
    Parts,
}

/// A workspace in memory, if the machine has such a place.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(subject: Subject) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        fs::write(folder.path().join("twdag.ron"), "Workspace(version: 1)\n").unwrap();
        fs::write(folder.path().join("text.txt"), "some text\n".repeat(50)).unwrap();
        // Where the log lies is in the keys, and in no result.
        let log = folder.path().join("log");
        let place = Self { folder };
        if subject == Subject::Diamond {
            fs::write(place.path("graph.ron"), GRAPH.replace("LOG", log.to_str().unwrap())).unwrap();
            return place;
        }
        fs::write(place.path("graph.ron"), SPLIT_GRAPH).unwrap();
        for name in ["tokenizer", "text"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        fs::write(place.path("tokenizer/tokenizer.json"), TOKENIZER).unwrap();
        for (name, text) in [("1.txt", "some text "), ("2.txt", "text some "), ("3.txt", "text text ")] {
            fs::write(place.path("text").join(name), text.repeat(40)).unwrap();
        }
        place
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    fn twdag(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twdag"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("TWDAG_STORE")
            .env_remove(failpoint::VARIABLE)
            .env("TWDAG_TEST_PART_SIZE", PART_SIZE)
            .stdin(Stdio::null());
        command
    }

    fn run(&self) -> Command {
        self.twdag(RUN_AGAIN)
    }

    /// How often a stage has run to its end.
    fn worked(&self) -> usize {
        fs::read_to_string(self.path("log")).unwrap_or_default().lines().count()
    }
}

fn events(text: &str) -> Vec<Value> {
    // The last line of a killed process may be torn.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The artifacts of a run that succeeded, by stage.
fn artifacts(said: &Said) -> BTreeMap<String, String> {
    let events = events(&said.stdout);
    let last = events.last().unwrap_or_else(|| panic!("no event: {said:?}"));
    assert_eq!((said.code, &last["outcome"]), (Some(0), &Value::from("succeeded")), "{said:?}");
    let stages = last["stages"].as_array().unwrap();
    stages.iter().map(|stage| (stage["name"].to_string(), stage["artifact"].to_string())).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    walk.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// The objects of a store by name, each found to hold what its name says.
fn objects(place: &Place) -> BTreeSet<String> {
    let root = place.path("artifacts/objects");
    let named = files(&root).into_iter().filter_map(|path| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('/', "");
        let digest = Digest::of(&fs::read(&path).unwrap()).to_string();
        // Under another name, something half-written may lie here.
        (!name.contains(".new-")).then(|| assert_eq!(name, digest)).map(|()| name)
    });
    named.collect()
}

/// What a store that nothing happened to holds.
struct Reference {
    artifacts: BTreeMap<String, String>,
    objects: BTreeSet<String>,
}

#[derive(Debug)]
enum Harm {
    /// A failpoint in the program or its worker.
    Failpoint(String),
    /// `kill -9` of the program after so long.
    Kill(Duration),
    /// `kill -9` of a worker after so long.
    KillWorker(Duration),
    /// `kill -9` of the program when it has told of so many events.
    KillAfter(usize),
    /// So many changes to files of a whole store.
    Damage(usize),
    /// The same, and a failpoint in the next command that looks into it.
    DamageAndFailpoint(usize, &'static [&'static str], String),
    /// No file may grow beyond so many blocks.
    SmallFiles(u64),
}

fn below(random: &mut ChaCha8Rng, end: u64) -> u64 {
    random.next_u64() % end
}

fn harm(trial: usize, random: &mut ChaCha8Rng) -> Harm {
    let moment = |random: &mut ChaCha8Rng| RUN.mul_f64(below(random, 1000) as f64 / 1000.0);
    let points = failpoint::POINTS;
    // The first trials go through all points and deeds in order, the rest are drawn.
    let deeds = ["kill", "tear", "refuse"];
    if trial < points.len() * deeds.len() * 2 {
        let (point, deed, count) = (points[trial / 6], deeds[trial % 3], 1 + trial / 3 % 2);
        return Harm::Failpoint(format!("{deed} {point} {count}"));
    }
    match below(random, 20) {
        0..=4 => Harm::Failpoint(format!("kill any {}", 1 + below(random, 160))),
        5 => Harm::Failpoint(format!("tear any {}", 1 + below(random, 160))),
        6 => Harm::Failpoint(format!("kill worker {}", 1 + below(random, 4))),
        7..=8 => Harm::Failpoint(format!("refuse any {}", 1 + below(random, 160))),
        9..=10 => Harm::Kill(moment(random)),
        11 => Harm::KillWorker(moment(random)),
        12..=13 => Harm::KillAfter(below(random, 14) as usize),
        14 => Harm::SmallFiles(below(random, 4)),
        15..=16 => {
            let commands = [RUN_AGAIN, &["store", "check"], COLLECT];
            let command = commands[below(random, 3) as usize];
            let points = ["any", "quarantine", "collect", "derived", "sealed", "view", "seals"];
            let point = points[below(random, points.len() as u64) as usize];
            let count = 1 + below(random, if point == "any" { 60 } else { 6 });
            let failpoint = format!("{} {point} {count}", deeds[below(random, 3) as usize]);
            Harm::DamageAndFailpoint(1 + below(random, 3) as usize, command, failpoint)
        }
        _ => Harm::Damage(1 + below(random, 3) as usize),
    }
}

/// Runs with harm done, and returns what the program said.
fn suffer(place: &Place, harm: &Harm, random: &mut ChaCha8Rng) -> Said {
    match harm {
        Harm::Failpoint(failpoint) => Said::from(place.run().env(failpoint::VARIABLE, failpoint).output().unwrap()),
        Harm::SmallFiles(blocks) => {
            let mut shell = Command::new("sh");
            let script = format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$@\"");
            let run = place.run();
            shell.args(["-c", &script, "sh"]).arg(run.get_program()).args(run.get_args()).current_dir(place.path(""));
            shell.env_remove("TWDAG_STORE").env("TWDAG_TEST_PART_SIZE", PART_SIZE);
            Said::from(shell.stdin(Stdio::null()).output().unwrap())
        }
        Harm::Kill(after) => {
            let child = place.run().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            thread::sleep(*after);
            kill(child.id());
            Said::from(child.wait_with_output().unwrap())
        }
        Harm::KillWorker(after) => {
            let child = place.run().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            thread::sleep(*after);
            worker(&child).into_iter().for_each(kill);
            Said::from(child.wait_with_output().unwrap())
        }
        Harm::KillAfter(lines) => {
            let mut child = place.run().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let told = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            let told: Vec<String> = told.take(*lines).collect();
            kill(child.id());
            let mut said = Said::from(child.wait_with_output().unwrap());
            said.stdout = told.join("\n");
            said
        }
        Harm::Damage(times) => {
            let said = Said::from(place.run().output().unwrap());
            for _ in 0..*times {
                damage(place, random);
            }
            said
        }
        Harm::DamageAndFailpoint(times, command, failpoint) => {
            suffer(place, &Harm::Damage(*times), random);
            Said::from(place.twdag(command).env(failpoint::VARIABLE, failpoint).output().unwrap())
        }
    }
}

fn kill(process: u32) {
    // Whoever is gone already has escaped.
    let _ = kill_process(Pid::from_raw(process.try_into().unwrap()).unwrap(), Signal::KILL);
}

/// A process that the program has started and that lives.
fn worker(child: &Child) -> Option<u32> {
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).ok()?;
    list.split_whitespace().next()?.parse().ok()
}

/// Cuts, flips, empties or removes a file of the store, and hides it as well as a program can.
fn damage(place: &Place, random: &mut ChaCha8Rng) {
    let rooms =
        ["objects", "trees", "actions", "objects", "local/seals", "local/stat-index.json", "local/last", "local/views"];
    let room = rooms[below(random, rooms.len() as u64) as usize];
    let files = files(&place.path("artifacts").join(room));
    let Some(file) = files.get(below(random, files.len().max(1) as u64) as usize) else { return };
    let before = file.metadata().unwrap();
    let mut bytes = fs::read(file).unwrap();
    let at = below(random, bytes.len().max(1) as u64) as usize;
    match below(random, 8) {
        0 => return fs::remove_file(file).unwrap(),
        1 => bytes.clear(),
        2..=3 => bytes.truncate(at),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << below(random, 8);
            }
        }
    }
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(file, bytes).unwrap();
    File::options().append(true).open(file).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(file, before.permissions()).unwrap();
}

/// Whether the harm struck: some kills come too late, and some points lie on no way that was taken.
fn trial(number: usize, seed: u64, subject: Subject, reference: &Reference) -> bool {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number as u64);
    let harm = harm(number, &mut random);
    let place = Place::new(subject);
    let said = suffer(&place, &harm, &mut random);
    let context = || format!("trial {number}, {subject:?}, {harm:?}: {said:?}");
    assert!(!said.stderr.contains("panicked"), "{}", context());
    let is_damaged = matches!(harm, Harm::Damage(_) | Harm::DamageAndFailpoint(..));
    if !is_damaged {
        objects(&place);
    }
    if number.is_multiple_of(10) && !is_damaged {
        // A death leaves nothing damaged, only things unfinished.
        let check = Said::from(place.twdag(&["store", "check"]).output().unwrap());
        assert!(check.code == Some(0) || !place.path("artifacts/objects").exists(), "{check:?} after {}", context());
    }
    let again = Said::from(place.run().output().unwrap());
    assert_eq!(artifacts(&again), reference.artifacts, "{}", context());
    if !is_damaged {
        let (told, ran) = (finished(&said), finished(&again));
        assert!(ran.is_disjoint(&told), "{ran:?} ran again after {}", context());
        let worked = place.worked();
        // Those that ran, and for each of them one that had ended and was not recorded yet.
        assert!(worked <= STAGES + 2 * JOBS, "{worked} times a stage ran to its end: {}", context());
    }
    // What a stage was joined from is not looked at where its result is whole.
    let has_parts = subject == Subject::Parts;
    if !is_damaged || !has_parts {
        assert!(objects(&place).is_superset(&reference.objects), "{}", context());
    }
    if is_damaged {
        // What the run did not need to look at is found by a check, and then all is well.
        place.twdag(&["store", "check"]).output().unwrap();
        let check = Said::from(place.twdag(&["store", "check"]).output().unwrap());
        assert_eq!(check.code, Some(0), "{check:?} after {}", context());
    }
    is_damaged || said.code != Some(0)
}

/// The stages, and the parts of stages, that a run told it had computed.
fn finished(said: &Said) -> BTreeSet<String> {
    let is_it = |told: &&Value| {
        (told["event"] == "stage-finished" || told["event"] == "part-finished") && told["outcome"] == "ran"
    };
    events(&said.stdout).iter().filter(is_it).map(|told| format!("{} {}", told["stage"], told["part"])).collect()
}

fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}

#[test]
fn after_any_death_one_ordinary_run_gives_what_a_store_gives_that_nothing_happened_to() {
    let reference = |subject| {
        let place = Place::new(subject);
        let said = Said::from(place.run().output().unwrap());
        (Reference { artifacts: artifacts(&said), objects: objects(&place) }, place.worked(), finished(&said).len())
    };
    let (diamond, worked, _) = reference(Subject::Diamond);
    assert_eq!(worked, STAGES);
    // Three stages, one of them of three parts.
    let (parts, _, done) = reference(Subject::Parts);
    assert_eq!(done, 6);
    // The numbers of trials that go through one failpoint are six in a row.
    let trial = |number: usize, seed| match number % 5 {
        0 => trial(number, seed, Subject::Parts, &parts),
        _ => trial(number, seed, Subject::Diamond, &diamond),
    };
    let trials = number("TWDAG_TEST_TRIALS").unwrap_or(TRIALS);
    let seed = number("TWDAG_TEST_SEED").unwrap_or(0) as u64;
    if let Some(only) = number("TWDAG_TEST_ONLY") {
        trial(only, seed);
        return;
    }
    let (next, struck) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= trials {
                        return;
                    }
                    struck.fetch_add(usize::from(trial(number, seed)), Ordering::Relaxed);
                }
            });
        }
    });
    let struck = struck.into_inner();
    println!("{struck} of {trials} trials did harm");
    assert!(struck * 2 > trials, "only {struck} of {trials} trials did harm");
}

/// A disk of so many kilobytes, if this user may mount one: a run in it, and another one after it has been made larger.
#[test]
fn a_full_disk_fails_a_stage_and_loses_nothing() {
    let place = Place::new(Subject::Diamond);
    let artifacts = artifacts(&Said::from(place.run().output().unwrap()));
    let mut full = 0;
    for kilobytes in [32, 64, 96, 128, 160, 192, 224, 256, 320, 384] {
        let place = Place::new(Subject::Diamond);
        fs::create_dir(place.path("artifacts")).unwrap();
        // A file system of its own in a mount namespace of its own; `77` says that there is none to be had.
        let script = format!(
            "mount -t tmpfs -o size={kilobytes}k tmpfs artifacts || exit 77; \
             \"$@\" > first 2> complaint; echo $? > code; mount -o remount,size=64m tmpfs artifacts; exec \"$@\""
        );
        let run = place.run();
        let mut shell = Command::new("unshare");
        shell
            .args(["--mount", "--map-root-user", "sh", "-c", &script, "sh"])
            .arg(run.get_program())
            .args(run.get_args());
        let Ok(output) = shell.current_dir(place.path("")).env_remove("TWDAG_STORE").stdin(Stdio::null()).output()
        else {
            return;
        };
        let again = Said::from(output);
        if !place.path("code").exists() {
            eprintln!("no small file system can be mounted here: {}", again.stderr);
            return;
        }
        let read = |name| fs::read_to_string(place.path(name)).unwrap();
        let (code, complaint) = (read("code"), read("complaint"));
        assert!(["0\n", "1\n"].contains(&&*code), "{kilobytes}: {code} {complaint} {}", read("first"));
        assert!(!complaint.contains("panicked"), "{complaint}");
        full += usize::from(code == "1\n");
        assert_eq!(self::artifacts(&again), artifacts, "{kilobytes}: {}", read("first"));
    }
    assert!(full > 0, "every disk was large enough");
}

#[test]
fn every_failpoint_of_the_code_is_in_the_list_and_the_other_way_round() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    for file in files(&source) {
        let text = fs::read_to_string(file).unwrap();
        for call in ["failpoint::pass(\"", "failpoint::write(\""] {
            found.extend(text.split(call).skip(1).filter_map(|rest| rest.split('"').next().map(str::to_owned)));
        }
    }
    let listed: BTreeSet<String> = failpoint::POINTS.iter().map(ToString::to_string).collect();
    assert_eq!(found, listed);
}
