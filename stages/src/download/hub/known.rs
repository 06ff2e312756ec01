//! Configurations of models on the hub, so that a graph can be estimated before anything is fetched. They are what the
//! repositories publish as `config.json`; nothing is computed with them.

use serde_json::{Map, Value, json};

/// The fields of `config.json` that decide about sizes, if the repository is known.
pub(super) fn config(repository: &str) -> Option<Map<String, Value>> {
    let config = match repository {
        "meta-llama/Meta-Llama-3-8B" => json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "hidden_act": "silu",
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": false,
        }),
        "meta-llama/Llama-3.2-1B" => json!({
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "hidden_act": "silu",
            "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": true,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        }),
        "microsoft/phi-2" => json!({
            "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 51_200, "hidden_act": "gelu_new",
            "max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "rope_theta": 10_000.0, "partial_rotary_factor": 0.4,
            "tie_word_embeddings": false,
        }),
        _ => return None,
    };
    config.as_object().cloned()
}
