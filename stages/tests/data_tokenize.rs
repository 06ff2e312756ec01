//! From text to token sequences: against ids that other programs computed, and by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use twdag_stages::{
    data::TokenSet,
    stage::{Context, Kind, StageEvent},
    tokenize::{Chunking, Newlines, Tokenize},
};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");

fn settings(length: usize) -> Tokenize {
    Tokenize {
        column: None,
        text: vec!["corpus".into()],
        tokenizer: "tokenizer".into(),
        length,
        chunking: Chunking::Official,
        newlines: Newlines::Keep,
        shuffle: None,
        limit: None,
    }
}

/// Runs the stage into `output`; gives its warnings, or its error.
fn run(
    stage: &Tokenize,
    corpus: &Path,
    tokenizer: &Path,
    output: &Path,
    threads: usize,
) -> Result<Vec<String>, String> {
    let scratch = tempfile::tempdir().unwrap();
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&warnings);
    let context = Context::builder(output, scratch.path())
        .input("corpus", corpus)
        .input("tokenizer", tokenizer)
        .threads(threads)
        .events(move |event| {
            if let StageEvent::Warning { message } = event {
                sink.lock().unwrap().push(message);
            }
        })
        .build();
    stage.run(&context).map_err(|error| error.to_string())?;
    drop(context);
    Ok(Arc::into_inner(warnings).unwrap().into_inner().unwrap())
}

/// A tokenizer of whole words split at white space: ids by the order given, `<s>` first if `adds_bos`.
fn words(folder: &Path, words: &[&str], adds_bos: bool, bos: Option<&str>) {
    let vocabulary: Value = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let processor = adds_bos.then(|| {
        json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
        })
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": processor, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), json!({"bos_token": bos, "unk_token": "<unk>"}).to_string())
        .unwrap();
}

const VOCABULARY: [&str; 14] = ["<s>", "<unk>", "a", "b", "c", "d", "e", "f", "g", "h", "code", "is", "17", "x"];

fn sequences(output: &Path) -> Vec<Vec<u32>> {
    let tokens = TokenSet::open(output).unwrap();
    (0..tokens.sequences()).map(|sequence| tokens.sequence(sequence).unwrap()).collect()
}

/// The ids in the reference files were computed by transformers from the same tokenizers and book.
#[test]
fn the_ids_of_real_tokenizers_are_those_of_transformers() {
    let corpus = tempfile::tempdir().unwrap();
    let book = fs::read_to_string(format!("{DATA}/corpora/small/the-wonderful-wizard-of-oz.txt")).unwrap();
    for (model, newlines) in [("stories260k", Newlines::Keep), ("babyllama-char105", Newlines::Space)] {
        let folder = format!("{DATA}/models/{model}");
        let reference: Value =
            serde_json::from_slice(&fs::read(format!("{folder}/reference_rope.json")).unwrap()).unwrap();
        let expected: Vec<u32> = serde_json::from_value(reference["input_ids"].clone()).unwrap();
        let text = if newlines == Newlines::Keep { book.replace("\n\n", "\n") } else { book.clone() };
        fs::write(corpus.path().join("oz.txt"), text).unwrap();
        let output = tempfile::tempdir().unwrap();
        let stage = Tokenize { newlines, limit: Some(1), ..settings(expected.len()) };
        assert!(run(&stage, corpus.path(), folder.as_ref(), output.path(), 2).unwrap().is_empty());
        assert_eq!(sequences(output.path()), [expected]);
        let tokens = TokenSet::open(output.path()).unwrap();
        assert_eq!(tokens.metadata().bos, Some(1));
        let copy = fs::read(output.path().join("tokenizer.json")).unwrap();
        assert_eq!(copy, fs::read(format!("{folder}/tokenizer.json")).unwrap());
        assert_eq!(tokens.metadata().tokenizer, blake3::hash(&copy).to_hex().to_string());
    }
}

/// The index of the corpora was counted by transformers.
#[test]
fn whole_books_have_as_many_tokens_as_the_index_says() {
    let index: Value = serde_json::from_slice(&fs::read(format!("{DATA}/corpora/index.json")).unwrap()).unwrap();
    let small = |book: &&Value| book["file"].as_str().unwrap().starts_with("small/");
    for (folder, name) in [
        ("models/smollm2-135m-instruct", "smollm2"),
        ("tokenizers/codegen-phi2", "phi2"),
        ("models/stories260k", "tok512"),
    ] {
        let output = tempfile::tempdir().unwrap();
        // BOS and one token of the book in each sequence, none skipped.
        let stage = Tokenize { chunking: Chunking::Lossless, ..settings(2) };
        let (corpus, tokenizer) = (format!("{DATA}/corpora/small"), format!("{DATA}/{folder}"));
        run(&stage, corpus.as_ref(), tokenizer.as_ref(), output.path(), 2).unwrap();
        let expected: u64 =
            index.as_array().unwrap().iter().filter(small).map(|book| book["tokens"][name].as_u64().unwrap()).sum();
        assert_eq!(TokenSet::open(output.path()).unwrap().sequences() as u64, expected, "{name}");
    }
}

