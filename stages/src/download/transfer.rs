//! Files in pieces over several connections: taken up where they were cut off, and hashed as they grow.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::{TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::{
    disk::check_space,
    origin::{Extent, Origin},
    partial::Partial,
    pin::Pin,
    request::{ATTEMPTS, failed, pause},
};
use crate::stage::{Context, StageError};

/// Connections at a time.
pub(super) const CONNECTIONS: usize = 8;

/// How often what has arrived is written down.
const NOTED: Duration = Duration::from_secs(1);
/// How often it is told.
const TOLD: Duration = Duration::from_millis(50);
/// Bytes of a file of unknown size between two looks for room.
const STRIDE: u64 = 16 << 20;

/// Files on their way.
pub(super) struct Transfer<'a> {
    files: &'a [Partial],
    context: &'a Context,
    connections: Semaphore,
    told: Cell<Option<Instant>>,
}

/// Why a file did not come.
pub(super) enum Fault {
    /// The place it was to come from; another one may do.
    Origin(StageError),
    /// Its bytes have another digest.
    WrongBytes(Pin),
    /// This machine, or a wish to stop.
    Machine(StageError),
}

impl From<StageError> for Fault {
    fn from(error: StageError) -> Self {
        Self::Machine(error)
    }
}

/// Why bytes stopped coming.
enum Cut {
    Connection(String),
    Fault(Fault),
}

impl From<Fault> for Cut {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StageError> for Cut {
    fn from(error: StageError) -> Self {
        Self::Fault(Fault::Machine(error))
    }
}

impl<'a> Transfer<'a> {
    pub(super) fn new(files: &'a [Partial], context: &'a Context) -> Self {
        Self { files, context, connections: Semaphore::new(CONNECTIONS), told: Cell::new(None) }
    }

    fn arrived(&self) -> u64 {
        self.files.iter().map(Partial::arrived).fold(0, u64::saturating_add)
    }

    /// Bytes of all files; zero where that is not known.
    fn total(&self) -> u64 {
        let sum = self.files.iter().try_fold(0_u64, |sum, file| Some(sum.saturating_add(file.size()?)));
        sum.unwrap_or_default()
    }

    /// Does what fetches files, and writes down meanwhile what has arrived.
    pub(super) async fn noting(&self, work: impl Future<Output = Result<(), StageError>>) -> Result<(), StageError> {
        let note = async {
            let mut interval = tokio::time::interval(NOTED);
            loop {
                interval.tick().await;
                self.note()?;
            }
        };
        let done = tokio::select! {
            done = work => done,
            failed = note => failed,
        };
        // The disk that refused the file may refuse the note of it, too; what was first is told.
        let noted = self.note();
        done.and(noted)
    }

    fn note(&self) -> Result<(), StageError> {
        self.files.iter().try_for_each(Partial::note)
    }

    /// Fetches what is missing of a file and checks its digest.
    pub(super) async fn fetch(&self, file: &Partial, origin: &Origin<'_>, extent: Extent) -> Result<(), Fault> {
        loop {
            let was_resumed = match extent {
                Extent { size: Some(size), in_pieces: true } => {
                    file.expect(size)?;
                    let was_resumed = file.arrived() > 0;
                    let pieces = stream::iter(file.open_pieces().into_iter().map(Ok));
                    pieces.try_for_each_concurrent(CONNECTIONS, |piece| self.piece(file, origin, piece)).await?;
                    was_resumed
                }
                Extent { size, .. } => {
                    self.whole(file, origin, size).await?;
                    false
                }
            };
            let found = file.digest(self.context)?;
            if found == *file.pin() {
                return Ok(file.finish()?);
            }
            file.forget()?;
            // Wrong bytes that came from two attempts, or from two addresses, are fetched once more from the start.
            if !was_resumed {
                return Err(Fault::WrongBytes(found));
            }
        }
    }

