//! What the driver does about stages in parts.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use super::Driver;
use crate::{
    blame::Blame,
    run::{
        attempt::Answer,
        event::{NotReproducible, RunEvent, StageOutcome},
        parts::{Parts, Progress},
        process::Wish,
        state::Happened,
    },
};

/// A stage whose parts are at work.
pub(super) struct InParts {
    pub(super) parts: Arc<Parts>,
    pub(super) progress: Progress,
    /// What went wrong with the first part that failed.
    pub(super) failed: Option<PartFailure>,
}

pub(super) struct PartFailure {
    pub(super) message: String,
    pub(super) blame: Blame,
    pub(super) log: Option<PathBuf>,
    pub(super) not_reproducible: Option<NotReproducible>,
}

impl Driver<'_> {
    pub(super) fn canceled(&mut self, stage: usize, seconds: f64) {
        self.seconds[stage] = seconds;
        let parts = self.split.remove(&stage).map(|split| split.parts.counts());
        self.part_counts[stage] = parts;
        let outcome = StageOutcome::Canceled;
        self.event(RunEvent::StageFinished { stage: self.name(stage), outcome, artifact: None, seconds, parts });
    }

    /// A stage turned out to have parts.
    pub(super) fn in_parts(&mut self, stage: usize, parts: Arc<Parts>) -> Happened {
        let (open, counts) = (parts.open(), parts.counts());
        let progress = Progress::of(&parts);
        let name = self.name(stage);
        self.event(RunEvent::StageSplit { stage: name, parts: counts.total, cached: counts.cached });
        for &number in &open {
            self.part_tasks.push((stage, number));
            self.wishes.push(watch::Sender::new(Wish::Run));
            self.busy.push(None);
        }
        self.split.insert(stage, InParts { parts, progress, failed: None });
        Happened::Split(stage, open.len())
    }

    pub(super) fn part_progress(&mut self, task: usize, share: f64) {
        let Some((stage, number)) = self.part(task) else { return };
        let name = self.name(stage);
        let event = self.split.get_mut(&stage).and_then(|split| {
            split.progress.on(number, share, &split.parts);
            split.progress.event(&name, &split.parts)
        });
        if let Some(event) = event {
            self.event(event);
        }
    }

    /// A part has ended without having failed.
    pub(super) fn part_over(&mut self, task: usize, answer: &Answer) -> Happened {
        let (outcome, artifact, seconds) = match answer {
            Answer::Cached(given) => (StageOutcome::Cached, Some(given.artifact), 0.0),
            Answer::Ran { given, seconds } => (StageOutcome::Ran, Some(given.artifact), *seconds),
            Answer::Canceled { seconds } => (StageOutcome::Canceled, None, *seconds),
            Answer::Busy { .. } | Answer::Split(_) | Answer::Failed { .. } => (StageOutcome::Canceled, None, 0.0),
        };
        if let Some((stage, part)) = self.part(task) {
            let name = self.name(stage);
            self.event(RunEvent::PartFinished { stage: name.clone(), part, outcome, artifact, seconds });
            let event = self.split.get_mut(&stage).zip(artifact).and_then(|(split, artifact)| {
                split.parts.have(part, artifact, outcome == StageOutcome::Cached);
                split.progress.finish(&split.parts, part);
                split.progress.event(&name, &split.parts)
            });
            if let Some(event) = event {
                self.event(event);
            }
        }
        match outcome {
            StageOutcome::Cached => Happened::Cached(task),
            StageOutcome::Ran => Happened::Ran(task),
            StageOutcome::Canceled | StageOutcome::Failed | StageOutcome::Skipped => Happened::Canceled(task),
        }
    }

    /// Tells the end of stages that ended because of their parts.
    pub(super) fn wind_up(&mut self) {
        let over: Vec<(usize, StageOutcome)> =
            self.split.keys().filter_map(|&stage| Some((stage, self.scheduler.outcome(stage)?))).collect();
        for (stage, outcome) in over {
            let seconds = self.split.get(&stage).map_or(0.0, |split| split.parts.clock.elapsed().as_secs_f64());
            if outcome != StageOutcome::Failed {
                self.canceled(stage, seconds);
                continue;
            }
            let Some(InParts { parts, failed, .. }) = self.split.remove(&stage) else { continue };
            self.part_counts[stage] = Some(parts.counts());
            self.seconds[stage] = seconds;
            if let Some(PartFailure { message, blame, log, not_reproducible }) = failed {
                let stage = self.name(stage);
                self.event(RunEvent::StageFailed {
                    stage,
                    message,
                    blame,
                    log,
                    not_reproducible,
                    differs_from_lock: None,
                });
            }
        }
    }

    /// A part has no result, and will have none in this run.
    pub(super) fn part_failed(&mut self, stage: usize, part: usize, failure: PartFailure) {
        let stage_name = self.name(stage);
        let Some(split) = self.split.get_mut(&stage) else { return };
        let name = split.parts.all[part].part.name.clone();
        let PartFailure { message, blame, log, not_reproducible } = failure;
        // The stage's own failure tells of the first.
        split.failed.get_or_insert(PartFailure {
            message: format!("part {part} ({name}): {message}"),
            blame,
            log: log.clone(),
            not_reproducible,
        });
        self.event(RunEvent::PartFailed { stage: stage_name, part, name, message, blame, log });
    }
}
