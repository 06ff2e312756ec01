//! From two folders of losses to a folder of weights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use tempfile::TempDir;
use twdag_stages::{
    data::{ArrayKind, ArraySet, ArraySetWriter, PartLayout, ScoreWindows},
    postprocess::Postprocess,
    registry::ron_options,
    stage::{Context, Kind, StageError},
    weighting::{Shape, weigh},
};

const LENGTH: usize = 33;
const SEQUENCES: usize = 300;

/// Losses of a made-up model, in quarters of a nat so that every machine has the same.
fn losses(side: usize) -> Vec<f32> {
    (0..SEQUENCES * (LENGTH - 1)).map(|at| ((at * (7 + side)) % 61) as f32 / 4.0).collect()
}

fn write_scores(folder: &Path, values: &[f32], tokens: &str, windows: Option<ScoreWindows>) {
    fs::create_dir_all(folder).expect("a folder");
    let layout = PartLayout::even(SEQUENCES);
    let writer = ArraySetWriter::new(folder, ArrayKind::CrossEntropy, layout, LENGTH, tokens.to_owned(), windows);
    let mut start = 0;
    for part in 0..writer.layout().parts() {
        let end = start + writer.layout().range(part).len() * (LENGTH - 1);
        writer.write_part(part, &values[start..end]).expect("a part");
        start = end;
    }
    writer.finish().expect("scores.json");
}

struct Room {
    folder: TempDir,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let windows = Some(ScoreWindows { length: 9, step: 6, bos: true });
        write_scores(&folder.path().join("short"), &losses(0), "same tokens", windows);
        write_scores(&folder.path().join("long"), &losses(4), "same tokens", None);
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, output: &str, threads: usize, settings: &str) -> Result<(), StageError> {
        fs::create_dir_all(self.path(output)).expect("an output folder");
        let stage: Postprocess = ron_options().from_str(settings).expect("settings");
        stage.check()?;
        let context = Context::builder(self.path(output), self.folder.path())
            .input("short", self.path("short"))
            .input("long", self.path("long"))
            .threads(threads)
            .build();
        stage.run(&context)
    }
}

#[test]
fn every_row_is_weighed_alone_and_parts_stay_as_they_are() {
    let room = Room::new();
    for (shape, text) in [
        (Shape::Dense { lambda: 0.75 }, "Dense(lambda: 0.75)"),
        (Shape::Sparse { kappa: 0.2, seed: 5 }, "Sparse(kappa: 0.2, seed: 5)"),
        (Shape::Uniform, "Uniform"),
    ] {
        room.run("weights", 2, &format!("(short: \"short\", long: \"long\", shape: {text})")).expect("weights");
        let weights = ArraySet::open(&room.path("weights"), ArrayKind::Weights).expect("weights");
        assert_eq!(weights.sequences(), SEQUENCES);
        assert_eq!(weights.layout().parts(), 2);
        assert_eq!((weights.metadata().tokens.as_str(), weights.metadata().windows), ("same tokens", None));
        let (short, long) = (losses(0), losses(4));
        for sequence in [0, 1, 255, 256, 299] {
            let row = sequence * (LENGTH - 1)..(sequence + 1) * (LENGTH - 1);
            let expected = weigh(None, &shape, &long[row.clone()], &short[row], sequence as u64).expect("weights");
            assert_eq!(weights.row(sequence).expect("a row"), expected, "{text}, sequence {sequence}");
        }
        fs::remove_dir_all(room.path("weights")).expect("removed");
    }
}

fn digest(folder: &Path) -> String {
    let mut names: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    names.sort();
    let mut hasher = blake3::Hasher::new();
    for path in names {
        hasher.update(path.file_name().expect("a name").as_encoded_bytes());
        hasher.update(&fs::read(path).expect("a file"));
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// If this digest changes, so does what `Postprocess` makes of the same settings and inputs: raise its revision.
#[test]
fn revision_1_gives_these_bytes_with_any_number_of_threads() {
    let room = Room::new();
    let settings = "(short: \"short\", long: \"long\", shape: Pipeline(transforms: [Minus, Exp, Shift(2)], truncation: 4.5, sparsification: 0.5, normalization: Softmax, interpolation: 0.25, seed: 3))";
    room.run("one", 1, settings).expect("weights");
    room.run("four", 4, settings).expect("weights");
    assert_eq!(digest(&room.path("one")), digest(&room.path("four")));
    assert_eq!(Postprocess::REVISION, 1);
    insta::assert_snapshot!(digest(&room.path("one")), @"02a88d99e0fa7f86");
    room.run("dense", 2, "(short: \"short\", long: \"long\", shape: Dense(lambda: 0.75))").expect("weights");
    insta::assert_snapshot!(digest(&room.path("dense")), @"2e677907fdeeeb74");
    room.run("long_ce", 2, "(short: \"short\", long: \"long\", shape: LongCE())").expect("weights");
    insta::assert_snapshot!(digest(&room.path("long_ce")), @"18b9366644ccde0c");
}

#[test]
fn losses_of_other_tokens_are_not_joined() {
    let room = Room::new();
    write_scores(&room.path("long"), &losses(4), "other tokens", None);
    let error = room.run("weights", 1, "(short: \"short\", long: \"long\", shape: Uniform)").expect_err("an error");
    let message = error.to_string().replace(&room.folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(message, @"FOLDER/long/scores.json: made for other tokens: expected length 33, digest same tokens, found length 33, digest other tokens; give the stage the tokens that were scored");
}

#[test]
fn a_share_that_keeps_nothing_is_refused_with_its_place() {
    let room = Room::new();
    let settings = "(short: \"short\", long: \"long\", shape: Sparse(kappa: 0.01))";
    insta::assert_snapshot!(room.run("weights", 1, settings).expect_err("an error"), @"setting `shape.kappa` is 0.01, expected at least 0.03125: of 32 targets it must keep one or more");
}
