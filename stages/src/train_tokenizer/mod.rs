//! Trains a byte-level BPE tokenizer on a corpus.

mod train;

use serde::{Deserialize, Serialize};

use crate::stage::{Context, Kind, Numerics, Reference, SettingError, StageError};

/// Settings of a `TrainTokenizer` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainTokenizer {
    /// The corpora to learn from.
    pub text: Vec<Reference>,
    /// Size of the vocabulary, special tokens included: at least 258, the 256 bytes, `<s>` (id 0) and `</s>` (id 1).
    pub vocabulary: usize,
}

/// The 256 bytes and the two special tokens.
const SMALLEST_VOCABULARY: usize = 258;

impl Kind for TrainTokenizer {
    const NAME: &'static str = "TrainTokenizer";
    // 2: JSON lines of any name, Parquet and Zstandard count as documents.
    // 3: texts and JSON lines in zip and tar archives count as documents.
    const REVISION: u32 = 3;
    const SUMMARY: &'static str = "Trains a byte-level BPE tokenizer on a corpus.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn check(&self) -> Result<(), SettingError> {
        if self.text.is_empty() {
            return Err(SettingError::new("text", "empty", "at least one corpus"));
        }
        if self.vocabulary < SMALLEST_VOCABULARY || u32::try_from(self.vocabulary).is_err() {
            let expected = format!("at least {SMALLEST_VOCABULARY} (256 bytes, `<s>` and `</s>`) and below 2^32");
            return Err(SettingError::new("vocabulary", self.vocabulary, expected));
        }
        Ok(())
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        train::run(self, context)
    }
}
