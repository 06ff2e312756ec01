//! Files in pieces over several connections: taken up where they were cut off, and hashed as they grow.

use futures_util::{TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::{
    origin::{Extent, Origin},
    partial::Partial,
    pin::Pin,
    request::{ATTEMPTS, failed, pause},
};
use crate::stage::{Context, StageError};

/// Connections at a time.
pub(super) const CONNECTIONS: usize = 8;

/// Files on their way.
pub(super) struct Transfer<'a> {
    files: &'a [Partial],
    context: &'a Context,
    connections: Semaphore,
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
        Self { files, context, connections: Semaphore::new(CONNECTIONS) }
    }

    /// Bytes that are still to come, of files whose size is known.
    pub(super) fn missing(&self) -> u64 {
        self.files.iter().map(|file| file.size().unwrap_or_default().saturating_sub(file.arrived())).sum()
    }

    fn arrived(&self) -> u64 {
        self.files.iter().map(Partial::arrived).sum()
    }

    /// Bytes of all files; zero where that is not known.
    fn total(&self) -> u64 {
        self.files.iter().map(Partial::size).sum::<Option<u64>>().unwrap_or_default()
    }

    /// Writes down what has arrived.
    pub(super) fn note(&self) -> Result<(), StageError> {
        self.files.iter().try_for_each(Partial::note)
    }

    /// Fetches what is missing of a file and checks its digest.
    pub(super) async fn fetch(&self, file: &Partial, origin: &Origin<'_>, extent: Extent) -> Result<(), Fault> {
        // Wrong bytes that came from two attempts, or from two places, are fetched once more from the start.
        let mut was_resumed = file.arrived() > 0;
        loop {
            match extent {
                Extent { size: Some(size), in_pieces: true } => {
                    file.expect(size)?;
                    let pieces = stream::iter(file.open_pieces().into_iter().map(Ok));
                    pieces.try_for_each_concurrent(CONNECTIONS, |piece| self.piece(file, origin, piece)).await?;
                }
                Extent { size, .. } => {
                    was_resumed = false;
                    self.whole(file, origin, size).await?;
                }
            }
            let found = file.digest(self.context)?;
            if found == *file.pin() {
                return Ok(());
            }
            file.forget()?;
            if !std::mem::take(&mut was_resumed) {
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
                file.advance(self.context)?;
                return Ok(file.note()?);
            }
            match self.stream(file, origin, piece).await {
                Ok(()) => {}
                Err(Cut::Fault(fault)) => return Err(fault),
                Err(Cut::Connection(problem)) => {
                    vain = if file.missing(piece).start > before.start { 0 } else { vain + 1 };
                    file.note()?;
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
        let mut vain = 0;
        loop {
            file.forget()?;
            match self.once(file, origin, size).await {
                Ok(()) => return Ok(file.end()?),
                Err(Cut::Fault(fault)) => return Err(fault),
                Err(Cut::Connection(problem)) => {
                    vain += 1;
                    if vain >= ATTEMPTS {
                        let message = format!(
                            "{problem} after {} bytes, {ATTEMPTS} times; the server does not send pieces of files, so each time \
                             all has to come anew",
                            file.arrived()
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
        while let Some(bytes) = body.next().await.map_err(Cut::Connection)? {
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
        self.context.progress(self.arrived(), self.total(), "bytes", origin.file_name());
    }
}
