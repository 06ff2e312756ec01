//! Requests. Threads and connections come with the first one.

use std::{
    future::Future,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    Error, GetOptions, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutPayload, WriteMultipart,
    path::Path,
};
use tokio::{
    runtime::Runtime,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};
use twdag_stages::bucket::{has_no_bucket, told};

use super::{Address, RemoteError, folder::SharedFolder};
use crate::store::StoreError;

/// So much of a large object is sent in one request of several, or asked for at least.
pub(super) const PIECE: u64 = 8 << 20;
/// The most of a large object that is asked for in one request, where it comes in small parts: each request is work for the server.
const MOST_OF_LARGE: u64 = 64 << 20;
/// So many requests for one large object are on their way at the same time.
pub(super) const AT_ONCE: usize = 6;
/// The most bytes that are asked for in one request: more than any pack has.
const MOST_AT_ONCE: u64 = 320 << 20;
/// Pieces with so few bytes between them come in one request.
const CLOSE: u64 = 1 << 20;
/// So many objects come in one answer to a listing.
const LISTED_AT_ONCE: usize = 1_000;
/// So many objects are looked at at the same time.
const LOOKED_AT_ONCE: usize = 32;
/// So many pieces of all large objects together are read and not sent yet, at most: a quarter of a gibibyte.
const ROOM: u32 = 32;
/// A multipart upload has at most 10,000 parts.
const MOST_PARTS: u64 = 9_000;
/// So many threads receive, hash and write at most.
const MOST_THREADS: usize = 8;

/// The way to a remote store.
pub(super) struct Client {
    address: Address,
    open: OnceLock<Open>,
    requests: AtomicU64,
    /// Pieces of large objects that may be read and not sent yet.
    room: Arc<Semaphore>,
}

struct Open {
    runtime: Option<Runtime>,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    folder: Option<SharedFolder>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Not waiting, which is forbidden where this may happen.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An object, as a listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its name below the address.
    pub(super) name: String,
    /// Its length in bytes.
    pub(super) size: u64,
    /// When it was written, by the server's clock.
    pub(super) modified: SystemTime,
    /// What tells it from what was there before under that name, if the server says so.
    pub(super) tag: Option<String>,
}

/// What came of creating an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    /// It is there now.
    Yes,
    /// Somebody else was first.
    Taken,
}

impl Client {
    pub(super) fn new(address: Address) -> Self {
        let room = Arc::new(Semaphore::new(ROOM as usize));
        Self { address, open: OnceLock::new(), requests: AtomicU64::new(0), room }
    }

