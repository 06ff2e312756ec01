//! Answers what the kernel asks about a program's calls, and keeps what was not declared.

use std::{
    ffi::OsString,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Declared, Report,
    caller::{Caller, Place, Unseen},
    filter::{At, CALLS, Call},
};

/// What the kernel makes up.
const MADE_UP: [&str; 2] = ["/proc", "/sys"];

/// Answers until nobody is left who could ask, or `stop` can be read from. `refuses` says whether sockets are refused. After an
/// error nothing is known any more, and nobody gets an answer: once the listener is closed, the kernel refuses all that it would ask.
pub(super) fn observe(listener: &OwnedFd, stop: &OwnedFd, declared: &Declared, refuses: bool) -> io::Result<Report> {
    let mut report = Report::default();
    loop {
        match next(listener, stop)? {
            Next::Question(question) => {
                let called = CALLS.iter().find(|(number, _)| *number == i64::from(question.data.nr));
                let (caller, arguments) = (Caller { id: question.pid }, question.data.args);
                let mut look = Look { caller, arguments, declared, refuses, report: &mut report };
                let answer = called.map_or(Ok(Answer::GoOn), |(_, call)| look.judge(*call));
                let answer = answer.unwrap_or_else(|Unseen| {
                    // Of one that was ended meanwhile there is nothing to see.
                    if waits(listener, question.id) {
                        report.unseen("a program whose memory nobody may read");
                    }
                    Answer::GoOn
                });
                send(listener, question.id, answer);
            }
            Next::Gone => {}
            Next::End => return Ok(report),
        }
    }
}

/// What comes next.
enum Next {
    Question(libc::seccomp_notif),
    /// Whoever asked has gone meanwhile.
    Gone,
    /// Nobody can ask any more, or answers are wanted no more.
    End,
}

/// Waits for a question.
fn next(listener: &OwnedFd, stop: &OwnedFd) -> io::Result<Next> {
    let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    match poll(&mut both, None) {
        Err(rustix::io::Errno::INTR) => return Ok(Next::Gone),
        polled => polled?,
    };
    let (asked, stopped) = (both[0].revents(), both[1].revents());
    if asked.contains(PollFlags::IN) {
        return receive(listener);
    }
    if asked.intersects(PollFlags::ERR | PollFlags::NVAL) {
        return Err(io::Error::other("the descriptor of its questions has failed"));
    }
    Ok(if asked.is_empty() && stopped.is_empty() { Next::Gone } else { Next::End })
}

/// What a caller gets: that the call goes on, or an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    GoOn,
    Refuse,
}

fn receive(listener: &OwnedFd) -> io::Result<Next> {
    // SAFETY: the structure is made of numbers, for all of which zero is a value; the kernel demands zeros.
    let mut question: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open, and the structure is the one that this request fills.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut question) };
    if received == 0 {
        return Ok(Next::Question(question));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINTR) => Ok(Next::Gone),
        _ => Err(error),
    }
}

fn send(listener: &OwnedFd, id: u64, answer: Answer) {
    let (error, flags) = match answer {
        Answer::GoOn => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Refuse => (-libc::EACCES, 0),
    };
    let mut response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the descriptor is open, and the structure is the one that this request reads. Whoever asked may have gone, which
    // the kernel tells and which is no harm.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw mut response) };
}

/// Whether whoever asked still waits.
fn waits(listener: &OwnedFd, id: u64) -> bool {
    // SAFETY: the descriptor is open, and the number is the one that this request reads.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const id) == 0 }
}

/// Looks at one call.
struct Look<'a> {
    caller: Caller,
    arguments: [u64; 6],
    declared: &'a Declared,
    refuses: bool,
    report: &'a mut Report,
}

