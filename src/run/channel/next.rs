//! A job that lies ready for a worker which is at another one. The worker takes it up when it is done, without asking; until then the driver
//! may take it back. Who of the two has it is decided by the kernel: each message is received once.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

use super::{CLOSED, Handed, files};
use crate::run::job::Job;

/// Larger jobs are handed over when the worker is done.
const LARGEST: usize = 32 << 10;

/// The driver's side of the place for that job, and a duplicate of the worker's, to take it back.
#[derive(Debug)]
pub(in crate::run) struct Next {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Next {
    /// A place with no job. Not every system has such sockets; there is no place then.
    pub(in crate::run) fn new() -> Option<Self> {
        // The programs of stages shall have neither. Where the system cannot see to that, it is said below.
        #[cfg(target_os = "linux")]
        let flags = SocketFlags::CLOEXEC;
        #[cfg(not(target_os = "linux"))]
        let flags = SocketFlags::empty();
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
        let is_closed = |file: &OwnedFd| !flags.is_empty() || fcntl_setfd(file, FdFlags::CLOEXEC).is_ok();
        (is_closed(&ours) && is_closed(&theirs)).then_some(Self { ours, theirs })
    }

    /// The worker's side.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Puts a job there, where none is. Whether there was room for it.
    pub(in crate::run) fn put(&self, job: &Job, claim: &File, log: &File) -> bool {
        let Ok(bytes) = serde_json::to_vec(job) else { return false };
        if bytes.len() > LARGEST {
            return false;
        }
        let files = [claim.as_fd(), log.as_fd()];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.ours, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::DONTWAIT).is_ok()
    }

    /// Takes the job back. Whether it was still there.
    pub(in crate::run) fn take_back(&self) -> bool {
        // Without room for its files, which go then: it is taken back also by a process that may open no more.
        let (mut bytes, mut none) = ([0], RecvAncillaryBuffer::default());
        loop {
            match recvmsg(&self.theirs, &mut [IoSliceMut::new(&mut bytes)], &mut none, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                received => return received.is_ok_and(|received| received.bytes > 0),
            }
        }
    }
}

/// The job that lies there, if one does.
pub(in crate::run) fn take(end: impl AsFd) -> io::Result<Option<Handed>> {
    let mut bytes = vec![0; LARGEST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        match recvmsg(&end, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, CLOSED | RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            received => break received?.bytes,
        }
    };
    // Nothing comes any more when the driver is gone.
    if length == 0 {
        return Ok(None);
    }
    let (claim, log, _) = files(&mut ancillary)?;
    Ok(Some(Handed { job: serde_json::from_slice(&bytes[..length])?, claim, log, next: None }))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn a_job_is_had_by_the_worker_or_by_the_driver_and_never_by_both() {
        let folder = tempfile::tempdir().unwrap();
        let next = Next::new().unwrap();
        let worker = next.end().try_clone_to_owned().unwrap();
        let claim = File::create_new(folder.path().join("claim")).unwrap();
        let log = File::create_new(folder.path().join("log")).unwrap();
        assert!(take(&worker).unwrap().is_none());
        assert!(!next.take_back());
        for round in 0..100 {
            let job = Job::example(folder.path(), round.to_string());
            assert!(next.put(&job, &claim, &log));
            let (taken, is_back) = std::thread::scope(|scope| {
                let taking = scope.spawn(|| take(&worker).unwrap());
                let is_back = next.take_back();
                (taking.join().unwrap(), is_back)
            });
            assert_ne!(taken.is_some(), is_back, "{round}");
            assert!(taken.is_none_or(|handed| handed.job == job));
        }
        assert!(next.put(&Job::example(folder.path(), "last".to_owned()), &claim, &log));
        File::from(take(&worker).unwrap().unwrap().log).write_all(b"log").unwrap();
        assert_eq!(fs::read(folder.path().join("log")).unwrap(), b"log");
        // One that is too large for one message waits until the worker asks for it.
        assert!(!next.put(&Job::example(folder.path(), "x".repeat(LARGEST)), &claim, &log));
        drop(next);
        assert!(take(&worker).unwrap().is_none());
    }
}