    /// The way to a store that a test has.
    #[cfg(test)]
    pub(super) fn over(store: Arc<dyn ObjectStore>) -> Self {
        let address: Address = "file:///test".parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let open = Open { runtime: Some(runtime), store, prefix: Path::default(), folder: None };
        Self { address, open: open.into(), requests: AtomicU64::new(0), room: Arc::new(Semaphore::new(ROOM as usize)) }
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn open(&self) -> Result<&Open, RemoteError> {
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, MOST_THREADS)))
            .thread_name("remote")
            .enable_all()
            .build()
            .map_err(RemoteError::System)?;
        let (store, prefix) = self.address.open()?;
        let folder = self.address.folder().map(SharedFolder::new);
        Ok(self.open.get_or_init(|| Open { runtime: Some(runtime), store, prefix, folder }))
    }

    /// Carries requests out, on threads of its own, and waits for them.
    pub(super) fn block_on<F: Future>(&self, work: F) -> Result<F::Output, RemoteError> {
        match &self.open()?.runtime {
            Some(runtime) => Ok(runtime.block_on(work)),
            None => Err(RemoteError::System(std::io::Error::other("it is closed"))),
        }
    }

    fn at(&self, object: &str) -> Result<(&dyn ObjectStore, Path), RemoteError> {
        let open = self.open()?;
        let path = object.split('/').fold(open.prefix.clone(), Path::join);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ok((&*open.store, path))
    }

    fn failed(&self, verb: &'static str, object: &str, error: &Error) -> RemoteError {
        RemoteError::Request { address: self.address.clone(), verb, object: object.to_owned(), problem: told(error) }
    }

    /// A request that is not made, since another one failed.
    pub(super) fn refused(&self, object: &str, problem: String) -> RemoteError {
        RemoteError::Request { address: self.address.clone(), verb: "read", object: object.to_owned(), problem }
    }

    /// Something there that is not what it must be.
    pub(super) fn damaged(&self, object: &str, problem: impl Into<String>) -> RemoteError {
        RemoteError::Damaged { address: self.address.clone(), object: object.to_owned(), problem: problem.into() }
    }

    /// An object as a whole; `None` if there is none. One that has more bytes than `most` is refused as damaged.
    pub(super) async fn get(&self, object: &str, most: u64) -> Result<Option<Bytes>, RemoteError> {
        let (store, path) = self.at(object)?;
        let found = match store.get(&path).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.failed("read", object, &error)),
        };
        let size = found.meta.size;
        if size > most {
            return Err(self.damaged(object, format!("it has {size} bytes; expected {most} at most")));
        }
        found.bytes().await.map(Some).map_err(|error| self.failed("read", object, &error))
    }

    /// Pieces of an object; those that lie close together come in one request. `None` if there is no object. A piece that is
    /// unbelievably long, or lies beyond the object's end, is an error: the object, or what told of it, is damaged.
    pub(super) async fn get_ranges(
        &self,
        object: &str,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, RemoteError> {
        let merged = self.merge(object, ranges)?;
        let (_, path) = self.at(object)?;
        let store = Arc::clone(&self.open()?.store);
        let mut parts = stream::iter(merged.clone())
            .map(|range| {
                let (store, path) = (Arc::clone(&store), path.clone());
                async move {
                    let piece = whole_range(&*store, &path, range.clone()).await;
                    self.piece(object, &range, piece)
                }
            })
            .buffered(AT_ONCE);
        let mut fetched = Vec::with_capacity(merged.len());
        while let Some(part) = parts.next().await {
            let Some(part) = part? else { return Ok(None) };
            fetched.push(part);
        }
        let piece = |range: &Range<u64>| {
            let number = merged.partition_point(|part| part.start <= range.start) - 1;
            let begins = (range.start - merged[number].start) as usize;
            fetched[number].slice(begins..begins + (range.end - range.start) as usize)
        };
        Ok(Some(ranges.iter().map(piece).collect()))
    }

    /// The ranges in their order, with those that lie close together made one.
    fn merge(&self, object: &str, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, RemoteError> {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(CLOSE) => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        match merged.iter().find(|range| range.end.saturating_sub(range.start) > MOST_AT_ONCE) {
            Some(Range { start, end }) => {
                let problem = format!("bytes {start} to {end} are named; expected {MOST_AT_ONCE} at most");
                Err(self.damaged(object, problem))
            }
            None => Ok(merged),
        }
    }

    /// A piece of an object, received on a thread of its own; `None` if there is no object.
    pub(super) async fn get_piece(&self, object: &str, range: Range<u64>) -> Result<Option<Bytes>, RemoteError> {
        let (_, path) = self.at(object)?;
        let store = Arc::clone(&self.open()?.store);
        let asked = range.clone();
        let piece = on_its_own(async move { whole_range(&*store, &path, asked).await });
        self.piece(object, &range, piece.await)
    }

    /// Receives a piece of an object, on a thread of its own: `take` gets its bytes as they come, in their order. `None` if there
    /// is no object. If nobody waits for it any more, it drops what it has a little later.
    pub(super) async fn receive<T: Send + 'static>(
        &self,
        object: &str,
        range: Range<u64>,
        to: T,
        take: fn(&mut T, &[u8]) -> Result<(), StoreError>,
    ) -> Result<Option<T>, RemoteError> {
        let (_, path) = self.at(object)?;
        let store = Arc::clone(&self.open()?.store);
        let asked = range.clone();
        let piece = on_its_own(async move { streamed_range(&*store, &path, asked, to, take).await });
        self.piece(object, &range, piece.await)
    }

    /// The most of a large object that is to be received in one request. What comes from a folder is in memory at once.
    pub(super) fn most_of_large(&self) -> u64 {
        if self.address.folder().is_some() { PIECE } else { MOST_OF_LARGE }
    }

    fn piece<T>(
        &self,
        object: &str,
        range: &Range<u64>,
        piece: Result<Piece<T>, Error>,
    ) -> Result<Option<T>, RemoteError> {
        match piece {
            Ok(Piece::Whole(bytes)) => Ok(Some(bytes)),
            Ok(Piece::NoObject) => Ok(None),
            Ok(Piece::Refused(error)) => Err(error.into()),
            Ok(Piece::Short(size)) => {
                let Range { start, end } = range;
                Err(self.damaged(object, format!("it has {size} bytes; expected bytes {start} to {end}")))
            }
            Err(error) => Err(self.failed("read", object, &error)),
        }
    }

    /// In a folder, does something for the rights that others have to an object.
    fn in_folder(&self, object: &str, work: fn(&SharedFolder, &str) -> std::io::Result<()>) -> Result<(), RemoteError> {
        let Some(folder) = &self.open()?.folder else { return Ok(()) };
        work(folder, object).map_err(|error| RemoteError::Request {
            address: self.address.clone(),
            verb: "write",
            object: object.to_owned(),
            problem: error.to_string(),
        })
    }

    /// Creates an object, if there is none of that name.
    pub(super) async fn create(&self, object: &str, bytes: Vec<u8>) -> Result<Created, RemoteError> {
        self.in_folder(object, SharedFolder::prepare)?;
        let (store, path) = self.at(object)?;
        match store.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into()).await {
            Ok(_) => self.in_folder(object, SharedFolder::share).map(|()| Created::Yes),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Taken),
            Err(error) => Err(self.failed("write", object, &error)),
        }
    }

    /// Writes an object, whether there is one of that name or not.
    pub(super) async fn put(&self, object: &str, bytes: Vec<u8>) -> Result<(), RemoteError> {
        self.in_folder(object, SharedFolder::prepare)?;
        let (store, path) = self.at(object)?;
        match store.put(&path, PutPayload::from(bytes)).await {
            Ok(_) => self.in_folder(object, SharedFolder::share),
            Err(error) => Err(self.failed("write", object, &error)),
        }
    }

    /// Removes an object; none to remove is fine.
    pub(super) async fn delete(&self, object: &str) -> Result<(), RemoteError> {
        let (store, path) = self.at(object)?;
        match store.delete(&path).await {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(self.failed("remove", object, &error)),
        }
    }

    /// All objects of a room, by their names below the address, with the server's times. Nothing but collecting and checking asks
    /// for it.
    pub(super) async fn list(&self, room: &str) -> Result<Vec<Listed>, RemoteError> {
        let (store, path) = self.at(room.trim_end_matches('/'))?;
        let prefix = &self.open()?.prefix;
        let mut found = Vec::new();
        let mut listing = store.list(Some(&path));
        while let Some(object) = listing.next().await {
            let object = object.map_err(|error| self.failed("list", room, &error))?;
            if found.len() % LISTED_AT_ONCE == LISTED_AT_ONCE - 1 {
                self.count();
            }
            let Some(parts) = object.location.prefix_match(prefix) else { continue };
            let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            let (size, modified, tag) = (object.size, object.last_modified.into(), object.e_tag);
            found.push(Listed { name, size, modified, tag });
        }
        Ok(found)
    }

    /// When an object was written, by the server's clock; `None` if there is none.
    pub(super) async fn modified(&self, object: &str) -> Result<Option<SystemTime>, RemoteError> {
        let (store, path) = self.at(object)?;
        match store.head(&path).await {
            Ok(found) => Ok(Some(found.last_modified.into())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed("read", object, &error)),
        }
    }

    /// When objects were written, in their order.
    pub(super) async fn all_modified(&self, objects: &[String]) -> Result<Vec<Option<SystemTime>>, RemoteError> {
        let found: Vec<_> =
            stream::iter(objects).map(|object| self.modified(object)).buffered(LOOKED_AT_ONCE).collect().await;
        found.into_iter().collect()
    }

    /// Removes objects, many in one request where the server can do that; none to remove is fine.
    pub(super) async fn delete_all(&self, objects: &[String]) -> Result<(), RemoteError> {
        let Some(first) = objects.first() else { return Ok(()) };
        let (store, _) = self.at(first)?;
        let prefix = self.open()?.prefix.clone();
        let paths: Vec<_> =
            objects.iter().map(|object| Ok(object.split('/').fold(prefix.clone(), Path::join))).collect();
        let mut removed = store.delete_stream(stream::iter(paths).boxed());
        while let Some(removed) = removed.next().await {
            match removed {
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(self.failed("remove", first, &error)),
            }
        }
        Ok(())
    }

    /// Begins to write a large object in parts of [`part_of`] its size.
    pub(super) async fn begin(&self, object: &str, size: u64) -> Result<WriteMultipart, RemoteError> {
        self.in_folder(object, SharedFolder::prepare)?;
        let (store, path) = self.at(object)?;
        let upload = store.put_multipart(&path).await.map_err(|error| self.failed("write", object, &error))?;
        Ok(WriteMultipart::new_with_chunk_size(upload, part_of(size) as usize))
    }

    /// Ends writing a large object.
    pub(super) async fn end(&self, object: &str, upload: WriteMultipart) -> Result<(), RemoteError> {
        self.count();
        upload.finish().await.map_err(|error| self.unwritten(object, &error))?;
        self.in_folder(object, SharedFolder::share)
    }

    /// Waits until there is room in memory for so many bytes that will be sent. They take it until the room is dropped.
    pub(super) async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, AcquireError> {
        // A part of an immense object takes all of it.
        let pieces = bytes.div_ceil(PIECE).min(ROOM.into());
        Arc::clone(&self.room).acquire_many_owned(pieces as u32).await
    }

    /// Counts a piece of a large object.
    pub(super) fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// An error of a large object on its way.
    pub(super) fn unwritten(&self, object: &str, error: &Error) -> RemoteError {
        self.failed("write", object, error)
    }
}

