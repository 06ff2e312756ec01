//! Damage: what is found to be other than its name says is set aside with a word on why, and told.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::PoisonError,
};

use jiff::Timestamp;
use serde::Serialize;

use super::{Store, StoreError, local, lock::Sort};
use crate::failpoint;

/// A file of the store that is other than it must be. What it held is computed again by whoever needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Where the file lay.
    pub path: PathBuf,
    /// What is wrong with it, in plain words.
    pub problem: String,
    /// Where it lies now, if it could be moved.
    pub quarantine: Option<PathBuf>,
}

enum Moved {
    /// The damaged file was gone already.
    Gone,
    To(PathBuf),
}

impl Store {
    /// Whether damage was found that nobody was told of.
    pub fn is_damaged(&self) -> bool {
        !self.damage.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The damage found since this was last asked.
    pub fn take_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut *self.damage.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves the damaged file with this inode into `local/quarantine`, beside a file that says why. Nothing happens
    /// if another file has the name by now. A store that cannot be written to keeps the file, which stays untrusted.
    pub(super) fn set_aside(&self, path: &Path, inode: u64, problem: &str) {
        let moved = self.try_set_aside(path, inode, problem);
        let quarantine = match moved {
            Ok(Moved::Gone) => return,
            Ok(Moved::To(quarantine)) => Some(quarantine),
            Err(_) => None,
        };
        let damage = Damage { path: path.to_owned(), problem: problem.to_owned(), quarantine };
        let mut found = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if !found.contains(&damage) {
            found.push(damage);
        }
    }

    fn try_set_aside(&self, path: &Path, inode: u64, problem: &str) -> Result<Moved, StoreError> {
        let room = self.local("quarantine");
        fs::create_dir_all(&room).map_err(StoreError::io("create", &room))?;
        // Only who has this lock takes files away, so that nobody takes a good one that has just come.
        let lock = self.local("quarantine.lock");
        let lock_file = fs::File::create(&lock).map_err(StoreError::io("open", &lock))?;
        self.wait_for_lock(&lock_file, &lock, Sort::Alone)?;
        let Ok(metadata) = path.symlink_metadata() else { return Ok(Moved::Gone) };
        if metadata.ino() != inode {
            return Ok(Moved::Gone);
        }
        let name = path.strip_prefix(self.root()).unwrap_or(path).to_string_lossy().replace('/', "-");
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%S.%6fZ");
        let to = room.join(format!("{time}-{name}"));
        if metadata.is_dir() {
            // Renaming into another folder needs write permission on the folder itself.
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        }
        local::replace(
            &room.join(format!("{time}-{name}.reason.txt")),
            format!("{}: {problem}\n", path.display()).as_bytes(),
        )?;
        failpoint::pass("quarantine.rename")
            .and_then(|()| fs::rename(path, &to))
            .map_err(StoreError::io("set aside", path))?;
        Ok(Moved::To(to))
    }
}
