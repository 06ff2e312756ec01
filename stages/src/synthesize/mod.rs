//! Writes long plain-English documents whose facts are planted early and needed much later.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `Synthesize` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthesize {
    /// How many documents.
    pub documents: usize,
    /// Seeds every random choice.
    pub seed: u64,
}

impl Kind for Synthesize {
    const NAME: &'static str = "Synthesize";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str =
        "Writes long plain-English documents whose facts are planted early and needed much later.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
