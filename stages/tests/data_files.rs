//! Token sets and per-target arrays: what is written, what is read, what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::{Value, json};
use twdag_stages::data::{
    ArrayKind, ArraySet, ArraySetWriter, DataError, GroundTruth, Origin, PartLayout, ScoreWindows, TokenSet,
    TokenSetWriter,
};

/// Reads a safetensors file by its format's definition, without the library: header and data.
fn parts_of(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + header]).unwrap(), bytes[8 + header..].to_vec())
}

fn truth_of(ids: &[u32]) -> GroundTruth {
    GroundTruth {
        far: ids.iter().map(|id| u8::from(id % 3 == 0)).collect(),
        fact: ids.iter().map(|&id| id as i32 - 5).collect(),
        distance: ids.iter().map(|id| id * 2).collect(),
    }
}

fn write_tokens(folder: &Path, sequences: &[Vec<u32>], length: usize, with_truth: bool) {
    let source = folder.join("source-tokenizer.json");
    fs::write(&source, "{}").unwrap();
    let mut writer = TokenSetWriter::new(folder, length, with_truth);
    for (ids, number) in sequences.iter().zip(0..) {
        let truth = truth_of(ids);
        writer.push(ids, Origin { document: 3, number }, with_truth.then_some(&truth)).unwrap();
    }
    writer.finish(&source, Some(0), 1000, 7).unwrap();
}

fn message<T>(result: Result<T, DataError>, folder: &Path) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string().replace(&folder.display().to_string(), "FOLDER"),
    }
}

#[test]
fn a_token_set_stands_in_the_file_as_the_format_says() {
    let folder = tempfile::tempdir().unwrap();
    write_tokens(folder.path(), &[vec![0, 1, 2], vec![0, 500, 258]], 3, true);
    let (header, data) = parts_of(&folder.path().join("part-00000.safetensors"));
    assert_eq!(header["input_ids"]["dtype"], "U32");
    assert_eq!(header["input_ids"]["shape"], json!([2, 3]));
    assert_eq!(header["far"]["dtype"], "U8");
    assert_eq!(header["fact"]["dtype"], "I32");
    assert_eq!(header["distance"]["dtype"], "U32");
    let at = header["input_ids"]["data_offsets"][0].as_u64().unwrap() as usize;
    assert_eq!(data[at..at + 24], [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 244, 1, 0, 0, 2, 1, 0, 0]);
    insta::assert_snapshot!(fs::read_to_string(folder.path().join("tokens.json")).unwrap(), @r#"
    {
      "bos": 0,
      "documents": 7,
      "length": 3,
      "parts": 1,
      "sequences": 2,
      "tokenizer": "6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279",
      "vocabulary": 1000
    }
    "#);
}

#[test]
fn parts_hold_at_most_256_sequences_and_the_digest_is_that_of_all_ids() {
    let folder = tempfile::tempdir().unwrap();
    let sequences: Vec<Vec<u32>> = (0..600).map(|row| vec![0, row, row % 7, 999]).collect();
    write_tokens(folder.path(), &sequences, 4, false);
    let tokens = TokenSet::open(folder.path()).unwrap();
    let rows: Vec<usize> = (0..tokens.layout().parts()).map(|part| tokens.layout().range(part).len()).collect();
    assert_eq!(rows, [256, 256, 88]);
    assert_eq!(tokens.sequence(599).unwrap(), sequences[599]);
    assert!(!tokens.has_truth());
    let all: Vec<u8> = sequences.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(tokens.digest(), blake3::hash(&all).to_hex().to_string());
}

#[test]
fn damaged_and_foreign_token_sets_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    insta::assert_snapshot!(message(TokenSet::open(here), here), @"FOLDER/tokens.json: there is no such file; the artifact is incomplete or of another kind");
    write_tokens(here, &[vec![0, 1, 2], vec![0, 1000, 4]], 3, true);
    insta::assert_snapshot!(message(TokenSet::open(here).unwrap().sequence(1), here), @"FOLDER/part-00000.safetensors: tensor `input_ids`: expected ids below 1000, found 1000 in row 1, column 1");
    insta::assert_snapshot!(message(TokenSet::open(here).unwrap().sequence(2), here), @"FOLDER: there is no sequence 2, only 2 (from 0)");

    let part = here.join("part-00000.safetensors");
    let whole = fs::read(&part).unwrap();
    for kept in 0..whole.len() {
        fs::write(&part, &whole[..kept]).unwrap();
        assert!(TokenSet::open(here).is_err(), "{kept} of {} bytes", whole.len());
    }
    insta::assert_snapshot!(message(TokenSet::open(here), here), @"FOLDER/part-00000.safetensors: no complete safetensors file (incomplete metadata, file not fully covered); it has 413 bytes");
    fs::write(&part, "not a tensor file at all").unwrap();
    insta::assert_snapshot!(message(TokenSet::open(here), here), @"FOLDER/part-00000.safetensors: no complete safetensors file (header too large); it has 24 bytes");

    let arrays = tempfile::tempdir().unwrap();
    let writer = ArraySetWriter::new(arrays.path(), ArrayKind::Weights, PartLayout::even(2), 4, "x".into(), None);
    writer.write_part(0, &[1.0; 6]).unwrap();
    fs::copy(arrays.path().join("part-00000.safetensors"), &part).unwrap();
    insta::assert_snapshot!(message(TokenSet::open(here), here), @"FOLDER/part-00000.safetensors: tensor `input_ids`: expected U32 [any, 3], found only weights");

    fs::write(&part, &whole).unwrap();
    let about = here.join("tokens.json");
    let text = fs::read_to_string(&about).unwrap();
    fs::write(&about, text.replace("\"length\": 3", "\"length\": 4")).unwrap();
    insta::assert_snapshot!(message(TokenSet::open(here), here), @"FOLDER/part-00000.safetensors: tensor `input_ids`: expected U32 [any, 4], found U32 [2, 3]");
    fs::write(&about, text.replace("\"sequences\": 2", "\"sequences\": 3")).unwrap();
    insta::assert_snapshot!(message(TokenSet::open(here), here), @"FOLDER/tokens.json: it speaks of 3 sequences, the parts hold 2");
    fs::write(&about, &text[..text.len() / 2]).unwrap();
    insta::assert_snapshot!(message(TokenSet::open(here), here), @"FOLDER/tokens.json: EOF while parsing an object at line 7 column 13");
}

