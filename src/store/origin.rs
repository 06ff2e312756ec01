//! Where those results came from that this machine did not compute. A file of its own for each record, beside it: it is there
//! before the record, and as long as that stays, so that what others have computed is never taken for this machine's own.
//!
//! The store knows nothing of what an origin says.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Record, Store, StoreError,
    sealed::{self, Draft, Existing},
};
use crate::digest::{Digest, Key};

pub(super) const ROOM: &str = "origins";

/// Where a result of the store came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin<T> {
    /// This machine has computed it.
    Here,
    /// It was taken in from elsewhere, of which this was noted.
    Elsewhere(T),
    /// It was taken in from elsewhere, and what was noted of that cannot be read any more.
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct Noted<T> {
    key: Key,
    origin: T,
}

/// What a record is told from another one of the same action by: all of it that reads back exactly as it was written.
fn name(record: &Record) -> serde_json::Result<Digest> {
    let of = &record.provenance;
    let told = (&record.key, &record.artifact, &of.user, &of.host, &of.started, &of.finished);
    Ok(Digest::of(&serde_json::to_vec(&told)?))
}

impl Store {
    /// Notes where a record comes from that is about to be taken in; what has to be flushed before that.
    pub(super) fn keep_origin(&self, record: &Record, origin: &impl Serialize) -> Result<Vec<PathBuf>, StoreError> {
        let path = self.origin_path(record)?;
        let bytes = sealed::seal(&Noted { key: record.key, origin }).map_err(|error| self.no_origin(&error))?;
        let draft = Draft::write(&path, &bytes).map_err(StoreError::io("write", &path))?;
        draft.put(Existing::Replace).map_err(StoreError::io("write", &path))?;
        let folders = path.ancestors().skip(1).take(3).map(Path::to_owned);
        Ok([path.clone()].into_iter().chain(folders).collect())
    }

    /// Where a record of this store comes from.
    pub fn origin<T: DeserializeOwned>(&self, record: &Record) -> Result<Origin<T>, StoreError> {
        let path = self.origin_path(record)?;
        match sealed::read(&path) {
            Ok((bytes, _)) => Ok(match sealed::open::<Noted<T>>(&bytes) {
                Ok(noted) if noted.key == record.key => Origin::Elsewhere(noted.origin),
                _ => Origin::Unknown,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Origin::Here),
            Err(error) => Err(StoreError::io("read", path)(error)),
        }
    }

    fn origin_path(&self, record: &Record) -> Result<PathBuf, StoreError> {
        Ok(self.named(ROOM, &name(record).map_err(|error| self.no_origin(&error))?))
    }

    fn no_origin(&self, error: &serde_json::Error) -> StoreError {
        let problem = format!("an origin cannot be written as JSON: {error}");
        StoreError::Bug { path: self.root().join(ROOM), problem }
    }

    /// The action that a note of an origin belongs to, if that can be told.
    pub(super) fn origin_of(&self, name: &Digest) -> Option<Key> {
        let (bytes, _) = sealed::read(&self.named(ROOM, name)).ok()?;
        sealed::open::<Noted<serde_json::Value>>(&bytes).ok().map(|noted| noted.key)
    }
}
