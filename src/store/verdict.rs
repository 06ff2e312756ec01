//! Verdicts on results: what came of computing one again. A file of its own for each action, beside its record, which it
//! does not touch: what a result is trusted for does not depend on it.
//!
//! The store knows nothing of what a verdict says.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError, sealed};
use crate::digest::Key;

pub(super) const ROOM: &str = "verdicts";

impl Store {
    /// Keeps a verdict on the result of an action; an earlier one is replaced.
    pub fn keep_verdict(&self, key: &Key, verdict: &impl Serialize) -> Result<(), StoreError> {
        let path = self.named(ROOM, key.digest());
        let bytes = sealed::seal(verdict)
            .map_err(|error| StoreError::Bug { path: path.clone(), problem: error.to_string() })?;
        sealed::write(&path, &bytes, sealed::Existing::Replace).map_err(StoreError::io("write", &path))
    }

    /// The verdict on the result of an action; nothing if there is none that can be read: it can be found again.
    pub fn verdict<V: DeserializeOwned>(&self, key: &Key) -> Result<Option<V>, StoreError> {
        let path = self.named(ROOM, key.digest());
        match sealed::read(&path) {
            Ok((bytes, _)) => Ok(sealed::open(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", path)(error)),
        }
    }
}
