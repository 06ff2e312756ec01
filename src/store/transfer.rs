//! What other places need to give results to this store and to take them from it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{CheckFolder, Entry, Manifest, Record, Store, StoreError, folder, local};
use crate::digest::{ArtifactId, Key};

/// A result on its way into the store: a folder that its files are put into.
#[derive(Debug)]
pub struct Incoming {
    folder: CheckFolder,
    manifest: Manifest,
}

impl Incoming {
    /// Where a file of the result has to be put. The folder that it lies in is there.
    pub fn place(&self, entry: &Entry) -> Result<PathBuf, StoreError> {
        let path = self.folder.path().join(&entry.path);
        folder::parent(&path)?;
        Ok(path)
    }

    /// Gives a file that was put there the right to be run, if it has that.
    pub fn finish(&self, entry: &Entry) -> Result<(), StoreError> {
        let path = self.folder.path().join(&entry.path);
        let mode = if entry.executable { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(StoreError::io("protect", &path))
    }

    /// The files that the result has.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl Store {
    /// The file that holds the content of an entry, if the store has it, looked at; see [`Store::lookup`].
    pub fn content(&self, entry: &Entry) -> Option<PathBuf> {
        self.look(entry).is_ok().then(|| self.object(&entry.digest))
    }

    /// Begins to take a result in that comes from somewhere else. What was put there goes if [`Store::admit`] does not follow.
    pub fn incoming(&self, key: &Key, manifest: Manifest) -> Result<Incoming, StoreError> {
        Ok(Incoming { folder: self.check_folder(key)?, manifest })
    }

    /// Takes a result in, all files of which were put into their places, and records it as [`Store::publish`] does. Files
    /// that the store has need not be there. `origin` says where it comes from; see [`Store::origin`].
    pub fn admit(&self, incoming: Incoming, record: &Record, origin: &impl Serialize) -> Result<(), StoreError> {
        for entry in incoming.manifest.files() {
            let place = incoming.place(entry)?;
            if place.symlink_metadata().is_ok() {
                incoming.finish(entry)?;
            } else if let Some(content) = self.content(entry) {
                give(&content, &place, entry.executable).map_err(StoreError::io("write", &place))?;
            }
        }
        let _hold = self.hold()?;
        let artifact = self.ingest(incoming.folder.path())?;
        self.prepare(artifact, record, origin).inspect_err(|_| self.abandon())?;
        self.publish(record)
    }

    fn prepare(&self, artifact: ArtifactId, record: &Record, origin: &impl Serialize) -> Result<(), StoreError> {
        if artifact != record.artifact {
            let problem = "its files came in as others".to_owned();
            return Err(StoreError::Artifact { artifact: record.artifact, problem });
        }
        self.need([artifact])?;
        self.keep_origin(record, origin)
    }

    /// A file for what others derive; losing it costs time, not truth.
    pub fn derived(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root().join("local").join(below)
    }

    /// Writes such a file in one step.
    pub fn keep_derived(&self, below: impl AsRef<Path>, bytes: &[u8]) -> Result<(), StoreError> {
        local::replace(&self.derived(below), bytes)
    }

    /// Removes such a file; none to remove is fine.
    pub fn drop_derived(&self, below: impl AsRef<Path>) -> Result<(), StoreError> {
        let path = self.derived(below);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

/// Another name for an object, or a copy of one that shall be run.
fn give(content: &Path, place: &Path, executable: bool) -> io::Result<()> {
    if !executable && fs::hard_link(content, place).is_ok() {
        return Ok(());
    }
    fs::copy(content, place)?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(place, fs::Permissions::from_mode(mode))
}
