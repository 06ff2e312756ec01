//! The optimizer against PyTorch's: `fixtures/adamw.json` was written by `fixtures/adamw.py`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde::Deserialize;
use serde_json::json;
use twdag_stages::model::{AdamW, AdamWSettings, Config, Gradients, Model, ModelError, MomentStorage};

#[derive(Deserialize)]
struct Fixture {
    matrix: Vec<f32>,
    norm: Vec<f32>,
    rates: Vec<f64>,
    clips: Vec<f64>,
    gradients: Vec<[Vec<f32>; 2]>,
    after: Vec<[Vec<f32>; 2]>,
}

const SETTINGS: AdamWSettings =
    AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1, moments: MomentStorage::F32 };

fn model() -> Model {
    let object = json!({
        "model_type": "llama", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
        "rope_theta": 100.0, "tie_word_embeddings": true,
    });
    let config = Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap();
    Model::initialize(config, 0.2, 3)
}

#[test]
fn steps_are_those_of_pytorch() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/adamw.json")).unwrap();
    let mut model = model();
    let place = |name: &str| model.layout().tensors().iter().find(|tensor| tensor.name == name).unwrap().range.start;
    // The numbers stand at the start of a matrix, which decays, and of a norm, which does not.
    let places = [place("model.embed_tokens.weight"), place("model.norm.weight")];
    let sizes = [fixture.matrix.len(), 3];
    model.update(|parameters| {
        parameters[places[0]..places[0] + sizes[0]].copy_from_slice(&fixture.matrix);
        parameters[places[1]..places[1] + sizes[1]].copy_from_slice(&fixture.norm);
    });
    let mut optimizer = AdamW::new(&model, SETTINGS);
    let mut gradients = Gradients::zeros_like(&model);
    for step in 0..fixture.rates.len() {
        for part in 0..2 {
            let target = &mut gradients.values_mut()[places[part]..places[part] + sizes[part]];
            target.copy_from_slice(&fixture.gradients[step][part]);
        }
        optimizer.step(&mut model, &gradients, fixture.rates[step], fixture.clips[step]).unwrap();
        for part in 0..2 {
            let found = &model.parameters()[places[part]..places[part] + sizes[part]];
            for (found, expected) in found.iter().zip(&fixture.after[step][part]) {
                assert!((found - expected).abs() < 3e-7, "step {step}: found {found}, expected {expected}");
            }
        }
    }
}

fn train(model: &mut Model, optimizer: &mut AdamW, steps: std::ops::Range<u32>) {
    for step in steps {
        let ids: Vec<u32> = (0..30).map(|i| (i * 7 + step * 3) % 20).collect();
        let mut gradients = Gradients::zeros_like(model);
        let mut mean = |losses: &[f32]| Ok::<_, ModelError>(vec![1.0 / losses.len() as f32; losses.len()]);
        model.forward_backward(&ids, 2, &mut mean, &mut gradients).unwrap();
        optimizer.step(model, &gradients, 1e-2, 1.0).unwrap();
    }
}

#[test]
fn resumed_training_gives_the_same_bits() {
    let (mut whole, mut optimizer) = (model(), AdamW::new(&model(), SETTINGS));
    train(&mut whole, &mut optimizer, 0..6);

    let (mut first, mut optimizer) = (model(), AdamW::new(&model(), SETTINGS));
    train(&mut first, &mut optimizer, 0..3);
    let folder = tempfile::tempdir().unwrap();
    first.save(folder.path()).unwrap();
    optimizer.save(&folder.path().join("optimizer.safetensors")).unwrap();

    let mut second = Model::open(folder.path()).unwrap();
    let mut optimizer = AdamW::load(&folder.path().join("optimizer.safetensors"), &second, SETTINGS).unwrap();
    assert_eq!(optimizer.steps(), 3);
    train(&mut second, &mut optimizer, 3..6);
    assert_eq!(whole.parameters(), second.parameters());
}

#[test]
fn training_lowers_the_loss() {
    let mut model = model();
    let mut optimizer = AdamW::new(&model, SETTINGS);
    let ids: Vec<u32> = (0..30).map(|i| (i * 7) % 20).collect();
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let before = mean(&model.score(&ids, 1).unwrap().cross_entropy);
    for _ in 0..60 {
        train(&mut model, &mut optimizer, 0..1);
    }
    let after = model.score(&ids, 1).unwrap();
    assert!(before > 2.0 && mean(&after.cross_entropy) < 0.5, "{before} {:?}", after.cross_entropy);
    // It knows most of what it was shown.
    let right = after.argmax.iter().zip(&ids[1..]).filter(|(found, expected)| found == expected).count();
    assert!(right > 20, "{right}");
}
