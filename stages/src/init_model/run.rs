//! Random weights and the configuration that belongs to them.

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::InitModel;
use crate::{
    model::{Companions, Config, Model, copy_companions},
    stage::{Context, StageError},
};

pub(super) fn run(settings: &InitModel, context: &Context) -> Result<(), StageError> {
    let folder = context.input(&settings.tokenizer)?;
    let path = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&path).map_err(|error| {
        StageError::input(&path, format!("no tokenizer in the form of Hugging Face's tokenizers library: {error}"))
    })?;
    let vocabulary = tokenizer.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
    if vocabulary == 0 {
        return Err(StageError::input(&path, "the tokenizer has no tokens at all"));
    }
    // The ids that start and end a text, by the names that tokenizers of Llamas give them.
    let id = |names: &[&str]| names.iter().find_map(|name| tokenizer.token_to_id(name));
    let object = json!({
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.intermediate_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.key_value_heads.unwrap_or(settings.heads),
        "max_position_embeddings": settings.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": settings.rope_theta,
        "tie_word_embeddings": settings.tie_word_embeddings,
        "bos_token_id": id(&["<s>", "<|begin_of_text|>", "<|bos|>", "<bos>"]),
        "eos_token_id": id(&["</s>", "<|end_of_text|>", "<|eos|>", "<eos>"]),
    });
    let Value::Object(object) = object else { return Err(StageError::Bug("a map is not a map".to_owned())) };
    let object: Map<String, Value> = object;
    let config = Config::from_json(&context.output().join("config.json"), object)?;
    let model = Model::initialize(config, settings.initializer_range, settings.seed);
    context.check_canceled()?;
    copy_companions(folder, context.output(), Companions::Tokenizer)?;
    model.save(context.output())?;
    Ok(())
}
