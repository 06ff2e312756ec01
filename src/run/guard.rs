//! What a run that is killed leaves behind: the programs of its stages. The kernel ends the workers of a dead driver,
//! and a worker or the driver ends what a dead one of them had started; but if both are killed at the same instant,
//! nobody of the run is left to end the programs that a `Command` had started in turn. The guard is: a small process
//! that only waits for the end of the pipe that the driver holds, under a name and in a process group of its own, so
//! that whatever kills the run by name or by group does not mean it.
//!
//! It knows those programs by their environment: TMPDIR leads into the scratch folder of the action, which no other
//! program has. While somebody holds the claim of the action, its programs are in good hands.
//!
//! Which actions are at work stands in a file that has no name and lies in memory: the driver writes there, and nobody is woken by it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{ffi::OsStrExt, fs::FileExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getpgrp, kill_process, kill_process_group};

use super::{owner, process::program};
use crate::{
    digest::Key,
    store::{ClaimAttempt, Store},
};

/// Under this name the guard is seen in lists of processes.
const NAME: &str = "run-guard";
/// How often it looks after the driver has died.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it goes on after that: longer than any worker may take to keep its state.
const LIFE: Duration = Duration::from_mins(1);
/// Those who are killed leave children of their own to be looked at.
const ROUNDS: usize = 100;

/// A key as text, and the end of its line.
const LINE: usize = 65;

/// The driver's end of a guard.
pub(super) struct Guard {
    child: Child,
    pipe: ChildStdin,
    /// A line for each action at work; lines of blanks are for others to use.
    list: File,
    lines: Vec<Option<Key>>,
}

impl Guard {
    /// Starts a guard for stages of this store.
    pub(super) fn start(store: &Store) -> io::Result<Self> {
        let mut command = Command::new(program()?);
        let list = unnamed()?;
        command.arg0(NAME).arg("guard").stdin(Stdio::piped()).stdout(list.try_clone()?).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn()?;
        let mut pipe = child.stdin.take().ok_or_else(|| io::Error::other("the guard has no standard input"))?;
        // Through the pipe and not as an argument, which would be part of the name that it is killed by.
        pipe.write_all(store.root().as_os_str().as_bytes())?;
        pipe.write_all(b"\n")?;
        Ok(Self { child, pipe, list, lines: Vec::new() })
    }

    /// Its process.
    pub(super) fn id(&self) -> Option<i32> {
        i32::try_from(self.child.id()).ok()
    }

    /// From now on a worker computes the action.
    pub(super) fn begin(&mut self, key: &Key) {
        let free = self.lines.iter().position(Option::is_none);
        let line = free.unwrap_or_else(|| {
            self.lines.push(None);
            self.lines.len() - 1
        });
        self.lines[line] = Some(*key);
        // Without that the action is not guarded; the run goes on.
        let _ = self.list.write_all_at(format!("{key}\n").as_bytes(), (line * LINE) as u64);
    }

    /// The worker and all that it had started have ended.
    pub(super) fn end(&mut self, key: &Key) {
        if let Some(line) = self.lines.iter().position(|begun| begun.as_ref() == Some(key)) {
            self.lines[line] = None;
            // If it stays, the guard looks for programs that are gone.
            let _ = self.list.write_all_at(&[b' '; LINE - 1], (line * LINE) as u64);
        }
    }

    /// The run is over.
    pub(super) fn dismiss(mut self) {
        if self.pipe.write_all(b"end\n").is_ok() {
            let _ = self.child.wait();
        }
    }
}

/// A file that goes with the last who has it open.
#[cfg(target_os = "linux")]
fn unnamed() -> io::Result<File> {
    let in_memory = rustix::fs::memfd_create("twdag actions at work", rustix::fs::MemfdFlags::CLOEXEC);
    // Some systems allow none.
    in_memory.map_or_else(|_| tempfile::tempfile(), |file| Ok(file.into()))
}

#[cfg(not(target_os = "linux"))]
fn unnamed() -> io::Result<File> {
    tempfile::tempfile()
}

/// The guard's own life: waits until the driver is gone, then ends what that left behind: the actions that `list` names then.
pub fn stand(input: impl Read, list: &File) {
    // Neither matters enough to fail.
    let _ = fs::write("/proc/self/comm", NAME);
    let mut lines = BufReader::new(input).split(b'\n').map_while(Result::ok);
    let Some(root) = lines.next() else { return };
    let root = PathBuf::from(std::ffi::OsStr::from_bytes(&root));
    if lines.next().is_some_and(|line| line == b"end") {
        return;
    }
    let mut text = Vec::new();
    // Its offset is shared with whoever has opened it, and nobody moves that.
    let Ok(_) = (&*list).read_to_end(&mut text) else { return };
    let named = text.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok()?.parse().ok());
    let mut keys: BTreeSet<Key> = named.collect();
    if keys.is_empty() {
        return;
    }
    let Ok(store) = Store::open(&root) else { return };
    // It only claims, so that nobody who collects has to wait for it.
    store.release();
    let begun = Instant::now();
    while !keys.is_empty() && begun.elapsed() < LIFE {
        keys.retain(|key| !is_clean(&store, key));
        thread::sleep(PAUSE);
    }
}

/// Whether nothing of the action runs any more, after ending what nobody cares for.
fn is_clean(store: &Store, key: &Key) -> bool {
    match store.claim(key, "the guard of a run that was killed") {
        Ok(ClaimAttempt::Held(_claim)) => end_programs(&store.scratch_path(key)),
        // Another machine that shares the store has taken the action up, and cannot end programs here.
        Ok(ClaimAttempt::Busy(owner)) if !owner::is_here(&owner) => end_programs(&store.scratch_path(key)),
        Ok(ClaimAttempt::Busy(_)) | Err(_) => false,
    }
}

/// Ends all programs that were started for the action whose scratch folder this is. Call it only while no worker
/// computes that action. Whether none is left.
pub(super) fn end_programs(scratch: &Path) -> bool {
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        let programs = programs(scratch);
        if programs.is_empty() {
            // One may have been missed that was just being started.
            quiet += 1;
            if quiet == 2 {
                return true;
            }
            continue;
        }
        quiet = 0;
        for (program, group) in programs {
            // Who is gone already needs neither.
            if group != getpgrp() {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = kill_process(program, Signal::KILL);
        }
        thread::sleep(PAUSE / 5);
    }
    false
}

/// The programs whose temporary folder lies in this scratch folder, with their process groups.
fn programs(scratch: &Path) -> Vec<(Pid, Pid)> {
    let mut mark = b"TMPDIR=".to_vec();
    mark.extend_from_slice(scratch.as_os_str().as_bytes());
    mark.push(b'/');
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            let environment = fs::read(entry.path().join("environ")).ok()?;
            environment.split(|byte| *byte == 0).find(|variable| variable.starts_with(&mark))?;
            Some((process, rustix::process::getpgid(Some(process)).ok()?))
        })
        .collect()
}
