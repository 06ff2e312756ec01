//! Objects: contents of files, named by their digest.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Entry, Store, StoreError, folder};
use crate::digest::Digest;

/// The modification time of every object (the start of the year 2000): one that has another was written to since,
/// or was copied here by something that does not keep times.
const MARK: Duration = Duration::from_hours(10_957 * 24);
/// From here on, hashing on several cores is worth waking them.
const PARALLEL: usize = 1 << 20;
const BUFFER: usize = 4 << 20;

/// The digest of a file and its length. It reads instead of mapping, since a mapped file that somebody shortens
/// takes the process down.
pub(super) fn hash(path: &Path) -> Result<(Digest, u64), StoreError> {
    hash_open(&mut File::open(path).map_err(StoreError::io("read", path))?).map_err(StoreError::io("read", path))
}

fn hash_open(file: &mut File) -> io::Result<(Digest, u64)> {
    let expected = file.metadata()?.len().saturating_add(1).min(BUFFER as u64);
    let mut buffer = vec![0; expected as usize];
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok((hasher.finalize().into(), total));
        }
        total += filled as u64;
        if filled < PARALLEL {
            hasher.update(&buffer[..filled]);
        } else {
            hasher.update_rayon(&buffer[..filled]);
        }
    }
}

/// Makes a finished file read-only and gives it the time that says so. Done before hashing, so that a write which
/// comes later shows.
pub(super) fn seal(path: &Path, executable: bool) -> io::Result<()> {
    let mode = if executable { 0o555 } else { 0o444 };
    // By path: the file may be unreadable until then.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    File::open(path)?.set_modified(SystemTime::UNIX_EPOCH + MARK)
}

/// Replaces a file that has other names by a copy of its own: the other names may be a user's, who will write to it.
/// One that is sealed already is an object, which an earlier attempt or a view gave its name.
pub(super) fn own(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::symlink_metadata(path).map_err(StoreError::io("read", path))?;
    if metadata.nlink() == 1 || is_sealed(&metadata, metadata.len()) {
        return Ok(());
    }
    let parent = folder::parent(path)?;
    let copied = tempfile::NamedTempFile::new_in(parent).map_err(StoreError::io("write into", parent))?;
    fs::copy(path, copied.path()).map_err(StoreError::io("copy", path))?;
    copied.persist(path).map(drop).map_err(|error| StoreError::io("replace", path)(error.error))
}

/// Whether a file is as [`seal`] left it, with this size.
pub(super) fn is_sealed(metadata: &fs::Metadata, size: u64) -> bool {
    metadata.is_file()
        && metadata.len() == size
        && metadata.modified().is_ok_and(|time| time == SystemTime::UNIX_EPOCH + MARK)
}

impl Store {
    pub(super) fn object(&self, digest: &Digest) -> PathBuf {
        self.named("objects", digest)
    }

    /// What is wrong with the object that a manifest names, if anything. Costs one `stat`, unless the object looks
    /// as if it was written to: then it is hashed, and sealed again if it is as it should be.
    pub(super) fn object_problem(&self, entry: &Entry) -> Option<String> {
        let path = self.object(&entry.digest);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!("the content of `{}` is no longer in the store", entry.path));
            }
            Err(error) => return Some(format!("{} cannot be read: {error}", path.display())),
        };
        if is_sealed(&metadata, entry.size) {
            return None;
        }
        if metadata.is_file() && metadata.len() == entry.size {
            match hash(&path) {
                Ok((digest, _)) if digest == entry.digest => {
                    // If it cannot be sealed again, the next look hashes again; nothing else is lost.
                    let _ = seal(&path, false);
                    return None;
                }
                Ok(_) => {}
                Err(error) => return Some(error.to_string()),
            }
        }
        Some(format!("the content of `{}` was changed in the store ({})", entry.path, path.display()))
    }

    /// Gives the sealed file at `from` a second name as an object. An intact object that is there already stays.
    /// No object may be run: that stands in manifests, since two artifacts may share the content and not that; so
    /// a program is copied.
    pub(super) fn adopt(&self, from: &Path, entry: &Entry) -> Result<(), StoreError> {
        let to = self.object(&entry.digest);
        if to.symlink_metadata().is_ok() {
            if self.object_problem(entry).is_none() {
                return Ok(());
            }
            if to.is_dir() {
                folder::remove(&to)?;
            } else {
                // Whoever looks between here and the next line finds a miss, and waits for this very action.
                match fs::remove_file(&to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &to)(error));
                    }
                    _ => {}
                }
            }
        }
        let parent = folder::parent(&to)?;
        File::open(from).and_then(|file| file.sync_all()).map_err(StoreError::io("flush", from))?;
        let linked = if entry.executable { Err(io::ErrorKind::Unsupported.into()) } else { fs::hard_link(from, &to) };
        match linked {
            Ok(()) => {}
            // Another process stored the same content a moment ago.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(_) => copy(from, &to, parent)?,
        }
        folder::flush(parent)
    }
}

/// The way in for file systems without hard links, and for scratch folders on another one.
fn copy(from: &Path, to: &Path, parent: &Path) -> Result<(), StoreError> {
    let copied =
        tempfile::Builder::new().prefix(".new-").tempfile_in(parent).map_err(StoreError::io("write into", parent))?;
    fs::copy(from, copied.path())
        .and_then(|_| seal(copied.path(), false))
        .and_then(|()| copied.as_file().sync_all())
        .map_err(StoreError::io("write", to))?;
    match copied.persist_noclobber(to) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("write", to)(error.error)),
    }
}
