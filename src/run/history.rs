//! Past runs, read back from the events that each has kept in its folder.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    cached,
    event::{RunEvent, RunOutcome, StageOutcome, StageSummary, Stamped},
    journal,
};
use crate::{
    plan::{Document, settled},
    store::{Store, StoreError, open_plain, read_plain},
};

/// A run that has begun some time, as far as its events tell.
#[derive(Clone, Debug, PartialEq)]
pub struct PastRun {
    /// The name of its folder, which sorts by time.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The graph file as the user named it.
    pub graph: String,
    /// When it began.
    pub started: Timestamp,
    /// When the last event came.
    pub last: Timestamp,
    /// How it ended; `None` if it runs, or was killed.
    pub outcome: Option<RunOutcome>,
    /// Whether its process lives.
    pub is_running: bool,
    /// What became of the stages, as far as it came to that.
    pub stages: Vec<StageSummary>,
}

/// The runs whose folders the store still has, the latest first. Lines that cannot be read are passed over: the last
/// one of a run that was killed may be torn.
pub fn runs(store: &Store) -> Result<Vec<PastRun>, StoreError> {
    let running = store.in_use()?.runs;
    let mut runs: Vec<PastRun> = store.run_folders()?.into_iter().filter_map(|folder| read(&folder)).collect();
    for run in &mut runs {
        run.is_running = run.outcome.is_none() && running.contains(&run.name);
    }
    runs.sort_by(|one, two| two.name.cmp(&one.name));
    Ok(runs)
}

/// One run; `None` if its folder tells of none.
fn read(folder: &Path) -> Option<PastRun> {
    let mut lines = BufReader::new(open_plain(&folder.join(journal::FILE)).ok()?);
    let mut run: Option<PastRun> = None;
    let mut stages = BTreeMap::new();
    let mut planned = Vec::new();
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        let stamped = serde_json::from_slice::<Stamped>(&line);
        line.clear();
        let Ok(Stamped { time, event }) = stamped else { continue };
        if let Some(run) = &mut run {
            run.last = time;
        }
        match event {
            RunEvent::RunStarted { graph, plan, .. } => {
                if let Some(plan) = plan.filter(|name| name == settled::JSON) {
                    planned = cached_stages(&folder.join(plan));
                }
                run = Some(PastRun {
                    name: folder.file_name()?.to_string_lossy().into_owned(),
                    folder: folder.to_owned(),
                    graph,
                    started: time,
                    last: time,
                    outcome: None,
                    is_running: false,
                    stages: Vec::new(),
                });
            }
            RunEvent::StageCached { stage, artifact } => {
                stages.insert(stage, (StageOutcome::Cached, Some(artifact), 0.0, None));
            }
            RunEvent::StageFinished { stage, outcome, artifact, seconds, parts } => {
                stages.insert(stage, (outcome, artifact, seconds, parts));
            }
            RunEvent::RunFinished { outcome, stages } => {
                let run = run.as_mut()?;
                run.outcome = Some(outcome);
                run.stages = if stages.is_empty() { std::mem::take(&mut planned) } else { stages };
            }
            _ => {}
        }
    }
    let mut run = run?;
    if run.outcome.is_none() {
        // Which action gave a result is told at the end alone.
        let summary = |(name, (outcome, artifact, seconds, parts))| StageSummary {
            name,
            outcome,
            key: None,
            artifact,
            seconds,
            parts,
        };
        run.stages = stages.into_iter().map(summary).collect();
    }
    Some(run)
}

/// The stages of a run in which everything was cached.
fn cached_stages(plan: &Path) -> Vec<StageSummary> {
    let document = read_plain(plan).ok().and_then(|bytes| serde_json::from_slice::<Document>(&bytes).ok());
    document.map(|document| cached::summaries(&document)).unwrap_or_default()
}
