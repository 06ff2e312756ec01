//! Which thread does what waits for the disk. Another one, so that signals and messages are heard meanwhile; or the
//! driver's own, if it is little: to hand it over and back would take longer than to do it, and a processor that becomes
//! free meanwhile may stay idle, since what waits for another one is not always moved.

use std::{fs, path::Path, sync::Arc};

use super::{Assignment, Attempt, Looked, Trouble};
use crate::{blame::Blame, plan::Action, store::Hold};

/// More files, or more bytes, are not little.
const FILES: usize = 16;
const BYTES: u64 = 1 << 20;

/// Whether a folder holds few small files, and no folders.
pub(super) fn is_little(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let mut bytes = 0;
    for (before, entry) in entries.enumerate() {
        let Some(metadata) = entry.and_then(|entry| entry.metadata()).ok().filter(fs::Metadata::is_file) else {
            return false;
        };
        bytes += metadata.len();
        if before == FILES || bytes > BYTES {
            return false;
        }
    }
    true
}

/// Whether nothing in a folder of few files has to be read from a disk first, as what a program has copied may have to be where files share
/// blocks.
#[cfg(target_os = "linux")]
fn is_in_memory(folder: &Path) -> bool {
    use std::io::IoSliceMut;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    let is_in_memory = |file: fs::File| {
        let mut byte = [0];
        let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT);
        // Not every file system can tell.
        read.is_ok() || read == Err(Errno::OPNOTSUPP)
    };
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    // What cannot be opened fails where it is read.
    files.filter_map(|entry| fs::File::open(entry.path()).ok()).all(is_in_memory)
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_folder: &Path) -> bool {
    true
}

impl Attempt {
    /// Whether it is little work to take in what a stage wrote.
    pub(super) fn is_at_hand(&self, output: &Path) -> bool {
        !self.shared.store.may_share_blocks() || is_in_memory(output)
    }

    /// Looks the stage up.
    pub(super) async fn look_up(self: &Arc<Self>) -> Result<Looked, Trouble> {
        let absent = self.absent();
        self.aside(absent.is_some(), |attempt| attempt.look(absent)).await
    }

    /// The action, if it is little work to look it up: the stage reads little, nobody is asked who is far away, and there is no result
    /// that may have to be hashed.
    fn absent(&self) -> Option<Action> {
        let is_little = matches!(self.assignment, Assignment::Stage)
            && self.shared.sharing.is_none()
            && self.reads_little()
            && self.graph_node().stage.sources().is_empty();
        let action = if is_little { self.resolve().ok()? } else { return None };
        (!self.shared.store.has_record(&action.key())).then_some(action)
    }

    /// Whether the results that it reads are a few small files, each.
    pub(super) fn reads_little(&self) -> bool {
        self.given.values().all(|given| given.is_little)
    }

    /// Does work that waits for the disk.
    pub(super) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        is_little: bool,
        work: impl FnOnce(&Self) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        if let Some(_hold) = self.is_done_here(is_little) {
            return work(self);
        }
        let attempt = Arc::clone(self);
        blocking(move || work(&attempt)).await
    }

    /// What keeps collectors out meanwhile, if work is to be done on this thread.
    pub(super) fn is_done_here(&self, is_little: bool) -> Option<Hold> {
        // A disk that must be asked for each file takes its time, and so may somebody who collects.
        let is_quick = || self.shared.store.can_publish_early();
        if is_little && is_quick() { self.shared.store.hold_now() } else { None }
    }
}

/// Does work on another thread.
pub(in crate::run) async fn blocking<T: Send + 'static, E: From<Trouble> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Trouble::new(format!("internal error: {error}; please report it"), Blame::Bug).into())
    })
}
