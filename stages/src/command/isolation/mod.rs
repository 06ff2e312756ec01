//! Keeps a program from what its stage does not declare, or tells of it.
//!
//! Two means of Linux that need no privileges, both of which bind a thread and all that it starts: Landlock refuses files, and a
//! seccomp filter has the kernel ask this process (a *notification*) before calls that open, change or start files or open
//! sockets. Landlock alone decides on files, since what a notification tells of memory may have changed by the time the kernel
//! reads it; the notification tells what was refused, as Landlock cannot. On sockets it decides, by numbers that cannot change.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod caller;
mod declared;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod landlock;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod observer;
mod report;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod supervised;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) use self::supervised::{probe, supervised};
pub(super) use self::{
    declared::Declared,
    report::{Names, Report},
};

/// Why a program cannot be isolated.
#[derive(Debug, thiserror::Error)]
pub(super) enum IsolationError {
    /// The machine lacks something.
    #[error("{0}")]
    Lacking(String),
    /// The program cannot be started.
    #[error(transparent)]
    Start(std::io::Error),
}

/// Whether this machine has what is needed; says in plain words what it lacks.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(super) fn probe() -> Result<(), String> {
    Err("programs can be isolated on Linux alone, on x86-64 and 64-bit ARM".to_owned())
}

/// Elsewhere nothing of that is to be had.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(super) fn supervised<R>(
    _: crate::stage::Isolation,
    _: &Declared,
    _: &mut std::process::Command,
    _: impl FnOnce(&mut super::process::Group) -> R,
) -> Result<(R, Report), IsolationError> {
    Err(IsolationError::Lacking(probe().err().unwrap_or_default()))
}
