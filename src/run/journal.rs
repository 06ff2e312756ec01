//! Keeps the events of a run in its folder, so that it can be looked at or replayed later.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::event::{RunEvent, Stamped};
use crate::failpoint;

/// The name of the file inside the run folder.
pub const FILE: &str = "events.jsonl";

/// Writes `events.jsonl`, one event a line, each line at once.
pub(super) struct Journal {
    path: PathBuf,
    file: Option<File>,
}

impl Journal {
    /// Creates the file in the run folder.
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let file = Some(File::create(&path)?);
        Ok(Self { path, file })
    }

    /// Keeps an event. A disk that refuses ends the journal and not the run; the message says so once.
    pub(super) fn keep(&mut self, event: &RunEvent) -> Option<String> {
        let file = self.file.as_mut()?;
        let stamped = Stamped { time: Timestamp::now(), event: event.clone() };
        let written = serde_json::to_vec(&stamped).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            failpoint::write("run.journal", file, &line)
        });
        let error = written.err()?;
        self.file = None;
        Some(format!("cannot write {}: {error}; the events of this run are no longer kept", self.path.display()))
    }
}
