//! Makes a model with random weights, ready to be trained from scratch.

mod run;

use serde::{Deserialize, Serialize};

use crate::stage::{Context, Kind, Numerics, Reference, SettingError, StageError};

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
    const REVISION: u32 = 2;
    const SUMMARY: &'static str = "Makes a model with random weights, ready to be trained from scratch.";
    const NUMERICS: Numerics = Numerics::Floating;

    fn check(&self) -> Result<(), SettingError> {
        for (field, value) in [
            ("hidden_size", self.hidden_size),
            ("layers", self.layers),
            ("heads", self.heads),
            ("key_value_heads", self.key_value_heads.unwrap_or(self.heads)),
            ("intermediate_size", self.intermediate_size),
            ("context", self.context),
        ] {
            if value == 0 {
                return Err(SettingError::new(field, 0, "a number above 0"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.heads * 2) {
            let expected = format!("a multiple of twice `heads` ({}): rotary heads have an even width", self.heads * 2);
            return Err(SettingError::new("hidden_size", self.hidden_size, expected));
        }
        if let Some(groups) = self.key_value_heads
            && !self.heads.is_multiple_of(groups)
        {
            return Err(SettingError::new("key_value_heads", groups, format!("a divisor of `heads` ({})", self.heads)));
        }
        for (field, value) in [("rope_theta", self.rope_theta), ("initializer_range", self.initializer_range)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(SettingError::new(field, value, "a finite number above 0"));
            }
        }
        Ok(())
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        context.in_pool(|| run::run(self, context))
    }
}
