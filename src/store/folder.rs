//! Folders: flushing, removing, and walking a stage's output.

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use walkdir::WalkDir;

use super::{StoreError, network};
use crate::failpoint;

/// Makes a rename into `folder` survive a power cut.
pub(super) fn flush(folder: &Path) -> Result<(), StoreError> {
    failpoint::pass("folder.flush")
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(StoreError::io("flush", folder))
}

/// The folder a file lies in, created if absent.
pub(super) fn parent(path: &Path) -> Result<&Path, StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
    Ok(parent)
}

/// Makes a file, and the folder that it lies in if that is absent: that there is one is seldom worth a look of its own.
pub(super) fn make<Made>(path: &Path, file: impl Fn() -> io::Result<Made>) -> io::Result<Made> {
    match file() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            file()
        }
        made => made,
    }
}

/// Removes a folder with all it holds, also folders that nobody may write to or read; nothing to remove is fine.
pub fn remove(folder: &Path) -> Result<(), StoreError> {
    let removed = match network::remove_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(folder);
            network::remove_folder(folder)
        }
        other => other,
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", folder)),
    }
}

/// Lets the folders below one, and itself, be read and written to. One that cannot be changed stays as it is: whoever needs it is
/// told by the system.
pub(super) fn unlock(folder: &Path) {
    let mut closed = vec![folder.to_owned()];
    while let Some(folder) = closed.pop() {
        // A link leads to what is not ours.
        if folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o755));
            closed.extend(entries(&folder).unwrap_or_default());
        }
    }
}

/// Removes all that a folder holds, or a file.
pub(super) fn empty(folder: &Path) -> Result<(), StoreError> {
    each(folder, |path, is_folder| if is_folder { remove(path) } else { remove_file(path) })
}

/// Removes all that a folder holds but folders of these names, which are emptied. One whose mode is not the usual one goes too.
pub(super) fn clear(folder: &Path, names: &[&str], usual: u32) -> Result<(), StoreError> {
    each(folder, |path, is_folder| {
        let is_named = || path.file_name().is_some_and(|name| names.iter().any(|&kept| name == kept));
        match is_folder {
            true if is_named() && mode(path)? == usual => empty(path),
            true => remove(path),
            false => remove_file(path),
        }
    })
}

/// Whether a folder holds nothing but folders, and these nothing but empty folders of these names, all of the usual mode.
pub(super) fn is_vacant(folder: &Path, names: &[&str], usual: u32) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let is_vacant = |folder: OwnedFd, may_hold: &dyn Fn(&Dir, &CStr) -> io::Result<bool>| -> io::Result<bool> {
        let folder = File::from(folder);
        if folder.metadata()?.mode() != usual {
            return Ok(false);
        }
        let mut folder = Dir::new(OwnedFd::from(folder))?;
        while let Some(entry) = folder.next() {
            let entry = entry?;
            let is_itself = [c".", c".."].contains(&entry.file_name());
            if !is_itself && !may_hold(&folder, entry.file_name())? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    // What is no folder is not opened.
    let open = |within: &Dir, name: &CStr| openat(within.fd()?, name, flags, Mode::empty());
    let innermost = |within: &Dir, name: &CStr| {
        let is_named = names.iter().any(|kept| kept.as_bytes() == name.to_bytes());
        Ok(is_named && is_vacant(open(within, name)?, &|_, _| Ok(false))?)
    };
    let inner = |within: &Dir, name: &CStr| is_vacant(open(within, name)?, &innermost);
    let outer = openat(CWD, folder, flags, Mode::empty()).map_err(io::Error::from);
    // What cannot be looked at is not known to be vacant.
    outer.and_then(|outer| is_vacant(outer, &inner)).unwrap_or(false)
}

/// Kind and permissions of a file or folder.
pub(super) fn mode(path: &Path) -> Result<u32, StoreError> {
    fs::symlink_metadata(path).map(|metadata| metadata.mode()).map_err(StoreError::io("read", path))
}

/// Does something with all that a folder holds; removes it if it is no folder. A link is none, wherever it leads.
fn each(folder: &Path, with: impl Fn(&Path, bool) -> Result<(), StoreError>) -> Result<(), StoreError> {
    if !folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return remove_file(folder);
    }
    for entry in fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let entry = entry.map_err(StoreError::io("read", folder))?;
        let kind = entry.file_type().map_err(StoreError::io("read", folder))?;
        with(&entry.path(), kind.is_dir())?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    network::remove_file(path).map_err(StoreError::io("remove", path))
}

