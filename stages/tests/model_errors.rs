//! What is said about folders and calls that are wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use insta::assert_snapshot;
use serde_json::{Value, json};
use twdag_stages::model::{Config, Model, Rope};

fn fields() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 10, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "rope_theta": 100.0, "tie_word_embeddings": true,
    })
}

fn read(change: impl FnOnce(&mut Value)) -> String {
    let mut object = fields();
    change(&mut object);
    match Config::from_json(Path::new("config.json"), object.as_object().unwrap().clone()) {
        Ok(config) => format!("{config:?}"),
        Err(error) => error.to_string(),
    }
}

fn removed(field: &str) -> String {
    read(|object| drop(object.as_object_mut().unwrap().remove(field)))
}

fn set(field: &str, value: Value) -> String {
    read(|object| object[field] = value)
}

#[test]
fn configurations() {
    assert_snapshot!(removed("hidden_size"), @"config.json: field `hidden_size`: missing, expected a positive whole number");
    // The first Llamas have no such field; every reader takes it for 10000.
    assert!(removed("rope_theta").contains("rope: Default { theta: 10000.0 }"));
    assert_snapshot!(set("rope_theta", json!(0)), @"config.json: field `rope_theta`: found 0, expected a positive number");
    assert_snapshot!(set("hidden_size", json!("wide")), @r#"config.json: field `hidden_size`: found "wide", expected a positive whole number"#);
    assert_snapshot!(set("hidden_size", json!(0)), @"config.json: field `hidden_size`: found 0, expected a positive whole number");
    assert_snapshot!(set("rms_norm_eps", json!(-1)), @"config.json: field `rms_norm_eps`: found -1, expected a positive number");
    assert_snapshot!(set("model_type", json!("gpt2")), @r#"config.json: field `model_type`: found "gpt2", "llama" and "phi" are supported"#);
    assert_snapshot!(removed("model_type"), @r#"config.json: field `model_type`: missing; "llama" and "phi" are supported"#);
    assert_snapshot!(set("model_type", json!("phi")), @r#"config.json: field `architectures`: found ["LlamaForCausalLM"], only ["PhiForCausalLM"] is supported"#);
    assert_snapshot!(set("architectures", json!(["LlamaForSequenceClassification"])), @r#"config.json: field `architectures`: found ["LlamaForSequenceClassification"], only ["LlamaForCausalLM"] is supported"#);
    assert_snapshot!(set("attention_bias", json!("no")), @r#"config.json: field `attention_bias`: found "no", expected true or false"#);
    assert_snapshot!(set("partial_rotary_factor", json!(0.5)), @"config.json: field `partial_rotary_factor`: found 0.5, only 1.0 is supported");
    assert_snapshot!(set("quantization_config", json!({"bits": 4})), @"config.json: field `quantization_config`: quantised models are not supported");
    assert_snapshot!(set("hidden_act", json!("gelu")), @r#"config.json: field `hidden_act`: found "gelu", only "silu" is supported"#);
    assert_snapshot!(set("num_attention_heads", json!(3)), @"config.json: field `head_dim`: missing, and 8 is no multiple of 3 heads");
    assert_snapshot!(set("num_key_value_heads", json!(4)), @"config.json: field `num_key_value_heads`: found 4, expected a divisor of the 2 attention heads");
    assert_snapshot!(set("tie_word_embeddings", json!("yes")), @r#"config.json: field `tie_word_embeddings`: found "yes", expected true or false"#);
    assert_snapshot!(set("eos_token_id", json!("</s>")), @r#"config.json: field `eos_token_id`: found "</s>", expected a token id or a list of them"#);
    assert_snapshot!(set("rope_scaling", json!({"rope_type": "proportional", "factor": 4.0})), @r#"config.json: field `rope_scaling.rope_type`: found "proportional", expected one of default, linear, dynamic, yarn, llama3, longrope"#);
    assert_snapshot!(set("rope_scaling", json!({"rope_type": "longrope", "factor": 4.0})), @"config.json: field `rope_scaling.short_factor`: missing, expected a list of 2 positive numbers, one for each pair that is rotated");
    assert_snapshot!(set("rope_scaling", json!({"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0]})), @"config.json: field `rope_scaling.long_factor`: found 1 numbers, expected a list of 2 positive numbers, one for each pair that is rotated");
    assert_snapshot!(set("rope_scaling", json!({"rope_type": "longrope", "short_factor": [1.0, -1.0], "long_factor": [1.0, 1.0]})), @"config.json: field `rope_scaling.short_factor`: found [1.0,-1.0], expected a list of 2 positive numbers, one for each pair that is rotated");
    assert_snapshot!(set("rope_scaling", json!({"type": "linear"})), @"config.json: field `rope_scaling.factor`: missing, expected a positive number");
    assert_snapshot!(set("rope_scaling", json!({"factor": 4.0})), @"config.json: field `rope_scaling.rope_type`: missing, expected the name of a scaling method");
    assert_snapshot!(set("rope_scaling", json!(4)), @"config.json: field `rope_scaling`: found 4, expected an object");
    assert_snapshot!(set("rope_parameters", json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 4.0})), @"config.json: field `rope_parameters.low_freq_factor`: missing, expected a positive number");
}

#[test]
fn configurations_of_phi() {
    let phi = |field: &str, value: Value| {
        read(|object| {
            object["model_type"] = json!("phi");
            object["architectures"] = json!(["PhiForCausalLM"]);
            object["layer_norm_eps"] = json!(1e-5);
            object[field] = value;
        })
    };
    assert!(phi("partial_rotary_factor", Value::Null).contains("partial_rotary_factor: 0.5"));
    assert_snapshot!(phi("partial_rotary_factor", json!(0.3)), @"config.json: field `partial_rotary_factor`: found 0.3, which rotates 1 of 4 numbers of a head, expected an even number of them");
    assert_snapshot!(phi("partial_rotary_factor", json!(1.5)), @"config.json: field `partial_rotary_factor`: found 1.5, 1.0 at most is supported");
    assert_snapshot!(read(|object| {
        object["rope_theta"] = Value::Null;
        object["rope_parameters"] = json!({"rope_type": "default"});
    }), @"config.json: field `rope_parameters.rope_theta`: missing, expected a positive number");
    assert_snapshot!(phi("qk_layernorm", json!(true)), @"config.json: field `qk_layernorm`: found true, only false is supported");
    assert_snapshot!(phi("hidden_act", json!("gelu")), @r#"config.json: field `hidden_act`: found "gelu", only "gelu_new" is supported"#);
    assert_snapshot!(phi("layer_norm_eps", Value::Null), @"config.json: field `layer_norm_eps`: missing, expected a positive number");
    assert_snapshot!(phi("architectures", json!(["LlamaForCausalLM"])), @r#"config.json: field `architectures`: found ["LlamaForCausalLM"], only ["PhiForCausalLM"] is supported"#);
}

/// Opens a model folder whose tensors were changed.
fn open(change: impl FnOnce(&mut HashMap<String, Tensor>, &Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::from_json(Path::new("config.json"), fields().as_object().unwrap().clone()).unwrap();
    Model::initialize(config, 0.1, 1).save(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    fs::remove_file(&path).unwrap();
    change(&mut tensors, &path);
    if !path.exists() && !tensors.is_empty() {
        candle_core::safetensors::save(&tensors, &path).unwrap();
    }
    let message = match Model::open(folder.path()) {
        Ok(model) => format!("a model with {} parameters", model.parameters().len()),
        Err(error) => error.to_string(),
    };
    message.replace(&folder.path().display().to_string(), "MODEL")
}

const NAME: &str = "model.layers.0.mlp.up_proj.weight";

#[test]
fn checkpoints() {
    assert_snapshot!(open(|_, _| ()), @"a model with 648 parameters");
    assert_snapshot!(open(|tensors, _| tensors.clear()), @"read MODEL/model.safetensors: No such file or directory (os error 2)");
    assert_snapshot!(open(|tensors, _| drop(tensors.remove(NAME))), @"MODEL/model.safetensors: tensor `model.layers.0.mlp.up_proj.weight`: missing");
    assert_snapshot!(open(|tensors, _| drop(tensors.insert("extra".to_owned(), tensors[NAME].clone()))), @"MODEL/model.safetensors: tensor `extra`: not a tensor of this architecture; `config.json` belongs to another model");
    assert_snapshot!(open(|tensors, _| {
        let turned = tensors[NAME].t().unwrap().contiguous().unwrap();
        tensors.insert(NAME.to_owned(), turned);
    }), @"MODEL/model.safetensors: tensor `model.layers.0.mlp.up_proj.weight`: found shape [8, 12], expected [12, 8]");
    assert_snapshot!(open(|tensors, _| {
        let wide = tensors[NAME].to_dtype(DType::F64).unwrap();
        tensors.insert(NAME.to_owned(), wide);
    }), @"MODEL/model.safetensors: tensor `model.layers.0.mlp.up_proj.weight`: found F64, expected F32, BF16 or F16");
    assert_snapshot!(open(|tensors, _| {
        let broken = (&tensors[NAME] / 0.0).unwrap();
        tensors.insert(NAME.to_owned(), broken);
    }), @"MODEL/model.safetensors: tensor `model.layers.0.mlp.up_proj.weight`: found inf at number 0, expected finite numbers");
    assert_snapshot!(open(|tensors, path| {
        candle_core::safetensors::save(tensors, path).unwrap();
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
    }), @"MODEL/model.safetensors: tensor `model.layers.0.self_attn.v_proj.weight`: ends at byte 3600 of the file, which has 3532: it was cut short; download or write it again");
    assert_snapshot!(open(|_, path| fs::write(path, "not tensors").unwrap()), @"MODEL/model.safetensors: not a whole safetensors file (header too large); download or write it again");
}

/// A configuration that asks for far more than the weights beside it must not cost the memory it asks for.
#[test]
fn configurations_that_belong_to_other_weights() {
    let with = |field: &str, value: u64| {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::from_json(Path::new("config.json"), fields().as_object().unwrap().clone()).unwrap();
        Model::initialize(config, 0.1, 1).save(folder.path()).unwrap();
        let mut object = fields();
        object[field] = json!(value);
        fs::write(folder.path().join("config.json"), object.to_string()).unwrap();
        Model::open(folder.path()).unwrap_err().to_string().replace(&folder.path().display().to_string(), "MODEL")
    };
    assert_snapshot!(with("vocab_size", 1 << 39), @"MODEL/model.safetensors: tensor `model.embed_tokens.weight`: found shape [10, 8], expected [549755813888, 8]");
    assert_snapshot!(with("hidden_size", 1 << 39), @"MODEL/model.safetensors: tensor `model.embed_tokens.weight`: found shape [10, 8], expected [10, 549755813888]");
    assert_snapshot!(with("num_hidden_layers", 1 << 39), @"MODEL/config.json: field `num_hidden_layers`: found 549755813888, but all weights together are 11 tensors");
    assert_snapshot!(with("num_hidden_layers", 2), @"MODEL/model.safetensors: tensor `model.layers.1.input_layernorm.weight`: missing");
}

#[test]
fn half_precision_is_widened() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::from_json(Path::new("config.json"), fields().as_object().unwrap().clone()).unwrap();
    let model = Model::initialize(config, 0.1, 1);
    model.save(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    for (dtype, error) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)] {
        let half: HashMap<_, _> = tensors.iter().map(|(n, t)| (n.clone(), t.to_dtype(dtype).unwrap())).collect();
        candle_core::safetensors::save(&half, &path).unwrap();
        let opened = Model::open(folder.path()).unwrap();
        for (found, expected) in opened.parameters().iter().zip(model.parameters()) {
            assert!((found - expected).abs() <= expected.abs() * error + 1e-7, "{dtype:?}: {found} {expected}");
        }
    }
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let message = |text: &str| {
        fs::write(folder.path().join("config.json"), text).unwrap();
        Model::open(folder.path()).unwrap_err().to_string().replace(&folder.path().display().to_string(), "MODEL")
    };
    assert_snapshot!(message("{\n  \"model_type\": llama\n}"), @"MODEL/config.json: not a JSON object: expected value at line 2 column 17");
    assert_snapshot!(message("[]"), @"MODEL/config.json: not a JSON object: found []");
    assert_snapshot!(Model::open(Path::new("no/such/folder")).unwrap_err(), @"read no/such/folder/config.json: No such file or directory (os error 2)");
}

#[test]
fn calls() {
    let config = Config::from_json(Path::new("config.json"), fields().as_object().unwrap().clone()).unwrap();
    let model = Model::initialize(config, 0.1, 1);
    assert_snapshot!(model.score(&[1, 2, 3, 4, 5, 10], 2).unwrap_err(), @"token 10 at sequence 1, position 2 is outside the model's vocabulary of 10; the tokens were made with another tokenizer");
    assert_snapshot!(model.score(&[1, 2, 3], 2).unwrap_err(), @"number of token ids: found 3, expected a positive multiple of the 2 sequences");
    assert_snapshot!(model.score(&[], 0).unwrap_err(), @"number of token ids: found 0, expected a positive multiple of the 0 sequences");
    let long_rope = |factors: Vec<f64>| Rope::LongRope {
        theta: 100.0,
        original_context: 8,
        context: 16,
        short_factors: vec![1.0, 1.0],
        long_factors: factors,
        attention_factor: None,
    };
    let with = |factors| {
        let config = Config::from_json(Path::new("config.json"), fields().as_object().unwrap().clone()).unwrap();
        Model::initialize(config, 0.1, 1).with_rope(long_rope(factors))
    };
    assert_snapshot!(with(vec![1.0]).unwrap_err(), @"`long_factors` of the rotary embedding: found [1.0], expected 2 positive numbers, one for each pair that the model rotates");
    assert_snapshot!(with(vec![1.0, f64::NAN]).unwrap_err(), @"`long_factors` of the rotary embedding: found [1.0, NaN], expected 2 positive numbers, one for each pair that the model rotates");
    assert_snapshot!(with(vec![1.0, 2.0]).unwrap().score(&[1; 17], 1).unwrap_err(), @"found sequences of 17 tokens, expected 16 at most: the model's LongRoPE factors end there");
    // Longer than the context is the caller's decision; one token has no target.
    assert_eq!(model.score(&[1; 100], 1).unwrap().cross_entropy.len(), 99);
    assert_eq!(model.score(&[1, 2], 2).unwrap().cross_entropy.len(), 0);
}