/// The sequences of two whole books, by Python (`fixtures/make_chunks.py`).
#[test]
fn whole_books_are_cut_as_the_authors_cut_them() {
    #[derive(serde::Deserialize)]
    struct Cut {
        tokenizer: String,
        book: String,
        length: usize,
        sequences: usize,
        begins: Vec<Vec<u32>>,
        ends: Vec<u32>,
        sha256: String,
    }
    let expected: Vec<Cut> = serde_json::from_str(include_str!("fixtures/chunks.json")).unwrap();
    assert_eq!(expected.len(), 4);
    for Cut { tokenizer, book, length, sequences: count, begins, ends, sha256 } in expected {
        let (corpus, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::copy(format!("{DATA}/corpora/small/{book}.txt"), corpus.path().join("book.txt")).unwrap();
        let tokenizer = format!("{DATA}/{tokenizer}");
        run(&settings(length), corpus.path(), tokenizer.as_ref(), output.path(), 2).unwrap();
        let found = sequences(output.path());
        assert_eq!(found.len(), count, "{book}");
        assert!(found.iter().zip(&begins).all(|(found, begin)| found.starts_with(begin)), "{book}: {begins:?}");
        assert!(found[count - 1].ends_with(&ends), "{book}: {ends:?}");
        let ids: Vec<u8> = found.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
        let digest: String = Sha256::digest(&ids).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, sha256, "{book}");
    }
}

#[test]
fn phi_2_has_a_bos_that_its_tokenizer_does_not_add() {
    let (corpus, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("a.txt"), "one two three four five six seven eight").unwrap();
    let tokenizer = format!("{DATA}/tokenizers/codegen-phi2");
    for (chunking, second) in [(Chunking::Official, 734), (Chunking::Lossless, 505)] {
        let stage = Tokenize { chunking, limit: Some(1), ..settings(4) };
        run(&stage, corpus.path(), tokenizer.as_ref(), output.path(), 1).unwrap();
        // GPT-2's ids: 505 `one`, 734 ` two`.
        assert_eq!(sequences(output.path())[0][..2], [50256, second]);
    }
    assert_eq!(TokenSet::open(output.path()).unwrap().metadata().vocabulary, 50295);
}

#[test]
fn documents_are_cut_one_by_one_and_short_ones_are_counted() {
    let (corpus, tokenizer, output) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("1.txt"), "a b c d e f g h").unwrap();
    fs::write(corpus.path().join("2.txt"), "a b").unwrap();
    fs::write(corpus.path().join("3.txt"), "h g f x").unwrap();
    words(tokenizer.path(), &VOCABULARY, true, Some("<s>"));
    let warnings = run(&settings(4), corpus.path(), tokenizer.path(), output.path(), 1).unwrap();
    assert_eq!(sequences(output.path()), [[0, 2, 3, 4], [0, 6, 7, 8], [0, 9, 8, 7]]);
    insta::assert_snapshot!(warnings.join("\n"), @"1 of 3 documents are shorter than a sequence of 4 tokens and were left out");
    assert_eq!(TokenSet::open(output.path()).unwrap().metadata().documents, 3);

    words(tokenizer.path(), &VOCABULARY, false, None);
    run(&settings(4), corpus.path(), tokenizer.path(), output.path(), 1).unwrap();
    assert_eq!(sequences(output.path()), [[2, 3, 4, 5], [6, 7, 8, 9], [9, 8, 7, 13]]);
    assert_eq!(TokenSet::open(output.path()).unwrap().metadata().bos, None);

    insta::assert_snapshot!(run(&settings(40), corpus.path(), tokenizer.path(), output.path(), 1).unwrap_err(), @"setting `length` is 40, expected at most 8, the tokens of the longest of 3 documents; no document fills a sequence");
}

