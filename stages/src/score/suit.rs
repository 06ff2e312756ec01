//! Whether a model understands the ids of a token set.

use std::fs;

use crate::{
    data::{TokenSet, renamed_special_tokens},
    model::Config,
    stage::{Context, Reference, StageError},
};

/// Refuses tokens that another tokenizer made than the one beside the model, and sequences for which its rotary embedding
/// has no frequencies; warns of sequences that are longer than the context that the model is meant for, and of special
/// tokens that only are named otherwise. `length` is that of what the model is shown at once.
pub fn suits(
    context: &Context,
    model: &Reference,
    config: &Config,
    tokens: (&Reference, &TokenSet),
    length: usize,
) -> Result<(), StageError> {
    let (tokens_name, tokens) = tokens;
    let about = tokens.metadata();
    let path = context.input(model)?.join("tokenizer.json");
    let bytes = fs::read(&path).map_err(|error| {
        StageError::input(
            &path,
            format!("the tokenizer of model `{model}` cannot be read ({error}); tokens and model are joined by it"),
        )
    })?;
    let found = blake3::hash(&bytes).to_hex();
    if *found.as_str() != *about.tokenizer {
        let Some(renamed) = renamed_special_tokens(&path, &tokens.tokenizer(), about.bos)? else {
            let problem = format!(
                "the tokenizer of model `{model}` (BLAKE3 {}…) is not the one that made `{tokens_name}` (BLAKE3 {}…); \
                 tokenize with `tokenizer: \"{model}\"`, or choose a model with the same tokenizer",
                &found.as_str()[..12],
                about.tokenizer.get(..12).unwrap_or(&about.tokenizer),
            );
            return Err(StageError::input(&path, problem));
        };
        if let Some((id, [here, there])) = renamed.first_key_value() {
            context.warn(format!(
                "model `{model}` and `{tokens_name}` have tokenizers with the same ids for text and other names of special tokens \
                 ({} of them, the first {id}: {here} and {there}); text that spells one is misread",
                renamed.len()
            ));
        }
    }
    if about.vocabulary > config.vocab_size {
        let problem = format!(
            "`vocab_size` is {}, but the tokenizer of `{tokens_name}` has ids up to {}; the model cannot read them",
            config.vocab_size,
            about.vocabulary - 1
        );
        return Err(StageError::input(path.with_file_name("config.json"), problem));
    }
    if let Some(longest) = config.rope.longest().filter(|longest| length > *longest) {
        let problem = format!(
            "the model's LongRoPE factors end at {longest} tokens, but it is shown {length} of `{tokens_name}` at once; \
             take shorter sequences, or extend the model to {length} tokens"
        );
        return Err(StageError::input(path.with_file_name("config.json"), problem));
    }
    if length > config.context {
        context.warn(format!("model `{model}` is meant for {} tokens and is shown {length} at once", config.context));
    }
    Ok(())
}
