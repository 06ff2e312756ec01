//! Folders that other machines write to as well.
//!
//! The client of a network file system remembers what it was told for up to a minute: what a file is like, and that there is none of a name.
//! So a file of the store that seems to be missing is asked for once more, of the server, and so is what sources are like. What a file
//! holds is asked for whenever it is opened (NFS promises that), and what was written is with the server once it is flushed.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD},
    path::Arg,
};

use super::{Store, flush, stat_index::Identity};

/// How often, and with which pause, a folder is tried to be removed while files in it are on their way out.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

impl Store {
    /// Whether nobody else's machine can write to the store: its file system is one of this machine's disks or memory.
    pub fn is_on_this_machine(&self) -> bool {
        self.flushes_everything()
    }

    /// Has other machines see what was written to a file that stays open.
    pub(super) fn show_others(&self, file: &File) -> io::Result<()> {
        if self.is_on_this_machine() { Ok(()) } else { file.sync_data() }
    }

    /// Looks at a file of the store. If there seems to be none, looks once more, after its folder was asked for.
    pub(super) fn look_twice<T>(&self, path: &Path, look: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
        match look(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_on_this_machine() => {
                self.ask_for_folder(path);
                look(path)
            }
            found => found,
        }
    }

    /// Has the system ask what the folder of a file of the store is now, so that it forgets which names were not in it. There
    /// may not have been such a folder either.
    pub(super) fn ask_for_folder(&self, path: &Path) {
        if self.is_on_this_machine() {
            return;
        }
        let folders: Vec<&Path> = path.ancestors().skip(1).take(2).collect();
        folders.into_iter().rev().for_each(ask);
    }
}

/// To be called before a file outside the store is looked at or opened: it may have been replaced by another machine. A client
/// that opens the earlier file may be promised to hear of changes to it, and then never looks at its name.
pub fn ask_for_name(path: &Path) {
    // A path that cannot be made absolute leads nowhere, as whoever opens it will hear.
    let path = std::path::absolute(path).unwrap_or_default();
    if let Some(folder) = path.parent()
        && is_elsewhere(folder)
    {
        ask(folder);
    }
}

/// Whether a file or folder lies where others may change it without this machine being told.
pub(super) fn is_elsewhere(path: &Path) -> bool {
    !flush::is_known(path)
}

/// Has the system ask what a file or folder is now. Whoever looks at it next finds out if there is nothing.
pub(super) fn ask(path: &Path) {
    let _ = identity(CWD, path, AtFlags::empty());
}

/// What a file or folder is now, whatever the system remembers of it.
#[cfg(target_os = "linux")]
pub(super) fn identity(folder: impl AsFd, path: impl Arg, flags: AtFlags) -> rustix::io::Result<Identity> {
    use rustix::fs::{StatxFlags, makedev, statx};

    let stat = statx(folder, path, flags | AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)?;
    let time = |time: rustix::fs::StatxTimestamp| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    Ok(Identity {
        device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        modified: time(stat.stx_mtime),
        changed: time(stat.stx_ctime),
    })
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
pub(super) fn identity(folder: impl AsFd, path: impl Arg, flags: AtFlags) -> rustix::io::Result<Identity> {
    let stat = rustix::fs::statat(folder, path, flags)?;
    let time = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Ok(Identity {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        size: stat.st_size as u64,
        modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    })
}

/// Opens a file to read what others have written to it. While it is open here already, a client may take what it remembers of it for what
/// it holds.
pub(super) fn open_anew(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(file)
}

/// Whether a file was removed while a program of this machine has it open: NFS gives it such a name until it is closed.
pub(super) fn is_removed(path: &Path) -> bool {
    has_name_of_removed(path) && path.parent().is_some_and(is_elsewhere)
}

/// `.nfs`, the number of the file and a counter: 16 and 8 hexadecimal digits.
fn has_name_of_removed(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let digits = name.and_then(|name| name.strip_prefix(".nfs"));
    digits.is_some_and(|digits| digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether an error says that a file is gone. Of one that was opened before another machine removed it, the client of a network file system
/// knows a number that the server does not know any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
}

/// Removes a file. One that is removed already and open somewhere on this machine goes when it is closed.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if is_held(&error) && is_removed(path) => Ok(()),
        other => other,
    }
}

/// Removes a folder with all it holds. Files in it that are open somewhere on this machine keep it from going for as long;
/// those of programs that were just ended go in a moment. If they stay, the folder gets another name, beside `folder`, that is not of anybody.
/// Where another machine removes it at the same time, what is left is looked for again.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        match fs::remove_dir_all(folder) {
            Err(error) if is_held(&error) && holds_removed(folder) => thread::sleep(PAUSE),
            Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => thread::sleep(PAUSE),
            other => return other,
        }
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    let aside = tempfile::Builder::new().prefix(".old-").tempdir_in(parent)?.keep();
    fs::rename(folder, aside)
}

fn is_held(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy)
}

/// Whether there is such a file below a folder.
fn holds_removed(folder: &Path) -> bool {
    let found = walkdir::WalkDir::new(folder).into_iter().flatten();
    found.map(walkdir::DirEntry::into_path).any(|path: PathBuf| is_removed(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_removed_files_that_are_open_are_known() {
        let is = |name: &str| has_name_of_removed(&Path::new("folder").join(name));
        assert!(is(".nfs000000000000001000000008"));
        assert!(is(".nfs0000000003a2bc4f0000002e"));
        for other in [".nfs", "nfs000000000000001000000008", ".nfs0001", ".nfs00000000000000100000000g", ".nfs.d"] {
            assert!(!is(other), "{other}");
        }
        // On a disk of this machine it is a name like any other.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".nfs000000000000001000000008");
        fs::write(&path, "").unwrap();
        assert!(!is_removed(&path));
    }
}
