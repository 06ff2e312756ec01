//! Who uses the store right now, so that nothing is collected that somebody needs.
//!
//! A *hold* is a shared lock on `local/lock`, for moments: while the store is looked into, while a result is taken in
//! and recorded. Collecting takes the same lock alone. A *lease* is for as long as a process lives: a locked file in
//! `local/leases` that lists the artifacts it relies on and the run it keeps. Both end with their process.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io, mem,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use super::{
    Store, StoreError, folder,
    lock::{Sort, open_to_lock},
    network,
};
use crate::{digest::ArtifactId, failpoint};

/// While one is held, nothing is collected.
#[derive(Debug)]
pub struct Hold {
    lock: Arc<File>,
}

/// The open and locked file of a lease.
#[derive(Debug)]
pub(super) struct Lease {
    path: PathBuf,
    file: File,
    held: BTreeSet<ArtifactId>,
    /// All that it says, where it may be lost.
    listed: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // One that stays is of nobody, which its missing lock shows.
        let _ = fs::remove_file(&self.path);
    }
}

/// What the processes that live now rely on.
#[derive(Debug, Default)]
pub struct InUse {
    /// Artifacts.
    pub artifacts: BTreeSet<ArtifactId>,
    /// Names of run folders.
    pub runs: BTreeSet<String>,
}

impl Store {
    /// Keeps collectors out until the hold is dropped; waits for one that is at work.
    pub fn hold(&self) -> Result<Hold, StoreError> {
        self.share(|file, path| self.wait_for_lock(file, path, Sort::Shared))
    }

    /// As [`Store::hold`], without waiting; nothing if somebody collects at the moment.
    pub fn hold_now(&self) -> Option<Hold> {
        let lock = |file: &File, path: &Path| {
            file.try_lock_shared().map_err(|error| StoreError::io("lock", path)(error.into()))
        };
        self.share(lock).ok()
    }

    /// The hold that this process has already, or one of its own: a small stage asks for several, one inside another.
    fn share(&self, lock: impl Fn(&File, &Path) -> Result<(), StoreError>) -> Result<Hold, StoreError> {
        let held = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = held().upgrade() {
            return Ok(Hold { lock });
        }
        // Not while others are kept from asking: this may wait for a collector.
        let hold = self.lock(lock)?;
        *held() = Arc::downgrade(&hold.lock);
        Ok(hold)
    }

    /// Waits until nobody holds the store, and keeps everybody out.
    pub(super) fn alone(&self) -> Result<Hold, StoreError> {
        self.release();
        self.lock(|file, path| self.wait_for_lock(file, path, Sort::Alone))
    }

    fn lock(&self, lock: impl Fn(&File, &Path) -> Result<(), StoreError>) -> Result<Hold, StoreError> {
        let path = self.local("lock");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        lock(&file, &path)?;
        Ok(Hold { lock: Arc::new(file) })
    }

    /// Ends the hold that opening the store began. What is needed later must be leased before.
    pub fn release(&self) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Keeps artifacts from being collected until this process ends, or drops the store.
    pub fn need(&self, artifacts: impl IntoIterator<Item = ArtifactId>) -> Result<(), StoreError> {
        let mut new: Vec<ArtifactId> = artifacts.into_iter().collect();
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = &*lease {
            new.retain(|artifact| !lease.held.contains(artifact));
        }
        if new.is_empty() {
            return Ok(());
        }
        let lines: String = new.iter().map(|artifact| format!("artifact {artifact}\n")).collect();
        self.write_lease(&mut lease, &lines)?.held.extend(new);
        Ok(())
    }

