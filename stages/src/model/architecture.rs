//! The architectures, and what of `config.json` only one of them has.

use serde_json::{Value, json};

use super::{ModelError, config::Fields};

/// A model's architecture, with the settings that only this one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, TinyLlama, SmolLM2: RMSNorm, then attention; RMSNorm, then a gated unit (arXiv 2302.13971).
    Llama {
        /// Whether the projections to queries, keys, values and from attention have biases.
        attention_bias: bool,
        /// Whether the matrices of the gated unit have biases.
        mlp_bias: bool,
    },
    /// Phi-1, 1.5 and 2: one LayerNorm, then attention and a GELU unit side by side; biases everywhere.
    Phi,
}

impl Architecture {
    /// Reads which architecture a file means, and refuses what it does not have here.
    pub(super) fn read(file: &Fields<'_>) -> Result<Self, ModelError> {
        let known = "\"llama\" and \"phi\" are supported";
        let found = match file.get("model_type") {
            Some(Value::String(name)) => name.as_str(),
            Some(value) => return Err(file.error("model_type", format!("found {value}, {known}"))),
            None => return Err(file.error("model_type", format!("missing; {known}"))),
        };
        let architecture = match found {
            "llama" => Self::Llama {
                attention_bias: file.flag("attention_bias")?.unwrap_or(false),
                mlp_bias: file.flag("mlp_bias")?.unwrap_or(false),
            },
            "phi" => Self::Phi,
            _ => return Err(file.error("model_type", format!("found \"{found}\", {known}"))),
        };
        file.only("architectures", &json!([architecture.class()]))?;
        file.only("hidden_act", &json!(architecture.activation()))?;
        match architecture {
            // A factor into which matrices were cut for training on several devices; it changes rounding alone, but
            // no model that was published has another one.
            Self::Llama { .. } => file.only("pretraining_tp", &json!(1))?,
            Self::Phi => file.only("qk_layernorm", &json!(false))?,
        }
        Ok(architecture)
    }

    /// Puts the fields that [`Self::read`] reads.
    pub(super) fn write(self, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
        put("architectures", json!([self.class()]));
        put("hidden_act", json!(self.activation()));
        match self {
            Self::Llama { attention_bias, mlp_bias } => {
                put("model_type", json!("llama"));
                // Absent means false, and stays absent.
                for (field, flag) in [("attention_bias", attention_bias), ("mlp_bias", mlp_bias)] {
                    if flag {
                        put(field, json!(true));
                    }
                }
            }
            Self::Phi => {
                put("model_type", json!("phi"));
            }
        }
    }

    /// The class of `transformers` that this is.
    fn class(self) -> &'static str {
        match self {
            Self::Llama { .. } => "LlamaForCausalLM",
            Self::Phi => "PhiForCausalLM",
        }
    }

    fn activation(self) -> &'static str {
        match self {
            Self::Llama { .. } => "silu",
            Self::Phi => "gelu_new",
        }
    }

    /// The name of [`super::Config::norm_epsilon`] in the file.
    pub(super) fn epsilon_field(self) -> &'static str {
        match self {
            Self::Llama { .. } => "rms_norm_eps",
            Self::Phi => "layer_norm_eps",
        }
    }

    /// Whether a part of each head may be left unrotated.
    pub(super) fn rotates_partially(self) -> bool {
        matches!(self, Self::Phi)
    }

    /// What a file means that does not say which part of each head is rotated.
    pub(super) fn usual_partial_rotary_factor(self) -> f64 {
        match self {
            Self::Llama { .. } => 1.0,
            Self::Phi => 0.5,
        }
    }
}
