//! Byte by byte.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{CompareError, FirstByte};

const CHUNK: usize = 1 << 20;

/// The first byte in which two files differ; nothing if they are the same.
pub(super) fn first(one: &Path, other: &Path) -> Result<Option<FirstByte>, CompareError> {
    let open = |path: &Path| File::open(path).map_err(CompareError::of(path));
    let (mut first, mut second) = (open(one)?, open(other)?);
    let (mut here, mut there) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut offset = 0;
    loop {
        let filled = fill(&mut first, &mut here).map_err(CompareError::of(one))?;
        let also = fill(&mut second, &mut there).map_err(CompareError::of(other))?;
        let (left, right) = (&here[..filled], &there[..also]);
        if left != right {
            let at = left.iter().zip(right).position(|(left, right)| left != right).unwrap_or(filled.min(also));
            let (one, other) = (left.get(at).copied(), right.get(at).copied());
            return Ok(Some(FirstByte { offset: offset + at as u64, one, other }));
        }
        if filled == 0 {
            return Ok(None);
        }
        offset += filled as u64;
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
