//! What other places need to give results to this store and to take them from it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    CheckFolder, Entry, Manifest, Record, Store, StoreError, folder, hash::hash, local, lock, object,
    record::Unpublished, sealed,
};
use crate::{
    digest::{ArtifactId, Digest, Key},
    failpoint,
};

/// The longest path that systems take.
const LONGEST_PATH: usize = 4_095;

/// Contents that come into the store together, in a folder that goes with this, and with what is left there.
#[derive(Debug)]
pub struct Arrivals(CheckFolder);

impl Arrivals {
    /// Where a content has to be put.
    pub fn place(&self, digest: &Digest) -> PathBuf {
        self.0.path().join(digest.to_string())
    }
}

/// Puts a small file into its place, as no file will be written to any more.
pub fn put(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(object::MODE).open(place)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(object::MODE))?;
    object::mark(&file)
}

/// What became of the contents that have come: the object, as it was when it had got its name.
type Came = HashMap<Digest, Result<fs::Metadata, StoreError>>;

/// A result whose files have come.
#[derive(Debug)]
pub struct Arrived<'a, O> {
    /// Its files, of which the content of each lies in its place, unless the store has it.
    pub manifest: &'a Manifest,
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
        self.check_folder(key).map(Arrivals)
    }

    /// Takes results in and records them as [`Store::publish`] does: the files of all, then one flush, then the records. The
    /// caller has compared the files with their digests. Says what came of each, in their order; an error concerns all.
    pub fn admit<O: Serialize + Sync>(
        &self,
        arrivals: &Arrivals,
        arrived: &[Arrived<'_, O>],
    ) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        if arrived.is_empty() {
            return Ok(Vec::new());
        }
        let _hold = self.hold()?;
        self.need(arrived.iter().map(|arrived| arrived.record.artifact))?;
        let digests: HashSet<&Digest> =
            arrived.iter().flat_map(|arrived| arrived.manifest.files()).map(|entry| &entry.digest).collect();
        let receive = |&digest: &&Digest| Some((*digest, self.receive(arrivals, digest).transpose()?));
        let came: Came = digests.par_iter().filter_map(receive).collect();
        let taken: Vec<_> = arrived.par_iter().map(|arrived| self.take_in(arrived, &came)).collect();
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
    fn take_in<O: Serialize>(
        &self,
        arrived: &Arrived<'_, O>,
        came: &Came,
    ) -> Result<(Unpublished, Vec<PathBuf>), StoreError> {
        let Arrived { manifest, record, origin } = arrived;
        let artifact = manifest.artifact();
        let refuse = |problem: String| StoreError::Artifact { artifact: record.artifact, problem };
        if artifact != record.artifact {
            return Err(refuse("its files came in as others".to_owned()));
        }
        self.can_show(&artifact, manifest).map_err(refuse)?;
        let list = self.draft_manifest(manifest, &artifact)?;
        let mut new = Vec::new();
        for entry in manifest.files() {
            match came.get(&entry.digest) {
                None => self.look(entry).map(drop).map_err(refuse)?,
                Some(Ok(found)) if found.len() == entry.size => new.push((&entry.digest, found)),
                Some(Ok(found)) => {
                    let (path, size) = (&entry.path, entry.size);
                    return Err(refuse(format!(
                        "`{path}` has {} bytes, and its list of files says {size}",
                        found.len()
                    )));
                }
                Some(Err(error)) => return Err(refuse(error.to_string())),
            }
        }
        if let Some(list) = list {
            list.put(sealed::Existing::Replace).map_err(StoreError::io("write", self.root()))?;
        }
        {
            let mut seals = self.seals();
            seals.hold_back();
            for (digest, found) in new {
                seals.add(digest, found);
            }
        }
        let noted = self.keep_origin(record, origin).inspect_err(|_| self.abandon())?;
        // A record that cannot be written gives up what was held back itself.
        Ok((self.draft(record)?, noted))
    }

    /// Makes a content that lies in its place an object, and says what the file is then; nothing if it does not lie there.
    fn receive(&self, arrivals: &Arrivals, digest: &Digest) -> Result<Option<fs::Metadata>, StoreError> {
        let place = arrivals.place(digest);
        let found = match place.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", place)(error)),
        };
        if !object::is_sealed(&found, found.len()) {
            failpoint::pass("ingest.seal")
                .and_then(|()| object::seal(&place, false))
                .map_err(StoreError::io("protect", &place))?;
        }
        self.move_in(&place, digest, found.len()).map(Some)
    }

    /// Whether a folder can show an artifact on this machine; says why not.
    fn can_show(&self, artifact: &ArtifactId, manifest: &Manifest) -> Result<(), String> {
        let view = self.root().join("local/views").join(artifact.to_string());
        let room = LONGEST_PATH.saturating_sub(view.as_os_str().len() + 1);
        match manifest.files().iter().find(|entry| entry.path.len() > room) {
            Some(entry) => {
                Err(format!("it names a file by {} letters, and there is room for {room}", entry.path.len()))
            }
            None => Ok(()),
        }
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
        self.wait_for_lock(&file, &path, lock::Sort::Alone)?;
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
