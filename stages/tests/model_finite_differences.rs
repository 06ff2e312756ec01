//! Gradients against finite differences in f64: the loss of both architectures is written down here once more, in plain
//! f64 arithmetic, and the slope of that along random directions of each tensor is what the gradient says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeMap, f64::consts::PI, path::Path};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use twdag_stages::model::{Architecture, Config, Gradients, Model};

type Weights = BTreeMap<String, Vec<f64>>;

/// Rows of some width.
#[derive(Clone)]
struct Rows {
    width: usize,
    values: Vec<f64>,
}

impl Rows {
    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks(self.width)
    }

    fn map(&self, row: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        let values: Vec<f64> = self.rows().flat_map(row).collect();
        Self { width: values.len() / (self.values.len() / self.width), values }
    }

    fn plus(&self, other: &Self) -> Self {
        Self { width: self.width, values: self.values.iter().zip(&other.values).map(|(a, b)| a + b).collect() }
    }
}

struct Form<'a> {
    config: &'a Config,
    weights: &'a Weights,
}

impl Form<'_> {
    fn linear(&self, x: &Rows, name: &str) -> Rows {
        let (weight, bias) = (&self.weights[&format!("{name}.weight")], self.weights.get(&format!("{name}.bias")));
        x.map(|row| {
            let products = weight.chunks(row.len()).map(|w| w.iter().zip(row).map(|(w, x)| w * x).sum::<f64>());
            products.enumerate().map(|(index, sum)| sum + bias.map_or(0.0, |bias| bias[index])).collect()
        })
    }

    fn norm(&self, x: &Rows, name: &str) -> Rows {
        let (weight, bias) = (&self.weights[&format!("{name}.weight")], self.weights.get(&format!("{name}.bias")));
        let epsilon = f64::from(self.config.norm_epsilon as f32);
        x.map(|row| {
            let count = row.len() as f64;
            let mean = bias.map_or(0.0, |_| row.iter().sum::<f64>() / count);
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let scaled = row.iter().zip(weight).map(|(x, w)| (x - mean) / (variance + epsilon).sqrt() * w);
            scaled.enumerate().map(|(index, y)| y + bias.map_or(0.0, |bias| bias[index])).collect()
        })
    }

    /// Heads of `x` with their first numbers rotated, halves paired.
    fn turned(&self, x: &Rows) -> Rows {
        let (dim, length) = (self.config.head_dim, x.rows().count());
        let half = self.config.rotary_dim() / 2;
        let (frequencies, scaling) = self.config.rope.inverse_frequencies(self.config.rotary_dim(), length);
        let mut values = x.values.clone();
        for (position, row) in values.chunks_mut(x.width).enumerate() {
            for head in row.chunks_mut(dim) {
                for (pair, frequency) in frequencies.iter().enumerate() {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    let (one, two) = (head[pair], head[pair + half]);
                    head[pair] = (one * cos - two * sin) * scaling;
                    head[pair + half] = (two * cos + one * sin) * scaling;
                }
            }
        }
        Rows { width: x.width, values }
    }

    fn attention(&self, y: &Rows, at: &str) -> Rows {
        let (config, dim) = (self.config, self.config.head_dim);
        let project = |name: &str| self.linear(y, &format!("{at}self_attn.{name}_proj"));
        let (q, k, v) = (self.turned(&project("q")), self.turned(&project("k")), project("v"));
        let width = config.heads * dim;
        let mut values = vec![0.0; y.rows().count() * width];
        for (position, output) in values.chunks_mut(width).enumerate() {
            for head in 0..config.heads {
                let group = head / (config.heads / config.key_value_heads) * dim;
                let query = &q.values[position * width + head * dim..][..dim];
                let of = |rows: &Rows, key: usize| rows.values[key * rows.width + group..][..dim].to_vec();
                let product = |key: usize| query.iter().zip(of(&k, key)).map(|(q, k)| q * k).sum::<f64>();
                let scores: Vec<f64> = (0..=position).map(|key| (product(key) / (dim as f64).sqrt()).exp()).collect();
                let sum: f64 = scores.iter().sum();
                for (key, score) in scores.iter().enumerate() {
                    for (target, value) in output[head * dim..].iter_mut().zip(of(&v, key)) {
                        *target += score / sum * value;
                    }
                }
            }
        }
        Rows { width, values }
    }

    /// Cross entropies of the targets, in nats.
    fn losses(&self, ids: &[u32]) -> Vec<f64> {
        let (config, hidden) = (self.config, self.config.hidden_size);
        let embedding = &self.weights["model.embed_tokens.weight"];
        let values = ids.iter().flat_map(|id| embedding[*id as usize * hidden..][..hidden].to_vec()).collect();
        let mut x = Rows { width: hidden, values };
        for layer in 0..config.layers {
            let at = format!("model.layers.{layer}.");
            let name = |rest: &str| format!("{at}{rest}");
            let y = self.norm(&x, &name("input_layernorm"));
            let attended = self.attention(&y, &at);
            x = if config.architecture == Architecture::Phi {
                let gelu = |u: f64| 0.5 * u * (1.0 + ((2.0 / PI).sqrt() * (u + 0.044715 * u.powi(3))).tanh());
                let up = self.linear(&y, &name("mlp.fc1")).map(|row| row.iter().map(|u| gelu(*u)).collect());
                x.plus(&self.linear(&attended, &name("self_attn.dense"))).plus(&self.linear(&up, &name("mlp.fc2")))
            } else {
                let x = x.plus(&self.linear(&attended, &name("self_attn.o_proj")));
                let y = self.norm(&x, &name("post_attention_layernorm"));
                let (gate, up) = (self.linear(&y, &name("mlp.gate_proj")), self.linear(&y, &name("mlp.up_proj")));
                let gated = gate.values.iter().zip(&up.values).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                x.plus(&self.linear(&Rows { width: gate.width, values: gated }, &name("mlp.down_proj")))
            };
        }
        let is_phi = config.architecture == Architecture::Phi;
        let x = self.norm(&x, if is_phi { "model.final_layernorm" } else { "model.norm" });
        let logits = if config.tie_word_embeddings {
            assert!(!is_phi, "a tied Phi has a bias of its own");
            self.linear(&x, "model.embed_tokens")
        } else {
            self.linear(&x, "lm_head")
        };
        let rows = logits.rows().zip(&ids[1..]);
        rows.map(|(row, id)| row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[*id as usize]).collect()
    }
}

