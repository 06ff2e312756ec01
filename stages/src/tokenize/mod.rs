//! Turns documents into token sequences of one length.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `Tokenize` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// The corpora, in order.
    pub text: Vec<Reference>,
    /// A folder with `tokenizer.json` (a model folder will do).
    pub tokenizer: Reference,
    /// Tokens in each sequence, the first one (BOS) included.
    pub length: usize,
    /// How a document is cut into sequences.
    #[serde(default)]
    pub chunking: Chunking,
    /// What happens to line breaks before tokenizing.
    #[serde(default)]
    pub newlines: Newlines,
    /// Shuffles the sequences with this seed; kept in document order if absent.
    #[serde(default)]
    pub shuffle: Option<u64>,
    /// Keeps only so many sequences (after shuffling).
    #[serde(default)]
    pub limit: Option<usize>,
}

/// How a document is cut into sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chunking {
    /// As the authors do it: windows of `length - 1` tokens every `length` tokens, BOS put before each, so one token
    /// is skipped between neighbours; an incomplete last window is dropped (method.md, section 4).
    #[default]
    Official,
    /// Windows of `length - 1` tokens every `length - 1` tokens, BOS put before each: no token is skipped.
    Lossless,
}

/// What happens to line breaks before tokenizing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Newlines {
    /// They stay.
    #[default]
    Keep,
    /// Each becomes a space, for tokenizers that have no token for them.
    Space,
}

impl Kind for Tokenize {
    const NAME: &'static str = "Tokenize";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Turns documents into token sequences of one length.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
