//! Measures a model: loss by position, planted facts, needles, multiple choice.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of an `Evaluate` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The model; may be absent if no task needs one.
    #[serde(default)]
    pub model: Option<Reference>,
    /// What to measure, by the name under which it is reported.
    pub tasks: indexmap::IndexMap<String, Task>,
}

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Task {
    /// Mean loss in nats by position in the sequence.
    LossByPosition {
        /// The token sequences.
        tokens: Reference,
        /// How many buckets of equal width.
        buckets: usize,
    },
}

impl Kind for Evaluate {
    const NAME: &'static str = "Evaluate";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Measures a model: loss by position, planted facts, needles, multiple choice.";
    const NUMERICS: Numerics = Numerics::Floating;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
