//! What other places need to give results to this store and to take them from it.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    CheckFolder, Entry, Manifest, Record, Store, StoreError, folder, hash::hash, local, object, record::Unpublished,
    sealed,
};
use crate::{
    digest::{ArtifactId, Key},
    failpoint,
};

/// Results that come into the store together, in a folder that goes with the last of them.
#[derive(Debug)]
pub struct Arrivals {
    folder: Arc<CheckFolder>,
    count: usize,
}

impl Arrivals {
    /// One more result. What was put into its folder goes if [`Store::admit`] does not follow.
    pub fn expect(&mut self, manifest: Manifest) -> Incoming {
        self.count += 1;
        let folder = self.folder.path().join(self.count.to_string());
        Incoming { _within: Arc::clone(&self.folder), folder, manifest }
    }
}

/// A result on its way into the store: a folder that its files are put into.
#[derive(Debug)]
pub struct Incoming {
    _within: Arc<CheckFolder>,
    folder: PathBuf,
    manifest: Manifest,
}

impl Incoming {
    /// Where a file of the result has to be put. The folder that it lies in is there.
    pub fn place(&self, entry: &Entry) -> Result<PathBuf, StoreError> {
        let path = self.folder.join(&entry.path);
        folder::parent(&path)?;
        Ok(path)
    }

    /// The files that the result has.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Puts a small file into its place, as no file will be written to any more.
pub fn put(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(object::MODE).open(place)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(object::MODE))?;
    object::mark(&file)
}

/// A result whose files have come.
#[derive(Debug)]
pub struct Arrived<'a, O> {
    /// Its files, each in its place with the content that the list names, unless the store has that.
    pub incoming: Incoming,
    /// How it came about.
    pub record: &'a Record,
    /// Where it comes from; see [`Store::origin`].
    pub origin: O,
}

impl Store {
    /// The file that holds the content of an entry, if the store has it, looked at; see [`Store::lookup`]. The entry may come
    /// from somewhere else: if it is wrong about the size, the object is not.
    pub fn content(&self, entry: &Entry) -> Option<PathBuf> {
        let path = self.object(&entry.digest);
        let is_other = fs::symlink_metadata(&path).ok()?.len() != entry.size;
        if is_other && hash(&path).is_ok_and(|(digest, _)| digest == entry.digest) {
            return None;
        }
        self.look(entry).is_ok().then_some(path)
    }

    /// Begins to take results in that come from somewhere else, the first of them that of this action.
    pub fn arrivals(&self, key: &Key) -> Result<Arrivals, StoreError> {
        Ok(Arrivals { folder: Arc::new(self.check_folder(key)?), count: 0 })
    }

    /// Takes results in and records them as [`Store::publish`] does: the files of all, then one flush, then the records. The
    /// caller has compared the files with their digests. Says what came of each, in their order; an error concerns all.
    pub fn admit<O: Serialize + Sync>(
        &self,
        arrived: &[Arrived<'_, O>],
    ) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        if arrived.is_empty() {
            return Ok(Vec::new());
        }
        let _hold = self.hold()?;
        self.need(arrived.iter().map(|arrived| arrived.record.artifact))?;
        let taken: Vec<_> = arrived.par_iter().map(|arrived| self.take_in(arrived)).collect();
        let artifacts: Vec<ArtifactId> =
            arrived.iter().zip(&taken).filter(|(_, taken)| taken.is_ok()).map(|(one, _)| one.record.artifact).collect();
        let added = self.seals().count();
        let flushed = self.flush(|| {
            let drafts = taken
                .iter()
                .flatten()
                .flat_map(|(unpublished, origin)| origin.iter().cloned().chain([unpublished.place().to_owned()]));
            artifacts.iter().flat_map(|artifact| self.pointed_at(artifact)).chain(drafts).collect()
        });
        self.secured(&artifacts, flushed, added)?;
        let publish = |(arrived, taken): (&Arrived<'_, O>, Result<(Unpublished, _), StoreError>)| {
            taken.and_then(|(unpublished, _)| self.put(arrived.record, unpublished))
        };
        Ok(arrived.iter().zip(taken).map(publish).collect())
    }

    /// Gives the files of a result their names, and notes where it comes from; the record, which has no name yet, and what
    /// has to be on the disk before it has one.
    fn take_in<O: Serialize>(&self, arrived: &Arrived<'_, O>) -> Result<(Unpublished, Vec<PathBuf>), StoreError> {
        let Arrived { incoming: Incoming { folder, manifest, .. }, record, origin } = arrived;
        let artifact = manifest.artifact();
        if artifact != record.artifact {
            let problem = "its files came in as others".to_owned();
            return Err(StoreError::Artifact { artifact: record.artifact, problem });
        }
        let list = self.draft_manifest(manifest, &artifact)?;
        let receive = |entry: &Entry| self.receive(&folder.join(&entry.path), entry);
        let inodes = manifest.files().par_iter().map(receive).collect::<Result<Vec<u64>, _>>()?;
        if let Some(list) = list {
            list.put(sealed::Existing::Replace).map_err(StoreError::io("write", folder))?;
        }
        // Only now: each name that a file gains or loses changes its change time.
        self.seals().hold_back();
        self.note(manifest.files().iter().zip(inodes));
        let noted = self.keep_origin(record, origin).inspect_err(|_| self.abandon())?;
        // A record that cannot be written gives up what was held back itself.
        Ok((self.draft(record)?, noted))
    }

    /// Makes a file that lies in its place an object; its inode. One that is not there is in the store already.
    fn receive(&self, place: &Path, entry: &Entry) -> Result<u64, StoreError> {
        let found = match place.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let missing = |problem| StoreError::io("read", place)(io::Error::other(problem));
                return self.look(entry).map_err(missing);
            }
            Err(error) => return Err(StoreError::io("read", place)(error)),
        };
        if found.len() != entry.size {
            let problem = format!("it has {} bytes, and its list of files says {}", found.len(), entry.size);
            return Err(StoreError::io("read", place)(io::Error::other(problem)));
        }
        if !object::is_sealed(&found, entry.size) || entry.executable {
            failpoint::pass("ingest.seal")
                .and_then(|()| object::seal(place, entry.executable))
                .map_err(StoreError::io("protect", place))?;
        }
        let inode = self.adopt(place, entry)?;
        failpoint::pass("ingest.discard")
            .and_then(|()| fs::remove_file(place))
            .map_err(StoreError::io("remove", place))?;
        Ok(inode)
    }

    /// A file for what others derive; losing it costs time, not truth.
    pub fn derived(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root().join("local").join(below)
    }

    /// Writes such a file in one step.
    pub fn keep_derived(&self, below: impl AsRef<Path>, bytes: &[u8]) -> Result<(), StoreError> {
        local::replace(&self.derived(below), bytes)
    }

    /// Appends to such a file, in one write. It may end within these bytes after a kill, or where others append at the same time.
    pub fn append_derived(&self, below: impl AsRef<Path>, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.derived(below);
        folder::parent(&path)?;
        let append = || {
            let mut file = File::options().append(true).create(true).open(&path)?;
            failpoint::write("derived.write", &mut file, bytes)
        };
        append().map_err(StoreError::io("write", &path))
    }

    /// Locks such a file until it is dropped, and waits for other processes of this machine that have locked it.
    pub fn lock_derived(&self, below: impl AsRef<Path>) -> Result<fs::File, StoreError> {
        let path = self.derived(below);
        folder::parent(&path)?;
        let file = fs::File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        file.lock().map_err(StoreError::io("lock", &path))?;
        Ok(file)
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
