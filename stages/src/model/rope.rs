//! Rotary position embeddings and their extensions to longer contexts.
//!
//! The formulas are those of the papers (position interpolation: arXiv 2306.15595; NTK-aware and dynamic NTK: the
//! discussions that YaRN, arXiv 2309.00071, cites; Llama 3.1's smooth scaling: its model card's code; LongRoPE: arXiv
//! 2402.13753) in the form in which `transformers` computes them, so that a folder means the same in both.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// How positions turn into angles. Lengths are in tokens, `theta` is the base of the frequencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rope {
    /// The untouched embedding; NTK-aware scaling is this with a larger base.
    Default {
        /// Base.
        theta: f64,
    },
    /// Position interpolation: every frequency divided by `factor`.
    Linear {
        /// Base.
        theta: f64,
        /// How many times longer.
        factor: f64,
    },
    /// NTK-aware scaling whose factor grows with the actual length once that exceeds `original_context`.
    DynamicNtk {
        /// Base.
        theta: f64,
        /// How many times longer.
        factor: f64,
        /// Context before extension.
        original_context: usize,
    },
    /// YaRN: fast pairs kept, slow pairs interpolated, a ramp between, and a temperature on attention.
    Yarn {
        /// Base.
        theta: f64,
        /// How many times longer.
        factor: f64,
        /// Context before extension.
        original_context: usize,
        /// Rotations within the original context above which a pair is left alone.
        beta_fast: f64,
        /// Rotations below which a pair is interpolated.
        beta_slow: f64,
        /// Factor on cos and sin; `0.1 ln(factor) + 1` if absent.
        attention_factor: Option<f64>,
        /// Whether the ends of the ramp are rounded to whole pairs.
        truncate: bool,
    },
    /// The smooth scaling of Llama 3.1.
    Llama3 {
        /// Base.
        theta: f64,
        /// How many times longer.
        factor: f64,
        /// Context before extension.
        original_context: usize,
        /// Pairs with fewer rotations than this in the original context are interpolated.
        low_freq_factor: f64,
        /// Pairs with more rotations than this are left alone.
        high_freq_factor: f64,
    },
    /// LongRoPE: each pair divided by a factor of its own, from one list up to the original context and from another
    /// beyond it, and a temperature on attention.
    LongRope {
        /// Base.
        theta: f64,
        /// Context before extension.
        original_context: usize,
        /// Longest context for which the factors were found.
        context: usize,
        /// Factors of the pairs in sequences of at most `original_context` tokens.
        short_factors: Vec<f64>,
        /// Factors of the pairs in longer sequences.
        long_factors: Vec<f64>,
        /// Factor on cos and sin; `sqrt(1 + ln(context / original_context) / ln(original_context))` if absent.
        #[serde(default)]
        attention_factor: Option<f64>,
    },
}

impl Rope {
    /// The base of the frequencies.
    pub fn theta(&self) -> f64 {
        match self {
            Self::Default { theta }
            | Self::Linear { theta, .. }
            | Self::DynamicNtk { theta, .. }
            | Self::Yarn { theta, .. }
            | Self::Llama3 { theta, .. }
            | Self::LongRope { theta, .. } => *theta,
        }
    }

    /// The base that stretches the slowest pair by `factor`: `theta * factor^(d / (d - 2))` (NTK-aware scaling).
    pub fn ntk_aware_theta(theta: f64, factor: f64, head_dim: usize) -> f64 {
        let d = head_dim as f64;
        // From libm, because the result stands in `config.json` and must be the same on every host.
        theta * libm::pow(factor, d / (d - 2.0))
    }

