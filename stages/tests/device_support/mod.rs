//! What the tests of the device engine share.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, unreachable_pub)]

use std::io::Write as _;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors};
use serde_json::json;
use twdag_stages::model::{Config, Model};

/// Where each test runs: on candle's CPU device, and on the first CUDA device if there is one.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    match Device::new_cuda(0) {
        Ok(device) => devices.push(device),
        Err(_) => eprintln!(
            "SKIPPED on CUDA: it needs a device, and a build with `--features cuda`; checked on the CPU device alone"
        ),
    }
    devices
}

/// The small models of every architecture with values of PyTorch (`fixtures/make_architectures.py`).
pub fn architectures() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/architectures");
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 6);
    folders
}

/// Real models; none where they are not at hand.
pub fn real_models() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models"));
    let mut found = Vec::new();
    for name in ["babyllama-char105", "stories260k", "phi-tiny-random"] {
        let folder = folder.join(name);
        if folder.exists() {
            found.push(folder);
        } else {
            writeln!(std::io::stderr(), "SKIPPED: {} is not here", folder.display()).unwrap();
        }
    }
    found
}

/// The values of PyTorch beside a model.
pub struct Expected(HashMap<String, Tensor>);

impl Expected {
    pub fn open(folder: &Path) -> Self {
        Self(safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn numbers(&self, name: &str) -> Vec<f32> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.0[name].flatten_all().unwrap().to_vec1::<i32>().unwrap().into_iter().map(|id| id as u32).collect()
    }
}

/// Token ids that repeat at no simple distance.
pub fn ids(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 7 + i * 3 + 5 + i / 11) % vocabulary) as u32).collect()
}

pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{what} {index}: found {found}, expected {expected}");
    }
}

/// A small random Llama of 37 tokens, its norms away from one.
pub fn random_llama(heads: usize, key_value_heads: usize, head_dim: usize, layers: usize, tied: bool) -> Model {
    let object = json!({
        "model_type": "llama", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_value_heads,
        "head_dim": head_dim, "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 100.0,
        "tie_word_embeddings": tied,
    });
    let config = Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap();
    let mut model = Model::initialize(config, 0.3, 7);
    let norms: Vec<_> = model.layout().tensors().iter().filter(|t| !t.decays()).map(|t| t.range.clone()).collect();
    model.update(|parameters| {
        for range in norms {
            for (index, value) in parameters[range].iter_mut().enumerate() {
                *value = 1.0 + 0.3 * (index as f32).sin();
            }
        }
    });
    model
}

/// A model's folder.
pub fn saved(model: &Model) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    folder
}
