//! Rotary embeddings and scoring against values that `transformers` computed for real checkpoints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use twdag_stages::model::{Config, Model};

fn data() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"))
}

/// A configuration with the given rotary settings, in the layout of `transformers` 5 or 4.
fn config(model: &str, rope: &Map<String, Value>, positions: usize, head_dim: usize, new_layout: bool) -> Config {
    let mut object = json!({
        "model_type": model, "vocab_size": 8, "hidden_size": head_dim, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": head_dim, "max_position_embeddings": positions,
    });
    object[if model == "phi" { "layer_norm_eps" } else { "rms_norm_eps" }] = json!(1e-5);
    if new_layout {
        object["rope_parameters"] = json!(rope);
    } else {
        let mut rope = rope.clone();
        for field in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = rope.remove(field) {
                object[field] = value;
            }
        }
        // The legacy name of the key.
        let kind = rope.remove("rope_type").unwrap();
        rope.insert("type".to_owned(), kind);
        object["rope_scaling"] = json!(rope);
    }
    Config::from_json(&PathBuf::from("config.json"), object.as_object().unwrap().clone()).unwrap()
}

#[derive(Deserialize)]
struct Case {
    model: String,
    head_dim: Option<usize>,
    rope: Map<String, Value>,
    max_position_embeddings: usize,
    seq_len: usize,
    attention_factor: f64,
    inv_freq: Vec<f64>,
}

fn frequencies_are_those_of_transformers(file: PathBuf, count: usize) {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<Case>,
    }
    let file: File = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(file.cases.len(), count);
    for case in file.cases {
        let (model, head_dim) = match (case.model.as_str(), case.head_dim) {
            // Phi-2 rotates 32 of 80 numbers.
            ("phi-2", _) => ("phi", 80),
            ("phi", Some(head_dim)) => ("phi", head_dim),
            _ => ("llama", 2 * case.inv_freq.len()),
        };
        for new_layout in [true, false] {
            let config = config(model, &case.rope, case.max_position_embeddings, head_dim, new_layout);
            assert_eq!(config.rotary_dim(), 2 * case.inv_freq.len());
            let (found, factor) = config.rope.inverse_frequencies(config.rotary_dim(), case.seq_len);
            assert!((factor - case.attention_factor).abs() < 1e-12, "{} {:?}", case.model, case.rope);
            assert_eq!(found.len(), case.inv_freq.len());
            for (found, expected) in found.iter().zip(&case.inv_freq) {
                assert!((found / expected - 1.0).abs() < 2e-6, "{} {:?}: {found} {expected}", case.model, case.rope);
            }
            // What is written means the same.
            let again = Config::from_json(&PathBuf::from("config.json"), config.to_json()).unwrap();
            assert_eq!(
                (&again.rope, again.context, again.rotary_dim()),
                (&config.rope, config.context, config.rotary_dim())
            );
        }
    }
}

#[test]
fn inverse_frequencies_are_those_of_transformers() {
    frequencies_are_those_of_transformers(data().join("reference/rope_inv_freq.json"), 20);
}

#[test]
fn longrope_is_that_of_transformers() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/longrope.json");
    frequencies_are_those_of_transformers(PathBuf::from(file), 18);
}

#[derive(Deserialize)]
struct Reference {
    input_ids: Vec<u32>,
    original_max_position_embeddings: usize,
    variants: BTreeMap<String, Variant>,
}

#[derive(Deserialize)]
struct Variant {
    rope_parameters: Map<String, Value>,
    inv_freq: Vec<f64>,
    attention_scaling: f64,
    mean_loss: f64,
    loss_by_bucket: BTreeMap<String, f64>,
    target_logprob_first16: Vec<f64>,
    target_logprob_last16: Vec<f64>,
}

fn losses_are_those_of_transformers(name: &str) {
    let folder = data().join("models").join(name);
    let text = fs::read(folder.join("reference_rope.json")).unwrap();
    let reference: Reference = serde_json::from_slice(&text).unwrap();
    assert_eq!(reference.variants.len(), 6);
    let head_dim = Config::read(&folder).unwrap().head_dim;
    for (name, variant) in reference.variants {
        let rope =
            config("llama", &variant.rope_parameters, reference.original_max_position_embeddings, head_dim, true).rope;
        let (frequencies, scaling) = rope.inverse_frequencies(head_dim, reference.input_ids.len());
        assert!((scaling - variant.attention_scaling).abs() < 1e-12, "{name}");
        for (found, expected) in frequencies.iter().zip(&variant.inv_freq) {
            assert!((found / expected - 1.0).abs() < 2e-6, "{name}: {found} {expected}");
        }
        let model = Model::open_with_rope(&folder, rope).unwrap();
        let scored = model.score(&reference.input_ids, 1).unwrap();
        let losses: Vec<f64> = scored.cross_entropy.iter().map(|loss| f64::from(*loss)).collect();
        assert_eq!(losses.len(), reference.input_ids.len() - 1);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let near = |found: f64, expected: f64, tolerance: f64, what: &str| {
            assert!((found - expected).abs() < tolerance, "{name}, {what}: found {found}, expected {expected}");
        };
        let close = |found, expected, what: &str| near(found, expected, 1e-4, what);
        close(mean(&losses), variant.mean_loss, "mean");
        for (bucket, expected) in variant.loss_by_bucket {
            let (from, to) = bucket.split_once('-').unwrap();
            close(mean(&losses[from.parse().unwrap()..to.parse().unwrap()]), expected, &bucket);
        }
        let last = &losses[losses.len() - 16..];
        for (loss, expected) in losses.iter().zip(&variant.target_logprob_first16) {
            close(-loss, *expected, "first targets");
        }
        for (loss, expected) in last.iter().zip(&variant.target_logprob_last16) {
            // The reference multiplies positions and frequencies in f32; far from the start that moves single targets.
            near(-loss, *expected, 3e-4, "last targets");
        }
    }
}

#[test]
fn losses_of_babyllama_are_those_of_transformers() {
    losses_are_those_of_transformers("babyllama-char105");
}

#[test]
fn losses_of_stories260k_are_those_of_transformers() {
    losses_are_those_of_transformers("stories260k");
}

/// theta^(-2i/d) of the models and bases of the method.
#[test]
fn inverse_frequencies_of_the_bases_of_the_method() {
    for (theta, head_dim, expected) in [
        (500_000.0, 128, [(1, 0.814617234), (32, 0.00141421356), (63, 2.45514079e-6)]),
        (15_300_000.0, 128, [(1, 0.772216712), (32, 0.000255654996), (63, 8.46387757e-8)]),
        (10_000.0, 32, [(1, 0.562341325), (8, 0.01), (15, 0.000177827941)]),
    ] {
        let rope = json!({ "rope_type": "default", "rope_theta": theta });
        let config = config("llama", rope.as_object().unwrap(), 8192, head_dim, true);
        let (found, factor) = config.rope.inverse_frequencies(config.head_dim, 8192);
        assert_eq!((found.len(), factor), (head_dim / 2, 1.0));
        for (index, expected) in expected {
            assert!((found[index] / expected - 1.0).abs() < 1e-6, "{theta}: {}, expected {expected}", found[index]);
        }
    }
}
