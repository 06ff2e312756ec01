//! Claims: two processes that want the same action compute it once.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, SeekFrom},
};

use super::{Store, StoreError, folder};
use crate::{digest::Key, failpoint};

/// The right to compute an action. It lasts until this and every duplicate of its file is closed, by whatever means
/// its owners end: hand a duplicate to the worker, and the claim holds as long as the worker works.
#[derive(Debug)]
pub struct Claim {
    file: File,
}

impl Claim {
    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// What came of an attempt to claim an action.
#[derive(Debug)]
pub enum ClaimAttempt {
    /// The action is the caller's.
    Held(Claim),
    /// Somebody else is at it: what they said of themselves.
    Busy(String),
}

impl Store {
    /// Tries to claim an action, without waiting. `owner` tells others who has it: a line such as
    /// `process 4711 on host since 12:00`. Text of an owner that is gone does no harm, since the lock counts.
    pub fn claim(&self, key: &Key, owner: &str) -> Result<ClaimAttempt, StoreError> {
        // Collecting removes the files of claims that nobody holds.
        let _hold = self.hold()?;
        let path = self.local("claims").join(format!("{key}.lock"));
        folder::parent(&path)?;
        // The file stays when the claim ends: removing a locked file lets two processes hold "the same" lock.
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)
                    .and_then(|()| failpoint::write("claim.write", &mut file, owner.as_bytes()))
                    .and_then(|()| file.seek(SeekFrom::End(0)))
                    .map_err(StoreError::io("write", &path))?;
                Ok(ClaimAttempt::Held(Claim { file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = Vec::new();
                file.read_to_end(&mut owner).map_err(StoreError::io("read", &path))?;
                let owner = String::from_utf8_lossy(&owner).trim().to_owned();
                Ok(ClaimAttempt::Busy(if owner.is_empty() { "another process".to_owned() } else { owner }))
            }
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
        }
    }
}
