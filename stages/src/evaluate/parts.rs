//! Evaluation in parts: each task alone.

use indexmap::IndexMap;
use serde::de::IgnoredAny;

use super::{
    Evaluate, Task,
    run::{Findings, measure_all, write},
};
use crate::{
    data::{read_json, write_json},
    model::ComputeDevice,
    stage::{Context, FinishedPart, Part, Reference, Split, Stage, StageError},
};

const FINDINGS: &str = "findings.json";

/// One unit for each task: nobody knows beforehand which takes longer.
const UNIT: &str = "tasks";

pub(super) fn split(settings: &Evaluate) -> Result<Option<Split>, StageError> {
    if settings.tasks.len() < 2 {
        return Ok(None);
    }
    let parts = settings.sorted_tasks().into_iter().map(|(name, task)| {
        let mut alone = Evaluate {
            model: settings.model.clone().filter(|_| task.needs_model()),
            device: if task.needs_model() { settings.device } else { ComputeDevice::default() },
            tasks: IndexMap::from([(name.clone(), task.clone())]),
        };
        let inputs: Vec<Reference> = alone.references().into_iter().map(|(_, reference)| reference).collect();
        // The result depends on what the stages hold and not on their names.
        let named = alone.references_mut();
        if named.len() != inputs.len() {
            return Err(StageError::Bug(format!("task `{name}` reads something that its part would not be keyed by")));
        }
        for (number, reference) in named.into_iter().enumerate() {
            *reference = Reference::from(number.to_string());
        }
        Part::new(name.clone(), &alone, &inputs, name, 1)
    });
    Ok(Some(Split { unit: UNIT.to_owned(), parts: parts.collect::<Result<_, _>>()? }))
}

pub(super) fn run(settings: &Evaluate, part: &Part, context: &Context) -> Result<(), StageError> {
    let (_, name): (IgnoredAny, String) = part.read()?;
    let task = settings.tasks.get_key_value(&name);
    let task = task.ok_or_else(|| StageError::Bug(format!("there is no task `{name}`")))?;
    let found = measure_all(settings, vec![task], context)?;
    Ok(write_json(&context.output().join(FINDINGS), &found)?)
}

pub(super) fn join(parts: &[FinishedPart], context: &Context) -> Result<(), StageError> {
    let mut found: Vec<(String, Findings)> = Vec::with_capacity(parts.len());
    for part in parts {
        found.extend(read_json::<Vec<_>>(&part.folder.join(FINDINGS))?);
    }
    write(found, context.output())
}

impl Evaluate {
    /// The tasks in the order of their names, because the order of a map is not part of what was asked for.
    pub(super) fn sorted_tasks(&self) -> Vec<(&String, &Task)> {
        let mut tasks: Vec<(&String, &Task)> = self.tasks.iter().collect();
        tasks.sort_by_key(|(name, _)| *name);
        tasks
    }

    fn references_mut(&mut self) -> Vec<&mut Reference> {
        let tasks = self.tasks.values_mut().flat_map(Task::references_mut);
        self.model.iter_mut().chain(tasks).collect()
    }
}

impl Task {
    fn references_mut(&mut self) -> Vec<&mut Reference> {
        match self {
            Self::LossByPosition { tokens, .. } | Self::PlantedFacts { tokens, .. } => vec![tokens],
            Self::Needles { haystack, .. } => haystack.iter_mut().collect(),
            Self::MultipleChoice { data, .. } => vec![data],
            Self::FarTokenDetection { short, long, tokens } | Self::LongPpl { short, long, tokens, .. } => {
                vec![short, long, tokens]
            }
        }
    }
}
