//! Claims: two processes that want the same action compute it once.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::PoisonError,
    thread,
    time::Duration,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use super::{Store, StoreError, folder, network};
use crate::{digest::Key, failpoint};

/// How often, and with which pause, another machine's words are waited for.
const WORDS_TAKE: usize = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// An owner that says nothing of itself.
const UNNAMED: &str = "another process";

/// How often a file is locked that has another name by then.
const ATTEMPTS: usize = 1_000;

/// So many files of claims wait for the next action.
const SPARE: usize = 8;

/// The right to compute an action. It lasts until this and every duplicate of its file is closed, by whatever means
/// its owners end: hand a duplicate to the worker, and the claim holds as long as the worker works.
#[derive(Debug)]
pub struct Claim {
    file: File,
}

/// The file of an ended claim.
pub(super) struct SpareClaim {
    file: File,
    path: PathBuf,
}

impl Claim {
    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// What came of an attempt to claim an action.
#[derive(Debug)]
pub enum ClaimAttempt {
    /// The action is the caller's.
    Held(Claim),
    /// Somebody else is at it: what they said of themselves.
    Busy(String),
}

impl Store {
    /// Tries to claim an action, without waiting. `owner` tells others who has it: a line such as
    /// `process 4711 on host since 12:00`. Text of an owner that is gone does no harm, since the lock counts.
    pub fn claim(&self, key: &Key, owner: &str) -> Result<ClaimAttempt, StoreError> {
        self.claim_folder(&key.to_string(), owner)
    }

