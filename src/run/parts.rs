//! The parts of one stage of a run: which there are, which are done, and what became of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use twdag_stages::stage::{FinishedPart, Part, Split};

use super::{
    error::Trouble,
    event::{PartCounts, RunEvent},
    turn::Turn,
};
use crate::{
    blame::Blame,
    digest::{ArtifactId, Key},
    graph::Node,
    plan::Action,
    store::{RecordedPart, SourceState, Store},
};

/// At most one event of progress in this time.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A stage whose work has fallen into parts. As long as it lives, nobody else computes the stage.
pub(super) struct Parts {
    /// The action of the stage.
    pub(super) action: Action,
    /// Its sources before anything was read.
    pub(super) sources: Vec<SourceState>,
    pub(super) claim: Arc<Turn>,
    pub(super) reason: String,
    pub(super) began: Timestamp,
    pub(super) clock: Instant,
    /// What the stage warned of when it was split.
    pub(super) notices: Vec<String>,
    pub(super) unit: String,
    pub(super) all: Vec<PartAction>,
    results: Mutex<Vec<Option<PartResult>>>,
}

/// A part with what it is keyed by.
pub(super) struct PartAction {
    pub(super) part: Part,
    pub(super) action: Action,
    /// The first part with the same key: the one that is computed for all of them.
    first: usize,
}

#[derive(Clone, Copy)]
struct PartResult {
    artifact: ArtifactId,
    cached: bool,
}

/// What a stage was before it fell into parts.
pub(super) struct Whole {
    pub(super) action: Action,
    pub(super) sources: Vec<SourceState>,
    pub(super) claim: Arc<Turn>,
    pub(super) reason: String,
    pub(super) began: Timestamp,
    pub(super) clock: Instant,
    pub(super) notices: Vec<String>,
}

impl Parts {
    /// Looks up which parts of a split the store has, and leases their results.
    pub(super) fn find(whole: Whole, split: Split, node: &Node, store: &Store) -> Result<Self, Trouble> {
        let Whole { action, sources, claim, reason, began, clock, notices } = whole;
        let mut firsts: BTreeMap<Key, usize> = BTreeMap::new();
        let (mut all, mut results) = (Vec::with_capacity(split.parts.len()), Vec::with_capacity(split.parts.len()));
        let _hold = store.hold()?;
        for (number, part) in split.parts.into_iter().enumerate() {
            let action = action.part(node, &part)?;
            let first = *firsts.entry(action.key()).or_insert(number);
            let record = if first == number { store.record(&action.key())? } else { None };
            results.push(record.map(|record| PartResult { artifact: record.artifact, cached: true }));
            all.push(PartAction { part, action, first });
        }
        store.need(results.iter().flatten().map(|result| result.artifact))?;
        let (unit, results) = (split.unit, Mutex::new(results));
        Ok(Self { action, sources, claim, reason, began, clock, notices, unit, all, results })
    }

    fn result(&self, number: usize) -> Option<PartResult> {
        let first = self.all.get(number)?.first;
        self.results.lock().unwrap_or_else(PoisonError::into_inner).get(first).copied().flatten()
    }

    /// The parts that have to be computed, each content once.
    pub(super) fn open(&self) -> Vec<usize> {
        (0..self.all.len())
            .filter(|&number| self.all[number].first == number && self.result(number).is_none())
            .collect()
    }

    /// A part has its result.
    pub(super) fn have(&self, number: usize, artifact: ArtifactId, cached: bool) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = results.get_mut(number) {
            *result = Some(PartResult { artifact, cached });
        }
    }

    /// How many parts there are, were there, and were computed so far. A part that is the same as one before counts
    /// with it.
    pub(super) fn counts(&self) -> PartCounts {
        let mut counts = PartCounts { total: self.all.len(), cached: 0, ran: 0 };
        for number in 0..self.all.len() {
            match self.result(number) {
                Some(PartResult { cached: true, .. }) => counts.cached += 1,
                Some(PartResult { cached: false, .. }) => counts.ran += 1,
                None => {}
            }
        }
        counts
    }

    /// All parts with their results, to be joined.
    pub(super) fn finished(&self, store: &Store) -> Result<Vec<FinishedPart>, Trouble> {
        let finished = |(number, part): (usize, &PartAction)| {
            let folder = store.view(&self.finished_result(number)?.artifact)?;
            Ok(FinishedPart { part: part.part.clone(), folder })
        };
        self.all.iter().enumerate().map(finished).collect()
    }

    /// All parts as the stage's record names them.
    pub(super) fn recorded(&self) -> Result<Vec<RecordedPart>, Trouble> {
        let record = |(number, part): (usize, &PartAction)| {
            let PartResult { artifact, cached } = self.finished_result(number)?;
            Ok(RecordedPart { key: part.action.key(), artifact, cached })
        };
        self.all.iter().enumerate().map(record).collect()
    }

    fn finished_result(&self, number: usize) -> Result<PartResult, Trouble> {
        self.result(number)
            .ok_or_else(|| Trouble::new(format!("internal error: part {number} has no result"), Blame::Bug))
    }
}

/// How far a stage in parts is: what is done of each part.
pub(super) struct Progress {
    done: Vec<u64>,
    told: Option<Instant>,
}

impl Progress {
    pub(super) fn of(parts: &Parts) -> Self {
        let mut progress = Self { done: vec![0; parts.all.len()], told: None };
        for number in 0..parts.all.len() {
            if parts.result(number).is_some() {
                progress.finish(parts, number);
            }
        }
        progress
    }

    /// A part is so far along.
    pub(super) fn on(&mut self, number: usize, share: f64, parts: &Parts) {
        let size = parts.all.get(number).map_or(0, |part| part.part.size);
        if let Some(done) = self.done.get_mut(number) {
            *done = (size as f64 * share.clamp(0.0, 1.0)) as u64;
        }
    }

    /// A part is done, and so are those that are the same.
    pub(super) fn finish(&mut self, parts: &Parts, number: usize) {
        for (same, done) in parts.all.iter().zip(&mut self.done).filter(|(part, _)| part.first == number) {
            *done = same.part.size;
        }
    }

    /// The event that tells of it, if it is time for one.
    pub(super) fn event(&mut self, stage: &str, parts: &Parts) -> Option<RunEvent> {
        if self.told.is_some_and(|told| told.elapsed() < PROGRESS_INTERVAL) {
            return None;
        }
        self.told = Some(Instant::now());
        let counts = parts.counts();
        Some(RunEvent::StageProgress {
            stage: stage.to_owned(),
            done: self.done.iter().sum(),
            total: parts.all.iter().map(|part| part.part.size).sum(),
            unit: parts.unit.clone(),
            detail: format!("{} of {} parts", counts.cached + counts.ran, counts.total),
        })
    }
}
