//! Computes the loss of each token under a model, with full context or in short windows.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `Score` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The scoring model.
    pub model: Reference,
    /// The token sequences.
    pub tokens: Reference,
    /// Short windows; the whole sequence at once if absent.
    #[serde(default)]
    pub windows: Option<Windows>,
}

/// The windows of the short-context side (method.md, section 1.4): `(L - length) mod step` must be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// Tokens in each window, S.
    pub length: usize,
    /// Distance between window starts, T.
    pub step: usize,
}

impl Kind for Score {
    const NAME: &'static str = "Score";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str =
        "Computes the loss of each token under a model, with full context or in short windows.";
    const NUMERICS: Numerics = Numerics::Floating;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
