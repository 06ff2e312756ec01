//! Gradients against an independent form of the model, written with candle's plain differentiable operations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use candle_core::{D, Device, Tensor, Var};
use candle_nn::{ops, rotary_emb::rope_slow};
use serde_json::json;
use twdag_stages::model::{Config, Gradients, Model, ModelError};

fn model(heads: usize, key_value_heads: usize, head_dim: usize, layers: usize, tied: bool) -> Model {
    model_with_vocabulary(37, heads, key_value_heads, head_dim, layers, tied)
}

fn model_with_vocabulary(
    vocabulary: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    layers: usize,
    tied: bool,
) -> Model {
    let object = json!({
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_value_heads,
        "head_dim": head_dim, "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 100.0,
        "tie_word_embeddings": tied,
    });
    let config = Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap();
    let mut model = Model::initialize(config, 0.3, 7);
    // Norms away from one, so that a forgotten weight shows.
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

fn ids(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 7 + i * 3 + 5) % vocabulary) as u32).collect()
}

/// Cross entropies `[batch, length - 1]` by plain operations that candle can differentiate.
fn oracle(model: &Model, variables: &BTreeMap<String, Var>, ids: &[u32], batch: usize) -> candle_core::Result<Tensor> {
    let config = model.config();
    let (length, device) = (ids.len() / batch, Device::Cpu);
    let get = |name: &str| variables[name].as_tensor().clone();
    let linear = |x: &Tensor, name: &str| x.broadcast_matmul(&get(name).t()?);
    let epsilon = config.norm_epsilon as f32;
    let norm = |x: &Tensor, name: &str| ops::rms_norm_slow(x, &get(name), epsilon);
    let (frequencies, scaling) = config.rope.inverse_frequencies(config.head_dim, length);
    let angles: Vec<f64> = (0..length).flat_map(|t| frequencies.iter().map(move |f| t as f64 * f)).collect();
    let table = |f: fn(f64) -> f64| {
        let values: Vec<f32> = angles.iter().map(|angle| (f(*angle) * scaling) as f32).collect();
        Tensor::from_vec(values, (length, config.head_dim / 2), &device)
    };
    let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
    let mask: Vec<f32> =
        (0..length * length).map(|i| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (length, length), &device)?;
    let all = Tensor::from_slice(ids, batch * length, &device)?;
    let mut x = get("model.embed_tokens.weight").index_select(&all, 0)?.reshape((batch, length, config.hidden_size))?;
    for layer in 0..config.layers {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
        let y = norm(&x, &name("input_layernorm"))?;
        let heads = |rest: &str, count: usize| {
            linear(&y, &name(rest))?.reshape((batch, length, count, config.head_dim))?.transpose(1, 2)?.contiguous()
        };
        let repeat = |x: Tensor| {
            let group = config.heads / config.key_value_heads;
            let shape = (batch, config.key_value_heads, group, length, config.head_dim);
            x.unsqueeze(2)?.broadcast_as(shape)?.reshape((batch, config.heads, length, config.head_dim))
        };
        let q = rope_slow(&heads("self_attn.q_proj", config.heads)?, &cos, &sin)?;
        let k = repeat(rope_slow(&heads("self_attn.k_proj", config.key_value_heads)?, &cos, &sin)?)?;
        let v = repeat(heads("self_attn.v_proj", config.key_value_heads)?)?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (config.head_dim as f64).sqrt())?;
        let p = ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        let y = p.matmul(&v.contiguous()?)?.transpose(1, 2)?.reshape((batch, length, ()))?;
        x = (x + linear(&y, &name("self_attn.o_proj"))?)?;
        let y = norm(&x, &name("post_attention_layernorm"))?;
        let gate = linear(&y, &name("mlp.gate_proj"))?.silu()?;
        x = (x + linear(&(gate * linear(&y, &name("mlp.up_proj"))?)?, &name("mlp.down_proj"))?)?;
    }
    let x = norm(&x, "model.norm.weight")?;
    let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let log_p = ops::log_softmax(&linear(&x, head)?, D::Minus1)?.narrow(1, 0, length - 1)?.contiguous()?;
    let targets = Tensor::from_slice(ids, (batch, length), &device)?.narrow(1, 1, length - 1)?.contiguous()?;
    log_p.gather(&targets.unsqueeze(2)?, 2)?.squeeze(2)?.neg()
}

/// Weights of the targets' losses: uneven, some zero.
fn weights(count: usize) -> Vec<f32> {
    (0..count).map(|i| [0.01, 0.0, 0.03, 0.005, 0.02][i % 5]).collect()
}