impl Look<'_> {
    /// What the caller gets. [`Unseen`] if it cannot be told what the call does: it goes on.
    fn judge(&mut self, call: Call) -> Result<Answer, Unseen> {
        let unless_refused = if self.refuses { Answer::Refuse } else { Answer::GoOn };
        match call {
            Call::Open { at, flags } => self.opened(at, self.arguments[flags] as i32)?,
            Call::OpenHow => {
                let flags = self.caller.memory(self.arguments[2], 8)?.and_then(|bytes| bytes.try_into().ok());
                self.opened((Some(0), 1), flags.map(u64::from_ne_bytes).unwrap_or_default() as i32)?;
            }
            Call::Create => self.opened((None, 0), libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC)?,
            Call::Make(at) => {
                let made = self.place(at, false)?;
                self.made(made);
            }
            Call::Remove(at) => {
                if let Some(removed) = self.place(at, false)?.filter(|removed| removed.exists) {
                    self.written(&removed);
                }
            }
            Call::Rename(from, to) => {
                let (from, to) = (self.place(from, false)?.filter(|from| from.exists), self.place(to, false)?);
                for renamed in from.zip(to).into_iter().flat_map(<[Place; 2]>::from) {
                    self.written(&renamed);
                }
            }
            Call::Link(from, to) => {
                // A file without a name may be given one by its descriptor, and was opened before.
                let named = self.path(from, false)?;
                let from = named.as_ref().and_then(|path| self.caller.place(path, false)).filter(|from| from.exists);
                let to = self.place(to, false)?.filter(|to| !to.exists && (named.is_none() || from.is_some()));
                if let Some(from) = from.filter(|_| to.is_some()) {
                    self.written(&from);
                }
                self.made(to);
            }
            Call::Truncate(at) => {
                if let Some(cut) = self.place(at, true)?.filter(|cut| cut.exists) {
                    self.written(&cut);
                }
            }
            Call::Start(at) => {
                let path = self.path(at, true)?;
                if let Some(started) = path.and_then(|path| self.caller.place(&path, true)).filter(|at| at.exists) {
                    self.read(&started);
                }
            }
            Call::Socket => {
                let family = self.arguments[0] as i32;
                let is_local = matches!(family, libc::AF_UNIX | libc::AF_NETLINK | libc::AF_ALG);
                if !is_local && !self.declared.may_use_network() {
                    let name = match family {
                        libc::AF_INET => "an IPv4 socket".to_owned(),
                        libc::AF_INET6 => "an IPv6 socket".to_owned(),
                        other => format!("a socket of family {other}"),
                    };
                    self.report.socket(name);
                    return Ok(unless_refused);
                }
            }
            Call::Bind => {
                if let Some(path) = self.address()?.as_deref().and_then(socket_file) {
                    let path = self.caller.whole(libc::AT_FDCWD, path)?;
                    let made = path.and_then(|path| self.caller.place(&path, false));
                    self.made(made);
                }
            }
            Call::Connect => {
                let bytes = self.address()?.unwrap_or_default();
                if let Some(address) = address(&bytes).filter(|_| !self.declared.may_use_network()) {
                    self.report.reached(address);
                }
                if let Some(path) = socket_file(&bytes) {
                    let path = self.caller.whole(libc::AT_FDCWD, path)?;
                    let place = path.and_then(|path| self.caller.place(&path, true)).filter(|place| place.exists);
                    if let Some(place) = place.filter(|place| !self.declared.may_connect(&place.path)) {
                        self.report.connected(&place.path);
                        return Ok(unless_refused);
                    }
                }
            }
            Call::Ring => {
                self.report.unseen("io_uring");
                return Ok(unless_refused);
            }
        }
        Ok(Answer::GoOn)
    }

    fn path(&self, (folder, path): At, takes_empty: bool) -> Result<Option<PathBuf>, Unseen> {
        let folder = folder.map_or(libc::AT_FDCWD, |at| self.arguments[at] as i32);
        self.caller.path(folder, self.arguments[path], takes_empty)
    }

    fn place(&self, at: At, follows: bool) -> Result<Option<Place>, Unseen> {
        Ok(self.path(at, false)?.and_then(|path| self.caller.place(&path, follows)))
    }

    /// The address that a socket is bound or connected to.
    fn address(&self) -> Result<Option<Vec<u8>>, Unseen> {
        let length = (self.arguments[2] as usize).min(mem::size_of::<libc::sockaddr_storage>());
        self.caller.memory(self.arguments[1], length)
    }

    /// Keeps an opened path if that is not declared. What the kernel refuses anyway gives nobody anything.
    fn opened(&mut self, at: At, flags: i32) -> Result<(), Unseen> {
        let has = |flag: i32| flags & flag != 0;
        if has(libc::O_PATH) {
            return Ok(());
        }
        let is_new = has(libc::O_CREAT) && has(libc::O_EXCL);
        let follows = !has(libc::O_NOFOLLOW) && !is_new;
        let Some(place) = self.place(at, follows)? else { return Ok(()) };
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || has(libc::O_TRUNC);
        let refused = if place.exists {
            // A folder is opened for writing by `O_TMPFILE` alone, which includes `O_DIRECTORY`.
            let is_folder = !has(libc::O_DIRECTORY) && place.path.is_dir();
            is_new || (!follows && place.path.is_symlink()) || (is_folder && (writes || has(libc::O_CREAT)))
        } else {
            !has(libc::O_CREAT)
        };
        if !refused {
            if writes || !place.exists {
                self.written(&place);
            } else {
                self.read(&place);
            }
        }
        Ok(())
    }

    /// A name that is new. What is there already is left as it is.
    fn made(&mut self, place: Option<Place>) {
        if let Some(place) = place.filter(|place| !place.exists) {
            self.written(&place);
        }
    }

    fn written(&mut self, place: &Place) {
        if !is_made_up(place) && !self.declared.may_write(&place.path) {
            self.report.written(&place.path);
        }
    }

    fn read(&mut self, place: &Place) {
        if !is_made_up(place) && !self.declared.may_read(&place.path) {
            self.report.read(&place.path);
        }
    }
}

