//! Turns documents into token sequences of one length.

mod chunks;
mod facts;
mod parts;
mod run;
mod sequences;
mod shuffle;

use serde::{Deserialize, Serialize};

use crate::stage::{
    Context, Estimate, FinishedPart, Kind, Numerics, Outlook, Outlooks, Part, Reference, SettingError, Split,
    StageError,
};

/// Settings of a `Tokenize` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// The corpora, in order.
    pub text: Vec<Reference>,
    /// The field of JSON lines, or the column of Parquet files, that holds the text; `text` if absent.
    #[serde(default)]
    pub column: Option<String>,
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

/// How a document is cut into sequences. No sequence holds tokens of two documents, none is padded. Where neither
/// the tokenizer nor its configuration knows a BOS, both ways take windows of `length` tokens every `length` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chunking {
    /// As the authors of the method do it: the first token of the document is dropped (it is meant to be BOS, but is
    /// dropped even if the tokenizer adds none and it is a real token), then windows of `length - 1` tokens every
    /// `length` tokens, BOS put before each, so one token is skipped between neighbours; an incomplete last window is
    /// dropped.
    #[default]
    Official,
    /// The first token is dropped only if it is BOS, then windows of `length - 1` tokens every `length - 1` tokens,
    /// BOS put before each: no token is skipped but those of an incomplete last window.
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
    // 2: sequences tell their origin; `documents` no longer depends on how far ahead was read.
    // 3: JSON lines of any name, Parquet and Zstandard count as documents.
    // 4: texts and JSON lines in zip and tar archives count as documents.
    const REVISION: u32 = 4;
    const SUMMARY: &'static str = "Turns documents into token sequences of one length.";
    const NUMERICS: Numerics = Numerics::Exact;
    const SPLITS: bool = true;
    // The library encodes a document on one thread.
    const PART_THREADS: Option<usize> = Some(1);

    fn check(&self) -> Result<(), SettingError> {
        if self.text.is_empty() {
            return Err(SettingError::new("text", "empty", "at least one corpus"));
        }
        if self.length < 2 {
            return Err(SettingError::new("length", self.length, "at least 2, so that there is a token to predict"));
        }
        if self.limit == Some(0) {
            return Err(SettingError::new("limit", 0, "at least 1"));
        }
        Ok(())
    }

    fn estimate(&self, _inputs: &Outlooks<'_>) -> Estimate {
        let (sequences, length) = (self.limit.map(|limit| limit as u64), self.length as u64);
        let bytes = sequences.map(|sequences| sequences.saturating_mul(length).saturating_mul(size_of::<u32>() as u64));
        Estimate { outlook: Outlook { sequences, length: Some(length), bytes, ..Outlook::default() }, work: None }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        run::run(self, context)
    }

    fn split(&self, context: &Context) -> Result<Option<Split>, StageError> {
        parts::split(self, context)
    }

    fn run_part(&self, part: &Part, context: &Context) -> Result<(), StageError> {
        parts::run(self, part, context)
    }

    fn join(&self, parts: &[FinishedPart], context: &Context) -> Result<(), StageError> {
        parts::join(self, parts, context)
    }
}

impl Tokenize {
    /// After how many sequences the rest of the documents need not be read.
    fn enough(&self) -> Option<usize> {
        self.limit.filter(|_| self.shuffle.is_none())
    }
}
