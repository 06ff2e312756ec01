//! Large objects: in pieces, several at a time, each hashed and written to where it belongs as it comes.

use std::{
    cell::Cell,
    fs::{self, File},
    iter,
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant},
};

use blake3::hazmat::{ChainingValue, HasherExt};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use rayon::prelude::*;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        mpsc::{Sender, channel},
    },
    task::{JoinHandle, spawn_blocking},
};

use super::{
    Remote,
    client::{AT_ONCE, PIECE, part_of},
    pull::{Trouble, Wanted, named, trouble, wrong_bytes},
    subtrees::{Subtrees, join, piece_of, subtree},
};
use crate::{
    digest::Digest,
    store::{Entry, Partial, Store, StoreError},
};

/// So many pieces are read and hashed before they are sent.
const READ_AHEAD: usize = 3;
/// So often a piece is asked for that comes with wrong bytes.
const TRIES: u32 = 3;
/// A request that takes less time may be followed by a larger one: on a slow line that would take longer than it may.
const SOON: Duration = Duration::from_secs(4);
/// One that takes more is followed by a smaller one.
const LATE: Duration = Duration::from_secs(30);
/// After so many pieces the disk is asked to take them, so that it is not idle until all have come.
const FLUSH_EVERY: usize = 16;

/// Parts of a large object on their way into a file.
struct Landing {
    partial: Arc<Partial>,
    hasher: blake3::Hasher,
    offset: u64,
    /// The chaining values of those that have come, each [`PIECE`] long but for the last of the object.
    values: Vec<ChainingValue>,
    /// Dropped last: whoever waits for it knows that nothing is written any more.
    _alive: Sender<()>,
}

impl Landing {
    fn new(partial: &Arc<Partial>, offset: u64, alive: &Sender<()>) -> Self {
        Self {
            partial: Arc::clone(partial),
            hasher: hasher_at(offset),
            offset,
            values: Vec::new(),
            _alive: alive.clone(),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.partial.write(bytes, self.offset)?;
        while !bytes.is_empty() {
            let room = (PIECE - self.offset % PIECE) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.offset += now.len() as u64;
            if now.len() == room {
                self.values.push(self.hasher.finalize_non_root());
                self.hasher = hasher_at(self.offset);
            }
            bytes = later;
        }
        Ok(())
    }

    /// The chaining values, when all has come.
    fn end(mut self) -> Vec<ChainingValue> {
        if self.hasher.count() > 0 {
            self.values.push(self.hasher.finalize_non_root());
        }
        self.values
    }
}

/// For bytes that begin there.
fn hasher_at(offset: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

/// Has the disk take what has come, one time after the other. The kernel tells once what it could not write, so each is asked.
struct Flushing<'a> {
    partial: &'a Arc<Partial>,
    task: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Flushing<'_> {
    /// Begins once more, unless the last one goes on.
    async fn begin(&mut self) -> Result<(), Trouble> {
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.end().await?;
        let partial = Arc::clone(self.partial);
        self.task = Some(spawn_blocking(move || partial.flush()));
        Ok(())
    }

    /// Waits for the last one.
    async fn end(&mut self) -> Result<(), Trouble> {
        let Some(task) = self.task.take() else { return Ok(()) };
        task.await.map_err(|error| Trouble::Unwritten(error.to_string()))?.map_err(untaken)
    }
}

impl Remote {
    /// Fetches a large object. What has come of it stays when this fails or is killed, if its pieces can be checked and the disk
    /// takes them.
    pub(super) async fn fetch_object(&self, store: &Store, digest: &Digest, wanted: &Wanted) -> Result<(), Trouble> {
        let object = named("objects", digest);
        if wanted.size <= PIECE {
            let bytes = self.client.get_piece(&object, 0..wanted.size).await.map_err(|error| trouble(&error))?;
            return wanted.put(digest, &bytes.ok_or_else(|| gone(digest))?);
        }
        let partial = Arc::new(store.partial(digest, wanted.size, &wanted.place).map_err(untaken)?);
        let mut flushing = Flushing { partial: &partial, task: None };
        let (alive, mut ended) = channel(1);
        let fetched = self.fetch_pieces(&object, digest, wanted, &mut flushing, alive).await;
        let fetched = flushing.end().await.and(fetched);
        // After an error some requests still go on for a moment, and hold the claim.
        let _: Option<()> = ended.recv().await;
        if let Err(trouble) = fetched {
            if matches!(trouble, Trouble::Unwritten(_)) || wanted.subtrees.is_none() {
                partial.discard().map_err(untaken)?;
            }
            return Err(trouble);
        }
        partial.finish(&wanted.place).map_err(untaken)
    }

