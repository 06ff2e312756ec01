//! Digests of files.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use super::StoreError;
use crate::digest::Digest;

/// From here on, hashing on several cores is worth waking them.
const PARALLEL: u64 = 4 << 20;
/// What a core reads and hashes at a time: it stays in its cache in between.
const PIECE: u64 = 256 << 10;

/// The digest of a file and its length. It reads instead of mapping, since a mapped file that somebody shortens
/// takes the process down.
pub(super) fn hash(path: &Path) -> Result<(Digest, u64), StoreError> {
    let hashed = File::open(path).and_then(|file| hash_open(&file));
    hashed.map_err(StoreError::io("read", path))
}

/// The same of a file that was opened just now.
pub(super) fn hash_open(file: &File) -> io::Result<(Digest, u64)> {
    hash_of(file, file.metadata()?.len())
}

/// The same of a file that had this length just now.
pub(super) fn hash_of(file: &File, length: u64) -> io::Result<(Digest, u64)> {
    if length >= PARALLEL {
        let digest = in_pieces(file, length);
        // One that grows or shrinks meanwhile is read to wherever it ends.
        if file.metadata()?.len() == length {
            return Ok((digest?, length));
        }
    }
    in_one(file, length)
}

/// Reads until there is no more.
fn in_one(mut file: &File, expected: u64) -> io::Result<(Digest, u64)> {
    // Some files have a length of zero and content all the same.
    let mut buffer = vec![0; expected.saturating_add(1).clamp(1 << 12, PIECE) as usize];
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finalize().into(), hasher.count())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}

/// All cores read and hash pieces of a file that is longer than one; BLAKE3 is a tree over them.
fn in_pieces(file: &File, length: u64) -> io::Result<Digest> {
    let left = left_subtree_len(length);
    let (left, right) = rayon::join(|| subtree(file, 0, left), || subtree(file, left, length - left));
    Ok(merge_subtrees_root(&left?, &right?, Mode::Hash).into())
}

/// The node above some bytes.
pub(super) fn subtree(file: &File, offset: u64, length: u64) -> io::Result<ChainingValue> {
    if length > PIECE {
        let left = left_subtree_len(length);
        let (left, right) = rayon::join(|| subtree(file, offset, left), || subtree(file, offset + left, length - left));
        return Ok(merge_subtrees_non_root(&left?, &right?, Mode::Hash));
    }
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(PIECE as usize, 0);
        let piece = &mut buffer[..length as usize];
        file.read_exact_at(piece, offset)?;
        Ok(blake3::Hasher::new().set_input_offset(offset).update(piece).finalize_non_root())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_length_has_the_digest_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> =
            (0..3 * PARALLEL as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let around = |length: u64| [length - 1, length, length + 1];
        let lengths = [around(1), around(1024), around(PIECE), around(PARALLEL), around(2 * PARALLEL - 77), [0; 3]];
        for length in lengths.into_iter().flatten() {
            let bytes = &bytes[..length as usize];
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(hash(&path).unwrap(), (Digest::of(bytes), length));
        }
    }
}
