//! Large contents on their way into the store. They stay when their process is killed, so that the next one goes on.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use blake3::hazmat::ChainingValue;
use rustix::io::Errno;

use super::{Claim, ClaimAttempt, Store, StoreError, folder, hash};
use crate::{digest::Digest, failpoint};

/// A large content of which not all has come. What is written to it is for the caller to check, also what was written before.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    /// Whether another process has begun it.
    begun: bool,
    _claim: Option<Claim>,
}

impl Store {
    /// Begins to take in a content of that length, or goes on. If another process of this machine is at it, it is done here a
    /// second time, at `place`, and does not stay.
    pub fn partial(&self, digest: &Digest, size: u64, place: &Path) -> Result<Partial, StoreError> {
        let _hold = self.hold()?;
        let name = format!("fetch-{digest}");
        let (path, claim) = match self.claim_folder(&name, "a download")? {
            ClaimAttempt::Held(claim) => (self.local("scratch").join(name), Some(claim)),
            ClaimAttempt::Busy(_) => (place.to_owned(), None),
        };
        folder::parent(&path)?;
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(StoreError::io("open", &path))?;
        let begun = file.metadata().map_err(StoreError::io("read", &path))?.len() == size;
        let partial = Partial { file, path, begun, _claim: claim };
        if !begun && let Err(error) = lengthen(&partial.file, size) {
            partial.discard()?;
            return Err(StoreError::io("write", &partial.path)(error));
        }
        Ok(partial)
    }
}

/// Makes a file so long, with nothing in it, if the disk has room for that. The room is taken as pieces come.
fn lengthen(file: &File, size: u64) -> io::Result<()> {
    // Empty first: nothing of what another length had counts.
    file.set_len(0)?;
    let disk = rustix::fs::fstatvfs(file)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    // Some do not say how large they are.
    if free < size && disk.f_blocks > 0 {
        let problem = format!("it takes {size} bytes, and {free} are free there");
        return Err(io::Error::new(io::ErrorKind::StorageFull, problem));
    }
    file.set_len(size)
}

impl Partial {
    /// Whether a part of it may be there.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Whether bytes that begin at a multiple of their length are there, and have this chaining value.
    pub fn holds(&self, range: Range<u64>, value: &ChainingValue) -> io::Result<bool> {
        // What nobody has written need not be hashed.
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(range.start)) {
            Ok(found) if found >= range.end => return Ok(false),
            Err(Errno::NXIO) => return Ok(false),
            _ => {}
        }
        Ok(hash::subtree(&self.file, range.start, range.end - range.start)? == *value)
    }

    /// Writes bytes to where they belong.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        failpoint::pass("partial.write")
            .and_then(|()| self.file.write_all_at(bytes, offset))
            .map_err(StoreError::io("write", &self.path))
    }

    /// Has the disk take what was written until now. An error is told once: what lies there cannot be trusted any more.
    pub fn flush(&self) -> Result<(), StoreError> {
        failpoint::pass("partial.flush")
            .and_then(|()| self.file.sync_data())
            .map_err(StoreError::io("flush", &self.path))
    }

    /// Puts the content into its place; all of it has come.
    pub fn finish(&self, place: &Path) -> Result<(), StoreError> {
        if self.path == place { Ok(()) } else { fs::rename(&self.path, place).map_err(StoreError::io("write", place)) }
    }

    /// Removes it.
    pub fn discard(&self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))
    }
}