    /// Tries to claim a scratch folder, or a file there, by its name.
    pub(super) fn claim_folder(&self, name: &str, owner: &str) -> Result<ClaimAttempt, StoreError> {
        // Collecting removes the files of claims that nobody holds.
        let _hold = self.hold()?;
        let path = self.claim_file(name);
        if let Some(claim) = self.claim_by_spare(&path, owner) {
            return Ok(ClaimAttempt::Held(claim));
        }
        // The file stays when the claim ends: removing a locked file lets two processes hold "the same" lock.
        let open = || fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        for _ in 0..ATTEMPTS {
            let mut file = folder::make(&path, open).map_err(StoreError::io("open", &path))?;
            match file.try_lock() {
                // It was another action's by the time it was locked.
                Ok(()) if self.is_on_this_machine() && !folder::has_name(&file, &path) => {}
                Ok(()) => {
                    // To cut an empty file has ext4 write it to the disk when it is closed.
                    let cut = |file: &File| if file.metadata()?.len() > 0 { file.set_len(0) } else { Ok(()) };
                    cut(&file)
                        .and_then(|()| failpoint::write("claim.write", &mut file, owner.as_bytes()))
                        .and_then(|()| self.show_others(&file))
                        .and_then(|()| file.seek(SeekFrom::End(0)))
                        .map_err(StoreError::io("write", &path))?;
                    return Ok(ClaimAttempt::Held(Claim { file }));
                }
                Err(TryLockError::WouldBlock) => {
                    let owner = self.words_of_owner(file, &path).map_err(StoreError::io("read", &path))?;
                    return Ok(ClaimAttempt::Busy(if owner.is_empty() { UNNAMED.to_owned() } else { owner }));
                }
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
        }
        let replaced = "it is another file each time that it is locked; remove it while no run uses the store";
        Err(StoreError::io("lock", path)(io::Error::other(replaced)))
    }

    /// Claims an action that nobody else has or had, by the file of one that is done: to name it anew takes a file system
    /// less than to make another one. Only while the store is held, so that nobody collects it meanwhile.
    fn claim_by_spare(&self, path: &Path, owner: &str) -> Option<Claim> {
        let mut spares = self.spare_claims.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = spares.pop()?;
        // Somebody else may have claimed the former action again, and left words; or have collected the file. Nobody else gives it another
        // name while it is locked.
        let is_ours = spare.file.try_lock().is_ok() && folder::has_name(&spare.file, &spare.path);
        if !is_ours || !says(&spare.file, owner) {
            return None;
        }
        match renameat_with(CWD, &spare.path, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => return Some(Claim { file: spare.file }),
            // One that cannot be given back is closed, which unlocks it as well.
            Err(_) if spare.file.unlock().is_ok() => spares.push(spare),
            Err(_) => {}
        }
        None
    }

    /// Ends the claim on an action whose result is recorded, and of which no worker has a duplicate any more. Its file
    /// serves for another one, where no other machine may have it open.
    pub fn end_claim(&self, claim: Claim, key: &Key) {
        let mut spare = self.spare_claims.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_on_this_machine() && spare.len() < SPARE && claim.file.unlock().is_ok() {
            spare.push(SpareClaim { file: claim.file, path: self.claim_file(&key.to_string()) });
        }
    }

    /// What the owner of a claim says of itself. One on another machine has the lock for some requests before its words are with
    /// the server.
    fn words_of_owner(&self, mut file: File, path: &Path) -> io::Result<String> {
        for _ in 0..WORDS_TAKE {
            let mut words = Vec::new();
            file.read_to_end(&mut words)?;
            let words = String::from_utf8_lossy(&words).trim().to_owned();
            if !words.is_empty() || self.is_on_this_machine() {
                return Ok(words);
            }
            thread::sleep(PAUSE);
            // To open it has the system ask what it holds.
            file = File::open(path)?;
        }
        Ok(String::new())
    }

    /// Who has taken over what this owner has claimed, if anybody has. Where other machines use the store, one that was not heard of for long
    /// has lost its claims without being told.
    pub fn taken_over(&self, claim: &Claim, key: &Key, owner: &str) -> Result<Option<String>, StoreError> {
        if self.is_on_this_machine() {
            return Ok(None);
        }
        let path = self.claim_file(&key.to_string());
        let read = || network::open_anew(&path).and_then(|file| self.words_of_owner(file, &path));
        let others = |words: io::Result<String>| match words {
            Ok(words) if words == owner.trim() => Ok(None),
            Ok(words) if !words.is_empty() => Ok(Some(words)),
            Err(error) if !network::is_gone(&error) => Err(StoreError::io("read", &path)(error)),
            // Whoever collects removes claims that nobody holds.
            Ok(_) | Err(_) => Ok(Some(UNNAMED.to_owned())),
        };
        // First whether it is there at all: to lock what was removed may take forever.
        if let Some(other) = others(read())? {
            return Ok(Some(other));
        }
        // Asks the server, also for what this machine takes for locked, and gets back what was lost if nobody has it. Whatever keeps it from
        // that, the claim does not hold.
        let is_locked = claim.file.try_lock().is_ok();
        Ok(others(read())?.or_else(|| (!is_locked).then(|| UNNAMED.to_owned())))
    }

    fn claim_file(&self, name: &str) -> PathBuf {
        self.local("claims").join(format!("{name}.lock"))
    }

    /// The place for what the last failed attempt to compute an action again printed.
    pub fn check_log(&self, key: &Key) -> PathBuf {
        self.local("checks").join(format!("{key}.log"))
    }

    /// A new folder to compute an action again in.
    pub fn check_folder(&self, key: &Key) -> Result<CheckFolder, StoreError> {
        // Nothing is collected between the folder and its claim.
        let _hold = self.hold()?;
        let scratch = self.local("scratch");
        fs::create_dir_all(&scratch).map_err(StoreError::io("create", &scratch))?;
        let prefix = format!("check-{key}-");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&scratch);
        let folder = folder.map_err(StoreError::io("write into", &scratch))?;
        let name = folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let claim = self.claim_folder(&name, "a check")?;
        Ok(CheckFolder { folder, claim_file: self.claim_file(&name), _claim: claim })
    }
}

/// Whether a file holds these words and nothing else.
fn says(file: &File, words: &str) -> bool {
    let mut found = vec![0; words.len() + 1];
    file.read_at(&mut found, 0).is_ok_and(|length| found[..length] == *words.as_bytes())
}

/// A folder to compute an action again in. It goes when this is dropped, and is not collected before.
#[derive(Debug)]
pub struct CheckFolder {
    folder: TempDir,
    claim_file: PathBuf,
    _claim: ClaimAttempt,
}

impl CheckFolder {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for CheckFolder {
    fn drop(&mut self) {
        // No other folder will have that name. One that stays is of nobody, which its missing lock shows.
        let _ = fs::remove_file(&self.claim_file);
    }
}
