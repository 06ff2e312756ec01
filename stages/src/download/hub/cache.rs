//! The cache folder that the hub's tools share: what they have downloaded is not fetched again.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    Repository,
    listing::{RemoteFile, is_commit},
};
use crate::{
    download::pin::Pin,
    stage::{Context, StageError},
};

/// Bytes that are hashed between two looks at the cancel flag.
const CHUNK: usize = 4 << 20;

/// The folder of one repository: `blobs/DIGEST`, `refs/REVISION`, `snapshots/COMMIT/PATH`.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn of(cache: &Path, repository: Repository<'_>) -> Self {
        let name = repository.name.replace('/', "--");
        Self { folder: cache.join(format!("{}s--{name}", repository.kind.word())) }
    }

    /// The file with a content, if it is there whole; its digest is checked.
    pub(super) fn find(&self, file: &RemoteFile, context: &Context) -> Result<Option<PathBuf>, StageError> {
        let path = self.folder.join("blobs").join(file.pin.hex());
        let is_whole = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == file.size);
        if !is_whole {
            return Ok(None);
        }
        if digest(&path, &file.pin, context)? == file.pin {
            return Ok(Some(path));
        }
        context.warn(format!("{} is damaged and not used; its bytes are not those of its name", path.display()));
        Ok(None)
    }

    /// The commit of a revision, as it was when the cache was filled.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// A file of a commit; its digest is checked.
    pub(super) fn snapshot(&self, commit: &str, path: &str, context: &Context) -> Result<PathBuf, StageError> {
        let link = self.folder.join("snapshots").join(commit).join(path);
        let blob = fs::canonicalize(&link).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StageError::input(
                &link,
                "is not in the cache, and HF_HUB_OFFLINE forbids to fetch it; unset that variable, or fill the cache where \
                 there is a network",
            ),
            _ => StageError::io("read", &link)(error),
        })?;
        let size = fs::metadata(&blob).map_err(StageError::io("read", &blob))?.len();
        let name = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let pin = if name.len() == 64 { Pin::sha256(name) } else { Pin::git_blob(name, size) };
        let pin = pin.ok_or_else(|| {
            StageError::input(&link, "is no link to a file that is named by its digest, so it cannot be checked")
        })?;
        if digest(&blob, &pin, context)? == pin {
            return Ok(blob);
        }
        Err(StageError::input(blob, "is damaged: its bytes are not those of its name; remove it and fetch it again"))
    }
}

fn digest(path: &Path, pin: &Pin, context: &Context) -> Result<Pin, StageError> {
    let mut file = File::open(path).map_err(StageError::io("read", path))?;
    let (mut hasher, mut buffer) = (pin.hasher(), vec![0; CHUNK]);
    loop {
        context.check_canceled()?;
        let read = file.read(&mut buffer).map_err(StageError::io("read", path))?;
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..read]);
    }
}
