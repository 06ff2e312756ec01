//! Training tokenizers: the same bytes every time, and merges that can be followed by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use serde_json::Value;
use twdag_stages::{
    data::TextTokenizer,
    stage::{Context, Kind},
    train_tokenizer::TrainTokenizer,
};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");

fn train(corpus: &Path, vocabulary: usize, threads: usize) -> tempfile::TempDir {
    let (output, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let context = Context::builder(output.path(), scratch.path()).input("corpus", corpus).threads(threads).build();
    TrainTokenizer { text: vec!["corpus".into()], vocabulary }.run(&context).unwrap();
    output
}

#[test]
fn training_gives_the_same_bytes_every_time_and_on_any_number_of_threads() {
    let corpus = format!("{DATA}/corpora/small");
    let expected = fs::read(train(corpus.as_ref(), 1000, 1).path().join("tokenizer.json")).unwrap();
    for threads in [2, 2] {
        let found = fs::read(train(corpus.as_ref(), 1000, threads).path().join("tokenizer.json")).unwrap();
        assert!(found == expected, "{threads} threads");
    }
}

#[test]
fn the_most_frequent_pairs_are_merged_first() {
    let corpus = tempfile::tempdir().unwrap();
    // Pairs within words: `lo` 5 times, `ow` 3, `ot` 2; the space is a part of the word after it (`Ġ` in the file).
    fs::write(corpus.path().join("a.txt"), "low low low lot lot").unwrap();
    let output = train(corpus.path(), 260, 1);
    let file: Value = serde_json::from_slice(&fs::read(output.path().join("tokenizer.json")).unwrap()).unwrap();
    assert_eq!(file["model"]["merges"], serde_json::json!([["l", "o"], ["Ġ", "lo"]]));
    assert_eq!(file["model"]["vocab"]["<s>"], 0);
    assert_eq!(file["model"]["vocab"]["</s>"], 1);
    assert_eq!(file["model"]["vocab"]["Ġlo"], 259);
    let tokenizer = TextTokenizer::open(output.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.vocabulary()), (Some(0), 260));
}

#[test]
fn any_text_is_encoded_and_comes_back() {
    let corpus = format!("{DATA}/corpora/small");
    let output = train(corpus.as_ref(), 600, 2);
    let tokenizer = TextTokenizer::open(output.path()).unwrap();
    for text in ["Hello, world!", "  two  spaces\n\ttab\r\n", "日本語 … 🦀\u{0}", "no number 12345 was seen"] {
        let encoding = tokenizer.encode(text, true).unwrap();
        assert_eq!(encoding.get_ids()[0], 0);
        assert_eq!(tokenizer.inner().decode(encoding.get_ids(), true).unwrap(), text);
        let covered: Vec<_> = encoding.get_offsets()[1..].to_vec();
        assert_eq!((covered[0].0, covered[covered.len() - 1].1), (0, text.len()));
    }
}

#[test]
fn a_vocabulary_too_small_for_the_bytes_is_refused() {
    let stage = TrainTokenizer { text: vec!["corpus".into()], vocabulary: 257 };
    insta::assert_snapshot!(stage.check().unwrap_err(), @"setting `vocabulary` is 257, expected at least 258 (256 bytes, `<s>` and `</s>`) and below 2^32");
    assert!(TrainTokenizer { vocabulary: 258, ..stage }.check().is_ok());
}