/// What came of asking for a piece of an object.
enum Piece<T> {
    /// All its bytes.
    Whole(T),
    /// The object ends before the piece does; its size.
    Short(u64),
    NoObject,
    /// Whoever took the bytes could not.
    Refused(StoreError),
}

/// Ends a task when nobody waits for it any more.
struct EndOnDrop(AbortHandle);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Receives a piece on a thread of its own.
async fn on_its_own<T: Send + 'static>(
    receive: impl Future<Output = Result<Piece<T>, Error>> + Send + 'static,
) -> Result<Piece<T>, Error> {
    let task = tokio::spawn(receive);
    let _end = EndOnDrop(task.abort_handle());
    task.await.unwrap_or_else(|source| Err(Error::JoinError { source }))
}

/// A piece of an object with all its bytes.
async fn whole_range(store: &dyn ObjectStore, path: &Path, range: Range<u64>) -> Result<Piece<Bytes>, Error> {
    let read = async {
        let (size, found) = begin_range(store, path, &range).await?;
        let bytes = if size < range.end { Bytes::new() } else { found.bytes().await? };
        let is_whole = bytes.len() as u64 == range.end - range.start;
        Ok(if is_whole { Piece::Whole(bytes) } else { Piece::Short(size) })
    };
    told_apart(store, path, &range, read.await).await
}

