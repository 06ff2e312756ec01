//! Stages in parts: the same bytes as in one piece, and parts that stay what they are when something else comes in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;
use stage_support::{DATA, stories};
use twdag_stages::{
    evaluate::Evaluate,
    registry::ron_options,
    score::Score,
    stage::{Context, FinishedPart, Kind, Part, Split},
    tokenize::Tokenize,
};

/// Inputs of a stage by name, and a folder for everything that comes of them.
struct Bench {
    folder: tempfile::TempDir,
    inputs: Vec<(String, PathBuf)>,
}

impl Bench {
    fn new(inputs: &[(&str, &Path)]) -> Self {
        let inputs = inputs.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
        Self { folder: tempfile::tempdir().unwrap(), inputs }
    }

    fn context(&self, output: &str, threads: usize, size: u64) -> Context {
        let (output, scratch) = (self.folder.path().join(output), self.folder.path().join(format!("{output}.scratch")));
        // What another stage has left belongs to that.
        for folder in [&output, &scratch] {
            if folder.exists() {
                fs::remove_dir_all(folder).unwrap();
            }
            fs::create_dir_all(folder).unwrap();
        }
        let mut context = Context::builder(output, scratch).threads(threads).part_size(size);
        for (name, path) in &self.inputs {
            context = context.input(name.as_str(), path);
        }
        context.build()
    }

    fn whole<K: Kind>(&self, stage: &K) -> Vec<(String, Vec<u8>)> {
        let context = self.context("whole", 2, 1);
        stage.run(&context).unwrap();
        files(context.output())
    }

    fn split<K: Kind>(&self, stage: &K, size: u64) -> Vec<Part> {
        let split = stage.split(&self.context("split", 1, size)).unwrap();
        split.map_or_else(Vec::new, |Split { parts, .. }| parts)
    }

