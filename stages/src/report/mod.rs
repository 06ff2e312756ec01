//! Writes one page that compares variants in a table and plots.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `Report` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The head line of the page.
    pub title: String,
    /// The variants to compare, in order: label -> its `Evaluate` stage.
    pub evaluations: indexmap::IndexMap<String, Reference>,
    /// Training curves to plot: label -> its `Train` stage.
    #[serde(default)]
    pub training: indexmap::IndexMap<String, Reference>,
}

impl Kind for Report {
    const NAME: &'static str = "Report";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Writes one page that compares variants in a table and plots.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
