//! Turns per-token losses of a short and a long context into loss weights, dense or sparse.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `Postprocess` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postprocess {
    /// Per-token loss with short context.
    pub short: Reference,
    /// Per-token loss with long context.
    pub long: Reference,
    /// How losses become weights.
    #[serde(default)]
    pub compare: crate::weighting::Compare,
    /// The form of the weights.
    pub shape: crate::weighting::Shape,
}

impl Kind for Postprocess {
    const NAME: &'static str = "Postprocess";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str =
        "Turns per-token losses of a short and a long context into loss weights, dense or sparse.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
