//! Writes one page that compares variants in a table and plots.

mod chart;
mod collect;
mod findings;
mod measures;
mod metrics;
mod number;
mod page;
mod run;
mod svg;

use serde::{Deserialize, Serialize};

use crate::stage::{Context, Kind, Numerics, Reference, SettingError, StageError};

/// Settings of a `Report` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The head line of the page.
    pub title: String,
    /// The variants to compare, in order: label -> its `Evaluate` stage. The first is what the others are compared to.
    pub evaluations: indexmap::IndexMap<String, Reference>,
    /// Training curves to plot: label -> its `Train` stage.
    #[serde(default)]
    pub training: indexmap::IndexMap<String, Reference>,
    /// Paragraphs to print below the findings.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Kind for Report {
    const NAME: &'static str = "Report";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Writes one page that compares variants in a table and plots.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn check(&self) -> Result<(), SettingError> {
        if self.evaluations.is_empty() {
            return Err(SettingError::new("evaluations", "empty", "at least one variant"));
        }
        Ok(())
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        run::run(self, context)
    }
}