    /// Keeps a run folder from being collected until this process ends.
    pub(super) fn need_run(&self, name: &str) -> Result<(), StoreError> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_lease(&mut lease, &format!("run {name}\n")).map(drop)
    }

    fn write_lease<'a>(&self, lease: &'a mut Option<Lease>, lines: &str) -> Result<&'a mut Lease, StoreError> {
        let _hold = self.hold()?;
        let lease = match lease {
            Some(lease) => lease,
            None => lease.insert(self.begin_lease()?),
        };
        if !self.is_on_this_machine() {
            lease.listed.push_str(lines);
        }
        match self.write_lines(lease, lines) {
            // It may be that of one who was taken for dead, to which nobody may write any more.
            Err(_) if !self.is_on_this_machine() => self.begin_anew(lease)?,
            written => written?,
        }
        Ok(lease)
    }

    /// Keeps what this process relies on by a new lease. Where other machines use the store, one that was not heard of for long has lost
    /// its locks without being told, and then its lease is of nobody.
    pub fn renew_lease(&self) -> Result<(), StoreError> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let _hold = self.hold()?;
        lease.as_mut().map_or(Ok(()), |lease| self.begin_anew(lease))
    }

    fn begin_anew(&self, lease: &mut Lease) -> Result<(), StoreError> {
        let mut anew = self.begin_lease()?;
        self.write_lines(&mut anew, &lease.listed)?;
        anew.listed = mem::take(&mut lease.listed);
        anew.held = mem::take(&mut lease.held);
        *lease = anew;
        Ok(())
    }

    fn write_lines(&self, lease: &mut Lease, lines: &str) -> Result<(), StoreError> {
        failpoint::write("run.lease", &mut lease.file, lines.as_bytes())
            .and_then(|()| self.show_others(&lease.file))
            .map_err(StoreError::io("write", &lease.path))
    }

    fn begin_lease(&self) -> Result<Lease, StoreError> {
        let leases = self.local("leases");
        fs::create_dir_all(&leases).map_err(StoreError::io("create", &leases))?;
        let (file, path) = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            // Whoever else may write to the store must be able to see that the lease is held.
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(&leases)
            .map_err(StoreError::io("write into", &leases))?
            .keep()
            .map_err(|error| StoreError::io("write into", &leases)(error.error))?;
        let lease = Lease { path, file, held: BTreeSet::new(), listed: String::new() };
        self.wait_for_lock(&lease.file, &lease.path, Sort::Alone)?;
        Ok(lease)
    }

    /// What the processes that live now rely on. Call it while the store is held; with `sweep` (alone) the leases of
    /// the dead go.
    pub(super) fn leased(&self, sweep: bool) -> Result<InUse, StoreError> {
        let mut in_use = InUse::default();
        for path in folder::entries(&self.local("leases"))? {
            for line in listed_by(&path, sweep)?.lines() {
                match line.split_once(' ') {
                    Some(("artifact", id)) => in_use.artifacts.extend(id.parse::<ArtifactId>()),
                    Some(("run", name)) => {
                        in_use.runs.insert(name.to_owned());
                    }
                    _ => {}
                }
            }
        }
        Ok(in_use)
    }

    /// What the processes that live now rely on.
    pub fn in_use(&self) -> Result<InUse, StoreError> {
        let _hold = self.hold()?;
        self.leased(false)
    }
}

/// What a lease lists; nothing if it is of nobody, and then it goes with `sweep`. Whoever ends takes its lease away without
/// asking who looks at it: one that is gone by now, from here or from another machine, is of nobody.
fn listed_by(path: &Path, sweep: bool) -> Result<String, StoreError> {
    let file = match open_to_lock(path) {
        Err(error) if network::is_gone(&error) => return Ok(String::new()),
        // What it keeps is unknown.
        opened => opened.map_err(StoreError::io("open", path))?,
    };
    match file.try_lock() {
        Ok(()) => {
            if sweep {
                let _ = fs::remove_file(path);
            }
            Ok(String::new())
        }
        // Not by its name, which may be gone by now.
        Err(TryLockError::WouldBlock) => match io::read_to_string(&file) {
            Err(error) if network::is_gone(&error) => Ok(String::new()),
            read => read.map_err(StoreError::io("read", path)),
        },
        Err(TryLockError::Error(error)) if network::is_gone(&error) => Ok(String::new()),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}
