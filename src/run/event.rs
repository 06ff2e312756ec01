//! The one stream of what happens in a run. The terminal, `--json` and the run folder's log read it and nothing else.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::sharing::RemoteSummary;
use crate::{
    blame::Blame,
    digest::{ArtifactId, Key},
    lock::Deviation,
};

/// Something that happened. `docs/machine-readable.md` is the contract for scripts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RunEvent {
    /// The plan is made, nothing has started yet.
    RunStarted {
        /// The graph file as the user named it.
        graph: String,
        /// Where the run keeps its events and the logs of its stages.
        folder: PathBuf,
        /// Stages that may run at the same time.
        jobs: usize,
        /// Threads of a stage whose policy does not say how much `cpu` it wants.
        threads: usize,
        /// How much there is of each resource; `memory` in bytes.
        #[serde(default)]
        resources: BTreeMap<String, u64>,
        /// Every stage of this run, in topological order.
        stages: Vec<Announced>,
        /// Where else the stages stand, all of them cached: the name of a file in the run's folder. The two lists of
        /// stages in the folder's events are empty then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
    },
    /// The result was in the store already.
    StageCached {
        /// The stage.
        stage: String,
        /// Its result.
        artifact: ArtifactId,
    },
    /// Another process computes the same action; this run waits for its result.
    StageWaiting {
        /// The stage.
        stage: String,
        /// Who computes it.
        owner: String,
        /// The number of the part, if the run waits for one alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<usize>,
    },
    /// A worker process was started.
    StageStarted {
        /// The stage.
        stage: String,
        /// Its kind.
        kind: String,
        /// What its result will be recorded under.
        key: Key,
        /// The worker process.
        pid: u32,
        /// Why the stage runs.
        reason: String,
        /// Counts the attempts of this run, from 1.
        #[serde(default)]
        attempt: u32,
        /// How many threads the stage may use.
        #[serde(default)]
        threads: usize,
        /// The devices that it may use, if anything is known of devices.
        #[serde(default)]
        devices: Option<Vec<String>>,
    },
    /// The stage's work has fallen into parts, which now run one by one.
    StageSplit {
        /// The stage.
        stage: String,
        /// How many parts.
        parts: usize,
        /// How many of them have their result in the store.
        cached: usize,
    },
    /// A worker process was started for a part.
    PartStarted {
        /// The stage.
        stage: String,
        /// The number of the part, from 0.
        part: usize,
        /// What it is, for people.
        name: String,
        /// What its result will be recorded under.
        key: Key,
        /// The worker process.
        pid: u32,
        /// Counts the attempts of this run, from 1.
        attempt: u32,
        /// How many threads the part may use.
        threads: usize,
        /// The devices that it may use, if anything is known of devices.
        devices: Option<Vec<String>>,
    },
    /// A part is over without having failed.
    PartFinished {
        /// The stage.
        stage: String,
        /// The number of the part.
        part: usize,
        /// `ran`; `cached` if another process made it meanwhile; or `canceled` if it stopped on request.
        outcome: StageOutcome,
        /// The result, if there is one.
        artifact: Option<ArtifactId>,
        /// Seconds from the start of the worker to the recorded result.
        seconds: f64,
    },
    /// A part has no result; the stage fails when its other parts have ended.
    PartFailed {
        /// The stage.
        stage: String,
        /// The number of the part.
        part: usize,
        /// What it is, for people.
        name: String,
        /// What went wrong and what to do.
        message: String,
        /// Whose fault it is.
        blame: Blame,
        /// What the worker wrote to its standard error, if a worker was started.
        log: Option<PathBuf>,
    },
    /// All parts have their results, and a worker process was started that puts them together.
    StageJoining {
        /// The stage.
        stage: String,
        /// The worker process.
        pid: u32,
        /// The parts.
        parts: PartCounts,
    },
    /// How far a stage is.
    StageProgress {
        /// The stage.
        stage: String,
        /// Units done, those of an interrupted earlier attempt included.
        done: u64,
        /// Units in all; zero when unknown.
        total: u64,
        /// What is counted, in the plural.
        unit: String,
        /// A few words on the state; may be empty.
        detail: String,
    },
    /// Something that the user should know although the stage goes on.
    StageWarning {
        /// The stage.
        stage: String,
        /// One sentence.
        message: String,
    },
    /// A worker ended without failing.
    StageFinished {
        /// The stage.
        stage: String,
        /// `ran`, or `canceled` if it stopped on request.
        outcome: StageOutcome,
        /// The result, if it ran to its end.
        artifact: Option<ArtifactId>,
        /// Seconds from the start of the worker to the recorded result.
        seconds: f64,
        /// What became of its parts, if it was computed in parts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parts: Option<PartCounts>,
    },
    /// An attempt failed, and another one follows.
    StageRetrying {
        /// The stage.
        stage: String,
        /// What went wrong.
        message: String,
        /// Whose fault it is.
        blame: Blame,
        /// What the worker wrote to its standard error, if a worker was started.
        log: Option<PathBuf>,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// How many may follow it.
        retries_left: u32,
        /// Seconds until the next attempt.
        pause: f64,
        /// The number of the part, if it is an attempt at a part.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<usize>,
    },
    /// A stage has no result.
    StageFailed {
        /// The stage.
        stage: String,
        /// What went wrong and what to do.
        message: String,
        /// Whose fault it is.
        blame: Blame,
        /// What the worker wrote to its standard error, if a worker was started.
        log: Option<PathBuf>,
        /// The two results, if it is that the stage gave another one than before.
        #[serde(default)]
        not_reproducible: Option<NotReproducible>,
        /// In what it is not what the lock says, if the run is held to one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        differs_from_lock: Option<Box<Deviation>>,
    },
    /// Something in the store was found to be other than it must be; it is not used, and computed again if needed.
    StoreDamaged {
        /// Where it lay.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// Where it was moved; nothing if it could not be.
        quarantine: Option<PathBuf>,
    },
    /// Something about the run itself that the user should know although it goes on.
    RunWarning {
        /// One sentence.
        message: String,
    },
    /// Somebody asked the run to stop.
    RunStopping {
        /// The signal, such as `SIGINT`.
        signal: String,
        /// Stages whose workers are still running.
        waiting_for: Vec<String>,
        /// True if the workers are killed now instead of being asked.
        kill: bool,
    },
    /// What came of the remote store, if there is one.
    RemoteSummary(RemoteSummary),
    /// The run is over; always the last event.
    RunFinished {
        /// How it went.
        outcome: RunOutcome,
        /// Every stage of the run, in the order of `run-started`.
        stages: Vec<StageSummary>,
    },
}