#[test]
fn facts_become_tokens_that_need_far_context() {
    let (corpus, tokenizer, output) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    words(tokenizer.path(), &VOCABULARY, true, Some("<s>"));
    //          0123456789012345678901234567890123
    let text = "code is 17 a b c\nd e code 17 f g h";
    let fact = |planted: [usize; 2], needed: [usize; 2]| json!({"key": "code", "value": "17", "planted": planted, "needed": needed});
    let documents = [
        // The second fact is needed before it is planted; the range of the first takes in the space before `17`.
        json!({"id": "1", "text": text, "facts": [fact([0, 10], [25, 28]), fact([26, 28], [0, 4])]}),
        // The same, far away: the planted sentence and the need lie in different sequences.
        json!({"id": "2", "text": format!("code is 17 {}code 17 f", "x ".repeat(13)), "facts": [fact([0, 10], [42, 44])]}),
        json!({"id": "3", "text": "a b c d e f g h a b c d e f g h"}),
    ];
    fs::write(corpus.path().join("documents.jsonl"), documents.map(|line| line.to_string()).join("\n")).unwrap();
    run(&settings(13), corpus.path(), tokenizer.path(), output.path(), 2).unwrap();
    let tokens = TokenSet::open(output.path()).unwrap();
    assert!(tokens.has_truth());
    assert_eq!(tokens.sequences(), 3);
    // BOS, then `code`=1 `is`=2 `17`=3 a b c d e `code`=9 `17`=10.
    assert_eq!(tokens.sequence(0).unwrap(), [0, 10, 11, 12, 2, 3, 4, 5, 6, 10, 12, 7, 8]);
    let truth = tokens.truth(0).unwrap().unwrap();
    assert_eq!(truth.far, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(truth.fact, [-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, -1, -1]);
    assert_eq!(truth.distance, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0]);
    for sequence in [1, 2] {
        assert_eq!(tokens.truth(sequence).unwrap().unwrap().far, [0; 13]);
    }

    // A sequence that is long enough joins the two places.
    run(&settings(19), corpus.path(), tokenizer.path(), output.path(), 1).unwrap();
    let tokens = TokenSet::open(output.path()).unwrap();
    let truth = tokens.truth(0).unwrap().unwrap();
    assert_eq!(truth.far.iter().position(|&far| far == 1), Some(18));
    assert_eq!(truth.distance[18], 15);
}

/// Every file of a folder with its bytes.
fn bytes(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_result_depends_on_the_seed_and_not_on_the_threads() {
    let corpus = tempfile::tempdir().unwrap();
    for book in ["alice-s-adventures-in-wonderland", "the-wonderful-wizard-of-oz", "through-the-looking-glass"] {
        let file = format!("{book}.txt");
        fs::copy(format!("{DATA}/corpora/small/{file}"), corpus.path().join(file)).unwrap();
    }
    let tokenizer = format!("{DATA}/models/stories260k");
    let make = |seed, limit, threads| {
        let output = tempfile::tempdir().unwrap();
        let stage = Tokenize { shuffle: seed, limit, ..settings(256) };
        run(&stage, corpus.path(), tokenizer.as_ref(), output.path(), threads).unwrap();
        (bytes(output.path()), sequences(output.path()))
    };
    let (plain, in_order) = make(None, None, 1);
    assert!(plain == make(None, None, 2).0);
    let (shuffled, mixed) = make(Some(3), None, 2);
    assert!(shuffled == make(Some(3), None, 1).0);
    assert_ne!(mixed, in_order);
    let (mut left, mut right) = (in_order.clone(), mixed.clone());
    left.sort();
    right.sort();
    assert!(left == right, "shuffling keeps every sequence");
    assert!(make(Some(3), Some(5), 1).1 == mixed[..5]);
    assert!(make(None, Some(5), 2).1 == in_order[..5]);
    assert!(make(Some(4), Some(5), 2).1 != mixed[..5]);
}

#[test]
fn unknown_tokens_and_broken_tokenizers_are_told() {
    let (corpus, tokenizer, output) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(corpus.path().join("1.txt"), "a b what c").unwrap();
    words(tokenizer.path(), &VOCABULARY, true, Some("<s>"));
    insta::assert_snapshot!(run(&settings(4), corpus.path(), tokenizer.path(), output.path(), 1).unwrap().join("\n"), @"20.0 % of the tokens are unknown to the tokenizer; if it has no token for line breaks, set `newlines: Space`");
    let refused = || {
        let error = run(&settings(4), corpus.path(), tokenizer.path(), output.path(), 1).unwrap_err();
        error.replace(&tokenizer.path().display().to_string(), "TOKENIZER")
    };
    words(tokenizer.path(), &VOCABULARY, true, Some("<bos>"));
    insta::assert_snapshot!(refused(), @"TOKENIZER/tokenizer_config.json: `bos_token` is `<bos>`, which is no token of tokenizer.json");
    fs::write(tokenizer.path().join("tokenizer.json"), "{\"version\": \"1.0\"").unwrap();
    insta::assert_snapshot!(refused(), @"TOKENIZER/tokenizer.json: no tokenizer (EOF while parsing an object at line 1 column 17)");
    fs::remove_file(tokenizer.path().join("tokenizer.json")).unwrap();
    insta::assert_snapshot!(refused(), @"TOKENIZER/tokenizer.json: there is no such file; the artifact is incomplete or of another kind");
}

#[test]
fn settings_that_cannot_work_are_refused_without_any_data() {
    let refused = |stage: Tokenize| stage.check().unwrap_err().to_string();
    insta::assert_snapshot!(refused(settings(1)), @"setting `length` is 1, expected at least 2, so that there is a token to predict");
    insta::assert_snapshot!(refused(Tokenize { limit: Some(0), ..settings(8) }), @"setting `limit` is 0, expected at least 1");
    insta::assert_snapshot!(refused(Tokenize { text: vec![], ..settings(8) }), @"setting `text` is empty, expected at least one corpus");
}
