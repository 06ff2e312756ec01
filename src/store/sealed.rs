//! Small files that are written whole or not at all, and JSON that carries the digest of itself.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::digest::Digest;

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It stays, and the write fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
    /// It goes, in one step.
    Replace,
}

/// Writes a read-only file under another name, flushes it, and gives it its name.
pub(super) fn write(path: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o444))?;
    file.as_file().sync_all()?;
    match existing {
        Existing::Keep => file.persist_noclobber(path)?,
        Existing::Replace => file.persist(path)?,
    };
    File::open(parent)?.sync_all()
}

const START: &str = "{\"check\":\"";
const MIDDLE: &str = "\",\"content\":";
const END: &str = "}\n";

/// `{"check":DIGEST,"content":…}`: JSON that shows any change to it.
pub(super) fn seal(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let content = serde_json::to_string(value)?;
    Ok(format!("{START}{}{MIDDLE}{content}{END}", Digest::of(content.as_bytes())).into_bytes())
}

/// Reads what [`seal`] wrote; the error says in plain words what is wrong.
pub(super) fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let content = bytes
        .strip_prefix(START.as_bytes())
        .and_then(|rest| rest.split_at_checked(64))
        .and_then(|(check, rest)| {
            let content = rest.strip_prefix(MIDDLE.as_bytes())?.strip_suffix(END.as_bytes())?;
            (check == Digest::of(content).to_string().as_bytes()).then_some(content)
        })
        .ok_or("it is damaged (cut short or changed)")?;
    serde_json::from_slice(content).map_err(|error| format!("it cannot be read: {error}"))
}
