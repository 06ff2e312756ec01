//! Windows against a model that can be computed by hand; scoring of real folders, also when it is interrupted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tempfile::TempDir;
use twdag_stages::{
    data::{ArrayKind, ArraySet, TokenSetWriter},
    model::Model,
    registry::ron_options,
    score::{Score, WindowPlan, Windows},
    stage::{Context, Kind, StageError, StageEvent},
};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models");

fn plan(length: usize, window: usize, step: usize, bos: Option<u32>) -> WindowPlan {
    WindowPlan::new(length, Windows { length: window, step }, bos, "windows.").expect("windows")
}

#[test]
fn the_owners_of_sixteen_tokens() {
    let plan = plan(16, 8, 4, None);
    let owners: Vec<_> = (0..plan.count()).map(|window| plan.targets(window)).collect();
    // Target i is token i + 1.
    assert_eq!(owners, [0..7, 7..11, 11..15]);
    let ids: Vec<u32> = (0..16).collect();
    assert_eq!(plan.tokens(&ids, 2), (8..16).collect::<Vec<u32>>());
}

#[test]
fn the_owners_of_the_papers_sequences() {
    let plan = plan(32768, 8192, 6144, Some(7));
    let ids: Vec<u32> = (0..32768).collect();
    let starts: Vec<u32> = (0..plan.count()).map(|window| plan.tokens(&ids, window)[1] - 1).collect();
    assert_eq!(starts, [0, 6144, 12288, 18432, 24576]);
    let new: Vec<_> = (1..5).map(|window| (plan.targets(window).start + 1, plan.targets(window).end)).collect();
    assert_eq!(new, [(8192, 14335), (14336, 20479), (20480, 26623), (26624, 32767)]);
    for (window, &start) in starts.iter().enumerate().skip(1) {
        let start = start as usize;
        let targets = plan.targets(window);
        assert_eq!((targets.start + 1 - start, targets.end - start), (2048, 8191), "context of window {window}");
        assert_eq!(plan.tokens(&ids, window)[0], 7);
    }
}

#[test]
fn windows_that_do_not_fit_are_refused_with_those_that_would() {
    let refused = |length, window, step| {
        let windows = Windows { length: window, step };
        WindowPlan::new(length, windows, None, "windows.").expect_err("an error").to_string()
    };
    insta::assert_snapshot!(refused(16, 8, 3), @"setting `windows.step` is 3, expected a divisor of 8, which is 16 (tokens in a sequence) - 8 (tokens in a window); the nearest: 2, 4");
    insta::assert_snapshot!(refused(32768, 8192, 6000), @"setting `windows.step` is 6000, expected a divisor of 24576, which is 32768 (tokens in a sequence) - 8192 (tokens in a window); the nearest: 4096, 6144");
    insta::assert_snapshot!(refused(16, 17, 3), @"setting `windows.length` is 17, expected at most 16, the tokens of a sequence");
    insta::assert_snapshot!(refused(16, 8, 8), @"setting `windows.step` is 8, expected 1 to 7: less than the window, or tokens are left out");
    insta::assert_snapshot!(refused(16, 1, 1), @"setting `windows.length` is 1, expected 2 or more: a window of one token predicts nothing");
}

/// p(x | context) = (count of x in the context + 1) / (length of the context + 4), for windows of `length` tokens.
fn counting_model(ids: &[u32], windows: usize) -> Vec<f32> {
    let length = ids.len() / windows;
    let mut losses = Vec::new();
    for window in ids.chunks(length) {
        for at in 1..length {
            let count = window[..at].iter().filter(|&&id| id == window[at]).count();
            losses.push((((at + 4) as f64) / ((count + 1) as f64)).ln() as f32);
        }
    }
    losses
}

const TOY: [u32; 16] = [0, 1, 2, 1, 3, 2, 2, 1, 1, 3, 3, 2, 1, 2, 3, 1];

#[track_caller]
fn assert_probabilities(losses: &[f32], expected: [(u32, u32); 15]) {
    for (target, (loss, (part, whole))) in losses.iter().zip(expected).enumerate() {
        let probability = f64::from(-loss).exp();
        let expected = f64::from(part) / f64::from(whole);
        assert!((probability - expected).abs() < 1e-6, "target {target}: {probability}, expected {part}/{whole}");
    }
}

