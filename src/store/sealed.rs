//! Small files that are written whole or not at all, and JSON that carries the digest of itself.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempPath;

use super::{folder, plain};
use crate::{digest::Digest, failpoint};

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
    let draft = Draft::write(path, bytes)?;
    failpoint::pass("sealed.flush")?;
    File::open(draft.place())?.sync_all()?;
    draft.put(existing)?;
    failpoint::pass("folder.flush")?;
    File::open(parent(path))?.sync_all()
}

/// A read-only file that is written and has no name yet. It goes if it never gets one. It is closed: there may be thousands.
pub(super) struct Draft {
    file: TempPath,
    path: PathBuf,
}

impl Draft {
    /// Writes the file that shall lie at `path`. It carries its digest, or is named by it, so that one cut short shows.
    pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let parent = parent(path);
        let mut file = folder::make(path, || tempfile::Builder::new().prefix(".new-").tempfile_in(parent))?;
        failpoint::write("sealed.write", &mut file, bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o444))?;
        Ok(Self { file: file.into_temp_path(), path: path.to_owned() })
    }

    /// Where it lies as yet.
    pub(super) fn place(&self) -> &Path {
        &self.file
    }

    /// Gives it its name.
    pub(super) fn put(self, existing: Existing) -> io::Result<()> {
        failpoint::pass("sealed.rename")?;
        match existing {
            Existing::Keep => self.file.persist_noclobber(self.path)?,
            Existing::Replace => self.file.persist(self.path)?,
        }
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The bytes of a small file and its inode. Something else that has its place, such as a folder, has no bytes.
pub(super) fn read(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let (mut file, metadata) = plain::open(path)?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    if metadata.is_file() {
        file.read_to_end(&mut bytes)?;
    }
    Ok((bytes, metadata.ino()))
}

const START: &str = "{\"check\":\"";
const MIDDLE: &str = "\",\"content\":";
const END: &str = "}\n";

/// `{"check":DIGEST,"content":…}`: JSON that shows any change to it.
pub(super) fn seal(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let content = serde_json::to_string(value)?;
    Ok(format!("{START}{}{MIDDLE}{content}{END}", Digest::of(content.as_bytes())).into_bytes())
}

/// The JSON that [`seal`] sealed; the error says in plain words what is wrong.
pub(super) fn content(bytes: &[u8]) -> Result<&[u8], String> {
    bytes
        .strip_prefix(START.as_bytes())
        .and_then(|rest| rest.split_at_checked(64))
        .and_then(|(check, rest)| {
            let content = rest.strip_prefix(MIDDLE.as_bytes())?.strip_suffix(END.as_bytes())?;
            (check == Digest::of(content).to_string().as_bytes()).then_some(content)
        })
        .ok_or_else(|| "it is damaged (cut short or changed)".to_owned())
}

/// Reads what [`seal`] wrote; the error says in plain words what is wrong.
pub(super) fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(content(bytes)?).map_err(|error| format!("it cannot be read: {error}"))
}
