//! The way in: a finished output folder becomes an artifact.

use std::{io, path::Path};

use super::{Entry, Manifest, Store, StoreError, folder, object, sealed};
use crate::{digest::ArtifactId, failpoint};

impl Store {
    /// Takes the files below `folder` into the store and removes the folder. If something is in the way (a full
    /// disk, a symbolic link), the folder keeps all its files, so that the caller can try again.
    pub fn ingest(&self, folder: &Path) -> Result<ArtifactId, StoreError> {
        let (mut entries, mut inodes) = (Vec::new(), Vec::new());
        for file in folder::output_files(folder)? {
            object::own(&file.path)?;
            failpoint::pass("ingest.seal")
                .and_then(|()| object::seal(&file.path, file.executable))
                .map_err(StoreError::io("protect", &file.path))?;
            let (digest, size) = object::hash(&file.path)?;
            let entry = Entry { path: file.name, digest, size, executable: file.executable };
            inodes.push(self.adopt(&file.path, &entry)?);
            let metadata = file.path.symlink_metadata().map_err(StoreError::io("read", &file.path))?;
            if !object::is_sealed(&metadata, size) {
                return Err(StoreError::output(file.path, "was written to after the stage had ended; run it again"));
            }
            entries.push(entry);
        }
        let manifest = Manifest::new(entries);
        let artifact = manifest.id();
        self.write_manifest(&manifest, &artifact)?;
        failpoint::pass("ingest.discard").map_err(StoreError::io("remove", folder))?;
        folder::remove(folder)?;
        // Only now: each name that a file gains or loses changes its change time.
        self.note(manifest.files().iter().zip(inodes));
        Ok(artifact)
    }

    fn write_manifest(&self, manifest: &Manifest, artifact: &ArtifactId) -> Result<(), StoreError> {
        if self.read_manifest(artifact).is_ok() {
            return Ok(());
        }
        let path = self.named("trees", artifact.digest());
        sealed::write(&path, &manifest.bytes(), sealed::Existing::Replace).map_err(StoreError::io("write", &path))
    }
}

/// Whether an error says that something has that name already.
pub(super) fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}
