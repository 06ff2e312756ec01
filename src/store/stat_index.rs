//! Which content a file had when it was last hashed, so that an unchanged source is not read again.
//!
//! An entry counts only if device, inode, size, modification and change time are all the same. A file that was
//! written to less than a second before it was hashed gets no entry: it could change once more without any of the
//! five showing it, since file systems tick coarsely.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{StoreError, local, sealed};
use crate::digest::Digest;

const SETTLED: Duration = Duration::from_secs(1);

/// What `stat` says of a file's identity; times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: i128,
    changed: i128,
}

impl Identity {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change is old enough at `time` for another one to show.
    pub(super) fn is_settled(&self, time: SystemTime) -> bool {
        let latest = time
            .checked_sub(SETTLED)
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |age| age.as_nanos() as i128);
        self.modified < latest && self.changed < latest
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Known {
    identity: Identity,
    digest: Digest,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    version: u32,
    files: BTreeMap<String, Known>,
}

const VERSION: u32 = 1;

/// The index; read when first needed, written by [`StatIndex::save`].
pub(super) struct StatIndex {
    path: PathBuf,
    loaded: Option<BTreeMap<String, Known>>,
    added: BTreeMap<String, Known>,
}

impl StatIndex {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, loaded: None, added: BTreeMap::new() }
    }

    /// The digest of a file that is as it was when it was hashed.
    pub(super) fn get(&mut self, path: &Path, identity: &Identity) -> Option<Digest> {
        let path = path.to_string_lossy();
        let loaded = self.loaded.get_or_insert_with(|| load(&self.path));
        let known = self.added.get(&*path).or_else(|| loaded.get(&*path))?;
        (known.identity == *identity).then_some(known.digest)
    }

    pub(super) fn add(&mut self, path: &Path, identity: Identity, digest: Digest) {
        self.added.insert(path.to_string_lossy().into_owned(), Known { identity, digest });
    }

    /// Writes what was added. Entries that another process wrote in the meantime stay; if two write in the same
    /// moment, one set is lost and hashed again some day.
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        if self.added.is_empty() {
            return Ok(());
        }
        let mut files = load(&self.path);
        files.append(&mut self.added);
        let content = Content { version: VERSION, files };
        let bytes = sealed::seal(&content)
            .map_err(|error| StoreError::Bug { path: self.path.clone(), problem: error.to_string() })?;
        self.loaded = Some(content.files);
        local::replace(&self.path, &bytes)
    }
}

/// An index that is missing, damaged or of another version is empty.
fn load(path: &Path) -> BTreeMap<String, Known> {
    fs::read(path)
        .ok()
        .and_then(|bytes| sealed::open::<Content>(&bytes).ok())
        .filter(|content| content.version == VERSION)
        .map(|content| content.files)
        .unwrap_or_default()
}
