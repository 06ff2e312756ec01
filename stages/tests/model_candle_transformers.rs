//! Our models beside those of candle-transformers, another reading of the same folders.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, phi};
use serde_json::{Value, json};
use twdag_stages::model::{Config, Model};

fn ids(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + i * 3 + 5) as u32 % 300).collect()
}

/// Logits of the id that follows those given, `[1, ids]`.
type Logits = Box<dyn FnMut(&Tensor) -> Tensor>;

/// Loss of the id that follows each of some beginnings, nats: ours, and what `open` makes of the same folder.
fn compare(object: &Value, open: impl FnOnce(&Path) -> Logits) {
    let config = Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap();
    let (folder, ids) = (tempfile::tempdir().unwrap(), ids(100));
    Model::initialize(config, 0.2, 5).save(folder.path()).unwrap();
    let ours = Model::open(folder.path()).unwrap().score(&ids, 1).unwrap().cross_entropy;
    let mut logits = open(folder.path());
    for length in [1, 2, 17, 64, 99] {
        let beginning = Tensor::new(&ids[..length], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits: Vec<f32> = logits(&beginning).flatten_all().unwrap().to_vec1().unwrap();
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let theirs = sum.ln() - f64::from(logits[ids[length] as usize]);
        let found = f64::from(ours[length - 1]);
        assert!((found - theirs).abs() < 1e-4, "after {length} ids: {found}, candle-transformers {theirs}");
    }
}

fn variables(folder: &Path) -> VarBuilder<'static> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn a_llama_is_that_of_candle_transformers() {
    let scaled = json!({
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    for (tied, scaling) in [(false, Value::Null), (true, Value::Null), (true, scaled)] {
        let object = json!({
            "model_type": "llama", "vocab_size": 300, "hidden_size": 48, "intermediate_size": 100,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 128, "rope_theta": 100.0, "rope_scaling": scaling, "tie_word_embeddings": tied,
            "bos_token_id": 1, "eos_token_id": 2,
        });
        compare(&object, |folder| {
            let config: llama::LlamaConfig = serde_json::from_value(object.clone()).unwrap();
            let config = config.into_config(false);
            let model = llama::Llama::load(variables(folder), &config).unwrap();
            Box::new(move |ids| {
                let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
                model.forward(ids, 0, &mut cache).unwrap()
            })
        });
    }
}

#[test]
fn a_phi_is_that_of_candle_transformers() {
    let object = json!({
        "model_type": "phi", "vocab_size": 300, "hidden_size": 40, "intermediate_size": 90, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "partial_rotary_factor": 0.4, "layer_norm_eps": 1e-5,
        "max_position_embeddings": 256, "rope_theta": 100.0, "tie_word_embeddings": false, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "gelu_new", "qk_layernorm": false,
    });
    compare(&object, |folder| {
        let config: phi::Config = serde_json::from_value(object.clone()).unwrap();
        let mut model = phi::Model::new(&config, variables(folder)).unwrap();
        Box::new(move |ids| {
            model.clear_kv_cache();
            model.forward(ids).unwrap()
        })
    });
}