#[test]
fn arrays_keep_their_values_and_know_their_tokens() {
    let (tokens, scores) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tokens(tokens.path(), &[vec![0, 1, 2], vec![0, 3, 4]], 3, false);
    let tokens = TokenSet::open(tokens.path()).unwrap();
    let windows = Some(ScoreWindows { length: 8, step: 4, bos: true });
    let kind = ArrayKind::CrossEntropy;
    let writer = ArraySetWriter::new(scores.path(), kind, tokens.layout().clone(), 3, tokens.digest(), windows);
    writer.write_part(0, &[0.5, 1.25, f32::MIN_POSITIVE, 1e30]).unwrap();
    writer.finish().unwrap();
    let set = ArraySet::open(scores.path(), kind).unwrap();
    assert_eq!(set.row(1).unwrap(), [f32::MIN_POSITIVE, 1e30]);
    assert_eq!(set.metadata().windows, windows);
    set.check_tokens(&tokens).unwrap();
    let wrong = message(set.check_digest(3, "00ff"), scores.path()).replace(&tokens.digest(), "DIGEST");
    insta::assert_snapshot!(wrong, @"FOLDER/scores.json: made for other tokens: expected length 3, digest 00ff, found length 3, digest DIGEST; give the stage the tokens that were scored");
    insta::assert_snapshot!(message(ArraySet::open(scores.path(), ArrayKind::Weights), scores.path()), @"FOLDER/weights.json: there is no such file; the artifact is incomplete or of another kind");

    let writer = ArraySetWriter::new(scores.path(), kind, tokens.layout().clone(), 3, tokens.digest(), windows);
    writer.write_part(0, &[0.5, f32::NAN, 0.0, 0.0]).unwrap();
    let set = ArraySet::open(scores.path(), kind).unwrap();
    insta::assert_snapshot!(message(set.row(0), scores.path()), @"FOLDER/part-00000.safetensors: tensor `cross_entropy`: expected finite numbers, found NaN in row 0, column 1");
    insta::assert_snapshot!(message(writer.write_part(0, &[0.5]), scores.path()), @"FOLDER/part-00000.safetensors: tensor `cross_entropy`: expected 2 x 2 values, found 1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_written_is_read(
        rows in prop::collection::vec(prop::collection::vec(0_u32..1000, 5), 1..300),
        with_truth: bool,
    ) {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_tokens(one.path(), &rows, 5, with_truth);
        write_tokens(two.path(), &rows, 5, with_truth);
        let set = TokenSet::open(one.path()).unwrap();
        prop_assert_eq!(set.has_truth(), with_truth);
        for (index, row) in rows.iter().enumerate() {
            prop_assert_eq!(&set.sequence(index).unwrap(), row);
            prop_assert_eq!(set.truth(index).unwrap(), with_truth.then(|| truth_of(row)));
        }
        for entry in fs::read_dir(one.path()).unwrap() {
            let name = entry.unwrap().file_name();
            prop_assert_eq!(fs::read(one.path().join(&name)).unwrap(), fs::read(two.path().join(&name)).unwrap());
        }
    }

    #[test]
    fn a_layout_locates_every_sequence(counts in prop::collection::vec(0_usize..5, 0..8)) {
        let layout = PartLayout::of(counts.iter().copied());
        let mut expected = Vec::new();
        for (part, &count) in counts.iter().enumerate() {
            prop_assert_eq!(layout.range(part).len(), count);
            expected.extend((0..count).map(|row| Some((part, row))));
        }
        let found: Vec<_> = (0..layout.sequences()).map(|sequence| layout.locate(sequence)).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(layout.locate(layout.sequences()), None);
    }
}
