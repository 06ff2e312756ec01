//! A file that is there in part, in the scratch folder: what has arrived is written down, and hashed as it grows.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::pin::{Hasher, Pin};
use crate::{
    data::{read_json, write_json},
    stage::{Context, StageError},
};

/// Bytes that are asked for at once.
const PIECE: u64 = 16 << 20;
/// How often what has arrived is written down.
const NOTED: Duration = Duration::from_secs(1);

/// A file on its way.
pub(super) struct Partial {
    pin: Pin,
    path: PathBuf,
    about: PathBuf,
    state: RefCell<State>,
}

struct State {
    out: File,
    /// Of the whole file, as far as that is known.
    size: Option<u64>,
    /// Bytes from the start of each piece on that are there.
    done: Vec<u64>,
    /// Of the whole pieces from the start on.
    hasher: Hasher,
    hashed: usize,
    noted: Instant,
}

/// What is written down of a partial file.
#[derive(Serialize, Deserialize)]
struct About {
    digest: String,
    size: u64,
    piece: u64,
    done: Vec<u64>,
}

impl Partial {
    /// What earlier attempts have left of a file.
    pub(super) fn open(pin: &Pin, scratch: &Path) -> Result<Self, StageError> {
        let place = |ending: &str| scratch.join(format!("{}.{ending}", pin.hex()));
        let (path, about) = (place("part"), place("json"));
        let known = read_json::<About>(&about).ok().filter(|known| {
            (known.digest.as_str(), known.piece) == (pin.to_string().as_str(), PIECE)
                && known.done.len() == count(known.size)
                && known.done.iter().enumerate().all(|(piece, done)| *done <= length(known.size, piece))
                && path.is_file()
        });
        let out = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let out = out.map_err(StageError::io("write", &path))?;
        let (size, done) = known.map_or_else(|| (None, Vec::new()), |known| (Some(known.size), known.done));
        let state = State { out, size, done, hasher: pin.hasher(), hashed: 0, noted: Instant::now() };
        Ok(Self { pin: pin.clone(), path, about, state: RefCell::new(state) })
    }

    /// What its bytes must hash to.
    pub(super) fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Of the whole file, as far as that is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.state.borrow().size
    }

    /// Bytes that are there.
    pub(super) fn arrived(&self) -> u64 {
        self.state.borrow().done.iter().sum()
    }

    /// Whether all bytes are there; they may be wrong.
    pub(super) fn is_whole(&self) -> bool {
        self.size() == Some(self.arrived())
    }

    /// Takes note of the size of the whole file. Bytes of a file of another size are forgotten.
    pub(super) fn expect(&self, size: u64) -> Result<(), StageError> {
        if self.size() == Some(size) {
            return Ok(());
        }
        self.forget()?;
        let mut state = self.state.borrow_mut();
        (state.size, state.done) = (Some(size), vec![0; count(size)]);
        Ok(())
    }

    /// The pieces of which bytes are missing.
    pub(super) fn open_pieces(&self) -> Vec<usize> {
        let pieces = self.state.borrow().done.len();
        (0..pieces).filter(|piece| !self.missing(*piece).is_empty()).collect()
    }

    /// The bytes of a piece that are still to come.
    pub(super) fn missing(&self, piece: usize) -> Range<u64> {
        let state = self.state.borrow();
        let start = piece as u64 * PIECE;
        start + state.done[piece]..start + length(state.size.unwrap_or_default(), piece)
    }

    /// Takes bytes of a piece, at a place in the whole file.
    pub(super) fn write(&self, piece: usize, at: u64, bytes: &[u8]) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        state.out.write_all_at(bytes, at).map_err(StageError::io("write", &self.path))?;
        state.done[piece] += bytes.len() as u64;
        let is_due = state.noted.elapsed() >= NOTED;
        drop(state);
        if is_due { self.note() } else { Ok(()) }
    }

    /// Takes the next bytes of a file that comes from its start to its end, of whatever size.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<(), StageError> {
        let at = self.arrived();
        let mut state = self.state.borrow_mut();
        state.out.write_all_at(bytes, at).map_err(StageError::io("write", &self.path))?;
        state.hasher.update(bytes);
        // One piece of unknown length until the end is known.
        state.done = vec![at + bytes.len() as u64];
        Ok(())
    }

    /// Ends what was appended.
    pub(super) fn end(&self) -> Result<(), StageError> {
        let size = self.arrived();
        let mut state = self.state.borrow_mut();
        state.done = (0..count(size)).map(|piece| length(size, piece)).collect();
        (state.size, state.hashed) = (Some(size), count(size));
        drop(state);
        self.note()
    }

    /// Writes down what has arrived.
    pub(super) fn note(&self) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        let Some(size) = state.size else { return Ok(()) };
        state.noted = Instant::now();
        let (digest, done) = (self.pin.to_string(), state.done.clone());
        Ok(write_json(&self.about, &About { digest, size, piece: PIECE, done })?)
    }

    /// Hashes the whole pieces that follow what is hashed.
    pub(super) fn advance(&self, context: &Context) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        let State { out, size, done, hasher, hashed, .. } = &mut *state;
        let size = size.unwrap_or_default();
        while let Some(&found) = done.get(*hashed) {
            let length = length(size, *hashed);
            if found < length {
                break;
            }
            context.check_canceled()?;
            out.seek(SeekFrom::Start(*hashed as u64 * PIECE)).map_err(StageError::io("read", &self.path))?;
            io::copy(&mut out.take(length), &mut Feed(hasher)).map_err(StageError::io("read", &self.path))?;
            *hashed += 1;
        }
        Ok(())
    }

    /// The digest of the whole file.
    pub(super) fn digest(&self, context: &Context) -> Result<Pin, StageError> {
        self.advance(context)?;
        Ok(self.state.borrow().hasher.clone().finish())
    }

    /// Forgets all bytes, and the size.
    pub(super) fn forget(&self) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        state.out.set_len(0).map_err(StageError::io("write", &self.path))?;
        (state.size, state.done, state.hasher, state.hashed) = (None, Vec::new(), self.pin.hasher(), 0);
        drop(state);
        match fs::remove_file(&self.about) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StageError::io("remove", &self.about)(error)),
            _ => Ok(()),
        }
    }
}

/// Pieces of a file.
fn count(size: u64) -> usize {
    size.div_ceil(PIECE) as usize
}

/// Bytes in a piece of a file.
fn length(size: u64, piece: usize) -> u64 {
    PIECE.min(size - piece as u64 * PIECE)
}

/// Hashes what is written to it.
struct Feed<'a>(&'a mut Hasher);

impl io::Write for Feed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
