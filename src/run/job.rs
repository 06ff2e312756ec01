//! What the driver hands to a worker process, and what comes back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use twdag_stages::stage::{Allowed, Blame, FinishedPart, Isolation, Part, StageEvent};

use crate::failpoint;

/// One stage to run, with every path resolved: a worker knows neither graph nor store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The stage's name, for messages.
    pub stage: String,
    /// What of it is to be done.
    pub work: Work,
    /// The stage's kind.
    pub kind: String,
    /// Its settings with every default filled in, as JSON text: a parsed value would sort the maps, whose order counts.
    pub settings: String,
    /// Where each reference in the settings leads: a read-only folder, or a file inside one.
    pub inputs: BTreeMap<String, PathBuf>,
    /// Where relative source paths start.
    pub workspace: PathBuf,
    /// Where the result is written; emptied when the worker starts.
    pub output: PathBuf,
    /// What an interrupted attempt left and the next one goes on from.
    pub scratch: PathBuf,
    /// Where the stage may leave logs for people.
    pub logs: PathBuf,
    /// Where what the programs of the stage print is added.
    pub log: PathBuf,
    /// Where the worker leaves the `Split`, if the stage's work falls into parts.
    pub split: PathBuf,
    /// How many threads the stage may use.
    pub threads: usize,
    /// How far programs that the stage starts are kept from what it does not declare.
    pub isolation: Isolation,
    /// What they may do beyond that.
    pub allowed: Allowed,
    /// Whether somebody ends what the stage has started, should worker and driver be killed together.
    pub guarded: bool,
    /// The process that waits for the worker; the worker ends when it is gone.
    pub driver: u32,
}

#[cfg(test)]
impl Job {
    /// One with these settings, all of it in a folder.
    pub(super) fn example(folder: &Path, settings: String) -> Self {
        Self {
            stage: "stage".to_owned(),
            work: Work::Stage,
            kind: "Command".to_owned(),
            settings,
            inputs: BTreeMap::new(),
            workspace: folder.to_owned(),
            output: folder.join("output"),
            scratch: folder.join("kept"),
            logs: folder.join("logs"),
            log: folder.join("log"),
            split: folder.join("split.json"),
            threads: 1,
            isolation: Isolation::Off,
            allowed: Allowed::default(),
            guarded: true,
            driver: 1,
        }
    }
}

/// What a worker does of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Split it into parts, or all of it if that is not worth while.
    Stage,
    /// All of it in one piece.
    Whole,
    /// One part.
    Part(Part),
    /// Put the results of its parts together.
    Join(Vec<FinishedPart>),
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// The output folder is complete.
    Succeeded,
    /// Nothing is computed yet: the parts are known.
    Split,
    /// Stopped on request; the scratch folder holds what the next attempt needs.
    Canceled,
    /// There is no result.
    Failed {
        /// What went wrong.
        message: String,
        /// Whose fault it is.
        blame: Blame,
    },
}

/// One line of a worker's standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// What the stage tells.
    Event(StageEvent),
    /// The last word on a job. It gets through even when the disk is full.
    Verdict(Verdict),
    /// After a verdict: the worker is left as it was before the job, and can take another one.
    Ready {
        /// Always true.
        ready: bool,
        /// Whether it has taken up the one that lay ready for it.
        goes_on: bool,
    },
}

/// A file that driver and worker share and that cannot be used.
#[derive(Debug, Error)]
pub enum JobError {
    /// The system refused.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what this version writes.
    #[error("{} is not what this version of twdag writes: {source}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Writes `value` so that a reader sees all of it or nothing.
pub(super) fn write(path: &Path, value: &impl Serialize) -> Result<(), JobError> {
    let failed = |verb| move |source| JobError::File { verb, path: path.to_owned(), source };
    let bytes = serde_json::to_vec(value).map_err(|source| JobError::Format { path: path.to_owned(), source })?;
    let draft = path.with_extension("draft");
    fs::File::create(&draft)
        .and_then(|mut file| failpoint::write("job.write", &mut file, &bytes))
        .and_then(|()| failpoint::pass("job.rename"))
        .and_then(|()| fs::rename(&draft, path))
        .map_err(failed("write"))
}

/// Reads what [`write`] wrote.
pub(super) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, JobError> {
    let bytes = fs::read(path).map_err(|source| JobError::File { verb: "read", path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| JobError::Format { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_sorts_read_back() {
        let progress =
            StageEvent::Progress { done: 3, total: 9, unit: "tokens".to_owned(), detail: "loss 2.5".to_owned() };
        let failed = Verdict::Failed { message: "no".to_owned(), blame: Blame::Environment };
        for line in [
            Line::Event(progress),
            Line::Verdict(failed),
            Line::Verdict(Verdict::Succeeded),
            Line::Ready { ready: true, goes_on: false },
        ] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdict.json");
        write(&path, &Verdict::Canceled).unwrap();
        assert_eq!(read::<Verdict>(&path).unwrap(), Verdict::Canceled);
        fs::write(&path, "{\"verdict\":").unwrap();
        assert!(read::<Verdict>(&path).unwrap_err().to_string().contains("verdict.json"));
    }
}