/// Whether the kernel makes up what stands there.
fn is_made_up(place: &Place) -> bool {
    MADE_UP.iter().any(|folder| place.path.starts_with(folder))
}

/// The file that an address of a Unix socket names.
fn socket_file(bytes: &[u8]) -> Option<PathBuf> {
    let (family, path) = bytes.split_at_checked(2)?;
    let is_unix = i32::from(u16::from_ne_bytes(family.try_into().ok()?)) == libc::AF_UNIX;
    let path = path.split(|byte| *byte == 0).next().filter(|path| is_unix && !path.is_empty())?;
    Some(PathBuf::from(OsString::from_vec(path.to_vec())))
}

/// An address of the network; nothing for what stays on this machine by nature.
fn address(bytes: &[u8]) -> Option<String> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = || Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    let (host, port): (IpAddr, u16) = match family {
        libc::AF_INET => {
            let host: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            (Ipv4Addr::from(host).into(), port()?)
        }
        libc::AF_INET6 => {
            let host: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            (Ipv6Addr::from(host).into(), port()?)
        }
        _ => return None,
    };
    Some(SocketAddr::new(host, port).to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Write as _, pipe};

    use super::*;

    #[test]
    fn questions_that_can_be_received_no_more_are_an_error() {
        let ((listener, mut other), (stop, _stopped)) = (pipe().unwrap(), pipe().unwrap());
        // A pipe that can be read from gives no questions.
        other.write_all(b"x").unwrap();
        observe(&listener.into(), &stop.into(), &Declared::default(), true).unwrap_err();

        let ((listener, other), (stop, _stopped)) = (pipe().unwrap(), pipe().unwrap());
        drop(other);
        let report = observe(&listener.into(), &stop.into(), &Declared::default(), true).unwrap();
        assert_eq!(report, Report::default());
    }
}
