//! Files in pieces over several connections: taken up where they were cut off, and hashed as they grow.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{TryStreamExt, stream};
use reqwest::{
    StatusCode,
    header::{CONTENT_RANGE, HeaderMap},
};
use serde::{Deserialize, Serialize};

use super::{
    listing::RemoteFile,
    request::{ATTEMPTS, Requests, cause, failed, pause},
};
use crate::{
    data::{read_json, write_json},
    download::pin::{Hasher, Pin},
    stage::{Context, StageError},
};

/// Connections at a time.
const CONNECTIONS: usize = 8;
/// Bytes that are asked for at once.
const PIECE: u64 = 16 << 20;
/// How often what has arrived is written down.
const NOTED: Duration = Duration::from_secs(1);

/// Files on their way, in the scratch folder.
pub(super) struct Transfer<'a> {
    requests: &'a Requests<'a>,
    context: &'a Context,
    files: Vec<Partial<'a>>,
    total: u64,
}

/// A file that is there in part.
struct Partial<'a> {
    file: &'a RemoteFile,
    path: PathBuf,
    about: PathBuf,
    state: RefCell<State>,
}

struct State {
    out: File,
    /// Bytes from the start of each piece on that are there.
    done: Vec<u64>,
    /// Of the whole pieces from the start on.
    hasher: Hasher,
    hashed: usize,
    noted: Instant,
    /// Whether some of it came from an earlier attempt.
    resumed: bool,
}

/// What is written down of a partial file.
#[derive(Serialize, Deserialize)]
struct About {
    digest: String,
    size: u64,
    piece: u64,
    done: Vec<u64>,
}

impl<'a> Transfer<'a> {
    /// Finds what earlier attempts have left of some files.
    pub(super) fn new(
        requests: &'a Requests<'a>,
        files: &'a [RemoteFile],
        context: &'a Context,
    ) -> Result<Self, StageError> {
        let total = files.iter().map(|file| file.size).sum();
        let files = files.iter().map(|file| Partial::open(file, context.scratch())).collect::<Result<_, _>>()?;
        Ok(Self { requests, context, files, total })
    }

    /// Bytes that are still to come.
    pub(super) fn missing(&self) -> u64 {
        self.total - self.arrived()
    }

    fn arrived(&self) -> u64 {
        self.files.iter().map(|partial| partial.state.borrow().done.iter().sum::<u64>()).sum()
    }

    /// Fetches what is missing and checks all digests.
    pub(super) async fn run(&self) -> Result<(), StageError> {
        let result = self.fetch().await;
        for partial in &self.files {
            partial.note()?;
        }
        result
    }

    async fn fetch(&self) -> Result<(), StageError> {
        // Wrong bytes that came from two attempts are fetched once more from the start.
        for last in [false, true] {
            let pieces: Vec<_> = self
                .files
                .iter()
                .flat_map(|partial| (0..partial.pieces()).map(move |piece| (partial, piece)))
                .filter(|(partial, piece)| !partial.missing(*piece).is_empty())
                .collect();
            stream::iter(pieces.into_iter().map(Ok))
                .try_for_each_concurrent(CONNECTIONS, |(partial, piece)| self.piece(partial, piece))
                .await?;
            let mut stale = false;
            for partial in &self.files {
                self.context.check_canceled()?;
                let found = partial.digest()?;
                if found == partial.file.pin {
                    continue;
                }
                let was_resumed = partial.state.borrow().resumed;
                partial.forget()?;
                if last || !was_resumed {
                    let RemoteFile { path, pin, .. } = partial.file;
                    let problem = format!(
                        "the bytes that the hub sends have the digest {found}, its list of files says {pin}; run again, and \
                         if it stays so, do not trust this hub"
                    );
                    return Err(StageError::input(path, problem));
                }
                stale = true;
            }
            if !stale {
                break;
            }
        }
        Ok(())
    }

    /// Fetches what is missing of a piece. Whatever comes counts, so only a row of vain attempts is an end.
    async fn piece(&self, partial: &Partial<'_>, piece: usize) -> Result<(), StageError> {
        let mut vain = 0;
        loop {
            let missing = partial.missing(piece);
            if missing.is_empty() {
                partial.advance()?;
                return partial.note();
            }
            let before = missing.start;
            match self.stream(partial, piece, missing).await {
                Ok(()) => {}
                Err(Cut::Stage(error)) => return Err(error),
                Err(Cut::Connection(problem)) => {
                    vain = if partial.missing(piece).start > before { 0 } else { vain + 1 };
                    partial.note()?;
                    if vain >= ATTEMPTS {
                        let message = format!(
                            "{problem} after {} of {} bytes; run again to go on from there",
                            self.arrived(),
                            self.total
                        );
                        return Err(failed(&format!("fetch {}", partial.file.url), &message));
                    }
                    if vain > 0 {
                        tokio::time::sleep(pause(vain)).await;
                    }
                }
            }
        }
    }

