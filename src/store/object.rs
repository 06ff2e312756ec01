//! Objects: contents of files, named by their digest.

use std::{
    borrow::Borrow,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rayon::prelude::*;
use tempfile::TempPath;

use super::{Entry, Store, StoreError, folder, hash, sealed::Existing, seals::Seals};
use crate::{digest::Digest, failpoint};

/// The folder of all objects.
pub(super) const OBJECTS: &str = "objects";
/// The modification time of every object (the start of the year 2000): one that has another was written to since,
/// or was copied here by something that does not keep times.
const MARK: Duration = Duration::from_hours(10_957 * 24);
/// The mode of every object.
pub(super) const MODE: u32 = 0o444;
/// So many files that have to be hashed are worth waking other cores, and one flush of the file system.
const MANY: usize = 16;
/// The same for files that are only looked at.
const MANY_TO_STAT: usize = 1024;

/// Makes a finished file read-only and gives it the time that says so. Done before hashing, so that a write which
/// comes later shows.
pub(super) fn seal(path: &Path, executable: bool) -> io::Result<File> {
    let mode = if executable { 0o555 } else { MODE };
    // By path: the file may be unreadable until then.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    let file = File::open(path)?;
    mark(&file)?;
    Ok(file)
}

/// Gives a file that is finished the time that says so.
pub(super) fn mark(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::UNIX_EPOCH + MARK)
}

/// Replaces a file that has other names by a copy of its own: the other names may be a user's, who will write to it.
/// One that is sealed already is an object, which an earlier attempt or a view gave its name.
pub(super) fn own(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::symlink_metadata(path).map_err(StoreError::io("read", path))?;
    if metadata.nlink() == 1 || is_sealed(&metadata, metadata.len()) {
        return Ok(());
    }
    failpoint::pass("ingest.own").map_err(StoreError::io("copy", path))?;
    let parent = folder::parent(path)?;
    let copied = tempfile::NamedTempFile::new_in(parent).map_err(StoreError::io("write into", parent))?;
    fs::copy(path, copied.path()).map_err(StoreError::io("copy", path))?;
    copied.persist(path).map(drop).map_err(|error| StoreError::io("replace", path)(error.error))
}

/// Has the system forget what it remembers of a file, as far as it can, so that the disk is read.
pub(super) fn forget_cached(path: &Path) {
    #[cfg(target_os = "linux")]
    if let Ok(file) = File::open(path) {
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Whether a file is as [`seal`] left it, with this size.
pub(super) fn is_sealed(metadata: &fs::Metadata, size: u64) -> bool {
    metadata.is_file()
        && metadata.len() == size
        && metadata.modified().is_ok_and(|time| time == SystemTime::UNIX_EPOCH + MARK)
}

/// The name of an object in the folder of all objects.
pub(super) fn name(digest: &Digest) -> String {
    let mut name = digest.to_string();
    name.insert(2, '/');
    name
}

/// A file that holds what its entry says.
struct Hashed {
    file: File,
    /// What it was when that began; nothing if it could not be sealed.
    looked_at: Option<fs::Metadata>,
}

/// Opens a file without noting when it was read, which would be one more write for each; only its owner may do so.
fn open(path: &Path) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;

        let flags = rustix::fs::OFlags::NOATIME.bits().cast_signed();
        // Some file systems do not know how.
        if let Ok(file) = File::options().read(true).custom_flags(flags).open(path) {
            return Ok(file);
        }
    }
    File::open(path)
}

/// Hashes a file, sealed again if it was opened; nothing if it holds something else.
fn read(path: &Path, metadata: &fs::Metadata, entry: &Entry) -> io::Result<Option<Hashed>> {
    if !metadata.is_file() || metadata.len() != entry.size {
        return Ok(None);
    }
    // Before it is hashed, so that a write meanwhile shows. A file that cannot be sealed is hashed each time.
    let executable = metadata.permissions().mode() & 0o100 != 0;
    let looked_at = if is_sealed(metadata, entry.size) {
        Some(metadata.clone())
    } else {
        seal(path, executable).and_then(|_| fs::symlink_metadata(path)).ok()
    };
    let file = open(path)?;
    let (digest, _) = hash::hash_of(&file, metadata.len())?;
    Ok((digest == entry.digest).then_some(Hashed { file, looked_at }))
}

/// What a function says of each file, in their order; on all cores if the files are so many that this is worth waking them.
fn for_each<Item: Sync, Said: Send>(files: &[Item], say: impl Fn(&Item) -> Said + Send + Sync) -> Vec<Said> {
    if files.len() < MANY_TO_STAT { files.iter().map(say).collect() } else { files.par_iter().map(say).collect() }
}

impl Store {
    pub(super) fn object(&self, digest: &Digest) -> PathBuf {
        self.named(OBJECTS, digest)
    }

    /// What is wrong with the object that a manifest names, if anything; see [`Store::look`].
    pub(super) fn object_problem(&self, entry: &Entry) -> Option<String> {
        self.look(entry).err()
    }

