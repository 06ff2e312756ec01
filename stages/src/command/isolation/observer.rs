//! Answers what the kernel asks about a program's calls, and keeps what was not declared.

use std::{
    ffi::OsString,
    fs::{self, File},
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Declared, Report,
    filter::{CALLS, Call},
};

/// What the kernel makes up, and other names of what a program has open.
const MADE_UP: [&str; 6] = ["/proc", "/sys", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd"];
/// The longest path that the kernel takes.
const LONGEST_PATH: usize = 4096;
/// As many bytes as lie on one page lie within reach of each other.
const PAGE: usize = 4096;

/// Answers until nobody is left who could ask, or `stop` can be read from. `refuses` says whether sockets are refused.
pub(super) fn observe(listener: &OwnedFd, stop: &OwnedFd, declared: &Declared, refuses: bool) -> Report {
    let mut report = Report::default();
    loop {
        let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return report,
        }
        let (asked, stopped) = (both[0].revents(), both[1].revents());
        if asked.contains(PollFlags::IN) {
            if let Some(question) = receive(listener) {
                let answer = judge(&question, declared, refuses, &mut report);
                send(listener, question.id, answer);
            }
        } else if !asked.is_empty() || !stopped.is_empty() {
            return report;
        }
    }
}

/// What a caller gets: that the call goes on, or an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    GoOn,
    Refuse,
}

/// The next question; nothing if whoever asked has gone meanwhile.
fn receive(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    // SAFETY: the structure is made of numbers, for all of which zero is a value; the kernel demands zeros.
    let mut question: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open, and the structure is the one that this request fills.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut question) };
    (received == 0).then_some(question)
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

fn judge(question: &libc::seccomp_notif, declared: &Declared, refuses: bool, report: &mut Report) -> Answer {
    let data = &question.data;
    let Some((_, call)) = CALLS.iter().find(|(number, _)| *number == i64::from(data.nr)) else { return Answer::GoOn };
    let caller = Caller { id: question.pid };
    let arguments = &data.args;
    let path = |folder: Option<usize>, path: usize| {
        caller.path(folder.map_or(libc::AT_FDCWD, |at| arguments[at] as i32), arguments[path])
    };
    match *call {
        Call::Open { folder, path: at, flags } => {
            note_open(path(folder, at), arguments[flags] as i32, declared, report);
        }
        Call::OpenHow => {
            let flags =
                caller.memory(arguments[2], 8).and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
            note_open(path(Some(0), 1), flags.unwrap_or_default() as i32, declared, report);
        }
        Call::Create => note_open(path(None, 0), libc::O_CREAT | libc::O_WRONLY, declared, report),
        Call::Change(places) => {
            for (folder, at) in places {
                note_open(path(*folder, *at), libc::O_CREAT | libc::O_WRONLY, declared, report);
            }
        }
        Call::Start { folder, path: at } => note_open(path(folder, at), libc::O_RDONLY, declared, report),
        Call::Socket => {
            let family = arguments[0] as i32;
            if !matches!(family, libc::AF_UNIX | libc::AF_NETLINK | libc::AF_ALG) {
                let name = match family {
                    libc::AF_INET => "an IPv4 socket".to_owned(),
                    libc::AF_INET6 => "an IPv6 socket".to_owned(),
                    other => format!("a socket of family {other}"),
                };
                report.socket(name);
                return if refuses { Answer::Refuse } else { Answer::GoOn };
            }
        }
        Call::Connect => {
            let length = (arguments[2] as usize).min(mem::size_of::<libc::sockaddr_storage>());
            if let Some(address) = caller.memory(arguments[1], length).and_then(|bytes| address(&bytes)) {
                report.reached(address);
            }
        }
        Call::Ring => {
            report.unseen("io_uring");
            return if refuses { Answer::Refuse } else { Answer::GoOn };
        }
    }
    Answer::GoOn
}

/// Keeps an opened path if that is not declared. What is not there gives nobody anything.
fn note_open(path: Option<PathBuf>, flags: i32, declared: &Declared, report: &mut Report) {
    if flags & libc::O_PATH != 0 {
        return;
    }
    let Some(path) = path else { return };
    // Of these, the kernel makes up what stands there, or it is what the program has open already.
    if MADE_UP.iter().any(|folder| path.starts_with(folder)) {
        return;
    }
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
    let found = fs::canonicalize(&path).ok().or_else(|| {
        let folder = path.parent().filter(|_| writes)?;
        Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
    });
    let Some(found) = found else { return };
    if writes && !declared.may_write(&found) {
        report.written(&found);
    } else if !declared.may_read(&found) {
        report.read(&found);
    }
}

/// Who asks: a thread that waits for the answer.
struct Caller {
    id: u32,
}

impl Caller {
    /// A path in its memory, made whole.
    fn path(&self, folder: i32, address: u64) -> Option<PathBuf> {
        let path = PathBuf::from(OsString::from_vec(self.text(address)?));
        if path.is_absolute() {
            return Some(path);
        }
        let base = match folder {
            libc::AT_FDCWD => fs::read_link(format!("/proc/{}/cwd", self.id)),
            descriptor => fs::read_link(format!("/proc/{}/fd/{descriptor}", self.id)),
        };
        Some(base.ok()?.join(path))
    }

    /// Bytes up to a zero.
    fn text(&self, address: u64) -> Option<Vec<u8>> {
        let memory = self.open().ok()?;
        let mut text = Vec::new();
        while text.len() < LONGEST_PATH {
            let at = address.checked_add(text.len() as u64)?;
            // What lies behind the end of a page may not be there.
            let mut piece = vec![0; PAGE - at as usize % PAGE];
            let length = memory.read_at(&mut piece, at).ok().filter(|length| *length > 0)?;
            match piece[..length].iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend(&piece[..end]);
                    return Some(text);
                }
                None => text.extend(&piece[..length]),
            }
        }
        None
    }

    fn memory(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.open().ok()?.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }

    fn open(&self) -> io::Result<File> {
        File::open(Path::new("/proc").join(self.id.to_string()).join("mem"))
    }
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
