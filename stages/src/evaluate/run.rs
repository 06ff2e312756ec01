//! Runs the tasks one after the other; finished tasks wait in the scratch folder.

use std::{
    fs,
    io::Write,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Evaluate, Task, choice, detection, facts, long_ppl, needles, position};
use crate::{
    data::{read_json, write_json},
    model::Model,
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
    model: Option<Model>,
    /// Progress in thousandths of all tasks.
    before: AtomicU64,
    tasks: u64,
    name: &'a str,
}

/// Progress units of each task.
const UNITS: u64 = 1000;

impl Bench<'_> {
    /// The model and its reference.
    pub(super) fn model(&self) -> Result<(&Reference, &Model), StageError> {
        let missing = || StageError::Bug("a task without its model".to_owned());
        Ok((self.reference.ok_or_else(missing)?, self.model.as_ref().ok_or_else(missing)?))
    }

    /// Tells how far the task is, and stops it if somebody asked for that.
    pub(super) fn advance(&self, done: usize, total: usize) -> Result<(), StageError> {
        let done = self.before.load(Ordering::Relaxed) + done as u64 * UNITS / total.max(1) as u64;
        self.context.progress(done, self.tasks * UNITS, "thousandths of tasks", self.name);
        self.context.check_canceled()
    }
}

pub(super) fn run(settings: &Evaluate, context: &Context) -> Result<(), StageError> {
    let model = match &settings.model {
        Some(model) if settings.tasks.values().any(|task| !matches!(task, Task::FarTokenDetection { .. })) => {
            Some(Model::open(context.input(model)?)?)
        }
        _ => None,
    };
    let mut bench = Bench {
        context,
        reference: settings.model.as_ref(),
        model,
        before: AtomicU64::new(0),
        tasks: settings.tasks.len() as u64,
        name: "",
    };
    let mut metrics = Map::new();
    let path = context.output().join("predictions.jsonl");
    let mut predictions =
        fs::File::create(&path).map(std::io::BufWriter::new).map_err(StageError::io("write", &path))?;
    // In order of their names, because the order of a map is not part of what was asked for.
    let mut tasks: Vec<(&String, &Task)> = settings.tasks.iter().collect();
    tasks.sort_by_key(|(name, _)| *name);
    for (index, (name, task)) in tasks.into_iter().enumerate() {
        context.check_canceled()?;
        bench.name = name;
        bench.before = AtomicU64::new(index as u64 * UNITS);
        let kept = context.scratch().join(format!("task-{index}.json"));
        if read_json::<Findings>(&kept).is_err() {
            keep(&kept, &measure(&bench, name, task)?)?;
        }
        // Read back even if it was just measured, so that an interruption cannot change the order of fields.
        let findings: Findings = read_json(&kept)?;
        bench.advance(1, 1)?;
        metrics.insert(name.clone(), findings.metrics);
        for line in findings.predictions {
            writeln!(predictions, "{line}").map_err(StageError::io("write", &path))?;
        }
    }
    predictions.flush().map_err(StageError::io("write", &path))?;
    write_json(&context.output().join("metrics.json"), &json!({ "tasks": metrics }))?;
    Ok(())
}

fn measure(bench: &Bench<'_>, name: &str, task: &Task) -> Result<Findings, StageError> {
    match task {
        Task::LossByPosition { tokens, buckets } => position::measure(bench, name, tokens, *buckets),
        Task::PlantedFacts { tokens, buckets } => facts::measure(bench, name, tokens, *buckets),
        Task::Needles { haystack, lengths, depths, samples, score, seed } => needles::measure(
            bench,
            name,
            &needles::Needles {
                haystack: haystack.as_ref(),
                lengths,
                depths,
                samples: *samples,
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

/// Writes under another name first, so that a file with this name is whole.
fn keep(path: &Path, findings: &Findings) -> Result<(), StageError> {
    let unfinished = path.with_extension("unfinished");
    write_json(&unfinished, findings)?;
    fs::rename(&unfinished, path).map_err(StageError::io("write", path))
}
