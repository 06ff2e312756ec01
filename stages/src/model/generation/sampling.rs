//! How the next token is chosen.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::{Deserialize, Serialize};

use super::super::{ModelError, kernels};

/// How the next token is chosen from logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Sampling {
    /// The most probable token, of equal ones the one with the smallest id.
    #[default]
    Greedy,
    /// At random: of the `top_k` most probable tokens, the fewest that have a share of `top_p` together.
    Random {
        /// Logits are divided by it.
        #[serde(default = "one")]
        temperature: f64,
        /// How many of the most probable tokens may be chosen; all if absent.
        #[serde(default)]
        top_k: Option<usize>,
        /// Which share of the probability, from the most probable token on, may be chosen.
        #[serde(default = "one")]
        top_p: f64,
        /// Chooses the random numbers.
        #[serde(default)]
        seed: u64,
    },
}

fn one() -> f64 {
    1.0
}

/// Words of a random generator's stream for each token: those of one block, so that no two tokens share one.
const WORDS: u128 = 16;

impl Sampling {
    /// Refuses settings without meaning.
    pub fn check(&self) -> Result<(), ModelError> {
        let Self::Random { temperature, top_k, top_p, .. } = *self else { return Ok(()) };
        let error = |setting, found: String, expected: &str| {
            Err(ModelError::Sampling { setting, found, expected: expected.to_owned() })
        };
        if !(temperature > 0.0 && temperature.is_finite()) {
            return error("temperature", temperature.to_string(), "a finite number above 0");
        }
        if top_k == Some(0) {
            return error("top_k", "0".to_owned(), "a number of tokens above 0");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return error("top_p", top_p.to_string(), "a share above 0, and 1 at most");
        }
        Ok(())
    }

    /// Chooses a token from the logits of all ids, which must be finite.
    ///
    /// The random number is the one at place `index` of the `stream` of the seed, whatever was chosen before.
    pub fn choose(&self, logits: &[f32], stream: u64, index: usize) -> u32 {
        match *self {
            Self::Greedy => best(logits),
            Self::Random { temperature, top_k, top_p, seed } => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(stream);
                random.set_word_pos(index as u128 * WORDS);
                // The 53 bits that a number in 0..1 has.
                let uniform = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
                let highest = f64::from(logits[best(logits) as usize]);
                let weight = |id: u32| libm::exp((f64::from(logits[id as usize]) - highest) / temperature);
                let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
                if top_k.is_some_and(|count| count < ids.len()) || top_p < 1.0 {
                    // From the most probable one on, equal ones by their ids.
                    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
                    if let Some(count) = top_k.filter(|count| *count < ids.len()) {
                        ids.select_nth_unstable_by(count, order);
                        ids.truncate(count);
                    }
                    ids.sort_unstable_by(order);
                }
                let weights: Vec<f64> = ids.iter().map(|id| weight(*id)).collect();
                let kept = kept(&weights, top_p);
                ids[drawn(&weights[..kept], uniform)]
            }
        }
    }
}

/// The first of the highest logits.
fn best(logits: &[f32]) -> u32 {
    kernels::argmax(logits) as u32
}

/// How many of the first weights have a share of `top_p` of all together; at least one.
fn kept(weights: &[f64], top_p: f64) -> usize {
    if top_p >= 1.0 {
        return weights.len();
    }
    let bound = top_p * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let reached = weights.iter().position(|weight| {
        sum += weight;
        sum >= bound
    });
    reached.map_or(weights.len(), |last| last + 1)
}

/// The place at which `uniform`, in 0..1, falls if each place is as wide as its weight.
fn drawn(weights: &[f64], uniform: f64) -> usize {
    let bound = uniform * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let found = weights.iter().position(|weight| {
        sum += weight;
        sum > bound
    });
    // Rounding can leave a bound that is never exceeded only at the very end.
    found.unwrap_or(weights.len() - 1)
}
