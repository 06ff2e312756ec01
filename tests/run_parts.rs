//! Stages in parts: each part is keyed, cached, retried and scheduled alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use run_support::{Place, Ran, Running, pid, send};
use rustix::process::Signal;
use serde_json::{Value, json};
use twdag::digest::Digest;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");
/// A part in bytes of text and in tokens: one book, and half of one.
const PART_SIZE: &str = "2500";

const OZ: (&str, &str) = ("m.txt", "the-wonderful-wizard-of-oz");
const ALICE: (&str, &str) = ("p.txt", "alice-s-adventures-in-wonderland");
const JUNGLE: (&str, &str) = ("a.txt", "the-jungle-book");

/// A workspace with the beginnings of two books, and a graph that tokenizes and scores them.
fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("text")).unwrap();
    add(&place, OZ);
    add(&place, ALICE);
    place.write("graph.ron", &graph(""));
    place
}

fn graph(policy: &str) -> String {
    format!(
        r#"Graph(version: 1, {policy} stages: {{
            "model": Download(from: Folder(path: "{DATA}/models/stories260k")),
            "text": Download(from: Folder(path: "text")),
            "tokens": Tokenize(text: ["text"], tokenizer: "model", length: 64),
            "score": Score(model: "model", tokens: "tokens", windows: (length: 32, step: 4)),
        }})"#
    )
}

fn add(place: &Place, (name, book): (&str, &str)) {
    let text = fs::read_to_string(format!("{DATA}/corpora/small/{book}.txt")).unwrap();
    fs::write(place.path("text").join(name), text.get(..9000).unwrap()).unwrap();
}

fn command(place: &Place, more: &[&str]) -> Command {
    let mut command = place.twdag(&[&["run", "graph.ron", "--json"], more].concat());
    command.env("TWDAG_TEST_PART_SIZE", PART_SIZE);
    command
}

fn run(place: &Place, more: &[&str]) -> Ran {
    Running::of(command(place, more)).end()
}

/// Runs, and gives the results of all stages.
fn results(place: &Place, more: &[&str]) -> BTreeMap<String, Value> {
    let run = run(place, more);
    assert_eq!(run.code, Some(0), "{run:#?}");
    let stages = run.finished()["stages"].as_array().unwrap();
    stages.iter().map(|stage| (stage["name"].as_str().unwrap().to_owned(), stage["artifact"].clone())).collect()
}

/// The parts of a stage that ran or was cached: all of them, and how many were cached and ran.
fn parts(run: &Ran, stage: &str) -> [u64; 3] {
    assert_eq!(run.code, Some(0), "{run:#?}");
    let counts = &run.event("stage-finished", stage)["parts"];
    ["total", "cached", "ran"].map(|count| counts[count].as_u64().unwrap_or_else(|| panic!("{run:#?}")))
}

fn of_sort<'a>(run: &'a Ran, sort: &'a str, stage: &'a str) -> impl Iterator<Item = &'a Value> {
    run.events.iter().filter(move |event| event["event"] == sort && event["stage"] == stage)
}

/// The most parts of a stage that ran at the same time.
fn at_once(run: &Ran, stage: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for event in run.events.iter().filter(|event| event["stage"] == stage) {
        match event["event"].as_str().unwrap() {
            "part-started" => now += 1,
            "part-finished" => now -= 1,
            _ => {}
        }
        most = most.max(now);
    }
    most
}

/// The records of parts in a store, as JSON.
fn part_records(place: &Place) -> Vec<Value> {
    let files = walkdir::WalkDir::new(place.path("artifacts/actions")).into_iter().flatten();
    let read = |path: &Path| -> Option<Value> {
        let sealed: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        Some(sealed["content"]["record"].clone()).filter(|record| record["part"].is_string())
    };
    files.filter(|entry| entry.file_type().is_file()).filter_map(|entry| read(entry.path())).collect()
}