    /// Computes the parts, the last first, and joins them.
    fn joined<K: Kind>(&self, stage: &K, size: u64) -> Vec<(String, Vec<u8>)> {
        let parts = self.split(stage, size);
        assert!(parts.len() > 1);
        for (number, part) in parts.iter().enumerate().rev() {
            stage.run_part(part, &self.context(&format!("part{number}"), 1 + number % 2, size)).unwrap();
        }
        let folder = |number| self.folder.path().join(format!("part{number}"));
        let finished =
            parts.into_iter().enumerate().map(|(number, part)| FinishedPart { part, folder: folder(number) });
        let context = self.context(&format!("joined{size}"), 2, size);
        stage.join(&finished.collect::<Vec<_>>(), &context).unwrap();
        files(context.output())
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn stage<K: Kind>(settings: &str) -> K {
    ron_options().from_str(settings).unwrap()
}

/// What parts are keyed by.
fn keyed(parts: &[Part]) -> BTreeSet<String> {
    parts.iter().map(|part| part.settings.clone()).collect()
}

/// A corpus of the first bytes of some books, under other names than theirs.
fn corpus(books: &[(&str, &str, usize)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, book, length) in books {
        let text = fs::read_to_string(format!("{DATA}/corpora/small/{book}.txt")).unwrap();
        fs::write(folder.path().join(name), text.get(..*length).unwrap()).unwrap();
    }
    folder
}

const OZ: (&str, &str, usize) = ("m.txt", "the-wonderful-wizard-of-oz", 30_000);
const ALICE: (&str, &str, usize) = ("p.txt", "alice-s-adventures-in-wonderland", 40_000);
const JUNGLE: (&str, &str, usize) = ("a.txt", "the-jungle-book", 50_000);

fn with_facts() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let document = |number: usize| {
        let text =
            format!("The code is {number}. {}The code was {number}. ", "A small bird sat there. ".repeat(number % 9));
        let (planted, length) = ([12, 13 + usize::from(number > 9)], text.len());
        let needed = [length - 4 - usize::from(number > 9), length - 2];
        match number % 3 {
            0 => json!({"id": number.to_string(), "text": text}),
            _ => {
                json!({"id": number.to_string(), "text": text, "facts": [{"key": "c", "value": "v", "planted": planted, "needed": needed}]})
            }
        }
    };
    let lines: Vec<String> = (0..60).map(|number| document(number).to_string()).collect();
    fs::write(folder.path().join("documents.jsonl"), lines.join("\n\n")).unwrap();
    folder
}

#[test]
fn tokens_are_the_same_in_parts() {
    let (books, facts, model) = (corpus(&[OZ, ALICE, JUNGLE]), with_facts(), stories());
    let bench = |text: &Path| Bench::new(&[("text", text), ("model", &model)]);
    for settings in
        ["length: 128", "length: 128, shuffle: 7, limit: 40, newlines: Space", "length: 100, chunking: Lossless"]
    {
        let tokenize: Tokenize = stage(&format!(r#"(text: ["text"], tokenizer: "model", {settings})"#));
        let bench = bench(books.path());
        let whole = bench.whole(&tokenize);
        assert!(whole == bench.joined(&tokenize, 60_000), "{settings}");
        assert!(whole == bench.joined(&tokenize, 32_000), "{settings}");
    }
    let tokenize: Tokenize = stage(r#"(text: ["text"], tokenizer: "model", length: 64)"#);
    let bench = bench(facts.path());
    assert!(bench.whole(&tokenize) == bench.joined(&tokenize, 1000));
    assert!((4..40).contains(&bench.split(&tokenize, 1000).len()));
    // Small work is one piece, and so is what may end at any document.
    assert!(bench.split(&tokenize, 1 << 20).is_empty());
    assert!(
        bench
            .split(&stage::<Tokenize>(r#"(text: ["text"], tokenizer: "model", length: 64, limit: 9)"#), 1000)
            .is_empty()
    );
}

#[test]
fn a_new_or_renamed_book_leaves_the_parts_of_all_others() {
    let (two, model) = (corpus(&[OZ, ALICE]), stories());
    let three = corpus(&[("zz.txt", ALICE.1, ALICE.2), OZ, JUNGLE]);
    let tokenize: Tokenize = stage(r#"(text: ["text"], tokenizer: "model", length: 128, shuffle: 1)"#);
    let parts = |folder: &Path| keyed(&Bench::new(&[("text", folder), ("model", &model)]).split(&tokenize, 60_000));
    let (before, after) = (parts(two.path()), parts(three.path()));
    assert_eq!((before.len(), after.len()), (2, 3));
    assert!(before.is_subset(&after));
    // Another tokenizer is another matter.
    let other = Path::new(DATA).join("models/babyllama-char105");
    let bench = Bench::new(&[("text", two.path()), ("model", &other)]);
    assert!(keyed(&bench.split(&tokenize, 60_000)).is_disjoint(&before));
}

/// Tokens of some books, and the bench that scores them.
fn tokens(books: &[(&str, &str, usize)], settings: &str) -> (tempfile::TempDir, Bench) {
    let text = corpus(books);
    let tokenize: Tokenize = stage(&format!(r#"(text: ["text"], tokenizer: "model", length: 64, {settings})"#));
    let output = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let context = Context::builder(output.path(), scratch.path()).input("text", text.path()).input("model", stories());
    tokenize.run(&context.build()).unwrap();
    let bench = Bench::new(&[("tokens", output.path()), ("model", &stories())]);
    (output, bench)
}

const SHORT: [(&str, &str, usize); 3] = [("m.txt", OZ.1, 9_000), ("p.txt", ALICE.1, 9_000), ("a.txt", JUNGLE.1, 6_000)];

#[test]
fn scores_are_the_same_in_parts() {
    for settings in ["", "shuffle: 3"] {
        let (_tokens, bench) = tokens(&SHORT, settings);
        for windows in ["", "windows: (length: 32, step: 16)"] {
            let score: Score = stage(&format!(r#"(model: "model", tokens: "tokens", {windows})"#));
            let whole = bench.whole(&score);
            assert!(whole == bench.joined(&score, 64 * 20), "{settings} {windows}");
            assert!(whole == bench.joined(&score, 64 * 7), "{settings} {windows}");
            assert!(bench.split(&score, 1 << 20).is_empty());
        }
    }
}

#[test]
fn a_new_book_leaves_the_scores_of_all_others() {
    let score: Score = stage(r#"(model: "model", tokens: "tokens", windows: (length: 32, step: 16))"#);
    for settings in ["", "shuffle: 3"] {
        let ((_two, two), (_three, three)) = (tokens(&SHORT[..2], settings), tokens(&SHORT, settings));
        let (before, after) = (keyed(&two.split(&score, 64 * 20)), keyed(&three.split(&score, 64 * 20)));
        assert!(before.len() >= 6 && before.len() < after.len(), "{} {}", before.len(), after.len());
        assert!(before.is_subset(&after), "{settings}");
    }
}

#[test]
fn evaluations_are_the_same_in_parts() {
    let (_tokens, bench) = tokens(&SHORT, "limit: 40");
    let tasks = |buckets: usize| {
        format!(
            r#""c": LossByPosition(tokens: "tokens", buckets: {buckets}),
            "a": Needles(lengths: [128], depths: [0.5], samples: 3, seed: 5),
            "b": LossByPosition(tokens: "tokens", buckets: 4)"#
        )
    };
    let evaluate: Evaluate = stage(&format!(r#"(model: "model", tasks: {{{}}})"#, tasks(8)));
    assert!(bench.whole(&evaluate) == bench.joined(&evaluate, 1));
    let parts = bench.split(&evaluate, 1);
    assert_eq!(parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);

    // Another setting of one task leaves the others; so does the name of a stage, whose content is keyed apart.
    let other: Evaluate = stage(&format!(r#"(model: "model", tasks: {{{}}})"#, tasks(9)));
    assert_eq!(keyed(&parts).intersection(&keyed(&bench.split(&other, 1))).count(), 2);
    let renamed = format!(r#"(model: "other", tasks: {{{}}})"#, tasks(8).replace("\"tokens\"", "\"text\""));
    let renamed = bench.split(&stage::<Evaluate>(&renamed), 1);
    assert_eq!(keyed(&parts), keyed(&renamed));
    let inputs = |part: &Part| part.inputs.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(inputs(&parts[0]), ["model"]);
    assert_eq!(inputs(&parts[2]), ["model", "tokens"]);
    assert_eq!(inputs(&renamed[2]), ["other", "text"]);

    // What needs no model is not keyed by one.
    let detect = r#"FarTokenDetection(short: "s", long: "l", tokens: "t")"#;
    let both: Evaluate = stage(&format!(r#"(model: "model", tasks: {{"x": {detect}, "y": {detect}}})"#));
    assert_eq!(inputs(&bench.split(&both, 1)[0]), ["s", "l", "t"]);
    // One task is one piece.
    assert!(bench.split(&stage::<Evaluate>(&format!(r#"(tasks: {{"x": {detect}}})"#)), 1).is_empty());
}
