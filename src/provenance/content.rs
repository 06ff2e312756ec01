//! The SHA-256 of files, by which others know them.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{File, ProvenanceError};
use crate::store::Entry;

/// So much is read at a time.
const BLOCK: usize = 1 << 18;

/// The files of a result. `view` is the folder that has them, if their SHA-256 is wanted.
pub(super) fn files(entries: &[Entry], view: Option<&Path>) -> Result<Vec<File>, ProvenanceError> {
    let file = |entry: &Entry| {
        let sha256 = view.map(|view| sha256(&view.join(&entry.path))).transpose()?;
        let Entry { path, digest, size, executable } = entry.clone();
        Ok(File { path, digest, size, executable, sha256 })
    };
    entries.iter().map(file).collect()
}

fn sha256(path: &Path) -> Result<String, ProvenanceError> {
    let hash = || -> io::Result<String> {
        let (mut file, mut hasher) = (fs::File::open(path)?, Sha256::new());
        let mut block = vec![0; BLOCK];
        loop {
            match file.read(&mut block)? {
                0 => break,
                length => hasher.update(&block[..length]),
            }
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    hash().map_err(|source| ProvenanceError::Read { path: PathBuf::from(path), source })
}
