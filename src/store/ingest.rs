//! The way in: a finished output folder becomes an artifact. It gets its names at once and is put on the disk later: until
//! then nothing says that its files hold what their names say, so that after a power cut they are looked at.

use std::{io, path::Path};

use super::{
    Entry, Manifest, Store, StoreError, folder, hash, network, object,
    sealed::{self, Draft},
};
use crate::{digest::ArtifactId, failpoint};

/// From this size on, the disk is set to work on a file before it is hashed.
const WORTH_WRITING: u64 = 64 << 20;

impl Store {
    /// Takes the files below `folder` into the store and empties the folder. If something is in the way (a full
    /// disk, a symbolic link), the folder keeps all its files, so that the caller can try again. [`Store::publish`]
    /// or [`Store::secure`] puts them and their names on the disk.
    pub fn ingest(&self, folder: &Path) -> Result<ArtifactId, StoreError> {
        match self.ingest_once(folder) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                // A program may have closed the folders that it wrote.
                folder::unlock(folder);
                self.ingest_once(folder)
            }
            other => other,
        }
    }

    fn ingest_once(&self, folder: &Path) -> Result<ArtifactId, StoreError> {
        let (mut entries, mut paths) = (Vec::new(), Vec::new());
        for file in folder::output_files(folder)? {
            object::own(&file.path)?;
            let sealed = failpoint::pass("ingest.seal").and_then(|()| object::seal(&file.path, file.executable));
            let sealed = sealed.map_err(StoreError::io("protect", &file.path))?;
            if sealed.metadata().is_ok_and(|metadata| metadata.len() >= WORTH_WRITING) {
                self.flush_meanwhile();
            }
            let (digest, size) = hash::hash_open(&sealed).map_err(StoreError::io("read", &file.path))?;
            let entry = Entry { path: file.name, digest, size, executable: file.executable };
            paths.push(file.path);
            entries.push(entry);
        }
        let manifest = Manifest::new(entries);
        let artifact = manifest.artifact();
        let list = self.draft_manifest(&manifest, &artifact)?;
        let mut inodes = Vec::with_capacity(paths.len());
        for (path, entry) in paths.iter().zip(manifest.files()) {
            inodes.push(self.adopt(path, entry)?);
            if !self.is_on_this_machine() {
                network::ask(path);
            }
            let metadata = path.symlink_metadata().map_err(StoreError::io("read", path))?;
            if !object::is_sealed(&metadata, entry.size) {
                return Err(StoreError::output(path, "was written to after the stage had ended; run it again"));
            }
        }
        if let Some(list) = list {
            list.put(sealed::Existing::Replace).map_err(StoreError::io("write", folder))?;
        }
        failpoint::pass("ingest.discard").map_err(StoreError::io("remove", folder))?;
        folder::empty(folder)?;
        // Only now: each name that a file gains or loses changes its change time.
        self.seals().hold_back();
        self.note(manifest.files().iter().zip(inodes));
        Ok(artifact)
    }

    /// The list of files that a folder would be taken in with; nothing is taken in.
    pub fn list(&self, folder: &Path) -> Result<Manifest, StoreError> {
        let files = folder::output_files(folder)?.into_iter().map(|file| {
            let (digest, size) = hash::hash(&file.path)?;
            Ok(Entry { path: file.name, digest, size, executable: file.executable })
        });
        Ok(Manifest::new(files.collect::<Result<_, StoreError>>()?))
    }

    /// The list of files, if the store does not have it.
    pub(super) fn draft_manifest(
        &self,
        manifest: &Manifest,
        artifact: &ArtifactId,
    ) -> Result<Option<Draft>, StoreError> {
        if self.read_manifest(artifact).is_ok() {
            return Ok(None);
        }
        let path = self.named("trees", artifact.digest());
        Draft::write(&path, &manifest.bytes()).map(Some).map_err(StoreError::io("write", &path))
    }
}

/// Whether an error says that something has that name already.
pub(super) fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}