    /// Whether the frequencies depend on the length of the sequence.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Self::DynamicNtk { .. } | Self::LongRope { .. })
    }

    /// The longest sequence for which there are frequencies, in tokens. Only LongRoPE has such an end: its factors were
    /// searched for one context. The others go on for any length; how far a model follows is a question for
    /// measurement (and `Score` warns beyond [`super::Config::context`]).
    pub fn longest(&self) -> Option<usize> {
        match self {
            Self::LongRope { context, .. } => Some(*context),
            _ => None,
        }
    }

    /// Refuses what does not fit heads of which `rotary_dim` numbers are rotated.
    pub(super) fn check(&self, rotary_dim: usize) -> Result<(), ModelError> {
        let Self::LongRope { short_factors, long_factors, .. } = self else { return Ok(()) };
        for (name, factors) in [("short_factors", short_factors), ("long_factors", long_factors)] {
            if factors.len() != rotary_dim / 2 || factors.iter().any(|factor| !(*factor > 0.0 && factor.is_finite())) {
                return Err(ModelError::Rope {
                    setting: name,
                    found: format!("{factors:?}"),
                    expected: format!("{} positive numbers, one for each pair that the model rotates", rotary_dim / 2),
                });
            }
        }
        Ok(())
    }

    /// LongRoPE's factor on cos and sin (arXiv 2402.13753) for a context that was made `factor` times longer.
    pub(super) fn long_rope_attention_factor(factor: f64, original_context: usize) -> f64 {
        if factor <= 1.0 { 1.0 } else { (1.0 + libm::log(factor) / libm::log(original_context as f64)).sqrt() }
    }

    /// Frequencies of the `head_dim / 2` pairs, in radians for each position, and the factor on cos and sin, for a
    /// sequence of `length` tokens. Where only a part of each head is rotated, `head_dim` is the width of that part.
    pub fn inverse_frequencies(&self, head_dim: usize, length: usize) -> (Vec<f64>, f64) {
        match *self {
            Self::Default { theta } => (plain(theta, head_dim), 1.0),
            Self::Linear { theta, factor } => {
                (plain(theta, head_dim).into_iter().map(|frequency| frequency / factor).collect(), 1.0)
            }
            Self::DynamicNtk { theta, factor, original_context } => {
                let original = original_context as f64;
                let length = original.max(length as f64);
                let growth = factor * length / original - (factor - 1.0);
                (plain(Self::ntk_aware_theta(theta, growth, head_dim), head_dim), 1.0)
            }
            Self::Yarn { theta, factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
                let d = head_dim as f64;
                // The pair that turns `rotations` times within the original context (YaRN, equation 17).
                let pair = |rotations: f64| {
                    d * libm::log(original_context as f64 / (rotations * std::f64::consts::TAU))
                        / (2.0 * libm::log(theta))
                };
                let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(d - 1.0));
                if low == high {
                    high += 0.001;
                }
                let frequencies = plain(theta, head_dim)
                    .into_iter()
                    .enumerate()
                    .map(|(index, frequency)| {
                        let ramp = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        frequency / factor * ramp + frequency * (1.0 - ramp)
                    })
                    .collect();
                let temperature = if factor <= 1.0 { 1.0 } else { 0.1 * libm::log(factor) + 1.0 };
                (frequencies, attention_factor.unwrap_or(temperature))
            }
            Self::Llama3 { theta, factor, original_context, low_freq_factor, high_freq_factor } => {
                let original = original_context as f64;
                let frequencies = plain(theta, head_dim)
                    .into_iter()
                    .map(|frequency| {
                        let rotations = original * frequency / std::f64::consts::TAU;
                        if rotations > high_freq_factor {
                            frequency
                        } else if rotations < low_freq_factor {
                            frequency / factor
                        } else {
                            let smooth = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            (1.0 - smooth) * frequency / factor + smooth * frequency
                        }
                    })
                    .collect();
                (frequencies, 1.0)
            }
            Self::LongRope {
                theta,
                original_context,
                context,
                ref short_factors,
                ref long_factors,
                attention_factor,
            } => {
                let factors = if length > original_context { long_factors } else { short_factors };
                let frequencies =
                    plain(theta, head_dim).into_iter().zip(factors).map(|(frequency, factor)| frequency / factor);
                let growth = context as f64 / original_context as f64;
                let temperature = Self::long_rope_attention_factor(growth, original_context);
                (frequencies.collect(), attention_factor.unwrap_or(temperature))
            }
        }
    }

    /// Tables for positions `0..length`: angles in f64, rounded once.
    pub(super) fn tables(&self, head_dim: usize, length: usize) -> RopeTables {
        let (frequencies, scaling) = self.inverse_frequencies(head_dim, length);
        let mut tables = RopeTables { length, cos: Vec::new(), sin: Vec::new() };
        tables.cos.reserve(length * frequencies.len());
        tables.sin.reserve(length * frequencies.len());
        for position in 0..length {
            for frequency in &frequencies {
                let (sin, cos) = libm::sincos(position as f64 * frequency);
                tables.cos.push((cos * scaling) as f32);
                tables.sin.push((sin * scaling) as f32);
            }
        }
        tables
    }
}

/// Cosines and sines, each `[length, head_dim / 2]`, the attention factor multiplied in.
#[derive(Debug)]
pub(super) struct RopeTables {
    pub(super) length: usize,
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

/// `theta^(-2i/d)`.
fn plain(theta: f64, head_dim: usize) -> Vec<f64> {
    (0..head_dim / 2).map(|pair| libm::pow(theta, -((2 * pair) as f64) / head_dim as f64)).collect()
}