    /// Fetches what is missing of a piece. Whatever comes counts, so only a row of vain attempts is an end.
    async fn piece(&self, file: &Partial, origin: &Origin<'_>, piece: usize) -> Result<(), Fault> {
        let _turn = self.turn().await?;
        let mut vain = 0;
        loop {
            let before = file.missing(piece);
            if before.is_empty() {
                return Ok(file.advance(self.context)?);
            }
            match self.stream(file, origin, piece).await {
                Ok(()) => {}
                Err(Cut::Fault(fault)) => return Err(fault),
                Err(Cut::Connection(problem)) => {
                    vain = if file.missing(piece).start > before.start { 0 } else { vain + 1 };
                    if vain >= ATTEMPTS {
                        let message = format!(
                            "{problem} after {} of {} bytes; run again to go on from there",
                            self.arrived(),
                            self.total()
                        );
                        return Err(Fault::Origin(failed(&format!("fetch {origin}"), &message)));
                    }
                    if vain > 0 {
                        tokio::time::sleep(pause(vain)).await;
                    }
                }
            }
        }
    }

    async fn stream(&self, file: &Partial, origin: &Origin<'_>, piece: usize) -> Result<(), Cut> {
        let range = file.missing(piece);
        let mut body = origin.open(Some(range.clone())).await.map_err(Fault::Origin)?;
        let mut at = range.start;
        while let Some(bytes) = body.next().await.map_err(Cut::Connection)? {
            if bytes.len() as u64 > range.end - at {
                return Err(Cut::Connection("the server sent more than was asked for".to_owned()));
            }
            file.write(piece, at, &bytes)?;
            at += bytes.len() as u64;
            self.tell(origin);
        }
        if at < range.end {
            return Err(Cut::Connection("the connection ended early".to_owned()));
        }
        Ok(())
    }

    /// Fetches a file from its start to its end, from a server that does not send pieces. After a cut it begins anew.
    async fn whole(&self, file: &Partial, origin: &Origin<'_>, size: Option<u64>) -> Result<(), Fault> {
        let _turn = self.turn().await?;
        // What has come in pieces, from another address or from this one before, may be right.
        file.make_place()?;
        let mut vain = 0;
        loop {
            match self.once(file, origin, size).await {
                Ok(()) => return Ok(file.end()?),
                Err(Cut::Fault(fault)) => {
                    file.forget()?;
                    return Err(fault);
                }
                Err(Cut::Connection(problem)) => {
                    let arrived = file.arrived();
                    file.forget()?;
                    vain += 1;
                    if vain >= ATTEMPTS {
                        let message = format!(
                            "{problem} after {arrived} bytes, {ATTEMPTS} times; the server does not send pieces of files, so each \
                             time all has to come anew"
                        );
                        return Err(Fault::Origin(failed(&format!("fetch {origin}"), &message)));
                    }
                    tokio::time::sleep(pause(vain)).await;
                }
            }
        }
    }

    async fn once(&self, file: &Partial, origin: &Origin<'_>, size: Option<u64>) -> Result<(), Cut> {
        let mut body = origin.open(None).await.map_err(Fault::Origin)?;
        let mut checked = 0;
        while let Some(bytes) = body.next().await.map_err(Cut::Connection)? {
            let after = file.arrived() + bytes.len() as u64;
            match size {
                Some(size) if after > size => {
                    let message =
                        format!("the server sends more than the {size} bytes that it had told of; use another one");
                    return Err(Fault::Origin(failed(&format!("fetch {origin}"), &message)).into());
                }
                // An answer without a size may have no end.
                None if after > checked => {
                    checked = after + STRIDE;
                    let room = check_space(bytes.len() as u64 + STRIDE, self.context.scratch());
                    room.map_err(|fault| {
                        Fault::Origin(failed(&format!("fetch {origin} to its end"), &fault.to_string()))
                    })?;
                }
                _ => {}
            }
            file.append(&bytes)?;
            self.tell(origin);
        }
        if size.is_some_and(|size| size != file.arrived()) {
            return Err(Cut::Connection("the connection ended early".to_owned()));
        }
        Ok(())
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, StageError> {
        self.connections.acquire().await.map_err(|_| StageError::Bug("connections were closed".to_owned()))
    }

    fn tell(&self, origin: &Origin<'_>) {
        if self.told.get().is_none_or(|told| told.elapsed() >= TOLD) {
            self.told.set(Some(Instant::now()));
            self.context.progress(self.arrived(), self.total(), "bytes", origin.file_name());
        }
    }
}
