//! Room on the disk, and fetched files on their way into the result.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use super::request::failed;
use crate::stage::{Context, MAKE_ROOM, StageError};

/// Bytes that stay free on the disk for everything else.
const RESERVE: u64 = 64 << 20;

/// Refuses a download for which there is no room.
pub(super) fn check_space(missing: u64, folder: &Path) -> Result<(), StageError> {
    let found =
        rustix::fs::statvfs(folder).map_err(|error| StageError::io("look for room in", folder)(error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if missing == 0 || missing.saturating_add(RESERVE) <= free {
        return Ok(());
    }
    let message = format!(
        "{missing} bytes are still to be fetched, and the disk has room for {}; {MAKE_ROOM}",
        free.saturating_sub(RESERVE)
    );
    Err(failed(&format!("download into {}", folder.display()), &message))
}

/// Puts a file into the output folder: as another name of the same bytes where the file system can do that.
pub(super) fn deliver(name: &str, path: &Path, context: &Context) -> Result<(), StageError> {
    let target = context.output().join(name);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(StageError::io("create", parent))?;
    }
    let Err(error) = fs::hard_link(path, &target) else { return Ok(()) };
    let cannot_link = matches!(
        error.kind(),
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::Unsupported
    );
    if !cannot_link {
        return Err(StageError::io("write", &target)(error));
    }
    let mut from = File::open(path).map_err(StageError::io("read", path))?;
    // Never over a file that is there already.
    let to = File::options().write(true).create_new(true).open(&target);
    let mut to = to.map_err(StageError::io("write", &target))?;
    io::copy(&mut from, &mut to).map(|_| ()).map_err(StageError::io("write", &target))
}
