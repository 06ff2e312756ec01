//! Makes a model with random weights, ready to be trained from scratch.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of an `InitModel` stage: a Llama of the given shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitModel {
    /// A folder with `tokenizer.json`, copied into the model folder; fixes the vocabulary.
    pub tokenizer: Reference,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; as many as `heads` if absent.
    #[serde(default)]
    pub key_value_heads: Option<usize>,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Longest context of the untouched model.
    pub context: usize,
    /// Base of the rotary embedding.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Standard deviation of the initial weights.
    #[serde(default = "initializer_range")]
    pub initializer_range: f64,
    /// Whether the output layer is the transposed embedding.
    #[serde(default = "tied")]
    pub tie_word_embeddings: bool,
    /// Seeds the weights.
    pub seed: u64,
}

fn rope_theta() -> f64 {
    10_000.0
}

fn initializer_range() -> f64 {
    0.02
}

fn tied() -> bool {
    true
}

impl Kind for InitModel {
    const NAME: &'static str = "InitModel";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Makes a model with random weights, ready to be trained from scratch.";
    const NUMERICS: Numerics = Numerics::Floating;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
