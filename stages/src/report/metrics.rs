//! What `Evaluate` and `Train` leave behind, as far as a report needs it.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use indexmap::IndexMap;
use serde::Deserialize;

use crate::{data::read_json, stage::StageError};

/// `metrics.json`. A number that is `null` was not finite or had nothing to be computed from.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Metrics {
    pub(super) tasks: IndexMap<String, Task>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind")]
pub(super) enum Task {
    LossByPosition {
        mean: Option<f64>,
        buckets: Vec<Bucket>,
    },
    PlantedFacts {
        facts: u64,
        recall: Option<f64>,
        loss_far: Option<f64>,
        loss_other: Option<f64>,
        by_distance: Vec<Distance>,
    },
    Needles {
        accuracy: Option<f64>,
        samples: u64,
        grid: Vec<Cell>,
    },
    MultipleChoice {
        accuracy: Option<f64>,
        questions: u64,
    },
    FarTokenDetection {
        area_under_curve: Option<f64>,
        curve: Vec<[f64; 2]>,
    },
    LongPpl {
        long_perplexity: Option<f64>,
        perplexity: Option<f64>,
    },
    /// Kinds of measurement that this report does not know yet.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
pub(super) struct Bucket {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) loss: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Distance {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) recall: Option<f64>,
    pub(super) loss: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Cell {
    pub(super) length: f64,
    pub(super) accuracy: Option<f64>,
    pub(super) samples: f64,
}

/// One line of `training.jsonl`.
#[derive(Debug, Deserialize)]
pub(super) struct Step {
    pub(super) step: f64,
    pub(super) unweighted_loss: Option<f64>,
}

pub(super) fn read_metrics(folder: &Path) -> Result<Metrics, StageError> {
    Ok(read_json(&folder.join("metrics.json"))?)
}

pub(super) fn read_training(folder: &Path) -> Result<Vec<Step>, StageError> {
    let path = folder.join("training.jsonl");
    let file = File::open(&path).map_err(StageError::io("read", &path))?;
    let mut steps = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(StageError::io("read", &path))?;
        let step = serde_json::from_str(&line).map_err(|error| {
            // The library counts lines from the start of what it was given, which is one line here.
            let what = error.to_string();
            let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
            StageError::input(
                &path,
                format!("line {}, column {}: no training step ({what})", index + 1, error.column()),
            )
        })?;
        steps.push(step);
    }
    Ok(steps)
}