/// A piece of an object whose bytes are taken as they come.
async fn streamed_range<T>(
    store: &dyn ObjectStore,
    path: &Path,
    range: Range<u64>,
    mut to: T,
    take: fn(&mut T, &[u8]) -> Result<(), StoreError>,
) -> Result<Piece<T>, Error> {
    let read = async {
        let (size, found) = begin_range(store, path, &range).await?;
        if size < range.end {
            return Ok(Piece::Short(size));
        }
        // A file would come in very small parts.
        let is_file = matches!(found.payload, GetResultPayload::File(..));
        let mut bytes = if is_file { stream::once(found.bytes()).boxed() } else { found.into_stream() };
        let mut missing = range.end - range.start;
        while let Some(bytes) = bytes.try_next().await? {
            let Some(rest) = missing.checked_sub(bytes.len() as u64) else { return Ok(Piece::Short(size)) };
            missing = rest;
            if let Err(error) = take(&mut to, &bytes) {
                return Ok(Piece::Refused(error));
            }
        }
        Ok(if missing == 0 { Piece::Whole(to) } else { Piece::Short(size) })
    };
    told_apart(store, path, &range, read.await).await
}

/// The object's size, and the piece that is to come.
async fn begin_range(store: &dyn ObjectStore, path: &Path, range: &Range<u64>) -> Result<(u64, GetResult), Error> {
    let found = store.get_opts(path, GetOptions::default().with_range(Some(range.clone()))).await?;
    Ok((found.meta.size, found))
}

/// That an object is too short, or not there, is told from that it cannot be reached.
async fn told_apart<T>(
    store: &dyn ObjectStore,
    path: &Path,
    range: &Range<u64>,
    read: Result<Piece<T>, Error>,
) -> Result<Piece<T>, Error> {
    match read {
        Err(error) if is_missing(&error) => Ok(Piece::NoObject),
        // Servers word it differently that a piece begins beyond the end.
        Err(error) => match store.head(path).await {
            Ok(found) if found.size < range.end => Ok(Piece::Short(found.size)),
            _ => Err(error),
        },
        read => read,
    }
}

/// Whether an object is not there. Where there is no bucket, nothing can be said of objects.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && !has_no_bucket(error)
}

/// The length of the parts that a large object is sent in: a power of two.
pub(super) fn part_of(size: u64) -> u64 {
    PIECE.max(size.div_ceil(MOST_PARTS).next_power_of_two())
}
