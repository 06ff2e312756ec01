//! Putting on the disk what was written, for many files and many callers at once: a disk takes as long for one small
//! file as for a thousand.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{Store, StoreError};
use crate::failpoint;

/// File systems that put all that was written to them on the disk when they are asked to. Elsewhere each file is flushed.
#[cfg(target_os = "linux")]
const WHOLE: [i64; 8] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0xF2F5_2010, // f2fs
    0x2FC1_2FC1, // zfs
    0xCA45_1A4E, // bcachefs
    0x794C_7630, // overlayfs
];

/// Those of them where files may share blocks.
#[cfg(target_os = "linux")]
const SHARING: [i64; 5] = [
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x2FC1_2FC1, // zfs
    0xCA45_1A4E, // bcachefs
    0x794C_7630, // overlayfs
];

/// What was put on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All that had been written.
    Everything,
    /// What was asked for.
    These,
}

/// The flushing of one store.
#[derive(Default)]
pub(super) struct Flusher {
    rounds: Mutex<Rounds>,
    over: Condvar,
    /// The file system, if it can be flushed as a whole.
    whole: OnceLock<Option<File>>,
    /// Whether its files may share blocks.
    sharing: OnceLock<bool>,
    /// Whether the disk was told to begin, and is not done yet.
    early: Arc<AtomicBool>,
    /// Folders in which names are not on the disk yet.
    names: Mutex<BTreeSet<PathBuf>>,
}

/// A caller needs a round that begins after it has come.
#[derive(Default)]
struct Rounds {
    begun: u64,
    over: u64,
    /// The kernel tells of what it could not write only once: everybody who waits then must hear of it.
    failed: u64,
}

impl Store {
    /// Notes a folder whose names the next flush shall put on the disk.
    pub(super) fn flush_later(&self, folder: Option<&Path>) {
        let mut names = self.flusher.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.extend(folder.map(Path::to_owned));
    }

    /// Puts on the disk whatever was recorded and is not there yet.
    pub fn flush_names(&self) -> Result<(), StoreError> {
        let is_open = !self.flusher.names.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_open { self.flush(Vec::new).map(drop) } else { Ok(()) }
    }

    /// Whether [`Store::flush`] puts everything on the disk at once.
    pub(super) fn flushes_everything(&self) -> bool {
        self.flusher.whole.get_or_init(|| whole(self.root())).is_some()
    }

    /// Whether a file that was just copied may share its blocks with another one, so that what it holds must be read from the disk.
    pub fn may_share_blocks(&self) -> bool {
        *self.flusher.sharing.get_or_init(|| is_one_of(self.root(), &SHARING))
    }

    /// Puts files on the disk that were found, and may have been written by others. What could not be written is told here,
    /// and to whoever flushes what was recorded none the less: the kernel tells each opened file on its own.
    pub(super) fn flush_found<'a>(&self, mut paths: impl Iterator<Item = &'a Path>) -> io::Result<()> {
        if self.flushes_everything() {
            return sync(&File::open(self.root())?);
        }
        paths.try_for_each(|path| File::open(path)?.sync_data())
    }

    /// Has the disk begin with what was written until now, where it can be flushed as a whole, so that there is less to do in the flush that comes. What
    /// it does not take is told there: the kernel tells each opened folder on its own, and what it has to tell of a file stays with that.
    pub(super) fn flush_meanwhile(&self) {
        if !self.flushes_everything() || self.flusher.early.swap(true, Ordering::AcqRel) {
            return;
        }
        let (root, early) = (self.root().to_owned(), Arc::clone(&self.flusher.early));
        let begun = thread::Builder::new().spawn(move || {
            let _ = File::open(root).and_then(|root| sync(&root));
            early.store(false, Ordering::Release);
        });
        // Without the thread it is only slower.
        if begun.is_err() {
            self.flusher.early.store(false, Ordering::Release);
        }
    }

    /// Puts on the disk what was written to files and folders: to these, and where it takes no longer to all.
    pub(super) fn flush(&self, paths: impl FnOnce() -> Vec<PathBuf>) -> Result<Flushed, StoreError> {
        failpoint::pass("store.flush").map_err(StoreError::io("flush", self.root()))?;
        let flusher = &self.flusher;
        let names = std::mem::take(&mut *flusher.names.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(whole) = flusher.whole.get_or_init(|| whole(self.root())) else {
            paths().iter().chain(&names).try_for_each(|path| flush_one(path))?;
            return Ok(Flushed::These);
        };
        let mut rounds = flusher.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let (mine, failed) = (rounds.begun + 1, rounds.failed);
        loop {
            if rounds.failed != failed {
                let source = io::Error::other("something could not be written, as another stage was told");
                return Err(StoreError::io("flush", self.root())(source));
            }
            if rounds.over >= mine {
                return Ok(Flushed::Everything);
            }
            if rounds.begun > rounds.over {
                // Somebody's round goes on. Whoever wakes first begins the next one, for all who wait.
                rounds = flusher.over.wait(rounds).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            rounds.begun += 1;
            drop(rounds);
            let flushed = sync(whole);
            rounds = flusher.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            rounds.over = rounds.begun;
            rounds.failed += u64::from(flushed.is_err());
            flusher.over.notify_all();
            return flushed.map(|()| Flushed::Everything).map_err(StoreError::io("flush", self.root()));
        }
    }
}

fn flush_one(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::io("flush", path))
}

/// Whether the file system of a file or folder is known to be one of this machine's. The file is not opened.
#[cfg(target_os = "linux")]
pub(super) fn is_known(path: &Path) -> bool {
    is_one_of(path, &WHOLE)
}

#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, reason = "the type of this field differs between systems")]
fn is_one_of(path: &Path, sorts: &[i64]) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| sorts.contains(&(found.f_type as i64)))
}

#[cfg(target_os = "linux")]
fn whole(root: &Path) -> Option<File> {
    is_known(root).then(|| File::open(root).ok()).flatten()
}

#[cfg(target_os = "linux")]
fn sync(file: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_known(_path: &Path) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
const SHARING: [i64; 0] = [];

#[cfg(not(target_os = "linux"))]
fn is_one_of(_path: &Path, _sorts: &[i64]) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn whole(_root: &Path) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn sync(file: &File) -> io::Result<()> {
    file.sync_all()
}
