//! `training.jsonl`.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::stage::StageError;

/// The name of the file in a model folder that `Train` wrote.
pub(super) const FILE: &str = "training.jsonl";

/// One line of `training.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingStep {
    /// Number of the step, from 1.
    pub step: usize,
    /// The weighted loss that was minimised, in nats.
    pub loss: f64,
    /// The mean loss of all targets alike, in nats.
    pub unweighted_loss: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens seen since the start.
    pub tokens: u64,
    /// Always `null`: the same settings and inputs give the same bytes.
    pub seconds: Option<f64>,
}

/// Writes all lines.
pub(super) fn write(path: &Path, steps: &[TrainingStep]) -> Result<(), StageError> {
    let mut text = String::new();
    for step in steps {
        text += &serde_json::to_string(step).map_err(|error| StageError::Bug(error.to_string()))?;
        text.push('\n');
    }
    fs::write(path, text).map_err(StageError::io("write", path))
}

/// Reads what [`write`] wrote.
pub(super) fn read(path: &Path) -> Result<Vec<TrainingStep>, StageError> {
    let text = fs::read_to_string(path).map_err(StageError::io("read", path))?;
    let line = |line: &str| serde_json::from_str(line).map_err(|error| StageError::input(path, error));
    text.lines().map(line).collect()
}