fn short(bos: Option<u32>, together: usize) -> Vec<f32> {
    let mut losses = vec![0.0; 15];
    let mut rows = [(&TOY[..], losses.as_mut_slice())];
    plan(16, 8, 4, bos)
        .score(&mut rows, 0, together, &mut |ids, windows| Ok::<_, StageError>(counting_model(ids, windows)))
        .expect("losses");
    losses
}

#[test]
fn a_toy_model_in_windows() {
    let long = [
        (1, 5),
        (1, 6),
        (2, 7),
        (1, 8),
        (2, 9),
        (3, 10),
        (3, 11),
        (1, 3),
        (2, 13),
        (3, 14),
        (4, 15),
        (5, 16),
        (5, 17),
        (2, 9),
        (6, 19),
    ];
    assert_probabilities(&counting_model(&TOY, 1), long);
    let replaced = [
        (1, 5),
        (1, 6),
        (2, 7),
        (1, 8),
        (2, 9),
        (3, 10),
        (3, 11),
        (1, 4),
        (1, 9),
        (1, 5),
        (3, 11),
        (1, 8),
        (2, 9),
        (3, 10),
        (2, 11),
    ];
    let left = [
        (1, 5),
        (1, 6),
        (2, 7),
        (1, 8),
        (2, 9),
        (3, 10),
        (3, 11),
        (1, 4),
        (2, 9),
        (3, 10),
        (3, 11),
        (1, 4),
        (2, 9),
        (3, 10),
        (3, 11),
    ];
    for together in [1, 2, 3, 100] {
        assert_probabilities(&short(Some(0), together), replaced);
        assert_probabilities(&short(None, together), left);
    }
}

/// A room with the tokens of a model: `sequences` of `length`, each starting with `first`.
struct Room {
    folder: TempDir,
    model: PathBuf,
}

impl Room {
    fn new(sequences: usize, length: usize, first: u32) -> Self {
        let folder = TempDir::new().expect("a folder");
        let room = Self { folder, model: Path::new(MODELS).join("stories260k") };
        fs::create_dir(room.path("tokens")).expect("a folder");
        let mut writer = TokenSetWriter::new(&room.path("tokens"), length, false);
        for sequence in 0..sequences {
            let mut ids: Vec<u32> = (0..length).map(|at| 259 + ((at * at + 31 * sequence) % 250) as u32).collect();
            ids[0] = first;
            writer.push(&ids, None).expect("a sequence");
        }
        writer.finish(&room.model.join("tokenizer.json"), Some(1), 512, 1).expect("tokens.json");
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn score(
        &self,
        name: &str,
        threads: usize,
        settings: &str,
        watch: impl Fn(&StageEvent) -> bool + Send + Sync + 'static,
    ) -> Result<(), StageError> {
        let (output, scratch) = (self.path(name), self.path(&format!("{name}.scratch")));
        if output.exists() {
            fs::remove_dir_all(&output).expect("removed");
        }
        fs::create_dir_all(&output).expect("a folder");
        fs::create_dir_all(&scratch).expect("a folder");
        let stage: Score =
            ron_options().from_str(&format!("(model: \"model\", tokens: \"tokens\", {settings})")).expect("settings");
        stage.check()?;
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancel);
        let context = Context::builder(output, scratch)
            .input("model", &self.model)
            .input("tokens", self.path("tokens"))
            .threads(threads)
            .cancel(cancel)
            .events(move |event| {
                if watch(&event) {
                    flag.store(true, Ordering::Relaxed);
                }
            })
            .build();
        stage.run(&context)
    }

    fn losses(&self, name: &str) -> ArraySet {
        ArraySet::open(&self.path(name), ArrayKind::CrossEntropy).expect("losses")
    }
}

fn in_peace(_: &StageEvent) -> bool {
    false
}

const WINDOWS: &str = "windows: (length: 16, step: 8)";

