//! Trains a byte-level BPE tokenizer on a corpus.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `TrainTokenizer` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainTokenizer {
    /// The corpora to learn from.
    pub text: Vec<Reference>,
    /// Size of the vocabulary, special tokens included.
    pub vocabulary: usize,
}

impl Kind for TrainTokenizer {
    const NAME: &'static str = "TrainTokenizer";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Trains a byte-level BPE tokenizer on a corpus.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