    /// The inode of the object that a manifest names, or what is wrong with it; what is damaged is set aside. Costs
    /// one `stat`, unless this machine has not seen the file as it is now: then it is hashed, and noted if it is as it
    /// should be.
    pub(super) fn look(&self, entry: &Entry) -> Result<u64, String> {
        let (path, metadata) = self.stat(entry)?;
        self.judge(&path, metadata.ino(), entry, self.holds(&path, &metadata, entry))
    }

    /// [`Store::look`] at all objects of a manifest, or the first problem. Many that have to be hashed are hashed on all cores.
    pub(super) fn look_all(&self, entries: &[impl Borrow<Entry> + Sync]) -> Result<(), String> {
        let found = for_each(entries, |entry| self.stat(entry.borrow())).into_iter().collect::<Result<Vec<_>, _>>()?;
        let files = || entries.iter().map(Borrow::borrow).zip(&found);
        let unknown: Vec<_> = files()
            .zip(self.seals().has_each(files().map(|(entry, (_, metadata))| (&entry.digest, metadata))))
            .filter(|((entry, (_, metadata)), seen)| !(*seen && is_sealed(metadata, entry.size)))
            .map(|(file, _)| file)
            .collect();
        if unknown.len() < MANY {
            for (entry, (path, metadata)) in unknown {
                self.judge(path, metadata.ino(), entry, self.holds(path, metadata, entry))?;
            }
        } else {
            let looked_at = |&(entry, (path, metadata)): &(&Entry, &(PathBuf, fs::Metadata))| {
                // Not more files at a time stay open than there are cores.
                read(path, metadata, entry).map(|hashed| hashed.map(|hashed| hashed.looked_at))
            };
            let hashed: Vec<_> = unknown.par_iter().map(looked_at).collect();
            let mut whole = Vec::with_capacity(unknown.len());
            for ((entry, (path, metadata)), hashed) in unknown.into_iter().zip(hashed) {
                let is_whole = hashed.map(|looked_at| {
                    let is_whole = looked_at.is_some();
                    whole.extend(looked_at.flatten().map(|metadata| (entry, path, metadata)));
                    is_whole
                });
                self.judge(path, metadata.ino(), entry, is_whole)?;
            }
            // As in `holds`, and one flush for all.
            if !whole.is_empty() && self.flush_found(whole.iter().map(|(_, path, _)| path.as_path())).is_ok() {
                let mut seals = self.seals();
                for (entry, _, metadata) in &whole {
                    seals.add(&entry.digest, metadata);
                }
                seals.save();
            }
        }
        Ok(())
    }

    /// The inodes of objects that were not touched since their content was hashed, after a [`Store::look_all`] at them if that is not so
    /// of all; none for one of which that cannot be told.
    pub(super) fn find_all(&self, entries: &[&Entry]) -> Result<Vec<Option<u64>>, String> {
        let known = self.known_all(entries);
        if known.iter().all(Option::is_some) {
            return Ok(known);
        }
        self.look_all(entries)?;
        Ok(self.known_all(entries))
    }

    /// [`Store::known`] for each.
    fn known_all(&self, entries: &[&Entry]) -> Vec<Option<u64>> {
        let sealed = for_each(entries, |entry| {
            let metadata = fs::symlink_metadata(self.object(&entry.digest)).ok();
            metadata.filter(|metadata| is_sealed(metadata, entry.size))
        });
        let mut seals = self.seals();
        let files = entries.iter().zip(&sealed).filter_map(|(entry, file)| Some((&entry.digest, file.as_ref()?)));
        let mut known = seals.has_each(files);
        sealed.iter().map(|file| Some(file.as_ref().filter(|_| known.next() == Some(true))?.ino())).collect()
    }

    /// The inode of an object that is as it was when its content was last hashed.
    pub(super) fn known(&self, entry: &Entry) -> Option<u64> {
        let metadata = fs::symlink_metadata(self.object(&entry.digest)).ok()?;
        (is_sealed(&metadata, entry.size) && self.seals().has(&entry.digest, &metadata)).then_some(metadata.ino())
    }

    fn stat(&self, entry: &Entry) -> Result<(PathBuf, fs::Metadata), String> {
        let path = self.object(&entry.digest);
        match self.look_twice(&path, |path| fs::symlink_metadata(path)) {
            Ok(metadata) => Ok((path, metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("the content of `{}` is no longer in the store", entry.path))
            }
            Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        }
    }

    /// The inode of an object that is whole, or what is wrong with it; what is damaged is set aside.
    fn judge(&self, path: &Path, inode: u64, entry: &Entry, is_whole: io::Result<bool>) -> Result<u64, String> {
        match is_whole {
            Ok(true) => Ok(inode),
            Ok(false) => {
                let problem = format!("the content of `{}` was changed in the store ({})", entry.path, path.display());
                self.set_aside(path, inode, &problem);
                Err(problem)
            }
            // A disk that refuses to read is no reason to move anything.
            Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        }
    }