/// Removes a folder in which there are only folders that this removes as well. What cannot be read or removed stays.
pub(super) fn remove_empty(folder: &Path) {
    for below in entries(folder).unwrap_or_default() {
        remove_empty(&below);
    }
    let _ = fs::remove_dir(folder);
}

/// What lies in a folder, sorted; nothing if there is no such folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(StoreError::io("read", folder))?,
    };
    let mut paths = listing
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(StoreError::io("read", folder))?;
    paths.sort();
    Ok(paths)
}

/// The length of a file, or of all files below a folder.
pub(super) fn size(path: &Path) -> u64 {
    let files = WalkDir::new(path).into_iter().flatten().filter_map(|entry| entry.metadata().ok());
    files.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

/// How long ago a file or folder was last written to.
pub(super) fn age(path: &Path, now: SystemTime) -> Option<Duration> {
    let written = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    Some(now.duration_since(written).unwrap_or_default())
}

/// Whether an open file is the one that this name leads to.
pub(super) fn has_name(file: &File, path: &Path) -> bool {
    let identity = |metadata: io::Result<fs::Metadata>| metadata.map(|found| (found.dev(), found.ino())).ok();
    let named = identity(fs::metadata(path));
    named.is_some() && named == identity(file.metadata())
}

/// Whether a name is one that is given up before anything relies on it.
pub(super) fn is_draft(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".new-") || name.starts_with(".old-") || name.starts_with(".tmp")
}

/// Removes a file or a folder with all it holds.
pub(super) fn remove_any(path: &Path) -> Result<(), StoreError> {
    failpoint::pass("collect.remove").map_err(StoreError::io("remove", path))?;
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => remove(path),
        Ok(_) => match network::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
            _ => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

/// A file of a stage's output.
pub(super) struct OutputFile {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Its name below the folder, with `/` between the parts.
    pub(super) name: String,
    /// Whether its owner may run it.
    pub(super) executable: bool,
}

/// The files below `folder` in the byte order of their names; an error for anything that no artifact can hold.
pub(super) fn output_files(folder: &Path) -> Result<Vec<OutputFile>, StoreError> {
    let kind = folder.symlink_metadata().map_err(StoreError::io("read", folder))?.file_type();
    if !kind.is_dir() {
        // What it leads to is somebody's, who did not give it away.
        let found = if kind.is_symlink() { "a symbolic link" } else { "no folder" };
        let problem = format!(
            "the stage put {found} in the place of its output folder; it must write into the folder that it is given"
        );
        return Err(StoreError::output(folder, problem));
    }
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).min_depth(1) {
        let entry = entry.map_err(|error| walk_error(folder, error))?;
        let path = entry.path();
        let name = relative(folder, path)
            .filter(|name| !name.contains(char::is_control))
            .ok_or_else(|| StoreError::output(path, "the name must be UTF-8 text without control characters"))?;
        let kind = entry.file_type();
        if kind.is_file() && network::is_removed(path) {
            continue;
        }
        if kind.is_symlink() {
            return Err(StoreError::output(path, "is a symbolic link; a stage must write the file itself"));
        } else if kind.is_file() {
            let metadata = entry.metadata().map_err(|error| walk_error(path, error))?;
            let executable = metadata.permissions().mode() & 0o100 != 0;
            files.push(OutputFile { path: path.to_owned(), name, executable });
        } else if !kind.is_dir() {
            return Err(StoreError::output(path, "is no file (a socket, pipe or device); artifacts hold files only"));
        }
    }
    if files.is_empty() {
        return Err(StoreError::output(folder, "the stage wrote no file; an artifact has at least one"));
    }
    files.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(files)
}

/// `path` below `folder` with `/` between its parts; `None` if it is not UTF-8.
pub(super) fn relative(folder: &Path, path: &Path) -> Option<String> {
    let parts = path.strip_prefix(folder).ok()?.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>()?;
    Some(parts.join("/"))
}

/// What went wrong on a walk.
pub(super) fn walk_error(folder: &Path, error: walkdir::Error) -> StoreError {
    let path = error.path().unwrap_or(folder).to_owned();
    let source = error.into_io_error().unwrap_or_else(|| io::Error::other("the folder contains itself"));
    StoreError::Io { verb: "read", path, source }
}
