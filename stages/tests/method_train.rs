//! Training against PyTorch, and interrupted training against training that was left in peace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::Deserialize;
use stage_support::{Room, in_peace, stories};
use twdag_stages::{
    data::{ArrayKind, ArraySet},
    model::Model,
    registry::ron_options,
    score::Score,
    stage::{Kind as _, StageError, StageEvent},
    train::{Train, TrainingStep, learning_rate},
    weighting::{Shape, weigh, weighted_mean},
};

#[derive(Deserialize)]
struct Reference {
    ids: Vec<Vec<u32>>,
    short: Vec<Vec<f32>>,
    r#static: Vec<Vec<f32>>,
    runs: std::collections::BTreeMap<String, Vec<ReferenceStep>>,
}

#[derive(Deserialize)]
struct ReferenceStep {
    loss: f64,
    unweighted_loss: f64,
    grad_norm: f64,
    learning_rate: f64,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("fixtures/training.json")).expect("training.json")
}

/// The sequences of the reference as artifacts: `tokens`, `short` and `weights` in one folder.
fn room() -> Room {
    let room = Room::new();
    let reference = reference();
    room.tokens(&reference.ids, None);
    room.arrays("short", ArrayKind::CrossEntropy, &reference.short.concat());
    room.arrays("weights", ArrayKind::Weights, &reference.r#static.concat());
    room
}

impl Room {
    fn train(&self, name: &str, threads: usize, settings: &str, watch: impl Watch) -> Result<(), StageError> {
        self.run::<Train>(name, threads, &format!("(model: \"model\", tokens: \"tokens\", {settings})"), watch)
    }

    fn log(&self, name: &str) -> Vec<TrainingStep> {
        let text = fs::read_to_string(self.path(name).join("training.jsonl")).expect("training.jsonl");
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }
}

/// Hears every event; answers whether to ask the stage to stop.
trait Watch: Fn(&StageEvent) -> bool + Send + Sync + 'static {}

impl<F: Fn(&StageEvent) -> bool + Send + Sync + 'static> Watch for F {}

fn stop_after(steps: u64) -> impl Watch {
    move |event| matches!(event, StageEvent::Progress { done, .. } if *done == steps)
}

#[track_caller]
fn follows(found: &[TrainingStep], expected: &[ReferenceStep]) {
    assert_eq!(found.len(), expected.len());
    let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-3 * expected.abs();
    for (found, expected) in found.iter().zip(expected) {
        assert!(close(found.loss, expected.loss), "{found:?}, PyTorch {}", expected.loss);
        assert!(close(found.unweighted_loss, expected.unweighted_loss), "{found:?}, {}", expected.unweighted_loss);
        assert!(close(found.grad_norm, expected.grad_norm), "{found:?}, PyTorch {}", expected.grad_norm);
        assert!((found.learning_rate - expected.learning_rate).abs() < 1e-12, "{found:?}");
    }
}

const COMMON: &str = "steps: 20, batch: 4, learning_rate: 3e-4, warmup: 3";

#[test]
fn twenty_uniform_steps_are_those_of_pytorch() {
    let room = room();
    room.train("model", 2, COMMON, in_peace).expect("a model");
    follows(&room.log("model"), &reference().runs["uniform"]);
}

#[test]
fn static_weights_and_a_linear_schedule_are_those_of_pytorch() {
    let room = room();
    let settings = format!("{COMMON}, weighting: Static(weights: \"weights\"), schedule: Linear");
    room.train("model", 2, &settings, in_peace).expect("a model");
    follows(&room.log("model"), &reference().runs["static"]);
}

#[test]
fn frozen_scoring_is_that_of_pytorch() {
    let room = room();
    let settings = format!("{COMMON}, weighting: Frozen(short: \"short\", shape: Dense(lambda: 0.5))");
    room.train("model", 2, &settings, in_peace).expect("a model");
    follows(&room.log("model"), &reference().runs["frozen"]);
}

#[test]
fn unfrozen_scoring_is_that_of_pytorch() {
    let room = room();
    let settings = format!(
        "{COMMON}, weighting: Unfrozen(windows: (length: 32, step: 24), shape: Dense(lambda: 0.25)), micro_batch: 2"
    );
    room.train("model", 2, &settings, in_peace).expect("a model");
    follows(&room.log("model"), &reference().runs["unfrozen"]);
}

#[test]
fn focal_weights_follow_the_model_in_training() {
    let room = room();
    room.train("uniform", 2, COMMON, in_peace).expect("a model");
    room.train("zero", 2, &format!("{COMMON}, weighting: Focal(gamma: 0)"), in_peace).expect("a model");
    assert!(room.files("uniform") == room.files("zero"), "an exponent of 0 is uniform");
    room.train("two", 2, &format!("{COMMON}, weighting: Focal()"), in_peace).expect("a model");
    let (uniform, two) = (room.log("uniform"), room.log("two"));
    // Weights of at most 1 that are not brought to a mean of 1; the model of the first step is the same.
    assert_eq!(two[0].unweighted_loss, uniform[0].unweighted_loss);
    assert!(two.iter().all(|step| step.loss < step.unweighted_loss));
    let model = Model::open(&stories()).expect("a model");
    let ids = reference().ids;
    assert_eq!(ids.len(), 4, "the first step sees every sequence");
    let losses: Vec<f32> = ids.iter().flat_map(|ids| model.score(ids, 1).expect("losses").cross_entropy).collect();
    let weighted = |loss: f32| (1.0 - (-f64::from(loss)).exp()).powi(2) * f64::from(loss);
    let mean = losses.iter().map(|&loss| weighted(loss)).sum::<f64>() / losses.len() as f64;
    assert!((two[0].loss - mean).abs() < 1e-5, "{}, expected {mean}", two[0].loss);
}

/// With LongCE's windows and context, the short side of tokens up to the end of the first window is the long side.
#[test]
fn long_ce_in_training_is_that_of_its_windows() {
    let room = room();
    let windows = "windows: (length: 45, step: 20, rest: Shorter), bos: Keep";
    room.run::<Score>("own", 2, &format!("(model: \"model\", tokens: \"tokens\", {windows})"), in_peace)
        .expect("losses");
    let first = "steps: 1, batch: 4, learning_rate: 0";
    let settings = format!("{first}, weighting: Unfrozen({windows}, compat_overwrite: false, shape: LongCE(gamma: 3))");
    room.train("unfrozen", 2, &settings, in_peace).expect("a model");
    room.train("frozen", 2, &format!("{first}, weighting: Frozen(short: \"own\", shape: LongCE(gamma: 3))"), in_peace)
        .expect("a model");
    let (unfrozen, frozen) = (room.log("unfrozen"), room.log("frozen"));
    assert!((unfrozen[0].loss - frozen[0].loss).abs() < 1e-6, "{unfrozen:?} {frozen:?}");
    assert!((unfrozen[0].loss - unfrozen[0].unweighted_loss).abs() > 1e-3, "the weights are not all 1");
    let (own, model) = (ArraySet::open(&room.path("own"), ArrayKind::CrossEntropy), Model::open(&stories()));
    let (own, model) = (own.expect("losses"), model.expect("a model"));
    let mut whole = 0;
    for (sequence, ids) in reference().ids.iter().enumerate() {
        let (short, long) = (own.row(sequence).expect("a row"), model.score(ids, 1).expect("losses").cross_entropy);
        let weights = weigh(None, &Shape::LongCE { gamma: 3.0 }, &long, &short, 0).expect("weights");
        assert!(weights[..44].iter().all(|&weight| weight == 1.0), "sequence {sequence}: {weights:?}");
        whole += usize::from(weights[44..].iter().any(|&weight| weight != 1.0));
    }
    assert_eq!(whole, reference().ids.len());
}

/// With a learning rate of 0 the losses are those of the model that was given.
#[test]
fn scores_are_of_rounded_losses_on_request_and_the_loss_is_not_rounded() {
    let room = room();
    let short = ArraySet::open(&room.path("short"), ArrayKind::CrossEntropy).expect("losses");
    let model = Model::open(&stories()).expect("a model");
    let round = |losses: &[f32]| losses.iter().map(|loss| half::bf16::from_f32(*loss).to_f32()).collect::<Vec<f32>>();
    let shape = Shape::Dense { lambda: 0.25 };
    let (mut exact, mut rounded) = (Vec::new(), Vec::new());
    for (sequence, ids) in reference().ids.iter().enumerate() {
        let long = model.score(ids, 1).expect("losses").cross_entropy;
        let short = short.row(sequence).expect("a row");
        let loss = |weights: &[f32]| weighted_mean(&long, weights);
        exact.push(loss(&weigh(None, &shape, &long, &short, 0).expect("weights")));
        rounded.push(loss(&weigh(None, &shape, &round(&long), &short, 0).expect("weights")));
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((mean(&exact) - mean(&rounded)).abs() > 1e-4, "rounding does not show here");
    for (name, rounding, expected) in [("exact", "", mean(&exact)), ("rounded", "rounding: Long, ", mean(&rounded))] {
        let settings = format!(
            "steps: 1, batch: 4, learning_rate: 0, weighting: Frozen(short: \"short\", {rounding}shape: Dense(lambda: 0.25))"
        );
        room.train(name, 2, &settings, in_peace).expect("a model");
        let found = room.log(name)[0].loss;
        assert!((found - expected).abs() < 2e-6, "{name}: found {found}, expected {expected}");
    }
}

#[test]
fn small_micro_batches_have_the_gradient_of_the_batch() {
    let room = room();
    let settings = format!("{COMMON}, weighting: Frozen(short: \"short\", shape: Sparse(kappa: 0.4)), micro_batch: 1");
    room.train("small", 2, &settings, in_peace).expect("a model");
    room.train("whole", 2, &settings.replace("micro_batch: 1", "micro_batch: 4"), in_peace).expect("a model");
    for (small, whole) in room.log("small").iter().zip(room.log("whole")).take(5) {
        assert!((small.loss - whole.loss).abs() <= 1e-5 * whole.loss, "{small:?} {whole:?}");
        assert!((small.grad_norm - whole.grad_norm).abs() <= 1e-4 * whole.grad_norm, "{small:?} {whole:?}");
    }
}

const INTERRUPTED: &str = "steps: 12, batch: 3, learning_rate: 1e-3, warmup: 2, micro_batch: 1, seed: 9, \
                           checkpoint_every: 2, weighting: Unfrozen(windows: (length: 32, step: 24), shape: Sparse(kappa: 0.4))";

#[test]
fn interruption_and_threads_change_no_byte() {
    let room = room();
    room.train("peace", 1, INTERRUPTED, in_peace).expect("a model");
    assert!(matches!(room.train("other", 2, INTERRUPTED, stop_after(5)), Err(StageError::Canceled)));
    assert!(matches!(room.train("other", 2, INTERRUPTED, stop_after(8)), Err(StageError::Canceled)));
    let first = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&first);
    room.train("other", 2, INTERRUPTED, move |event: &StageEvent| {
        if let StageEvent::Progress { done, .. } = event {
            let _ = seen.compare_exchange(0, *done as usize, Ordering::Relaxed, Ordering::Relaxed);
        }
        false
    })
    .expect("a model");
    assert_eq!(first.load(Ordering::Relaxed), 9, "it goes on where it was stopped");
    assert!(room.files("peace") == room.files("other"), "other bytes");
}

/// The loss of each of twenty steps stays within 1 % of that with moments in f32, where it falls by a tenth.
#[test]
fn moments_in_eight_bits_change_little_and_resume() {
    let room = room();
    let (wide, narrow) = (format!("{COMMON}, moments: F32"), format!("{COMMON}, moments: Blockwise8"));
    room.train("wide", 2, &wide, in_peace).expect("a model");
    room.train("narrow", 1, &narrow, in_peace).expect("a model");
    let (wide, found) = (room.log("wide"), room.log("narrow"));
    assert!(wide[19].loss < 0.9 * wide[0].loss, "{wide:?}");
    for (found, wide) in found.iter().zip(&wide) {
        assert!((found.loss - wide.loss).abs() <= 0.01 * wide.loss, "{found:?}, in f32 {}", wide.loss);
    }
    assert_ne!(found[19].loss, wide[19].loss);
    assert!(matches!(room.train("again", 2, &narrow, stop_after(7)), Err(StageError::Canceled)));
    let size =
        |name: &str| fs::metadata(room.path("again.scratch/checkpoint-00000007").join(name)).expect("a file").len();
    assert!(
        size("optimizer.safetensors") * 3 < size("model.safetensors") * 2,
        "a quarter of f32, but for small tensors"
    );
    room.train("again", 2, &narrow, in_peace).expect("a model");
    assert!(room.files("narrow") == room.files("again"), "other bytes");
}

#[test]
fn a_damaged_checkpoint_is_not_used() {
    let room = room();
    room.train("peace", 2, INTERRUPTED, in_peace).expect("a model");
    assert!(room.train("other", 2, INTERRUPTED, stop_after(7)).is_err());
    let scratch = room.path("other.scratch");
    let newest = scratch.join("checkpoint-00000007/model.safetensors");
    let bytes = fs::read(&newest).expect("a checkpoint");
    fs::write(&newest, &bytes[..bytes.len() / 2]).expect("a damaged checkpoint");
    fs::create_dir(scratch.join("checkpoint.unfinished")).expect("what a killed process leaves");
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    room.train("other", 2, INTERRUPTED, move |event: &StageEvent| {
        if let StageEvent::Warning { message } = event {
            heard.lock().expect("a lock").push(message.clone());
        }
        false
    })
    .expect("a model");
    let warnings = warnings.lock().expect("a lock");
    assert!(warnings.len() == 1 && warnings[0].starts_with("the checkpoint of step 7 is damaged"), "{warnings:?}");
    assert!(room.files("peace") == room.files("other"), "other bytes");
}

#[test]
fn a_training_that_diverges_says_where() {
    let room = room();
    let settings = "steps: 50, batch: 4, learning_rate: 1e30, clip_norm: None";
    let message = room.train("model", 2, settings, in_peace).expect_err("an error").to_string();
    assert!(message.contains("training diverged: try a smaller `learning_rate`"), "{message}");
    assert!(message.starts_with("step 2: "), "{message}");
    assert!(room.files("model").is_empty());
}

#[test]
fn warm_up_of_both_conventions() {
    let settings = |more: &str| -> Train {
        let text = format!("(model: \"m\", tokens: \"t\", steps: 100, batch: 1, warmup: 20, {more})");
        ron_options().from_str(&text).expect("settings")
    };
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-15, "{found}, expected {expected}");
    let deep_speed = settings("convention: DeepSpeed");
    for (step, rate) in [(1, 0.0), (2, 0.0), (3, 1e-6), (12, 1e-5), (21, 1.9e-5), (22, 2e-5), (100, 2e-5)] {
        close(learning_rate(&deep_speed, step), rate);
    }
    let hugging_face = settings("");
    for (step, rate) in [(1, 0.0), (2, 1e-6), (11, 1e-5), (20, 1.9e-5), (21, 2e-5)] {
        close(learning_rate(&hugging_face, step), rate);
    }
}

