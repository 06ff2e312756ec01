//! What is written down of a check.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{compare::Comparison, digest::ArtifactId, graph::Comparator};

/// What came of computing a stage again; `docs/machine-readable.md` is the contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What came of it in all: the worst of its runs.
    pub outcome: Outcome,
    /// The recorded result that was compared with.
    pub artifact: ArtifactId,
    /// By what it was compared.
    pub comparator: String,
    /// When.
    pub time: Timestamp,
    /// On which machine.
    pub host: String,
    /// The version of twdag.
    pub version: String,
    /// Each run.
    pub runs: Vec<Rerun>,
    /// In what the first of the worst runs differs from the record.
    pub difference: Option<Comparison>,
}

/// What a result that was computed again is beside the recorded one; the later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The same bytes.
    Same,
    /// Numbers that are as near as the stage's comparator asks for.
    WithinTolerance,
    /// Something else.
    Differs,
}

/// One of the runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rerun {
    /// What came out.
    pub artifact: ArtifactId,
    /// What that is beside the record.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// The threads it had.
    pub threads: usize,
    /// What was another one than usual.
    pub varied: Vec<String>,
    /// What could not be another one.
    pub kept: Vec<Kept>,
}

/// Something of the surroundings that was as usual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Verdict {
    /// The verdict of some runs.
    pub(super) fn new(
        artifact: ArtifactId,
        comparator: &Comparator,
        runs: Vec<Rerun>,
        difference: Option<Comparison>,
    ) -> Self {
        Self {
            outcome: runs.iter().map(|run| run.outcome).max().unwrap_or(Outcome::Same),
            artifact,
            comparator: comparator.to_string(),
            time: Timestamp::now(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs,
            difference,
        }
    }
}
