//! Training of a Phi: with any number of threads the same bytes, with dropout and with a word on dropout that is left out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use std::sync::{Arc, Mutex};

use stage_support::{Room, model_folder};
use tempfile::TempDir;
use twdag_stages::{
    model::{Architecture, Companions, Config, copy_companions},
    stage::{StageError, StageEvent},
    train::{Train, TrainingStep},
};

/// A room with a Phi that asks for dropout, and tokens.
fn room() -> (Room, TempDir) {
    let original = model_folder("phi-tiny-random");
    let folder = TempDir::new().unwrap();
    let mut config = Config::read(&original).unwrap();
    config.set_other("resid_pdrop", serde_json::json!(0.1));
    copy_companions(&original, folder.path(), Companions::WeightsAndTokenizer).unwrap();
    config.write(folder.path()).unwrap();
    let room = Room::new().with("model", folder.path());
    let ids = |sequence: usize| (0..80).map(|i| ((i * i * 5 + i * 3 + 11 * sequence) % 512) as u32).collect();
    room.tokens(&(0..4).map(ids).collect::<Vec<_>>(), None);
    (room, folder)
}

fn log(room: &Room, name: &str) -> Vec<TrainingStep> {
    let text = std::fs::read_to_string(room.path(name).join("training.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_phi_is_trained_and_its_dropout_is_named() {
    let (room, _folder) = room();
    let settings = r#"(model: "model", tokens: "tokens", steps: 12, batch: 4, learning_rate: 1e-3)"#;
    let warnings = Arc::new(Mutex::new(Vec::new()));
    for (name, threads) in [("one", 1), ("eight", 8)] {
        let heard = Arc::clone(&warnings);
        let watch = move |event: &StageEvent| {
            if let StageEvent::Warning { message } = event {
                heard.lock().unwrap().push(message.clone());
            }
            false
        };
        room.run::<Train>(name, threads, settings, watch).unwrap();
    }
    let expected =
        "model `model` asks for dropout (`resid_pdrop` is 0.1 in its config.json); it is trained without".to_owned();
    assert_eq!(*warnings.lock().unwrap(), [expected.clone(), expected]);
    let log = log(&room, "one");
    assert!(log[11].loss < 0.9 * log[0].loss, "from {} to {}", log[0].loss, log[11].loss);
    assert!(room.files("one") == room.files("eight"), "other bytes with more threads");
    let trained = Config::read(&room.path("one")).unwrap();
    assert_eq!((trained.architecture, trained.dropout()), (Architecture::Phi, vec![("resid_pdrop", 0.1)]));
}

#[test]
fn a_phi_is_trained_with_dropout() {
    let (room, _folder) = room();
    let settings =
        |rest: &str| format!(r#"(model: "model", tokens: "tokens", steps: 12, batch: 4, learning_rate: 1e-3, {rest})"#);
    let silent = |event: &StageEvent| {
        assert!(!matches!(event, StageEvent::Warning { .. }), "{event:?}");
        false
    };
    room.run::<Train>("dropped", 2, &settings("dropout: 0.1"), silent).unwrap();
    room.run::<Train>("other seed", 2, &settings("dropout: 0.1, seed: 1"), silent).unwrap();
    room.run::<Train>("small", 1, &settings("dropout: 0.1, micro_batch: 1"), silent).unwrap();
    room.run::<Train>("none", 2, &settings("dropout: 0"), silent).unwrap();
    let first = |name: &str| log(&room, name)[0].loss;
    let spread = |a: f64, b: f64| ((a - b) / a).abs();
    assert!(spread(first("dropped"), first("none")) > 1e-4, "dropout shows");
    assert!(spread(first("dropped"), first("other seed")) > 1e-5, "so does its seed");
    for (small, whole) in log(&room, "small").iter().zip(log(&room, "dropped")).take(5) {
        assert!(spread(small.loss, whole.loss) < 1e-5, "{small:?} {whole:?}");
        assert!(spread(small.grad_norm, whole.grad_norm) < 1e-4, "{small:?} {whole:?}");
    }
    let course = log(&room, "dropped");
    assert!(course[11].loss < 0.9 * course[0].loss, "from {} to {}", course[0].loss, course[11].loss);
}

#[test]
fn an_interruption_does_not_change_what_is_dropped() {
    let (room, _folder) = room();
    let settings = r#"(model: "model", tokens: "tokens", steps: 6, batch: 4, dropout: 0.1, checkpoint_every: 1)"#;
    room.run::<Train>("peace", 2, settings, |_| false).unwrap();
    let stopped = room.run::<Train>(
        "other",
        1,
        settings,
        |event| matches!(event, StageEvent::Progress { done, .. } if *done >= 3),
    );
    assert!(matches!(stopped, Err(StageError::Canceled)));
    room.run::<Train>("other", 2, settings, |_| false).unwrap();
    assert!(room.files("peace") == room.files("other"));
}

#[test]
fn a_llama_has_no_dropout() {
    let room = Room::new();
    room.tokens(&[(0..40).collect()], None);
    let settings = r#"(model: "model", tokens: "tokens", steps: 1, batch: 1, dropout: 0.1)"#;
    let refused = room.run::<Train>("trained", 1, settings, |_| false).unwrap_err();
    insta::assert_snapshot!(refused, @"setting `dropout` is 0.1, expected nothing: a Llama has no residual dropout");
}
