//! Locks on files. Each ends with whoever holds it, however that ends.
//!
//! The client of a network file system asks its server for them, and differs from a disk in two ways: a file that is locked for
//! oneself must be open for writing, and who waits for a lock may be told half a minute late that it is free. So nobody
//! waits there: the lock is tried again.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    thread,
    time::Duration,
};

use super::{Store, StoreError};

/// Between two attempts at a lock on a network file system.
const PAUSE: Duration = Duration::from_millis(20);

/// Sorts of locks.
#[derive(Clone, Copy)]
pub(super) enum Sort {
    /// Others may have it too, of the same sort.
    Shared,
    /// Nobody else has any.
    Alone,
}

impl Store {
    /// Locks a file until it is closed, and waits until that can be.
    pub(super) fn wait_for_lock(&self, file: &File, path: &Path, sort: Sort) -> Result<(), StoreError> {
        let locked = if self.is_on_this_machine() { wait(file, sort) } else { try_again(file, sort) };
        locked.map_err(StoreError::io("lock", path))
    }

    /// What to tell users if other machines that share the folder of the store may not see this one's locks.
    pub fn doubt_of_locks(&self) -> Option<String> {
        if self.is_on_this_machine() {
            return None;
        }
        // Where the system does not tell how something is mounted, nothing is known to be wrong.
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let root = self.root().canonicalize().ok()?;
        let option = local_option(&mounts, &root)?;
        Some(format!(
            "the store {} lies on a network file system that is mounted with `{option}`: other machines do not see this one's \
             locks, so that a stage may be computed twice, and `store gc` there may remove what a run here relies on; mount it \
             without that option",
            self.root().display()
        ))
    }
}

/// Opens a file to see whether its lock can be had alone: for writing, as a network file system locks no other files for one
/// alone; where that is not allowed, and locks are this machine's, reading will do.
pub(super) fn open_to_lock(path: &Path) -> io::Result<File> {
    match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    }
}

fn wait(file: &File, sort: Sort) -> io::Result<()> {
    match sort {
        Sort::Shared => file.lock_shared(),
        Sort::Alone => file.lock(),
    }
}

fn try_again(file: &File, sort: Sort) -> io::Result<()> {
    loop {
        let locked = match sort {
            Sort::Shared => file.try_lock_shared(),
            Sort::Alone => file.try_lock(),
        };
        match locked {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// The option of an NFS mount by which locks of files below it stay on this machine; `mounts` as in `/proc/self/mountinfo`.
fn local_option(mounts: &str, path: &Path) -> Option<String> {
    let parse = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?.replace("\\040", " ");
        let mut after = after.split(' ');
        let (sort, options) = (after.next()?.to_owned(), after.nth(1)?.to_owned());
        path.starts_with(&point).then_some((point.len(), sort, options))
    };
    // Of several at one place the last one counts.
    let (_, sort, options) = mounts.lines().filter_map(parse).max_by_key(|(length, ..)| *length)?;
    let is_local = |option: &&str| matches!(*option, "nolock" | "local_lock=all" | "local_lock=flock");
    if sort.starts_with("nfs") { options.split(',').find(is_local).map(str::to_owned) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
62 1 254:0 / / rw,relatime - ext4 /dev/vda rw,nolock
77 62 0:43 / /team rw,relatime - nfs4 10.9.0.1:/ rw,vers=4.2,hard,proto=tcp,timeo=600,clientaddr=10.9.0.2,local_lock=none,addr=10.9.0.1
78 62 0:44 / /old\\040team rw,relatime - nfs 10.9.0.1:/export rw,vers=3,hard,nolock,proto=tcp,local_lock=all,addr=10.9.0.1
79 62 0:45 / /half rw,relatime shared:3 - nfs4 10.9.0.1:/ rw,vers=4.2,local_lock=flock,addr=10.9.0.1
80 62 0:46 / /team/posix rw - nfs4 10.9.0.1:/ rw,vers=4.2,local_lock=posix,addr=10.9.0.1
81 79 0:47 / /half/over rw - nfs4 10.9.0.1:/ rw,vers=4.2,local_lock=none,addr=10.9.0.1
";

    #[test]
    fn the_mount_that_a_store_lies_on_tells_whether_others_see_its_locks() {
        let option = |path: &str| local_option(MOUNTS, Path::new(path));
        assert_eq!(option("/home/store"), None);
        assert_eq!(option("/team/store"), None);
        assert_eq!(option("/old team/store").as_deref(), Some("nolock"));
        assert_eq!(option("/half").as_deref(), Some("local_lock=flock"));
        assert_eq!(option("/half/over/store"), None);
        // The locks that twdag takes are those of `flock`.
        assert_eq!(option("/team/posix/store"), None);
        assert_eq!(option("/halfway"), None);
    }
}
