//! Files of the store are read as files alone: a pipe that has the name of one would have its reader wait for ever, and a
//! device may have no end.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

/// Opens whatever has this name to read it, and says what it is; waits for nobody who may write into it.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Opens a file to read it; an error for anything else that has its name.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let (file, metadata) = open(path)?;
    let problem = "it is no file (a folder, pipe or device)";
    if metadata.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, problem)) }
}

/// The bytes of a file; an error for anything else that has its name.
pub fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_plain(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