/// Checks the gradient of every tensor of a model of the fixtures along two random directions.
fn check(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures").join(name);
    let model = Model::open(&folder).unwrap();
    let config = model.config();
    // More than a block of 64 rows.
    let ids: Vec<u32> = (0..67).map(|i: u32| (i * i * 7 + i * 3 + 5) % config.vocab_size as u32).collect();
    let coefficients: Vec<f32> = (0..ids.len() - 1).map(|i| [0.01, 0.0, 0.03, 0.005, 0.02][i % 5]).collect();
    let mut gradients = Gradients::zeros_like(&model);
    let losses = model.forward_backward_fixed(&ids, 1, &coefficients, &mut gradients).unwrap();
    let mut weights: Weights = BTreeMap::new();
    for tensor in model.layout().tensors() {
        let values = model.tensor(&tensor.name).unwrap().iter().map(|value| f64::from(*value));
        weights.insert(tensor.name.clone(), values.collect());
    }
    let expected = Form { config, weights: &weights }.losses(&ids);
    for (found, expected) in losses.iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-5 * expected.max(1.0), "{name}: {found}, f64 {expected}");
    }

    let mut random = ChaCha8Rng::seed_from_u64(1);
    for tensor in model.layout().tensors() {
        let gradient = gradients.tensor(&tensor.name).unwrap();
        let size = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        for _ in 0..2 {
            let direction: Vec<f64> =
                gradient.iter().map(|_| f64::from(random.next_u32()) / 2f64.powi(31) - 1.0).collect();
            let mut loss = |step: f64| {
                let original = weights[&tensor.name].clone();
                let moved = original.iter().zip(&direction).map(|(value, d)| value + step * d).collect();
                weights.insert(tensor.name.clone(), moved);
                let losses = Form { config, weights: &weights }.losses(&ids);
                weights.insert(tensor.name.clone(), original);
                losses.iter().zip(&coefficients).map(|(loss, c)| loss * f64::from(*c)).sum::<f64>()
            };
            let slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            let found: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
            let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
            assert!(
                (slope - found).abs() <= 1e-5 * size * length + 1e-8 * length,
                "{name}: {}: slope {slope:e}, gradient {found:e}",
                tensor.name
            );
        }
    }
}

#[test]
fn slopes_of_a_phi() {
    check("phi");
}

#[test]
fn slopes_of_a_llama_with_biases() {
    check("llama-biases");
}

#[test]
fn slopes_of_a_tied_llama_with_shared_key_heads() {
    check("llama-tied");
}
