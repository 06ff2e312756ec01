//! What is private to this machine: scratch folders and run folders.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use jiff::Timestamp;

use super::{Store, StoreError, folder, ingest::is_taken};
use crate::{
    digest::{Digest, Key},
    failpoint,
};

/// So many scratch folders wait for the next action.
const SPARE: usize = 8;

impl Store {
    /// The folder that an action's work in progress lives in, made if absent. It survives until
    /// [`Store::discard_scratch`].
    pub fn scratch(&self, key: &Key) -> Result<PathBuf, StoreError> {
        let path = self.scratch_path(key);
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // A spare one may have been collected.
        if path.is_dir() || spare().is_some_and(|spare| fs::rename(spare, &path).is_ok()) {
            return Ok(path);
        }
        fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        Ok(path)
    }

    /// Where [`Store::scratch`] is, whether it exists or not.
    pub fn scratch_path(&self, key: &Key) -> PathBuf {
        self.local("scratch").join(key.to_string())
    }

    /// Removes the folder that [`Store::scratch`] made if nothing is in it but empty folders. What stays does no harm.
    pub fn leave_scratch(&self, key: &Key) {
        folder::remove_empty(&self.scratch_path(key));
    }

    /// Removes an action's work in progress, if any. A few folders stay for actions to come, with nothing but empty
    /// folders in them: file systems are slow to make new ones where many have just been removed. What stays in a folder of it
    /// are folders with `names`: those that its next stage makes anyway, so that it finds nothing of this one.
    pub fn discard_scratch(&self, key: &Key, names: &[&str]) -> Result<(), StoreError> {
        let path = self.scratch_path(key);
        failpoint::pass("scratch.discard").map_err(StoreError::io("remove", &path))?;
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // What twdag makes here has the mode of the folder around it.
        let cleared = || -> Result<bool, StoreError> {
            let usual = folder::mode(&self.local("scratch"))?;
            for below in folder::entries(&path)? {
                folder::clear(&below, names, usual)?;
                if below.exists() && folder::mode(&below)? != usual {
                    return Ok(false);
                }
            }
            Ok(folder::mode(&path)? == usual)
        };
        // On another machine a program of a run that was taken for dead may have the folder open, and write into whatever stage gets it.
        let is_ours = self.is_on_this_machine();
        let is_vacant =
            || folder::mode(&self.local("scratch")).is_ok_and(|usual| folder::is_vacant(&path, names, usual));
        if is_ours && spare.len() < SPARE && (is_vacant() || (path.is_dir() && cleared().unwrap_or(false))) {
            let kept = self.local("scratch").join(format!(".spare-{}-{key}", std::process::id()));
            if fs::rename(&path, &kept).is_ok() {
                spare.push(kept);
                return Ok(());
            }
        }
        drop(spare);
        folder::remove(&path)
    }

    /// A new folder for the events of one run, named by time and process: names sort by time. It is not collected while
    /// this process lives.
    pub fn run_folder(&self) -> Result<PathBuf, StoreError> {
        let path = self.brief_run_folder()?;
        self.need_run(&path.file_name().unwrap_or_default().to_string_lossy())?;
        Ok(path)
    }

    /// As [`Store::run_folder`], for a run that is over before the hold which opening the store began.
    pub fn brief_run_folder(&self) -> Result<PathBuf, StoreError> {
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%S.%3fZ");
        let name = format!("{time}-{}", std::process::id());
        let runs = self.local("runs");
        failpoint::pass("run.folder")
            .and_then(|()| fs::create_dir_all(&runs))
            .map_err(StoreError::io("create", &runs))?;
        for attempt in 0_u32.. {
            let path = runs.join(if attempt == 0 { name.clone() } else { format!("{name}-{attempt}") });
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(StoreError::io("create", path)(error)),
            }
        }
        Err(StoreError::io("create", runs)(io::Error::other("every name is taken")))
    }

    /// The folders of past runs and of those that go on.
    pub fn run_folders(&self) -> Result<Vec<PathBuf>, StoreError> {
        folder::entries(&self.local("runs"))
    }
}

/// Replaces a derived file in one step, without flushing: losing it in a power cut costs time, not truth.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let create = || {
        let mut file = tempfile::Builder::new();
        // Whoever else uses the store reads it as well.
        file.prefix(".new-").permissions(fs::Permissions::from_mode(0o666)).tempfile_in(parent)
    };
    let write = || -> io::Result<()> {
        let mut file = folder::make(path, create)?;
        failpoint::write("derived.write", &mut file, bytes)?;
        failpoint::pass("derived.rename")?;
        match file.persist(path) {
            Err(error) if error.error.kind() == io::ErrorKind::IsADirectory => {
                // Nothing but such files has their names.
                fs::remove_dir_all(path)?;
                error.file.persist(path)?;
            }
            persisted => drop(persisted?),
        }
        Ok(())
    };
    write().map_err(StoreError::io("write", path))
}

/// Any text as the name of a file: letters, digits, `-` and `_` stay, other bytes become `%XX`; long names end in
/// a digest.
pub(super) fn file_name(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut name = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            name.push(byte as char);
        } else {
            // Writing to a string does not fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.len() > LONGEST {
        name.truncate(LONGEST);
        let _ = write!(name, "~{}", Digest::of(text.as_bytes()));
    }
    name
}
