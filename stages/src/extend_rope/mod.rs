//! Extends the context of a model by changing its rotary position embedding.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

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

/// How positions are changed. The factor is `context` over the original context unless given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Method {
    /// Another base, nothing else (the method of the paper).
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

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
