//! Training of an adapter against PEFT, its interruption, and what merging makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use std::{fs, path::Path};

use serde::Deserialize;
use stage_support::{Room, in_peace, model_folder, stories};
use twdag_stages::{
    data::{ArrayKind, ArraySet},
    merge_adapter::MergeAdapter,
    model::{Adapter, Model},
    score::Score,
    stage::{StageError, StageEvent},
    train::{Train, TrainingStep},
};

#[derive(Deserialize)]
struct Sequences {
    ids: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct ReferenceStep {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
}

fn room() -> Room {
    let room = Room::new();
    let sequences: Sequences = serde_json::from_str(include_str!("fixtures/training.json")).expect("training.json");
    room.tokens(&sequences.ids, None);
    room
}

impl Room {
    fn train(
        &self,
        name: &str,
        threads: usize,
        settings: &str,
        watch: impl Fn(&StageEvent) -> bool + Send + Sync + 'static,
    ) -> Result<(), StageError> {
        self.run::<Train>(name, threads, &format!("(model: \"model\", tokens: \"tokens\", {settings})"), watch)
    }

    fn log(&self, name: &str) -> Vec<TrainingStep> {
        let text = fs::read_to_string(self.path(name).join("training.jsonl")).expect("training.jsonl");
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }

    fn merge(&self, name: &str, adapter: &str) -> Result<(), StageError> {
        self.run::<MergeAdapter>(name, 2, &format!("(model: \"model\", adapter: \"{adapter}\")"), in_peace)
    }
}

const START: &str = "steps: 1, batch: 4, learning_rate: 0, seed: 5, lora: (rank: 4, alpha: 6)";

/// The fixture is what training wrote here before its first step; PEFT read it as it was.
#[test]
fn twenty_steps_are_those_of_peft() {
    let room = room();
    room.train("start", 1, START, in_peace).expect("an adapter");
    let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lora_start"));
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let (found, expected) = (fs::read(room.path("start").join(file)), fs::read(fixtures.join(file)));
        assert!(found.expect("a file") == expected.expect("a fixture"), "{file}: training starts elsewhere");
    }
    let settings = START.replace("steps: 1,", "steps: 20, warmup: 3,").replace("rate: 0,", "rate: 3e-3,");
    room.train("adapter", 2, &settings, in_peace).expect("an adapter");
    let expected: Vec<ReferenceStep> = serde_json::from_str(include_str!("fixtures/lora.json")).expect("lora.json");
    let found = room.log("adapter");
    assert_eq!(found.len(), expected.len());
    let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-3 * expected.abs();
    for (found, expected) in found.iter().zip(&expected) {
        assert!(close(found.loss, expected.loss), "{found:?}, PEFT {}", expected.loss);
        assert!(close(found.grad_norm, expected.grad_norm), "{found:?}, PEFT {}", expected.grad_norm);
        assert!((found.learning_rate - expected.learning_rate).abs() < 1e-12, "{found:?}");
    }
    assert!(expected[19].loss < 0.95 * expected[0].loss, "the steps do something");
}

const INTERRUPTED: &str = "steps: 9, batch: 3, learning_rate: 1e-2, warmup: 2, micro_batch: 1, seed: 9, \
                           lora: (rank: 2, alpha: 4, rslora: true, targets: [\"q_proj\", \"down_proj\"]), \
                           weighting: Unfrozen(windows: (length: 32, step: 24), shape: Sparse(kappa: 0.4))";

#[test]
fn interruption_and_threads_change_no_byte() {
    let room = room();
    let stop =
        |steps: u64| move |event: &StageEvent| matches!(event, StageEvent::Progress { done, .. } if *done == steps);
    room.train("peace", 1, INTERRUPTED, in_peace).expect("an adapter");
    assert!(matches!(room.train("other", 2, INTERRUPTED, stop(3)), Err(StageError::Canceled)));
    assert!(matches!(room.train("other", 2, INTERRUPTED, stop(6)), Err(StageError::Canceled)));
    let scratch = room.path("other.scratch");
    let size = |path: &Path| fs::metadata(path).expect("a file").len();
    let newest = scratch.join("checkpoint-00000006");
    assert!(!newest.join("model.safetensors").exists(), "a checkpoint holds nothing of the frozen model");
    assert!(size(&newest.join("optimizer.safetensors")) < size(&stories().join("model.safetensors")) / 4);
    // A damaged checkpoint gives way to the one before.
    fs::write(newest.join("adapter_model.safetensors"), b"").expect("a damaged checkpoint");
    room.train("other", 2, INTERRUPTED, in_peace).expect("an adapter");
    assert!(room.files("peace") == room.files("other"), "other bytes");
}

