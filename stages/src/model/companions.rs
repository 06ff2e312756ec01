//! The files of a model folder beside the configuration and the weights of a [`super::Model`].

use std::{fs, path::Path};

use super::ModelError;

/// Which files of a model folder belong to its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companions {
    /// What turns text into tokens and says how to use them.
    Tokenizer,
    /// That, and the weights as they are.
    WeightsAndTokenizer,
}

impl Companions {
    fn include(self, name: &str) -> bool {
        let tokenizer = name.starts_with("tokenizer")
            || ["special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"]
                .contains(&name);
        let weights = name.ends_with(".safetensors")
            || ["model.safetensors.index.json", "generation_config.json"].contains(&name)
            || name.starts_with("LICENSE");
        tokenizer || (self == Self::WeightsAndTokenizer && weights)
    }
}

/// Copies files of one model folder into another. They are never linked: whoever writes into the copy must not reach
/// the original. (`fs::copy` shares the blocks where the file system can.)
pub fn copy_companions(from: &Path, to: &Path, which: Companions) -> Result<(), ModelError> {
    let entries = fs::read_dir(from).map_err(ModelError::io("read", from))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ModelError::io("read", from))?;
        // What is no UTF-8 is no name of the format.
        if let Ok(name) = entry.file_name().into_string()
            && which.include(&name)
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        let (from, to) = (from.join(&name), to.join(&name));
        fs::copy(&from, &to).map_err(ModelError::io("write", &to))?;
    }
    Ok(())
}