#[test]
fn real_windows_are_scored_like_sequences_of_their_own() {
    let room = Room::new(3, 48, 1);
    room.score("short", 2, WINDOWS, in_peace).expect("losses");
    room.score("long", 2, "", in_peace).expect("losses");
    let (short, long) = (room.losses("short"), room.losses("long"));
    assert!(short.metadata().windows.is_some_and(|windows| windows.bos));
    assert_eq!(long.metadata().windows, None);
    let model = Model::open(&room.model).expect("a model");
    let tokens = twdag_stages::data::TokenSet::open(&room.path("tokens")).expect("tokens");
    let ids = tokens.sequence(2).expect("a sequence");
    assert_eq!(long.row(2).expect("a row"), model.score(&ids, 1).expect("losses").cross_entropy);
    let mut window = ids[24..40].to_vec();
    window[0] = 1;
    let alone = model.score(&window, 1).expect("losses").cross_entropy;
    // The window from token 24 owns the tokens 32 to 39.
    assert_eq!(short.row(2).expect("a row")[31..39], alone[7..]);
    assert_eq!(short.row(2).expect("a row")[..15], long.row(2).expect("a row")[..15]);
}

#[test]
fn bos_replaces_nothing_where_sequences_do_not_start_with_it() {
    let room = Room::new(2, 48, 300);
    room.score("short", 1, WINDOWS, in_peace).expect("losses");
    assert!(room.losses("short").metadata().windows.is_some_and(|windows| !windows.bos));
    let room = Room::new(2, 48, 1);
    room.score("kept", 1, &format!("{WINDOWS}, bos: Keep"), in_peace).expect("losses");
    assert!(room.losses("kept").metadata().windows.is_some_and(|windows| !windows.bos));
}

#[test]
fn another_rotary_embedding_can_be_asked_for() {
    let room = Room::new(2, 48, 1);
    room.score("own", 1, "", in_peace).expect("losses");
    room.score("same", 1, "rope: Default(theta: 10000)", in_peace).expect("losses");
    room.score("other", 1, "rope: Default(theta: 500000)", in_peace).expect("losses");
    let row = |name: &str| room.losses(name).row(0).expect("a row");
    assert_eq!(row("own"), row("same"));
    assert_ne!(row("own"), row("other"));
}

#[test]
fn an_interrupted_scoring_goes_on_with_the_next_part() {
    let room = Room::new(520, 32, 1);
    room.score("peace", 1, WINDOWS, in_peace).expect("losses");
    let stop = |event: &StageEvent| matches!(event, StageEvent::Progress { done, .. } if *done >= 300 * 32);
    assert!(matches!(room.score("other", 2, WINDOWS, stop), Err(StageError::Canceled)));
    let parts = room.path("other.scratch/parts");
    assert!(parts.join("part-00000.safetensors").exists());
    let kept = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&kept);
    room.score("other", 2, WINDOWS, move |event| {
        if matches!(event, StageEvent::Progress { detail, .. } if detail.starts_with("kept")) {
            seen.store(true, Ordering::Relaxed);
        }
        false
    })
    .expect("losses");
    assert!(kept.load(Ordering::Relaxed));
    // A part that is not whole is made again.
    let damaged = parts.join("part-00001.safetensors");
    let bytes = fs::read(&damaged).expect("a part");
    fs::remove_file(&damaged).expect("removed");
    fs::write(&damaged, &bytes[..bytes.len() - 100]).expect("a damaged part");
    for round in 0..2 {
        for name in ["part-00000", "part-00001", "part-00002", "scores"] {
            let name = if name == "scores" { "scores.json".to_owned() } else { format!("{name}.safetensors") };
            let (peace, other) = (fs::read(room.path("peace").join(&name)), fs::read(room.path("other").join(&name)));
            assert!(peace.expect("a file") == other.expect("a file"), "{name}, round {round}");
        }
        room.score("other", 1, WINDOWS, in_peace).expect("losses");
    }
}

#[test]
fn tokens_of_another_tokenizer_are_refused() {
    let mut room = Room::new(2, 32, 1);
    room.model = Path::new(MODELS).join("babyllama-char105");
    let error = room.score("no", 1, "", in_peace).expect_err("an error").to_string();
    let message = error.replace(room.model.to_str().expect("a path"), "MODEL");
    insta::assert_snapshot!(message, @r#"MODEL/tokenizer.json: the tokenizer of model `model` (BLAKE3 ed4c22b4a942…) is not the one that made `tokens` (BLAKE3 b1eb7ead6ce3…); tokenize with `tokenizer: "model"`, or choose a model with the same tokenizer"#);
}
