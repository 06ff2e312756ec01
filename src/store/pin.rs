//! Pins: results that stay whatever is collected.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, folder, local::file_name, read_plain, sealed};
use crate::digest::ArtifactId;

/// Results that stay, under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What it is called.
    pub name: String,
    /// The graph that the results are of, as the user named it.
    pub graph: String,
    /// When it was made.
    pub time: Timestamp,
    /// The results.
    pub stages: Vec<PinnedStage>,
}

/// A result that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedStage {
    /// The stage it is of.
    pub name: String,
    /// The result.
    pub artifact: ArtifactId,
}

impl Store {
    /// Keeps results under a name; an earlier pin of that name is replaced.
    pub fn pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let path = self.pin_file(&pin.name);
        let bytes =
            sealed::seal(pin).map_err(|error| StoreError::Bug { path: path.clone(), problem: error.to_string() })?;
        sealed::write(&path, &bytes, sealed::Existing::Replace).map_err(StoreError::io("write", &path))
    }

    /// Lets the results under a name go the next time something is collected; `false` if there is no such pin.
    pub fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.pin_file(name);
        match fs::remove_file(&path) {
            Ok(()) => folder::flush(path.parent().unwrap_or(Path::new("/"))).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", path)(error)),
        }
    }

    /// All pins, by name. One that cannot be read is an error: what it keeps is unknown, so nothing may be collected.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Vec::new();
        for path in folder::entries(&self.root().join("pins"))? {
            if folder::is_draft(&path) {
                continue;
            }
            pins.push(Self::read_pin(&path)?);
        }
        pins.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(pins)
    }

    pub(super) fn read_pin(path: &Path) -> Result<Pin, StoreError> {
        let bytes = read_plain(path).map_err(StoreError::io("read", path))?;
        sealed::open(&bytes).map_err(|problem| StoreError::Pin { path: path.to_owned(), problem })
    }

    fn pin_file(&self, name: &str) -> PathBuf {
        self.root().join("pins").join(file_name(name) + ".json")
    }
}