/// A stage as the plan sees it before the run starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announced {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What the plan says.
    pub status: AnnouncedStatus,
    /// Why.
    pub reason: String,
}

/// A stage that gave another result than before for the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReproducible {
    /// The key.
    pub key: Key,
    /// The result that was recorded before.
    pub existing: ArtifactId,
    /// The result that differs.
    pub new: ArtifactId,
    /// The file that differs first, in the order of paths, if the earlier list of files is still there.
    pub file: Option<String>,
    /// The result that the store has on record now.
    pub recorded: ArtifactId,
}

/// What the plan says of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnnouncedStatus {
    /// The result is in the store.
    Cached,
    /// It has to run.
    Run,
    /// Whether it has to run depends on results that are not there yet.
    Waits,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// Every stage has a result.
    Succeeded,
    /// A stage failed.
    Failed,
    /// Stopped by a signal before everything was done.
    Interrupted,
}

/// What became of a stage in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageOutcome {
    /// The result was there, or another process made it meanwhile.
    Cached,
    /// It was computed.
    Ran,
    /// It has no result because of itself.
    Failed,
    /// It was not started because of a failure elsewhere.
    Skipped,
    /// It was not started or not ended because the run was stopped.
    Canceled,
}

/// One line of the final account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// The stage.
    pub name: String,
    /// What became of it.
    pub outcome: StageOutcome,
    /// What its result is recorded under, if it has one; runs of earlier versions do not tell.
    #[serde(default)]
    pub key: Option<Key>,
    /// Its result, if it has one.
    pub artifact: Option<ArtifactId>,
    /// Seconds that it took; zero if it was not computed.
    pub seconds: f64,
    /// What became of its parts, if it was computed in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<PartCounts>,
}

/// How many parts a stage has, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartCounts {
    /// All parts.
    pub total: usize,
    /// Those whose result was in the store, or was made by another process meanwhile.
    pub cached: usize,
    /// Those that this run computed.
    pub ran: usize,
}

/// An event as the run folder keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: RunEvent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn the_last_line_is_what_scripts_expect() {
        let event = RunEvent::RunFinished {
            outcome: RunOutcome::Interrupted,
            stages: vec![StageSummary {
                name: "corpus".to_owned(),
                outcome: StageOutcome::Canceled,
                key: None,
                artifact: None,
                seconds: 1.5,
                parts: None,
            }],
        };
        insta::assert_snapshot!(
            serde_json::to_string(&event).unwrap(),
            @r#"{"event":"run-finished","outcome":"interrupted","stages":[{"name":"corpus","outcome":"canceled","key":null,"artifact":null,"seconds":1.5}]}"#
        );
    }

    #[test]
    fn a_kept_event_reads_back() {
        let stamped = Stamped {
            time: "2026-03-01T10:00:00Z".parse().unwrap(),
            event: RunEvent::StageCached { stage: "a".to_owned(), artifact: Digest::of(b"x").into() },
        };
        let line = serde_json::to_string(&stamped).unwrap();
        assert!(line.starts_with(r#"{"time":"2026-03-01T10:00:00Z","event":"stage-cached","stage":"a""#), "{line}");
        assert_eq!(serde_json::from_str::<Stamped>(&line).unwrap(), stamped);
    }
}
