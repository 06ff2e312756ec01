//! The seccomp filter: which calls the kernel asks about before it does them.

use std::{
    io, mem,
    os::fd::{FromRawFd, OwnedFd},
};

/// Which arguments a path is: the descriptor of the folder it starts from, and the path.
pub(super) type At = (Option<usize>, usize);

/// A call that is asked about, and what its arguments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Opens a file, with flags.
    Open { at: At, flags: usize },
    /// The same with flags in memory.
    OpenHow,
    /// Makes a file.
    Create,
    /// Makes a folder, a link or a device.
    Make(At),
    /// Takes a name away.
    Remove(At),
    /// Takes a name away and makes another one.
    Rename(At, At),
    /// Makes another name of a file.
    Link(At, At),
    /// Cuts a file.
    Truncate(At),
    /// Starts a program.
    Start(At),
    /// Opens a socket.
    Socket,
    /// Binds one: of Unix sockets, that makes a file.
    Bind,
    /// Connects one.
    Connect,
    /// Sets up a queue of calls that no filter sees.
    Ring,
}

/// The calls by their numbers.
pub(super) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_openat, Call::Open { at: (Some(0), 1), flags: 2 }),
    (libc::SYS_openat2, Call::OpenHow),
    (libc::SYS_unlinkat, Call::Remove((Some(0), 1))),
    (libc::SYS_mkdirat, Call::Make((Some(0), 1))),
    (libc::SYS_mknodat, Call::Make((Some(0), 1))),
    (libc::SYS_symlinkat, Call::Make((Some(1), 2))),
    (libc::SYS_linkat, Call::Link((Some(0), 1), (Some(2), 3))),
    (libc::SYS_renameat2, Call::Rename((Some(0), 1), (Some(2), 3))),
    (libc::SYS_truncate, Call::Truncate((None, 0))),
    (libc::SYS_execve, Call::Start((None, 0))),
    (libc::SYS_execveat, Call::Start((Some(0), 1))),
    (libc::SYS_socket, Call::Socket),
    (libc::SYS_bind, Call::Bind),
    (libc::SYS_connect, Call::Connect),
    (libc::SYS_io_uring_setup, Call::Ring),
    (libc::SYS_renameat, Call::Rename((Some(0), 1), (Some(2), 3))),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Call::Open { at: (None, 0), flags: 1 }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, Call::Create),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, Call::Remove((None, 0))),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, Call::Remove((None, 0))),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, Call::Make((None, 0))),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, Call::Make((None, 0))),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, Call::Make((None, 1))),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, Call::Link((None, 0), (None, 1))),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, Call::Rename((None, 0), (None, 1))),
];

/// The processor's name among those of the kernel's audit, whose calls have the numbers above.
#[cfg(target_arch = "x86_64")]
const PROCESSOR: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const PROCESSOR: u32 = 0xC000_00B7;
/// From here on numbers of calls belong to another form of x86-64 programs.
const OTHER_FORM: u32 = 0x4000_0000;

const INTERRUPTS: &str = "this kernel is older than Linux 5.19: a signal that the program handles may end a call with EINTR that goes on \
                          without isolation";

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Asks about the calls, lets all others pass, and treats programs of another processor (32-bit ones) as `foreign` says: their
/// calls have other numbers.
fn program(foreign: u32) -> Vec<libc::sock_filter> {
    let (number, processor) = (mem::offset_of!(libc::seccomp_data, nr), mem::offset_of!(libc::seccomp_data, arch));
    let mut program = vec![
        instruction(LOAD, processor as u32, 0, 0),
        instruction(IF_EQUAL, PROCESSOR, 1, 0),
        instruction(RETURN, foreign, 0, 0),
        instruction(LOAD, number as u32, 0, 0),
        instruction(IF_AT_LEAST, OTHER_FORM, 0, 1),
        instruction(RETURN, foreign, 0, 0),
    ];
    for (number, _) in CALLS {
        program.push(instruction(IF_EQUAL, *number as u32, 0, 1));
        program.push(instruction(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    }
    program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program
}

/// Binds this thread, and all that it starts. What the kernel asks comes through the descriptor. Also says what this kernel leaves
/// open.
pub(super) fn bind(refuse_foreign: bool) -> io::Result<(OwnedFd, Option<String>)> {
    let foreign = if refuse_foreign { libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 } else { libc::SECCOMP_RET_ALLOW };
    let mut program = program(foreign);
    let length = program.len() as u16;
    let described = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers; no program that is started from here gains rights by being started, which the kernel demands of
    // those who set filters without privileges.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let set = |flags: libc::c_ulong| {
        // SAFETY: `described` and the instructions it points to live until the call returns; the kernel copies them.
        let descriptor =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const described) };
        let descriptor = i32::try_from(descriptor).unwrap_or(-1);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given this descriptor to this process, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    // Else every signal that the program handles would end the call that is looked at.
    let tells = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match set(tells | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Ok(listener) => Ok((listener, None)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((set(tells)?, Some(INTERRUPTS.to_owned()))),
        Err(error) => Err(error),
    }
}
