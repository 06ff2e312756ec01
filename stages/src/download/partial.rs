//! A file that is there in part, in the scratch folder: what has arrived is written down, and hashed as it grows.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::pin::{Hasher, Pin};
use crate::{
    data::{read_json, write_json},
    stage::{Context, StageError},
};

/// Bytes that are asked for at once.
const PIECE: u64 = 16 << 20;
/// A file on its way. Servers may disagree about its size, and one of them lies: then there is a second place for what may be another
/// file, and the first is kept until the digest has told which is right.
pub(super) struct Partial {
    pin: Pin,
    places: [Place; 2],
    current: Cell<usize>,
}

/// Where bytes arrive.
struct Place {
    path: PathBuf,
    about: PathBuf,
    state: RefCell<State>,
}

struct State {
    /// Opened when it is needed: a repository may have more files than a process may open.
    out: Option<File>,
    /// Of the whole file, as far as that is known.
    size: Option<u64>,
    /// Bytes from the start of each piece on that are there.
    done: Vec<u64>,
    /// Their sum.
    arrived: u64,
    /// Whether all of it is written down.
    is_noted: bool,
    /// Of the whole pieces from the start on.
    hasher: Hasher,
    hashed: usize,
}

/// What is written down of a partial file.
#[derive(Serialize, Deserialize)]
struct About {
    digest: String,
    size: u64,
    piece: u64,
    done: Vec<u64>,
}

impl Place {
    fn open(pin: &Pin, scratch: &Path, which: usize) -> Self {
        let place = |ending: &str| scratch.join(format!("{}.{which}.{ending}", pin.to_string().replace(':', "-")));
        let (path, about) = (place("part"), place("json"));
        let known = read_json::<About>(&about).ok().filter(|known| {
            (known.digest.as_str(), known.piece) == (pin.to_string().as_str(), PIECE)
                && known.done.len() as u64 == count(known.size)
                && known.done.iter().enumerate().all(|(piece, done)| *done <= length(known.size, piece))
                && path.is_file()
        });
        let (size, done) = known.map_or_else(|| (None, Vec::new()), |known| (Some(known.size), known.done));
        // The sum is at most the size.
        let arrived = done.iter().sum();
        let state = State { out: None, size, done, arrived, is_noted: true, hasher: pin.hasher(), hashed: 0 };
        Self { path, about, state: RefCell::new(state) }
    }

    /// Bytes that a server with a file of this size need not send.
    fn arrived_of(&self, size: u64) -> Option<u64> {
        let state = self.state.borrow();
        (state.size == Some(size)).then_some(state.arrived)
    }

    fn write(&self, state: &mut State, at: u64, bytes: &[u8]) -> Result<(), StageError> {
        let out = state.open(&self.path)?;
        out.write_all_at(bytes, at).map_err(StageError::io("write", &self.path))
    }

    fn forget(&self, pin: &Pin) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        (state.out, state.size, state.done, state.arrived, state.is_noted) = (None, None, Vec::new(), 0, true);
        (state.hasher, state.hashed) = (pin.hasher(), 0);
        // First the note: it tells of bytes that are there.
        for path in [&self.about, &self.path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StageError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl State {
    fn open(&mut self, path: &Path) -> Result<&mut File, StageError> {
        let open = if let Some(open) = self.out.take() {
            open
        } else {
            let open = File::options().create(true).truncate(false).read(true).write(true).open(path);
            open.map_err(StageError::io("write", path))?
        };
        Ok(self.out.insert(open))
    }
}

impl Partial {
    /// What earlier attempts have left of a file.
    pub(super) fn open(pin: &Pin, scratch: &Path) -> Self {
        let places = [Place::open(pin, scratch, 0), Place::open(pin, scratch, 1)];
        let [first, second] = places.each_ref().map(|place| place.state.borrow().arrived);
        Self { pin: pin.clone(), places, current: Cell::new(usize::from(second > first)) }
    }

    fn place(&self) -> &Place {
        &self.places[self.current.get()]
    }

    fn other(&self) -> &Place {
        &self.places[1 - self.current.get()]
    }

    /// What its bytes must hash to.
    pub(super) fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.place().path
    }

    /// Of the whole file, as far as that is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.place().state.borrow().size
    }

    /// Bytes that are there.
    pub(super) fn arrived(&self) -> u64 {
        self.place().state.borrow().arrived
    }

    /// Whether all bytes are there; they may be wrong.
    pub(super) fn is_whole(&self) -> bool {
        self.size() == Some(self.arrived())
    }

    /// Bytes that are still to come if the whole file has so many.
    pub(super) fn missing_of(&self, size: u64) -> u64 {
        size - self.places.iter().find_map(|place| place.arrived_of(size)).unwrap_or_default()
    }

    /// Takes note of the size of the whole file. Bytes of a file of another size are kept until the digest is right. There must be room for
    /// it: what is noted of each piece takes memory.
    pub(super) fn expect(&self, size: u64) -> Result<(), StageError> {
        if self.place().arrived_of(size).is_some() {
            return Ok(());
        }
        if self.other().arrived_of(size).is_some() {
            self.note()?;
            self.current.set(1 - self.current.get());
            return Ok(());
        }
        self.make_place()?;
        let mut state = self.place().state.borrow_mut();
        (state.size, state.done) = (Some(size), vec![0; count(size) as usize]);
        Ok(())
    }

