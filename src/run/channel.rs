//! The ways from a driver to a worker: a socket that carries one job after another, each with the claim on its action and
//! its log as open files; and one in which a job lies that the worker takes up on its own when it is done with the one before.

mod next;

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    cmsg_space,
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recv, recvmsg, sendmsg,
    },
};

pub(super) use self::next::{Next, take};
use super::job::Job;

/// The programs that a stage starts shall have none of the files that come. Where the system cannot see to that, [`files`] does.
#[cfg(target_os = "linux")]
const CLOSED: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const CLOSED: RecvFlags = RecvFlags::empty();

/// How long a worker looks for a job before it sleeps.
const LOOKING: Duration = Duration::from_micros(100);

/// A job as a worker gets it.
pub(super) struct Handed {
    pub(super) job: Job,
    /// A duplicate of the claim's file: the claim lasts at least as long.
    pub(super) claim: OwnedFd,
    /// Where the worker's standard error shall go.
    pub(super) log: OwnedFd,
    /// Where the next job may lie when this one is done.
    pub(super) next: Option<OwnedFd>,
}

/// Hands a job over.
pub(super) fn hand(
    channel: &mut UnixStream,
    job: &Job,
    claim: &File,
    log: &File,
    next: Option<&Next>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(job)?;
    let files: Vec<BorrowedFd> = [claim.as_fd(), log.as_fd()].into_iter().chain(next.map(Next::end)).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    let length = (bytes.len() as u64).to_le_bytes();
    // At once, or else the worker would wake up for the length, and wait once more.
    let both = [IoSlice::new(&length), IoSlice::new(&bytes)];
    let sent = sendmsg(&*channel, &both, &mut ancillary, SendFlags::empty())?;
    channel.write_all(length.get(sent..).unwrap_or_default())?;
    channel.write_all(bytes.get(sent.saturating_sub(length.len())..).unwrap_or_default())
}

/// Waits for a job for a moment without sleeping: where many are ready, the next one comes at once, and a processor that has gone to sleep
/// is slow to wake.
fn look(channel: &UnixStream) {
    let began = Instant::now();
    let has_come = || recv(channel, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok();
    while began.elapsed() < LOOKING && !has_come() {
        // Whoever else has work to do comes first.
        thread::yield_now();
    }
}

/// Waits for a job; `None` if none will come, or the worker shall stop.
pub(super) fn receive(channel: &mut UnixStream, stop: &AtomicBool) -> io::Result<Option<Handed>> {
    let mut length = [0; 8];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    look(channel);
    let received = loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match recvmsg(&*channel, &mut [IoSliceMut::new(&mut length)], &mut ancillary, CLOSED) {
            Err(Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let (claim, log, next) = files(&mut ancillary)?;
    channel.read_exact(&mut length[received..])?;
    let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).map_err(io::Error::other)?];
    channel.read_exact(&mut bytes)?;
    Ok(Some(Handed { job: serde_json::from_slice(&bytes)?, claim, log, next }))
}

/// The files that came with a job: its claim, its log, and where the next one may lie.
fn files(ancillary: &mut RecvAncillaryBuffer) -> io::Result<(OwnedFd, OwnedFd, Option<OwnedFd>)> {
    let mut files = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let mut files = files.next().into_iter().flatten();
    let (Some(claim), Some(log)) = (files.next(), files.next()) else {
        return Err(io::Error::other("a job came without its claim and its log"));
    };
    let next = files.next();
    if CLOSED.is_empty() {
        for file in [&claim, &log].into_iter().chain(&next) {
            fcntl_setfd(file, FdFlags::CLOEXEC)?;
        }
    }
    Ok((claim, log, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_through_whole_with_their_files_until_the_driver_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut driver, mut worker) = UnixStream::pair().unwrap();
        let stop = AtomicBool::new(false);
        // The second is larger than what a socket takes at once.
        for size in [10, 4 << 20] {
            let job = Job::example(folder.path(), "x".repeat(size));
            let mut claim = File::create_new(folder.path().join(format!("claim{size}"))).unwrap();
            claim.write_all(b"claim").unwrap();
            let log = File::create_new(folder.path().join(format!("log{size}"))).unwrap();
            let expected = job.clone();
            let sending = std::thread::spawn(move || {
                hand(&mut driver, &job, &claim, &log, None).unwrap();
                driver
            });
            let handed = receive(&mut worker, &stop).unwrap().unwrap();
            driver = sending.join().unwrap();
            assert_eq!(handed.job, expected);
            File::from(handed.log).write_all(b"log").unwrap();
            assert_eq!(std::fs::read(folder.path().join(format!("log{size}"))).unwrap(), b"log");
            assert_eq!(File::from(handed.claim).metadata().unwrap().len(), 5);
        }
        drop(driver);
        assert!(receive(&mut worker, &stop).unwrap().is_none());
    }
}
