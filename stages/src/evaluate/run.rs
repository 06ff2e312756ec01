//! Measures tasks, and writes what was found.

use std::{fs, io::Write, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Evaluate, Task, choice, detection, facts, long_ppl, needles, position};
use crate::{
    data::{sorted_json, write_json},
    model::PlacedModel,
    stage::{Context, Reference, StageError},
};

/// What one task found: its entry in `metrics.json` and its lines in `predictions.jsonl`.
#[derive(Serialize, Deserialize)]
pub(super) struct Findings {
    pub(super) metrics: Value,
    pub(super) predictions: Vec<Value>,
}

/// What a task works with.
pub(super) struct Bench<'a> {
    pub(super) context: &'a Context,
    reference: Option<&'a Reference>,
    model: Option<PlacedModel>,
    name: &'a str,
}

/// Progress units of each task.
const UNITS: u64 = 1000;

impl Bench<'_> {
    /// The model and its reference.
    pub(super) fn model(&self) -> Result<(&Reference, &PlacedModel), StageError> {
        let missing = || StageError::Bug("a task without its model".to_owned());
        Ok((self.reference.ok_or_else(missing)?, self.model.as_ref().ok_or_else(missing)?))
    }

    /// Tells how far the task is, and stops it if somebody asked for that.
    pub(super) fn advance(&self, done: usize, total: usize) -> Result<(), StageError> {
        let done = done as u64 * UNITS / total.max(1) as u64;
        self.context.progress(done, UNITS, "thousandths of the task", self.name);
        self.context.check_canceled()
    }
}

/// Measures some of the tasks, one after the other; answers each with its name.
pub(super) fn measure_all(
    settings: &Evaluate,
    tasks: Vec<(&String, &Task)>,
    context: &Context,
) -> Result<Vec<(String, Findings)>, StageError> {
    let model = match &settings.model {
        Some(model) if tasks.iter().any(|(_, task)| task.needs_model()) => {
            settings.device.notice().into_iter().for_each(|notice| context.warn(notice));
            Some(PlacedModel::open(context.input(model)?, None, settings.device)?)
        }
        _ => None,
    };
    let mut bench = Bench { context, reference: settings.model.as_ref(), model, name: "" };
    let mut found = Vec::with_capacity(tasks.len());
    for (name, task) in tasks {
        context.check_canceled()?;
        bench.name = name;
        found.push((name.clone(), measure(&bench, name, task)?));
        bench.advance(1, 1)?;
    }
    Ok(found)
}

/// Writes `metrics.json` and `predictions.jsonl`.
pub(super) fn write(found: Vec<(String, Findings)>, output: &Path) -> Result<(), StageError> {
    let mut metrics = Map::new();
    let path = output.join("predictions.jsonl");
    let mut predictions =
        fs::File::create(&path).map(std::io::BufWriter::new).map_err(StageError::io("write", &path))?;
    for (name, findings) in found {
        metrics.insert(name, findings.metrics);
        for line in findings.predictions {
            writeln!(predictions, "{}", sorted_json(line)).map_err(StageError::io("write", &path))?;
        }
    }
    predictions.flush().map_err(StageError::io("write", &path))?;
    write_json(&output.join("metrics.json"), &json!({ "tasks": metrics }))?;
    Ok(())
}

fn measure(bench: &Bench<'_>, name: &str, task: &Task) -> Result<Findings, StageError> {
    match task {
        Task::LossByPosition { tokens, buckets } => position::measure(bench, name, tokens, *buckets),
        Task::PlantedFacts { tokens, buckets } => facts::measure(bench, name, tokens, *buckets),
        Task::Needles { haystack, form, lengths, depths, samples, score, seed } => needles::measure(
            bench,
            name,
            &needles::Needles {
                haystack: haystack.as_ref(),
                lengths,
                depths,
                samples: *samples,
                form: *form,
                score: *score,
                seed: *seed,
            },
        ),
        Task::MultipleChoice { data, shots, limit, subjects } => {
            choice::measure(bench, name, data, *shots, *limit, subjects.as_deref())
        }
        Task::FarTokenDetection { short, long, tokens } => detection::measure(bench, name, short, long, tokens),
        Task::LongPpl { short, long, tokens, alpha, beta } => {
            long_ppl::measure(bench, name, (short, long), tokens, (*alpha, *beta))
        }
    }
}
