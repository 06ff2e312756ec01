//! `training.jsonl`: in the result without times, and for people with them.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::stage::{Context, StageError};

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
    /// How long the step took; `null` in the result, since the same settings and inputs give the same bytes.
    pub seconds: Option<f64>,
}

/// Writes all lines.
pub(super) fn write(path: &Path, steps: &[TrainingStep]) -> Result<(), StageError> {
    fs::write(path, lines(steps)?).map_err(StageError::io("write", path))
}

/// Writes all lines without times.
pub(super) fn write_result(path: &Path, steps: &[TrainingStep]) -> Result<(), StageError> {
    let steps: Vec<_> = steps.iter().map(|step| TrainingStep { seconds: None, ..step.clone() }).collect();
    write(path, &steps)
}

fn lines(steps: &[TrainingStep]) -> Result<String, StageError> {
    let mut text = String::new();
    for step in steps {
        text += &serde_json::to_string(step).map_err(|error| StageError::Bug(error.to_string()))?;
        text.push('\n');
    }
    Ok(text)
}

/// The lines as they come, with times, for whoever follows the training. That they cannot be written is only warned of.
pub(super) struct Live<'a> {
    context: &'a Context,
    file: Option<File>,
}

impl<'a> Live<'a> {
    /// Starts with the steps of earlier attempts.
    pub(super) fn start(context: &'a Context, earlier: &[TrainingStep]) -> Self {
        let mut live = Self { context, file: None };
        if let Some(folder) = context.logs() {
            let path = folder.join(FILE);
            match fs::create_dir_all(folder).and_then(|()| File::create(&path)) {
                Ok(file) => live.file = Some(file),
                Err(error) => live.give_up(&StageError::io("create", &path)(error)),
            }
        }
        live.add(earlier);
        live
    }

    /// Adds lines.
    pub(super) fn add(&mut self, steps: &[TrainingStep]) {
        let Some(file) = &mut self.file else { return };
        let written = lines(steps).and_then(|lines| {
            file.write_all(lines.as_bytes())
                .map_err(|source| StageError::Environment { action: format!("write {FILE} of the run's logs"), source })
        });
        if let Err(error) = written {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &StageError) {
        self.file = None;
        self.context.warn(format!("the times of the steps are not logged: {error}"));
    }
}

/// Reads what [`write`] wrote.
pub(super) fn read(path: &Path) -> Result<Vec<TrainingStep>, StageError> {
    let text = fs::read_to_string(path).map_err(StageError::io("read", path))?;
    let line = |line: &str| serde_json::from_str(line).map_err(|error| StageError::input(path, error));
    text.lines().map(line).collect()
}