    /// Whether a file holds what an entry says. One that was not seen as it is now is hashed, sealed again if it was
    /// opened, and noted.
    pub(super) fn holds(&self, path: &Path, metadata: &fs::Metadata, entry: &Entry) -> io::Result<bool> {
        if !metadata.is_file() || metadata.len() != entry.size {
            return Ok(false);
        }
        if is_sealed(metadata, entry.size) && self.seals().has(&entry.digest, metadata) {
            return Ok(true);
        }
        let Some(Hashed { file, looked_at }) = read(path, metadata, entry)? else { return Ok(false) };
        // What another process took in just now need not be on the disk yet, and shall not be noted before.
        if let Some(metadata) = looked_at
            && file.sync_data().is_ok()
        {
            let mut seals = self.seals();
            seals.add(&entry.digest, &metadata);
            seals.save_much();
        }
        Ok(true)
    }

    /// Notes objects that were found whole under these inodes, just after they got or lost a name.
    pub(super) fn note<'a>(&self, found: impl IntoIterator<Item = (&'a Entry, u64)>) {
        let found: Vec<_> = found.into_iter().collect();
        let now = for_each(&found, |(entry, _)| fs::symlink_metadata(self.object(&entry.digest)));
        let mut seals = self.seals();
        for ((entry, inode), metadata) in found.into_iter().zip(now) {
            if let Ok(metadata) = metadata
                && metadata.ino() == inode
                && is_sealed(&metadata, entry.size)
            {
                seals.add(&entry.digest, &metadata);
            }
        }
        seals.save();
    }

    pub(super) fn seals(&self) -> MutexGuard<'_, Seals> {
        self.seals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the sealed file at `from` a second name as an object, and says which inode that has. An intact object that is there already stays. No object may be run:
    /// that stands in manifests, since two artifacts may share the content and not that; so a program is copied.
    pub(super) fn adopt(&self, from: &Path, entry: &Entry) -> Result<u64, StoreError> {
        let to = self.object(&entry.digest);
        // Whoever looks after a damaged one was set aside finds a miss, and waits for this very action.
        if let Ok(inode) = self.look(entry) {
            return Ok(inode);
        }
        let parent = folder::parent(&to)?;
        let linked = if entry.executable {
            Err(io::ErrorKind::Unsupported.into())
        } else {
            failpoint::pass("object.link").map_err(StoreError::io("write", &to))?;
            fs::hard_link(from, &to)
        };
        let stored = match linked {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Err(_) => copy(from, &to, parent, Existing::Keep),
        };
        match stored {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Another process stored the same content a moment ago, or a damaged object could not be set aside.
                if let Ok(inode) = self.look(entry) {
                    return Ok(inode);
                }
                copy(from, &to, parent, Existing::Replace).map_err(StoreError::io("write", &to))?;
            }
            Err(error) => return Err(StoreError::io("write", &to)(error)),
        }
        fs::symlink_metadata(&to).map(|metadata| metadata.ino()).map_err(StoreError::io("read", &to))
    }

    /// As [`Store::adopt`], for a sealed file that has no other name and need not keep this one; what the object is then.
    pub(super) fn move_in(&self, from: &Path, digest: &Digest, size: u64) -> Result<fs::Metadata, StoreError> {
        let to = self.object(digest);
        failpoint::pass("object.link").map_err(StoreError::io("write", &to))?;
        let unmoved = |error: tempfile::PathPersistError| (error.error.kind(), error.path);
        let file = TempPath::try_from_path(from).map_err(StoreError::io("find", from))?;
        let moved = match file.persist_noclobber(&to).map_err(unmoved) {
            Err((io::ErrorKind::NotFound, file)) => {
                folder::parent(&to)?;
                file.persist_noclobber(&to).map_err(unmoved)
            }
            moved => moved,
        };
        if let Err((_, file)) = moved {
            // There is one, or the file system can do neither this nor link.
            let inode =
                self.adopt(from, &Entry { path: digest.to_string(), digest: *digest, size, executable: false })?;
            failpoint::pass("ingest.discard").and_then(|()| file.close()).map_err(StoreError::io("remove", from))?;
            let found = fs::symlink_metadata(&to).map_err(StoreError::io("read", &to))?;
            if found.ino() != inode {
                let replaced = io::Error::other("it was replaced in this moment; run again");
                return Err(StoreError::io("read", &to)(replaced));
            }
            return Ok(found);
        }
        fs::symlink_metadata(&to).map_err(StoreError::io("read", &to))
    }
}

/// The way in for file systems without hard links, for scratch folders on another one, and for whatever has to take
/// the place of something.
fn copy(from: &Path, to: &Path, parent: &Path, existing: Existing) -> io::Result<()> {
    let copied = tempfile::Builder::new().prefix(".new-").tempfile_in(parent)?;
    failpoint::pass("object.copy")?;
    fs::copy(from, copied.path())?;
    seal(copied.path(), false)?;
    copied.as_file().sync_all()?;
    failpoint::pass("object.rename")?;
    match existing {
        Existing::Keep => copied.persist_noclobber(to)?,
        Existing::Replace => copied.persist(to)?,
    };
    Ok(())
}