/// One curve for each scheduler of transformers and DeepSpeed, which `fixtures/make_schedules.py` asked.
#[test]
fn schedules_are_those_of_transformers_and_deepspeed() {
    #[derive(Deserialize)]
    struct Curve {
        settings: String,
        rates: Vec<f64>,
    }
    let curves: Vec<Curve> = serde_json::from_str(include_str!("fixtures/schedules.json")).expect("schedules.json");
    assert!(curves.len() >= 12);
    for Curve { settings, rates } in curves {
        let text = format!("(model: \"m\", tokens: \"t\", batch: 1, learning_rate: 2e-5, {settings})");
        let train: Train = ron_options().from_str(&text).expect("settings");
        train.check().expect("settings");
        assert_eq!(rates.len(), train.steps);
        for (index, expected) in rates.into_iter().enumerate() {
            let found = learning_rate(&train, index + 1);
            assert!(
                (found - expected).abs() < 1e-18 + 1e-12 * expected,
                "{settings}, step {}: {found}, {expected}",
                index + 1
            );
        }
    }
}

#[test]
fn impossible_settings_are_refused() {
    let room = room();
    let refused = |settings: &str| room.train("no", 1, settings, in_peace).expect_err("an error").to_string();
    insta::assert_snapshot!(refused("steps: 0, batch: 1"), @"setting `steps` is 0, expected a number above 0");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, convention: DeepSpeed, warmup: 1"), @"setting `warmup` is 1, expected 2 or more, which is what DeepSpeed makes of smaller numbers; or `convention: HuggingFace`");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, warmup: 5, warmup_shape: Log"), @"setting `warmup_shape` is Log, expected `Linear`, the only one that transformers has; or `convention: DeepSpeed`");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, betas: (0.9, 1.0)"), @"setting `betas.1` is 1, expected a number from 0 to below 1");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, weighting: Frozen(short: \"short\", shape: Dense(lambda: 2))"), @"setting `weighting.shape.lambda` is 2, expected a number from 0 (the scores alone) to 1 (uniform weights)");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, weighting: Focal(gamma: -1)"), @"setting `weighting.gamma` is -1, expected a finite number, 0 (uniform weights) or more");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, weighting: Unfrozen(windows: (length: 32, step: 20), shape: Uniform)"), @"setting `weighting.windows.step` is 20, expected a divisor of 96, which is 128 (tokens in a sequence) - 32 (tokens in a window); the nearest: 16, 24");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, weighting: Unfrozen(windows: (length: 32, step: 32), shape: Uniform)"), @"setting `weighting.windows.step` is 32, expected 1 to 31: less than the window, or tokens are left out");
    insta::assert_snapshot!(refused("steps: 1, batch: 1, weighting: Frozen(short: \"short\", shape: Sparse(kappa: 0.001))"), @"setting `weighting.shape.kappa` is 0.001, expected at least 0.007875: of 127 targets it must keep one or more");
}
