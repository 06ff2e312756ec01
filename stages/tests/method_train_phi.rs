//! Training of a Phi: with any number of threads the same bytes, and a word on the dropout that is left out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use std::sync::{Arc, Mutex};

use stage_support::{Room, model_folder};
use tempfile::TempDir;
use twdag_stages::{
    model::{Architecture, Companions, Config, copy_companions},
    stage::StageEvent,
    train::{Train, TrainingStep},
};

#[test]
fn a_phi_is_trained_and_its_dropout_is_named() {
    let original = model_folder("phi-tiny-random");
    let folder = TempDir::new().unwrap();
    let mut config = Config::read(&original).unwrap();
    config.set_other("resid_pdrop", serde_json::json!(0.1));
    copy_companions(&original, folder.path(), Companions::WeightsAndTokenizer).unwrap();
    config.write(folder.path()).unwrap();
    let room = Room::new().with("model", folder.path());
    let ids = |sequence: usize| (0..80).map(|i| ((i * i * 5 + i * 3 + 11 * sequence) % 512) as u32).collect();
    room.tokens(&(0..4).map(ids).collect::<Vec<_>>(), None);
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
    let text = std::fs::read_to_string(room.path("one").join("training.jsonl")).unwrap();
    let log: Vec<TrainingStep> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(log[11].loss < 0.9 * log[0].loss, "from {} to {}", log[0].loss, log[11].loss);
    assert!(room.files("one") == room.files("eight"), "other bytes with more threads");
    let trained = Config::read(&room.path("one")).unwrap();
    assert_eq!((trained.architecture, trained.dropout()), (Architecture::Phi, vec![("resid_pdrop", 0.1)]));
}