fn check(model: &Model, length: usize, batch: usize) {
    let ids = ids(length * batch, model.config().vocab_size);
    let mut gradients = Gradients::zeros_like(model);
    let mut coefficients = |losses: &[f32]| Ok::<_, ModelError>(weights(losses.len()));
    let losses = model.forward_backward(&ids, batch, &mut coefficients, &mut gradients).unwrap();
    let scored = model.score(&ids, batch).unwrap();
    assert_eq!(losses, scored.cross_entropy);

    let variables: BTreeMap<String, Var> = model
        .layout()
        .tensors()
        .iter()
        .map(|t| {
            let tensor = Tensor::from_slice(model.tensor(&t.name).unwrap(), t.shape.as_slice(), &Device::Cpu).unwrap();
            (t.name.clone(), Var::from_tensor(&tensor).unwrap())
        })
        .collect();
    let expected = oracle(model, &variables, &ids, batch).unwrap();
    let weighted = Tensor::from_vec(weights(losses.len()), (batch, length - 1), &Device::Cpu).unwrap();
    let store = (&expected * &weighted).unwrap().sum_all().unwrap().backward().unwrap();
    for (found, expected) in losses.iter().zip(expected.flatten_all().unwrap().to_vec1::<f32>().unwrap()) {
        assert!((found - expected).abs() < 2e-5 * expected.max(1.0), "loss {found}, expected {expected}");
    }
    for tensor in model.layout().tensors() {
        let found = gradients.tensor(&tensor.name).unwrap();
        let expected = store.get(&variables[&tensor.name]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let size = norm(&mut expected.iter().copied());
        let distance = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        assert!(size > 1e-6, "{} has no gradient", tensor.name);
        assert!(distance <= 1e-4 * size, "{}: off by {distance:e} of {size:e}", tensor.name);
    }

    // A second call adds.
    let once = gradients.clone();
    model.forward_backward(&ids, batch, &mut coefficients, &mut gradients).unwrap();
    let mut once_more = gradients.clone();
    once_more.scale(0.5);
    assert!((once_more.global_norm() / once.global_norm() - 1.0).abs() < 1e-6);
}

#[test]
fn tied_model_with_shared_key_heads() {
    check(&model(6, 2, 4, 2, true), 11, 3);
}

#[test]
fn untied_model_with_wide_heads_over_several_blocks() {
    check(&model(2, 2, 16, 2, false), 150, 2);
}

#[test]
fn model_with_one_key_head_over_many_blocks() {
    check(&model(3, 1, 8, 1, true), 700, 1);
}

/// The output layer goes through 512 ids at a time.
#[test]
fn vocabularies_of_several_pieces() {
    for vocabulary in [512, 1100] {
        check(&model_with_vocabulary(vocabulary, 2, 1, 8, 1, true), 100, 1);
    }
}

#[test]
fn lengths_around_a_block() {
    let model = model(4, 2, 6, 1, false);
    for length in [3, 63, 64, 65, 128, 129] {
        check(&model, length, 2);
    }
}

#[test]
fn gradient_is_the_slope_of_the_loss() {
    // Along the gradient the loss must change by its squared length: a check that shares no formula with the oracle.
    let model = model(4, 2, 6, 2, true);
    let ids = ids(2 * 70, 37);
    let mut gradients = Gradients::zeros_like(&model);
    let mut coefficients = |losses: &[f32]| Ok::<_, ModelError>(weights(losses.len()));
    let losses = model.forward_backward(&ids, 2, &mut coefficients, &mut gradients).unwrap();
    let weights = weights(losses.len());
    let length = gradients.global_norm();
    let loss = |step: f64| {
        let mut moved = self::model(4, 2, 6, 2, true);
        moved.update(|parameters| {
            for (parameter, gradient) in parameters.iter_mut().zip(gradients.values()) {
                *parameter += (step * f64::from(*gradient) / length) as f32;
            }
        });
        let losses = moved.score(&ids, 2).unwrap().cross_entropy;
        losses.iter().zip(&weights).map(|(loss, weight)| f64::from(*loss) * f64::from(*weight)).sum::<f64>()
    };
    let step = 2e-3;
    let slope = (loss(step) - loss(-step)) / (2.0 * step);
    assert!((slope / length - 1.0).abs() < 1e-3, "slope {slope}, gradient {length}");
}

/// Weighted cross entropy of logits [[0, 0], [ln 3, 0]] and labels [0, 1] with weights [0.5, 1.5]: the gradient of the
/// logits is [[-0.125, 0.125], [0.5625, -0.5625]].
#[test]
fn gradients_of_logits_that_are_known() {
    let object = json!({
        "model_type": "llama", "vocab_size": 2, "hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "rms_norm_eps": 1e-12,
        "max_position_embeddings": 8, "rope_theta": 100.0, "tie_word_embeddings": false,
    });
    let config = Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap();
    let mut model = Model::initialize(config, 0.3, 7);
    let tensors: Vec<_> = model.layout().tensors().iter().map(|t| (t.name.clone(), t.range.clone())).collect();
    let root = 2f32.sqrt();
    model.update(|parameters| {
        for (name, range) in tensors {
            // Layers that add nothing, so that the normalized embeddings are what the output layer sees.
            let values = match name.as_str() {
                "model.embed_tokens.weight" => vec![root, 0.0, 0.0, root],
                "lm_head.weight" => vec![3f32.ln() / root, 0.0, 0.0, 0.0],
                "model.norm.weight" => vec![1.0; 2],
                _ => vec![0.0; range.len()],
            };
            parameters[range].copy_from_slice(&values);
        }
    });
    let (ids, weights) = ([1, 0, 1], [0.5f32, 1.5]);
    let mut gradients = Gradients::zeros_like(&model);
    let losses = model
        .forward_backward::<ModelError>(
            &ids,
            1,
            &mut |_| Ok(weights.map(|weight| weight / 2.0).to_vec()),
            &mut gradients,
        )
        .unwrap();
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    close(f64::from(losses[0]), 2f64.ln());
    close(f64::from(losses[1]), 4f64.ln());
    close(twdag_stages::weighting::weighted_mean(&losses, &weights), 1.2130075660);
    // Row v, column c of the gradient of the output layer is that of logit v at the token whose embedding is root * e_c:
    // token 1 stands first, token 0 second.
    let head = gradients.tensor("lm_head.weight").unwrap();
    for (place, expected) in [-0.125, 0.125, 0.5625, -0.5625].into_iter().enumerate() {
        let (row, column) = (place % 2, 1 - place / 2);
        close(f64::from(head[row * 2 + column] / root), expected);
    }
}
