//! Turns per-token losses of a short and a long context into loss weights, dense or sparse.

mod run;

use serde::{Deserialize, Serialize};

use crate::{
    stage::{Context, Kind, Numerics, Reference, SettingError, StageError},
    weighting::{self, Compare, Rounding, Shape},
};

/// Settings of a `Postprocess` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postprocess {
    /// Per-token loss with short context.
    pub short: Reference,
    /// Per-token loss with long context.
    pub long: Reference,
    /// How losses are compared; the shape chooses if absent (see [`Compare`]).
    #[serde(default)]
    pub compare: Option<Compare>,
    /// Losses that are rounded to bf16 before they are compared; none if absent (see [`Rounding`]).
    #[serde(default)]
    pub rounding: Option<Rounding>,
    /// The form of the weights.
    pub shape: Shape,
}

impl Kind for Postprocess {
    const NAME: &'static str = "Postprocess";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str =
        "Turns per-token losses of a short and a long context into loss weights, dense or sparse.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn check(&self) -> Result<(), SettingError> {
        Rounding::check(self.rounding, &self.shape, "")?;
        weighting::check(self.compare, &self.shape, "")
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        context.in_pool(|| run::run(self, context))
    }
}