    async fn stream(&self, partial: &Partial<'_>, piece: usize, range: Range<u64>) -> Result<(), Cut> {
        let mut response = self.requests.get(&partial.file.url, Some((range.start, range.end))).await?;
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT && starts_at(response.headers(), range.start);
        if !is_part && range != (0..partial.file.size) {
            let message = "the server does not send parts of files, which large files need; use another one";
            return Err(Cut::Stage(failed(&format!("fetch {}", partial.file.url), message)));
        }
        let mut at = range.start;
        loop {
            let bytes = match response.chunk().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) => return Err(Cut::Connection(cause(&error))),
            };
            if bytes.len() as u64 > range.end - at {
                return Err(Cut::Connection("the server sent more than was asked for".to_owned()));
            }
            partial.write(piece, at, &bytes)?;
            at += bytes.len() as u64;
            self.context.progress(self.arrived(), self.total, "bytes", partial.file.path.as_str());
        }
        if at < range.end {
            return Err(Cut::Connection("the connection ended early".to_owned()));
        }
        Ok(())
    }

    /// Where each file lies now.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&RemoteFile, &Path)> {
        self.files.iter().map(|partial| (partial.file, partial.path.as_path()))
    }
}

/// Why bytes stopped coming.
enum Cut {
    Connection(String),
    Stage(StageError),
}

impl From<StageError> for Cut {
    fn from(error: StageError) -> Self {
        Self::Stage(error)
    }
}

/// Whether a partial answer starts where it was asked to.
fn starts_at(headers: &HeaderMap, start: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let first = range.strip_prefix("bytes ").and_then(|range| range.split_once('-')).map(|(first, _)| first);
    first.is_some_and(|first| first.parse() == Ok(start))
}

impl<'a> Partial<'a> {
    fn open(file: &'a RemoteFile, scratch: &Path) -> Result<Self, StageError> {
        let place = |ending: &str| scratch.join(format!("{}.{ending}", file.pin.hex()));
        let (path, about) = (place("part"), place("json"));
        let pieces = file.size.div_ceil(PIECE) as usize;
        let known = read_json::<About>(&about).ok().filter(|known| {
            (known.digest.as_str(), known.size, known.piece) == (&file.pin.to_string(), file.size, PIECE)
                && known.done.len() == pieces
                && known.done.iter().enumerate().all(|(piece, done)| *done <= length(file.size, piece))
                && path.is_file()
        });
        let out = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let out = out.map_err(StageError::io("write", &path))?;
        let done = known.map_or_else(|| vec![0; pieces], |known| known.done);
        let resumed = done.iter().any(|done| *done > 0);
        let hasher = file.pin.hasher();
        let state = RefCell::new(State { out, done, hasher, hashed: 0, noted: Instant::now(), resumed });
        Ok(Self { file, path, about, state })
    }

    fn pieces(&self) -> usize {
        self.state.borrow().done.len()
    }

    /// The bytes of a piece that are still to come.
    fn missing(&self, piece: usize) -> Range<u64> {
        let start = piece as u64 * PIECE;
        start + self.state.borrow().done[piece]..start + length(self.file.size, piece)
    }

    fn write(&self, piece: usize, at: u64, bytes: &[u8]) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        state.out.write_all_at(bytes, at).map_err(StageError::io("write", &self.path))?;
        state.done[piece] += bytes.len() as u64;
        let is_due = state.noted.elapsed() >= NOTED;
        drop(state);
        if is_due { self.note() } else { Ok(()) }
    }

    /// Writes down what has arrived.
    fn note(&self) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        state.noted = Instant::now();
        let (digest, done) = (self.file.pin.to_string(), state.done.clone());
        Ok(write_json(&self.about, &About { digest, size: self.file.size, piece: PIECE, done })?)
    }

    /// Hashes the whole pieces that follow what is hashed.
    fn advance(&self) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        let State { out, done, hasher, hashed, .. } = &mut *state;
        while let Some(&found) = done.get(*hashed) {
            let length = length(self.file.size, *hashed);
            if found < length {
                break;
            }
            out.seek(SeekFrom::Start(*hashed as u64 * PIECE)).map_err(StageError::io("read", &self.path))?;
            let mut writer = Feed(hasher);
            io::copy(&mut out.take(length), &mut writer).map_err(StageError::io("read", &self.path))?;
            *hashed += 1;
        }
        Ok(())
    }

    /// The digest of the whole file.
    fn digest(&self) -> Result<Pin, StageError> {
        self.advance()?;
        Ok(self.state.borrow().hasher.clone().finish())
    }

    fn forget(&self) -> Result<(), StageError> {
        let mut state = self.state.borrow_mut();
        state.done.fill(0);
        (state.hasher, state.hashed, state.resumed) = (self.file.pin.hasher(), 0, false);
        drop(state);
        match fs::remove_file(&self.about) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StageError::io("remove", &self.about)(error)),
            _ => Ok(()),
        }
    }
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
