//! Opens the tokenizer of a model or `TrainTokenizer` folder, and learns from it what a token set must know.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokenizers::{Encoding, Tokenizer};

use super::{DataError, json::read_json};

/// A tokenizer with its special ids.
pub struct TextTokenizer {
    path: PathBuf,
    inner: Tokenizer,
    bos: Option<u32>,
    unknown: Option<u32>,
    vocabulary: usize,
}

impl TextTokenizer {
    /// Opens `tokenizer.json` in a folder (or the file itself). Truncation and padding that it may prescribe are
    /// switched off. The BOS token is the one that `tokenizer_config.json` beside it names; without that, the special
    /// token that the tokenizer itself puts first, if any.
    pub fn open(place: &Path) -> Result<Self, DataError> {
        let path = if place.is_dir() { place.join("tokenizer.json") } else { place.to_owned() };
        let wrong = |problem: String| DataError::content(&path, problem);
        let bytes = fs::read(&path).map_err(DataError::io("read", &path))?;
        let mut inner = Tokenizer::from_bytes(&bytes).map_err(|error| wrong(format!("no tokenizer ({error})")))?;
        inner.with_padding(None).with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        // Ids may have gaps, so the number of entries would be too small.
        let vocabulary = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);

        let config_path = path.with_file_name("tokenizer_config.json");
        let config: Value = if config_path.is_file() { read_json(&config_path)? } else { Value::Null };
        let special = |name: &str| -> Result<Option<u32>, DataError> {
            let value = &config[name];
            let Some(token) = value.as_str().or_else(|| value["content"].as_str()) else { return Ok(None) };
            let id = inner.token_to_id(token);
            id.map(Some).ok_or_else(|| {
                DataError::content(&config_path, format!("`{name}` is `{token}`, which is no token of tokenizer.json"))
            })
        };
        let mut bos = special("bos_token")?;
        let unknown = special("unk_token")?;
        if bos.is_none() {
            let probe = inner.encode("a", true).map_err(|error| wrong(error.to_string()))?;
            let is_special = probe.get_special_tokens_mask().first() == Some(&1);
            bos = probe.get_ids().first().copied().filter(|_| is_special);
        }
        Ok(Self { path, inner, bos, unknown, vocabulary })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's tokenizer.
    pub fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    /// The id that starts a sequence, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id of what the tokenizer has no token for, if there is one.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// One more than the largest id.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Encodes a text with the special tokens that the tokenizer adds. With `offsets`, each token knows its byte range
    /// in the text; without, encoding is faster.
    pub fn encode(&self, text: &str, offsets: bool) -> Result<Encoding, DataError> {
        let result = if offsets { self.inner.encode(text, true) } else { self.inner.encode_fast(text, true) };
        result.map_err(|error| DataError::content(&self.path, format!("cannot encode a text: {error}")))
    }
}