#[test]
fn only_a_new_book_is_tokenized_and_scored() {
    let place = place();
    let first = run(&place, &[]);
    assert_eq!(parts(&first, "tokens"), [2, 0, 2]);
    let [scored, 0, _] = parts(&first, "score") else { panic!("{first:#?}") };
    assert!(scored >= 4);
    assert_eq!(first.event("stage-split", "score")["parts"], scored);
    assert_eq!(of_sort(&first, "part-started", "score").count(), scored as usize);
    assert!(run(&place, &[]).with_outcome("ran").is_empty());

    // It comes before the others in the order of names.
    add(&place, JUNGLE);
    let second = run(&place, &[]);
    assert_eq!(parts(&second, "tokens"), [3, 2, 1]);
    let [all, cached, ran] = parts(&second, "score");
    assert_eq!((cached, all), (scored, scored + ran));
    assert_eq!(of_sort(&second, "part-started", "tokens").next().unwrap()["name"], "a.txt");
    let shown = place.output(&["show", "graph.ron", "score", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["parts"], json!({"total": all, "cached": cached, "ran": ran}));

    // The same as in another store, in another order and with other threads, and as in one piece.
    let incremental = results(&place, &[]);
    assert_eq!(results(&place, &["--store", "other", "--jobs", "2"]), incremental);
    let mut whole = place.twdag(&["run", "graph.ron", "--json", "--store", "whole"]);
    whole.env("TWDAG_TEST_PART_SIZE", "1000000000");
    let whole = Running::of(whole).end();
    assert!(of_sort(&whole, "stage-split", "score").next().is_none());
    let stages = whole.finished()["stages"].as_array().unwrap();
    assert_eq!(stages.iter().find(|stage| stage["name"] == "score").unwrap()["artifact"], incremental["score"]);

    // A name is no content: all is joined again from the parts that are there, to the same tokens.
    fs::rename(place.path("text/m.txt"), place.path("text/n.txt")).unwrap();
    let renamed = run(&place, &[]);
    assert_eq!(parts(&renamed, "tokens"), [3, 3, 0]);
    assert_eq!(renamed.outcomes()["score"], "cached");

    // What keeps the last run keeps the parts that its results were joined from.
    let collected = place.output(&["store", "gc", "--keep-runs", "1", "--older-than", "0s"]);
    assert_eq!(collected.code, Some(0), "{}", collected.stderr);
    fs::remove_file(place.path("text/a.txt")).unwrap();
    fs::write(place.path("text/z.txt"), fs::read(place.path("text/n.txt")).unwrap()).unwrap();
    // The same book twice is one piece of work.
    assert_eq!(parts(&run(&place, &[]), "tokens"), [3, 3, 0]);
}

/// Packs the files of `text` into a corpus of this form, by Python's standard library.
fn pack(place: &Place, form: &str) {
    const SCRIPT: &str = r"
import gzip, json, os, shutil, sys, tarfile, zipfile
form = sys.argv[1]
shutil.rmtree('packed', ignore_errors=True)
os.mkdir('packed')
books = [(name, open('text/' + name, encoding='utf-8').read()) for name in sorted(os.listdir('text'))]
if form == 'zip':
    with zipfile.ZipFile('packed/books.zip', 'w', zipfile.ZIP_DEFLATED) as out:
        for name, text in books:
            out.writestr(name, text)
elif form == 'jsonl.gz':
    with gzip.open('packed/books.jsonl.gz', 'wt', encoding='utf-8') as out:
        for name, text in books:
            print(json.dumps({'id': name, 'text': text}), file=out)
else:
    with tarfile.open('packed/books.' + form, 'w:gz' if form == 'tar.gz' else 'w') as out:
        for name, _ in books:
            out.add('text/' + name, name)
";
    let said = Command::new("python3").args(["-c", SCRIPT, form]).current_dir(place.path("")).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn only_a_new_book_of_an_archive_is_tokenized() {
    let place = place();
    assert_eq!(parts(&run(&place, &[]), "tokens"), [2, 0, 2]);
    place.write("graph.ron", &graph("").replace(r#"path: "text""#, r#"path: "packed""#));
    for form in ["zip", "tar", "tar.gz", "jsonl.gz"] {
        pack(&place, form);
        let packed = run(&place, &[]);
        // How books are packed does not show in their tokens, and so not in their parts.
        assert_eq!(parts(&packed, "tokens"), [2, 2, 0], "{form}");
        assert_eq!(packed.outcomes()["score"], "cached", "{form}");
    }
    add(&place, JUNGLE);
    for (form, computed) in [("zip", 1), ("tar", 0), ("tar.gz", 0), ("jsonl.gz", 0)] {
        pack(&place, form);
        assert_eq!(parts(&run(&place, &[]), "tokens"), [3, 3 - computed, computed], "{form}");
    }
    // With nothing to go on from: the parts are read from the archive alone.
    let incremental = results(&place, &[]);
    let anew = run(&place, &["--store", "other"]);
    assert_eq!(parts(&anew, "tokens"), [3, 0, 3]);
    assert_eq!(results(&place, &["--store", "other"])["tokens"], incremental["tokens"]);
}

#[test]
fn a_killed_scoring_goes_on_with_the_parts_that_are_left() {
    let undisturbed = results(&place(), &[]);
    let place = place();
    let mut running = Running::of(command(&place, &["--jobs", "1"]));
    let total = running.until("stage-split", "score")["parts"].as_u64().unwrap();
    for _ in 0..total - 2 {
        running.until("part-finished", "score");
    }
    send(running.pid(), Signal::KILL);
    running.end_killed();
    let left = run(&place, &[]);
    // The part that was at work may have come to its end, but not to its record.
    let [all, cached, ran] = parts(&left, "score");
    assert!((total - 2..total).contains(&cached), "{cached} of {total}");
    assert_eq!((all, ran), (total, total - cached));
    assert_eq!(of_sort(&left, "part-started", "score").count() as u64, ran);
    assert_eq!(left.finished()["stages"][3]["artifact"], undisturbed["score"]);
}

#[test]
fn parts_run_at_once_as_far_as_resources_go() {
    let place = place();
    place.write("graph.ron", &graph(r#"policy: {"score": (resources: {"cpu": 1, "licence": 1})},"#));
    let licences = |count: &str, store: &str| {
        let run = run(&place, &["--jobs", "3", "--resource", "cpu=3", "--resource", count, "--store", store]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        let most = at_once(&run, "score");
        let order: Vec<u64> =
            of_sort(&run, "part-started", "score").map(|event| event["part"].as_u64().unwrap()).collect();
        (most, order.is_sorted(), run.finished()["stages"].clone())
    };
    let (one, in_order, alone) = licences("licence=1", "one");
    assert_eq!((one, in_order), (1, true));
    let (two, _, together) = licences("licence=2", "two");
    assert_eq!(two, 2);
    let artifacts = |stages: &Value| -> Vec<Value> {
        stages.as_array().unwrap().iter().map(|stage| stage["artifact"].clone()).collect()
    };
    assert_eq!(artifacts(&alone), artifacts(&together));
    // Nobody says how many jobs: as many parts as fit.
    let place = self::place();
    place.write("graph.ron", &graph(r#"policy: {"score": (resources: {"cpu": 1})},"#));
    let at_once_in = |store: &str| {
        let run = run(&place, &["--resource", "cpu=2", "--store", store]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        ["score", "tokens"].map(|stage| at_once(&run, stage))
    };
    // A document is encoded on one thread, so parts of `Tokenize` take one core each without being told. On a busy machine one
    // may be done before the next has started.
    let seen: Vec<_> =
        (0..5).map(|attempt| at_once_in(&format!("store-{attempt}"))).take_while(|most| *most != [2, 2]).collect();
    assert!(seen.len() < 5 && seen.iter().flatten().all(|most| *most <= 2), "{seen:?}");
}

#[test]
fn two_runs_at_once_compute_each_part_once() {
    let place = place();
    add(&place, JUNGLE);
    // Another corpus, so that the stages differ and most parts do not.
    fs::create_dir(place.path("less")).unwrap();
    for name in ["m.txt", "p.txt"] {
        fs::copy(place.path("text").join(name), place.path("less").join(name)).unwrap();
    }
    place.write("less.ron", &graph("").replace("path: \"text\"", "path: \"less\""));
    let mut other = place.twdag(&["run", "less.ron", "--json", "--jobs", "2"]);
    other.env("TWDAG_TEST_PART_SIZE", PART_SIZE);
    let runs = [Running::of(command(&place, &["--jobs", "2"])), Running::of(other), Running::of(command(&place, &[]))];
    let mut keys = BTreeSet::new();
    for run in runs.map(Running::end) {
        assert_eq!(run.code, Some(0), "{run:#?}");
        for started in ["tokens", "score"].iter().flat_map(|stage| of_sort(&run, "part-started", stage)) {
            assert!(keys.insert(started["key"].to_string()), "computed twice: {started}");
        }
    }
    assert_eq!(keys.len(), part_records(&place).len());
}

#[test]
fn a_part_that_fails_is_tried_again_alone() {
    let place = place();
    place.write("graph.ron", &graph(r#"policy: {"score": (retries: 1, back_off: "1ms")},"#));
    let mut running = Running::of(command(&place, &["--jobs", "1"]));
    send(pid(&running.until("part-started", "score")), Signal::KILL);
    let run = running.end();
    let [total, 0, _] = parts(&run, "score") else { panic!("{run:#?}") };
    assert_eq!(run.event("stage-retrying", "score")["part"], 0);
    let attempts: Vec<u64> =
        of_sort(&run, "part-started", "score").map(|event| event["part"].as_u64().unwrap()).collect();
    assert_eq!(attempts.len() as u64, total + 1);
    assert_eq!(attempts.iter().filter(|part| **part == 0).count(), 2);

    // Without retries the stage fails, and what is done stays done.
    let place = self::place();
    let mut running = Running::of(command(&place, &["--jobs", "1"]));
    running.until("part-finished", "score");
    let victim = running.until("part-started", "score");
    send(pid(&victim), Signal::KILL);
    let run = running.end();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.event("part-failed", "score")["part"], victim["part"]);
    let message = run.event("stage-failed", "score")["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with(&format!("part {} (", victim["part"])), "{message}");
    assert_eq!(of_sort(&run, "part-started", "score").count(), 2);
    assert_eq!(parts(&self::run(&place, &[]), "score")[1], 1);
}

#[test]
fn a_stopped_stage_keeps_its_finished_parts() {
    let place = place();
    let mut running = Running::of(command(&place, &["--jobs", "1"]));
    running.until("part-finished", "score");
    running.until("part-started", "score");
    send(running.pid(), Signal::INT);
    let run = running.end();
    assert_eq!((run.code, run.outcomes()["score"].as_str()), (Some(130), "canceled"));
    assert_eq!(run.event("run-stopping", "")["waiting_for"], json!(["score"]));
    assert!(parts(&self::run(&place, &[]), "score")[1] >= 1);
}

#[test]
fn a_damaged_part_is_computed_again() {
    let place = place();
    results(&place, &[]);
    add(&place, JUNGLE);
    let clean = results(&place, &["--store", "other"]);
    // Both what was tokenized and what was scored.
    for kind in ["Tokenize", "Score"] {
        let record = part_records(&place).into_iter().find(|record| record["kind"] == kind).unwrap();
        let artifact = record["artifact"].as_str().unwrap();
        let tree = fs::read(named(&place, "trees", artifact)).unwrap();
        assert_eq!(Digest::of(&tree).to_string(), artifact);
        let tree: Value = serde_json::from_slice(&tree).unwrap();
        let file = tree["files"].as_array().unwrap().last().unwrap();
        let object = named(&place, "objects", file["digest"].as_str().unwrap());
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&object).unwrap();
        fs::write(&object, bytes).unwrap();
    }
    let run = run(&place, &[]);
    assert_eq!(run.events.iter().filter(|event| event["event"] == "store-damaged").count(), 2, "{run:#?}");
    assert_eq!(parts(&run, "tokens"), [3, 1, 2]);
    assert_eq!(results(&place, &[]), clean);
}

fn named(place: &Place, room: &str, digest: &str) -> PathBuf {
    let (folder, rest) = digest.split_at(2);
    place.path("artifacts").join(room).join(folder).join(rest)
}
