//! What a store of a machine is told from others by, in the store that a team shares. A copy of it, as a backup or a CI's cache makes
//! one, is another member: what it says of its pins must not take the place of what the first one has said of its own.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Remote, RemoteError, signing::random};
use crate::{
    digest::Digest,
    store::{Store, StoreError},
};

const FILE: &str = "identity";
/// Changes with what a number is made of.
const CONTEXT: &str = "twdag 1 store number";

impl Remote {
    /// The number of this machine's store. It is made of a random text and of the very file that holds it, which no copy shares: its
    /// inode, and when it was made. Nothing notes the number, so that nothing can be copied with it. In a folder on a network, machines
    /// see these differently: there the text alone counts.
    pub(super) fn identity(&self, store: &Store) -> Result<Digest, RemoteError> {
        let file = self.folder().join(FILE);
        let path = store.derived(&file);
        let is_local = store.is_on_this_machine();
        if let Some(number) = number(&path, is_local)? {
            return Ok(number);
        }
        // Of two that make one at the same time, both use the same.
        let _turn = store.lock_derived(self.folder().join("identity.lock"))?;
        if let Some(number) = number(&path, is_local)? {
            return Ok(number);
        }
        let new = random().map_err(RemoteError::System)?;
        store.keep_derived(file, format!("{new}\n").as_bytes())?;
        Ok(number(&path, is_local)?.ok_or_else(|| unread(&path)(io::ErrorKind::NotFound.into()))?)
    }
}

/// The number that a file stands for; `None` if there is none, or it holds no random text.
fn number(path: &Path, is_local: bool) -> Result<Option<Digest>, StoreError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unread(path)(error)),
    };
    let Ok(random) = text.trim().parse::<Digest>() else { return Ok(None) };
    let found = fs::metadata(path).map_err(unread(path))?;
    // Neither changes when the folder is moved, or its rights are. A file system that does not say when a file was made gives the number of
    // a file that is gone to the next one.
    let Some(made) = found.created().ok().filter(|_| is_local) else { return Ok(Some(random)) };
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(random.as_bytes());
    hasher.update(&found.ino().to_le_bytes());
    hasher.update(&since(made).to_le_bytes());
    Ok(Some(hasher.finalize().into()))
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { verb: "read", path, source }
}

/// Nanoseconds since the epoch.
fn since(time: SystemTime) -> i128 {
    let nanos = |time: std::time::Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -nanos(before.duration()), nanos)
}
