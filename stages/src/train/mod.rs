//! Trains a model by weighted next-token loss.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `Train` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The model to start from.
    pub model: Reference,
    /// The token sequences.
    pub tokens: Reference,
    /// Where the weight of each target comes from.
    #[serde(default)]
    pub weighting: Weighting,
    /// Optimizer steps.
    pub steps: usize,
    /// Sequences in each optimizer step.
    pub batch: usize,
}

/// Where the weight of each target comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Weighting {
    /// Every target weighs 1.
    #[default]
    Uniform,
    /// Weights of a `Postprocess` stage: short and long side are both computed once (frozen, static).
    Static {
        /// The weights.
        weights: Reference,
    },
    /// Short side from a `Score` stage, long side from the model in training at each step (frozen, live: the paper).
    Frozen {
        /// Per-token loss with short context.
        short: Reference,
        /// How losses are compared.
        #[serde(default)]
        compare: crate::weighting::Compare,
        /// The form of the weights.
        shape: crate::weighting::Shape,
    },
    /// Both sides from the model in training at each step (unfrozen: the paper).
    Unfrozen {
        /// The short windows.
        windows: crate::score::Windows,
        /// How losses are compared.
        #[serde(default)]
        compare: crate::weighting::Compare,
        /// The form of the weights.
        shape: crate::weighting::Shape,
    },
}

impl Kind for Train {
    const NAME: &'static str = "Train";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Trains a model by weighted next-token loss.";
    const NUMERICS: Numerics = Numerics::Floating;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
