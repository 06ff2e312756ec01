//! Runs in which everything is cached. Nothing starts, so that such a run needs no driver; its folder holds the plan
//! instead of an event for each stage, since a run that does nothing is what happens most often.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    error::RunError,
    event::{Announced, AnnouncedStatus, RunEvent, RunOutcome, StageOutcome, StageSummary},
    journal::Journal,
    resources::Totals,
    sharing::RemoteSummary,
};
use crate::{
    plan::{Document, settled},
    store::Store,
};

/// A run in which everything is cached.
#[derive(Debug)]
pub struct CachedRun<'a> {
    /// The graph file as the user named it.
    pub graph: &'a Path,
    /// Stages that could run at the same time, if anything was said of that.
    pub jobs: Option<usize>,
    /// What there is for stages to use.
    pub totals: &'a Totals,
}

/// The plan of such a run.
#[derive(Clone, Copy, Debug)]
pub enum KeptPlan<'a> {
    /// In a file that never changes.
    At(&'a Path),
    /// As text.
    Text(&'a str),
}

impl CachedRun<'_> {
    /// Keeps the run in a folder of its own, and says in which. Call it while the store is held since it was opened.
    pub fn keep(&self, store: &Store, plan: KeptPlan<'_>) -> Result<PathBuf, RunError> {
        let folder = store.brief_run_folder()?;
        let in_folder = |source| RunError::Folder { path: folder.clone(), source };
        let path = folder.join(settled::JSON);
        match plan {
            // One plan serves any number of runs; a file can have many names, but not any number of them.
            KeptPlan::At(file) => fs::hard_link(file, &path).or_else(|_| fs::copy(file, &path).map(drop)),
            KeptPlan::Text(text) => fs::write(&path, text),
        }
        .map_err(in_folder)?;
        let mut journal = Journal::create(&folder).map_err(in_folder)?;
        let begin = self.begin(folder.clone(), Vec::new(), Some(settled::JSON.to_owned()));
        for event in [begin, end(Vec::new())] {
            if let Some(problem) = journal.keep(&event) {
                return Err(in_folder(io::Error::other(problem)));
            }
        }
        Ok(folder)
    }

    /// The whole stream of events of the run whose plan this is.
    pub fn events(
        &self,
        folder: PathBuf,
        plan: Document,
        summary: Option<RemoteSummary>,
    ) -> impl Iterator<Item = RunEvent> {
        let announced = plan.stages.iter().map(|stage| Announced {
            name: stage.name.clone(),
            kind: stage.kind.clone(),
            status: AnnouncedStatus::Cached,
            reason: stage.reason.clone(),
        });
        let first = self.begin(folder, announced.collect(), None);
        let last = end(summaries(&plan));
        let cached = plan
            .stages
            .into_iter()
            .filter_map(|stage| Some(RunEvent::StageCached { stage: stage.name, artifact: stage.artifact? }));
        let summary = summary.map(RunEvent::RemoteSummary);
        std::iter::once(first).chain(cached).chain(summary).chain(std::iter::once(last))
    }

    fn begin(&self, folder: PathBuf, stages: Vec<Announced>, plan: Option<String>) -> RunEvent {
        RunEvent::RunStarted {
            graph: self.graph.display().to_string(),
            folder,
            jobs: self.jobs.unwrap_or(1),
            threads: self.totals.default_threads(self.jobs),
            resources: self.totals.amounts().clone(),
            stages,
            plan,
        }
    }
}

fn end(stages: Vec<StageSummary>) -> RunEvent {
    RunEvent::RunFinished { outcome: RunOutcome::Succeeded, stages }
}

/// What became of each stage of a plan in which everything is cached: nothing.
pub(super) fn summaries(plan: &Document) -> Vec<StageSummary> {
    let summary = |stage: &crate::plan::DocumentStage| StageSummary {
        name: stage.name.clone(),
        outcome: StageOutcome::Cached,
        key: stage.key,
        artifact: stage.artifact,
        seconds: 0.0,
        parts: None,
    };
    plan.stages.iter().map(summary).collect()
}
