//! Extends the context of a model by changing its rotary position embedding.

mod run;

use serde::{Deserialize, Serialize};

use crate::stage::{Context, Estimate, Kind, Numerics, Outlook, Outlooks, Reference, SettingError, StageError};

/// Settings of an `ExtendRope` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendRope {
    /// The model folder to extend.
    pub model: Reference,
    /// The new longest context.
    pub context: usize,
    /// How positions are changed.
    pub method: Method,
}

/// How positions are changed. The factor of all methods but `Base` is `context` over the context of the model, which
/// must not be scaled already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Method {
    /// Another base, nothing else (the method of the paper). Any scaling that the model has is dropped.
    Base {
        /// The new base.
        theta: f64,
    },
    /// Position interpolation: positions divided by the factor.
    Linear,
    /// The base grown so that the slowest pair is stretched by the factor: theta * factor^(d/(d-2)).
    NtkAware,
    /// NTK-aware with the factor taken from the actual length.
    DynamicNtk,
    /// YaRN.
    Yarn {
        /// Rotations above which a pair is left alone.
        #[serde(default = "beta_fast")]
        beta_fast: f64,
        /// Rotations below which a pair is interpolated.
        #[serde(default = "beta_slow")]
        beta_slow: f64,
    },
    /// The smooth scaling of Llama 3.1.
    Llama3 {
        /// Below this many wavelengths in the original context a pair is interpolated.
        #[serde(default = "low_freq_factor")]
        low_freq_factor: f64,
        /// Above this many wavelengths a pair is left alone.
        #[serde(default = "high_freq_factor")]
        high_freq_factor: f64,
    },
    /// LongRoPE: each pair divided by a factor of its own, one that was searched for before. The model knows no longer
    /// sequences than `context` then.
    LongRope {
        /// Factors of the pairs, from the fastest on, in sequences that are no longer than the context of the model.
        short_factors: Vec<f64>,
        /// Factors of the pairs in longer sequences.
        long_factors: Vec<f64>,
        /// Factor on cos and sin; if absent, sqrt(1 + ln(factor) / ln(context of the model)).
        #[serde(default)]
        attention_factor: Option<f64>,
    },
}

fn beta_fast() -> f64 {
    32.0
}

fn beta_slow() -> f64 {
    1.0
}

fn low_freq_factor() -> f64 {
    1.0
}

fn high_freq_factor() -> f64 {
    4.0
}

impl Kind for ExtendRope {
    const NAME: &'static str = "ExtendRope";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Extends the context of a model by changing its rotary position embedding.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn check(&self) -> Result<(), SettingError> {
        if self.context == 0 {
            return Err(SettingError::new("context", 0, "a number of tokens above 0"));
        }
        let positive = |field: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(SettingError::new(format!("method.{field}"), value, "a finite number above 0"))
            }
        };
        let above = |field: &str, value: f64, other: &str, bound: f64| {
            positive(field, value)?;
            positive(other, bound)?;
            if value > bound {
                Ok(())
            } else {
                Err(SettingError::new(
                    format!("method.{field}"),
                    value,
                    format!("more than `{other}`, which is {bound}"),
                ))
            }
        };
        match &self.method {
            Method::Base { theta } => positive("theta", *theta),
            Method::Yarn { beta_fast, beta_slow } => above("beta_fast", *beta_fast, "beta_slow", *beta_slow),
            Method::Llama3 { low_freq_factor, high_freq_factor } => {
                above("high_freq_factor", *high_freq_factor, "low_freq_factor", *low_freq_factor)
            }
            Method::LongRope { short_factors, long_factors, attention_factor } => {
                for (field, factors) in [("short_factors", short_factors), ("long_factors", long_factors)] {
                    for (at, factor) in factors.iter().enumerate() {
                        positive(&format!("{field}.{at}"), *factor)?;
                    }
                }
                positive("attention_factor", attention_factor.unwrap_or(1.0))
            }
            Method::Linear | Method::NtkAware | Method::DynamicNtk => Ok(()),
        }
    }

    fn estimate(&self, inputs: &Outlooks<'_>) -> Estimate {
        // Weights are copied as they are, of whatever type.
        let Outlook { config, bytes, .. } = inputs(&self.model);
        Estimate { outlook: Outlook { config, bytes, ..Outlook::default() }, work: None }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        run::run(self, context)
    }
}