#[test]
fn layers_that_are_computed_again_change_no_byte() {
    let room = room();
    for (name, more) in [("keep", "activations: Keep"), ("again", "activations: Recompute")] {
        room.train(name, 2, &format!("{INTERRUPTED}, {more}"), in_peace).expect("an adapter");
    }
    assert!(room.files("keep") == room.files("again"), "other bytes");
}

#[test]
fn a_merged_adapter_is_a_model_for_other_stages() {
    let room = room();
    let settings = "steps: 6, batch: 4, learning_rate: 1e-2, lora: (rank: 4, alpha: 8)";
    room.train("adapter", 2, settings, in_peace).expect("an adapter");
    room.merge("merged", "adapter").expect("a model");

    let mut model = Model::open(&stories()).expect("a model");
    let untouched = model.parameters().to_vec();
    let adapter = Adapter::open(&room.path("adapter"), model.layout()).expect("an adapter");
    model.set_adapter(adapter).expect("its model");
    let merged = Model::open(&room.path("merged")).expect("a model");
    assert_ne!(merged.parameters(), untouched);
    room.run::<Score>("losses", 2, "(model: \"merged\", tokens: \"tokens\")", in_peace).expect("losses");
    let losses = ArraySet::open(&room.path("losses"), ArrayKind::CrossEntropy).expect("losses");
    let sequences: Sequences = serde_json::from_str(include_str!("fixtures/training.json")).expect("training.json");
    for (sequence, ids) in sequences.ids.iter().enumerate() {
        let beside = model.score(ids, 1).expect("losses").cross_entropy;
        for (merged, beside) in losses.row(sequence).expect("a row").iter().zip(beside) {
            assert!((merged - beside).abs() < 1e-4, "merged {merged}, beside the weights {beside}");
        }
    }
    room.run::<Train>("more", 2, "(model: \"merged\", tokens: \"tokens\", steps: 1, batch: 4)", in_peace)
        .expect("a model");

    // An adapter alone is no model, and it fits one model only.
    let alone = room.run::<Score>("no", 2, "(model: \"adapter\", tokens: \"tokens\")", in_peace).expect_err("an error");
    let hide = |error: StageError| error.to_string().replace(&room.path("").display().to_string(), "ROOM/");
    insta::assert_snapshot!(hide(alone), @"ROOM/adapter/adapter_config.json: found an adapter alone, expected a whole model; put the stage `MergeAdapter(model: …, adapter: …)` between");
    let elsewhere =
        room.run::<MergeAdapter>("no", 2, "(model: \"more\", adapter: \"adapter\")", in_peace).expect_err("an error");
    insta::assert_snapshot!(hide(elsewhere), @"ROOM/adapter/base_model.json: the adapter was trained beside another model: `config.json` differs from that in ROOM/more; merge it into the model that its training started from");
}

#[test]
fn impossible_settings_are_refused() {
    let room = room().with("phi", model_folder("phi-tiny-random"));
    let refused = |lora: &str| {
        let settings = format!("steps: 1, batch: 1, lora: {lora}");
        room.train("no", 1, &settings, in_peace).expect_err("an error").to_string()
    };
    insta::assert_snapshot!(refused("(rank: 0, alpha: 1)"), @"setting `lora.rank` is 0, expected a number above 0");
    insta::assert_snapshot!(refused("(rank: 1000000000000, alpha: 1)"), @"setting `lora.rank` is 1000000000000, expected at most 172, the width of the widest matrix");
    insta::assert_snapshot!(refused("(rank: 1, alpha: 0)"), @"setting `lora.alpha` is 0, expected a finite number above 0");
    insta::assert_snapshot!(refused("(rank: 1, alpha: 1, targets: [\"q_proj\", \"up_porj\"])"), @"setting `lora.targets.1` is up_porj, expected one of the matrices in the model's blocks: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`, `dense`, `fc1`, `fc2`; did you mean `up_proj`?");
    insta::assert_snapshot!(refused("(rank: 1, alpha: 1, targets: [\"lm_head\"])"), @"setting `lora.targets.0` is lm_head, expected one of the matrices in the model's blocks: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`, `dense`, `fc1`, `fc2`");
    // A matrix of another architecture.
    insta::assert_snapshot!(refused("(rank: 1, alpha: 1, targets: [\"fc1\"])"), @"setting `lora.targets.0` is fc1, expected one of the matrices in the model's blocks: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`");
}