    /// Fetches those pieces of a large object that are not here yet.
    async fn fetch_pieces(
        &self,
        object: &str,
        digest: &Digest,
        wanted: &Wanted,
        flushing: &mut Flushing<'_>,
        alive: Sender<()>,
    ) -> Result<(), Trouble> {
        let partial = flushing.partial;
        let (size, piece) = (wanted.size, piece_of(wanted.size));
        let all: Vec<u64> = (0..size.div_ceil(piece)).collect();
        let begin = |number: u64| (number * piece).min(size);
        let range = |numbers: &Range<u64>| begin(numbers.start)..begin(numbers.end);
        let expected = |number: u64| wanted.subtrees.as_ref().and_then(|subtrees| subtrees.piece(number));
        let is_here = |number: &u64| {
            // What cannot be read is fetched.
            expected(*number).is_some_and(|value| partial.holds(range(&(*number..number + 1)), value).unwrap_or(false))
        };
        let missing: Vec<u64> =
            if partial.is_begun() { all.into_par_iter().filter(|number| !is_here(number)).collect() } else { all };
        let alive = &alive;
        let runs = Runs::new(&missing, piece, self.client.most_of_large());
        let runs = &runs;
        let fetch = |numbers: Range<u64>| async move {
            let values = self.fetch_run(object, digest, range(&numbers), runs, partial, alive).await?;
            let mut values: Vec<(u64, ChainingValue)> = numbers.zip(values).collect();
            for (number, value) in &mut values {
                let mut tries = 1;
                while expected(*number).is_some_and(|expected| expected != value) {
                    if tries == TRIES {
                        return Err(wrong_bytes(digest));
                    }
                    tries += 1;
                    let again =
                        self.fetch_run(object, digest, range(&(*number..*number + 1)), runs, partial, alive).await?;
                    *value = *again.first().ok_or_else(|| wrong_bytes(digest))?;
                }
            }
            Ok(values)
        };
        let mut fetching = stream::iter(iter::from_fn(|| runs.next())).map(fetch).buffer_unordered(AT_ONCE);
        let mut values = Vec::new();
        let mut flushed = 0;
        while let Some(fetched) = fetching.try_next().await? {
            values.extend(fetched);
            if values.len() >= flushed + FLUSH_EVERY {
                flushed = values.len();
                flushing.begin().await?;
            }
        }
        if wanted.subtrees.is_some() {
            return Ok(());
        }
        values.sort_unstable();
        let values: Vec<ChainingValue> = values.into_iter().map(|(_, value)| value).collect();
        if Subtrees::of_parts(&values, size, piece).digest(size) == *digest { Ok(()) } else { Err(wrong_bytes(digest)) }
    }

    /// Fetches pieces that follow each other, in as many requests as it takes; their chaining values.
    async fn fetch_run(
        &self,
        object: &str,
        digest: &Digest,
        range: Range<u64>,
        runs: &Runs<'_>,
        partial: &Arc<Partial>,
        alive: &Sender<()>,
    ) -> Result<Vec<ChainingValue>, Trouble> {
        let mut values = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let end = (start + runs.request.get()).min(range.end);
            let begun = Instant::now();
            let landing = Landing::new(partial, start, alive);
            let landed = self.client.receive(object, start..end, landing, Landing::take).await;
            values.extend(landed.map_err(|error| trouble(&error))?.ok_or_else(|| gone(digest))?.end());
            runs.took(begun.elapsed());
            start = end;
        }
        let piece = runs.piece;
        let begins = (range.start..range.end).step_by(piece as usize);
        let pieces = values.chunks((piece / PIECE) as usize).zip(begins);
        Ok(pieces.map(|(values, begin)| join(values, piece.min(range.end - begin), PIECE)).collect())
    }