    /// Turns to an empty place, for bytes that may be another file's. If there is none, fewer bytes make place for it.
    pub(super) fn make_place(&self) -> Result<(), StageError> {
        let kept = |place: &Place| {
            let state = place.state.borrow();
            if state.size.is_some() { state.arrived } else { 0 }
        };
        if kept(self.other()) < kept(self.place()) {
            self.note()?;
            self.current.set(1 - self.current.get());
        }
        self.forget()
    }

    /// The pieces of which bytes are missing.
    pub(super) fn open_pieces(&self) -> Vec<usize> {
        let pieces = self.place().state.borrow().done.len();
        (0..pieces).filter(|piece| !self.missing(*piece).is_empty()).collect()
    }

    /// The bytes of a piece that are still to come.
    pub(super) fn missing(&self, piece: usize) -> Range<u64> {
        let state = self.place().state.borrow();
        let start = piece as u64 * PIECE;
        start + state.done[piece]..start + length(state.size.unwrap_or_default(), piece)
    }

    /// Takes bytes of a piece, at a place in the whole file.
    pub(super) fn write(&self, piece: usize, at: u64, bytes: &[u8]) -> Result<(), StageError> {
        let place = self.place();
        let mut state = place.state.borrow_mut();
        place.write(&mut state, at, bytes)?;
        state.done[piece] += bytes.len() as u64;
        state.arrived += bytes.len() as u64;
        state.is_noted = false;
        Ok(())
    }

    /// Takes the next bytes of a file that comes from its start to its end, of whatever size.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<(), StageError> {
        let place = self.place();
        let mut state = place.state.borrow_mut();
        let at = state.arrived;
        place.write(&mut state, at, bytes)?;
        state.hasher.update(bytes);
        state.arrived += bytes.len() as u64;
        // One piece of unknown length until the end is known.
        state.done = vec![state.arrived];
        Ok(())
    }

    /// Ends what was appended.
    pub(super) fn end(&self) -> Result<(), StageError> {
        let mut state = self.place().state.borrow_mut();
        let size = state.arrived;
        state.done = (0..count(size) as usize).map(|piece| length(size, piece)).collect();
        (state.size, state.hashed, state.is_noted) = (Some(size), count(size) as usize, false);
        drop(state);
        self.note()
    }

    /// Writes down what has arrived since this was last done.
    pub(super) fn note(&self) -> Result<(), StageError> {
        let place = self.place();
        let mut state = place.state.borrow_mut();
        let (Some(size), false) = (state.size, state.is_noted) else { return Ok(()) };
        let (digest, done) = (self.pin.to_string(), state.done.clone());
        // In one step: a kill or a full disk in between would cost the last note, and with it all that has arrived.
        let next = place.about.with_extension("new");
        let written = write_json(&next, &About { digest, size, piece: PIECE, done });
        let noted = written
            .map_err(StageError::from)
            .and_then(|()| fs::rename(&next, &place.about).map_err(StageError::io("write", &place.about)));
        if noted.is_err() {
            // It is of no use, and takes room; the error that counts is told.
            let _ = fs::remove_file(&next);
        }
        state.is_noted = noted.is_ok();
        noted
    }

    /// Hashes the whole pieces that follow what is hashed.
    pub(super) fn advance(&self, context: &Context) -> Result<(), StageError> {
        let place = self.place();
        let mut state = place.state.borrow_mut();
        // It is made here at the latest, even if it is empty.
        state.open(&place.path)?;
        let State { out: Some(out), size, done, hasher, hashed, .. } = &mut *state else {
            return Err(StageError::Bug("a file that was opened is closed".to_owned()));
        };
        let size = size.unwrap_or_default();
        while let Some(&found) = done.get(*hashed) {
            let length = length(size, *hashed);
            if found < length {
                break;
            }
            context.check_canceled()?;
            out.seek(SeekFrom::Start(*hashed as u64 * PIECE)).map_err(StageError::io("read", &place.path))?;
            io::copy(&mut out.take(length), &mut Feed(hasher)).map_err(StageError::io("read", &place.path))?;
            *hashed += 1;
        }
        Ok(())
    }

    /// The digest of the whole file.
    pub(super) fn digest(&self, context: &Context) -> Result<Pin, StageError> {
        self.advance(context)?;
        Ok(self.place().state.borrow().hasher.clone().finish())
    }

    /// Forgets the bytes that came last, and their file's size.
    pub(super) fn forget(&self) -> Result<(), StageError> {
        self.place().forget(&self.pin)
    }

    /// Ends the work on it, as the digest is right: forgets what else there was.
    pub(super) fn finish(&self) -> Result<(), StageError> {
        self.place().state.borrow_mut().out = None;
        self.other().forget(&self.pin)
    }
}

/// Pieces of a file.
fn count(size: u64) -> u64 {
    size.div_ceil(PIECE)
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
