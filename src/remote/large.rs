//! Large objects: in pieces, several at a time, each hashed and written to where it belongs as it comes.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    sync::Arc,
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
/// After so many pieces the disk is asked to take them, so that it is not idle until all have come.
const FLUSH_EVERY: usize = 16;

/// A piece on its way into a file.
struct Landing {
    partial: Arc<Partial>,
    hasher: blake3::Hasher,
    offset: u64,
    /// Dropped last: whoever waits for it knows that nothing is written any more.
    _alive: Sender<()>,
}

impl Landing {
    fn take(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.partial.write(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
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
        let range = |number: u64| number * piece..((number + 1) * piece).min(size);
        let expected = |number: u64| wanted.subtrees.as_ref().and_then(|subtrees| subtrees.piece(number));
        let is_here = |number: &u64| {
            // What cannot be read is fetched.
            expected(*number).is_some_and(|value| partial.holds(range(*number), value).unwrap_or(false))
        };
        let missing: Vec<u64> =
            if partial.is_begun() { all.into_par_iter().filter(|number| !is_here(number)).collect() } else { all };
        let alive = &alive;
        let fetch = |number: u64| async move {
            for _ in 0..TRIES {
                let value = self.fetch_piece(object, digest, range(number), partial, alive).await?;
                if expected(number).is_none_or(|expected| *expected == value) {
                    return Ok((number, value));
                }
            }
            Err(wrong_bytes(digest))
        };
        let mut pieces = stream::iter(missing).map(fetch).buffer_unordered(AT_ONCE);
        let mut values = Vec::new();
        while let Some(fetched) = pieces.try_next().await? {
            values.push(fetched);
            if values.len() % FLUSH_EVERY == 0 {
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

    /// Fetches a piece, in as many requests as it takes; its chaining value.
    async fn fetch_piece(
        &self,
        object: &str,
        digest: &Digest,
        range: std::ops::Range<u64>,
        partial: &Arc<Partial>,
        alive: &Sender<()>,
    ) -> Result<ChainingValue, Trouble> {
        let mut values = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let end = (start + PIECE).min(range.end);
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(start);
            let landing = Landing { partial: Arc::clone(partial), hasher, offset: start, _alive: alive.clone() };
            let landed = self.client.receive(object, start..end, landing, Landing::take).await;
            let landed = landed.map_err(|error| trouble(&error))?.ok_or_else(|| gone(digest))?;
            values.push(landed.hasher.finalize_non_root());
            start = end;
        }
        Ok(join(&values, range.end - range.start, PIECE))
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