    /// Sends a large file, in pieces if it takes more than one; then the subtrees of its digest.
    pub(super) async fn send_object(&self, store: &Store, entry: &Entry) -> Result<Option<Subtrees>, String> {
        let path = store.content(entry).ok_or("it is no longer in the store of this machine")?;
        let unread = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let object = named("objects", &entry.digest);
        let (size, part) = (entry.size, part_of(entry.size));
        if size <= part {
            let bytes = fs::read(&path).map_err(unread)?;
            if Digest::of(&bytes) != entry.digest {
                return Err(spoilt(&entry.digest));
            }
            return self.client.put(&object, bytes).await.map(|()| None).map_err(|error| error.to_string());
        }
        let file = Arc::new(File::open(&path).map_err(unread)?);
        let mut parts = stream::iter(0..size.div_ceil(part))
            .map(|number| {
                let (file, start) = (Arc::clone(&file), number * part);
                let length = part.min(size - start);
                async move {
                    let room = self.client.room(length).await.map_err(std::io::Error::other)?;
                    spawn_blocking(move || read(&file, start, length as usize, room)).await?
                }
            })
            .buffered(READ_AHEAD);
        let mut upload = self.client.begin(&object, size).await.map_err(|error| error.to_string())?;
        let mut values = Vec::new();
        let mut sent = Ok(());
        while let Some(read) = parts.next().await {
            let read = read.map_err(unread);
            let ready = upload.wait_for_capacity(AT_ONCE).await;
            let ready = ready.map_err(|error| self.client.unwritten(&object, &error).to_string());
            match ready.and(read) {
                Ok((bytes, value)) => {
                    values.push(value);
                    self.client.count();
                    upload.put(bytes);
                }
                Err(problem) => {
                    sent = Err(problem);
                    break;
                }
            }
        }
        let subtrees = sent.and_then(|()| {
            let subtrees = Subtrees::of_parts(&values, size, part);
            if subtrees.digest(size) == entry.digest { Ok(subtrees) } else { Err(spoilt(&entry.digest)) }
        });
        match subtrees {
            Ok(subtrees) => {
                self.client.end(&object, upload).await.map(|()| Some(subtrees)).map_err(|error| error.to_string())
            }
            Err(problem) => {
                // What was begun is collected by the bucket's own rules if this fails too.
                let _ = upload.abort().await;
                Err(problem)
            }
        }
    }
}

/// Numbers of pieces in their order, as runs of pieces that follow each other, and how much is asked for in one request: little at first, and
/// more where it comes fast. Runs are short at the end, so that the last ones come at the same time.
struct Runs<'a> {
    left: Cell<&'a [u64]>,
    /// The length of pieces.
    piece: u64,
    request: Cell<u64>,
    most: u64,
}

impl<'a> Runs<'a> {
    fn new(numbers: &'a [u64], piece: u64, most: u64) -> Self {
        Self { left: Cell::new(numbers), piece, request: Cell::new(PIECE), most }
    }

    /// A request took this time.
    fn took(&self, time: Duration) {
        if time < SOON {
            self.request.set((2 * self.request.get()).min(self.most));
        } else if time > LATE {
            self.request.set((self.request.get() / 2).max(PIECE));
        }
    }

    /// The next run; none if there are no pieces left.
    fn next(&self) -> Option<Range<u64>> {
        let left = self.left.get();
        let most = ((self.request.get() / self.piece) as usize).min(left.len() / AT_ONCE).max(1);
        let run = left.chunk_by(|number, next| number + 1 == *next).next()?.chunks(most).next()?;
        self.left.set(&left[run.len()..]);
        Some(*run.first()?..run.last()? + 1)
    }
}

/// A part of a file on its way, and the room that it takes until it has been sent.
struct Part {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A part of a file, and its chaining value.
fn read(file: &File, start: u64, length: usize, room: OwnedSemaphorePermit) -> std::io::Result<(Bytes, ChainingValue)> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    let value = subtree(start, &bytes);
    Ok((Bytes::from_owner(Part { bytes, _room: room }), value))
}

fn untaken(error: StoreError) -> Trouble {
    Trouble::Unwritten(error.to_string())
}

fn gone(digest: &Digest) -> Trouble {
    Trouble::Lost(format!("object {digest} is no longer there"))
}

pub(super) fn spoilt(digest: &Digest) -> String {
    format!("the content {digest} is damaged in the store of this machine; run `twdag store check`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_grow_where_they_come_fast_alone_and_runs_leave_nothing_out() {
        let numbers: Vec<u64> = (0..90).filter(|number| number % 31 != 7).collect();
        let runs = Runs::new(&numbers, PIECE, 8 * PIECE);
        let (mut all, mut longest) = (Vec::new(), 0);
        while let Some(run) = runs.next() {
            longest = longest.max(run.end - run.start);
            all.extend(run);
            runs.took(Duration::ZERO);
        }
        assert_eq!((all, longest), (numbers.clone(), 8));
        // On a slow line a piece of any length is asked for in requests that it can carry.
        let slow = Runs::new(&numbers, 8 * PIECE, 8 * PIECE);
        slow.took(2 * SOON);
        assert_eq!((slow.request.get(), slow.next()), (PIECE, Some(0..1)));
        slow.took(Duration::ZERO);
        slow.took(Duration::ZERO);
        slow.took(2 * LATE);
        assert_eq!(slow.request.get(), 2 * PIECE);
        slow.took(2 * LATE);
        slow.took(2 * LATE);
        assert_eq!(slow.request.get(), PIECE);
    }
}
