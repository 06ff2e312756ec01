//! What the stages of a graph were last keyed by, which explains to people why they run, and from whose records it is estimated how long
//! they take. Nothing else rests on it.
//!
//! `local/last/GRAPH/keys` has a line `STAGE KEY` for each time that a stage was keyed otherwise than before: its last line counts.
//! What is not recorded in this store follows as JSON. A line that was cut short is none. Whoever writes has `lock` beside it
//! locked, since the file itself is replaced when most of its lines do not count any more; `.settled` there says of which plan
//! all keys are, if that is known, and how long the file was then.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::PoisonError,
    thread,
    time::Duration,
};

use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{Store, StoreError, folder, local, plain, read_plain};
use crate::{
    digest::{Digest, Key},
    failpoint,
};

const KEYS: &str = "keys";
const SETTLED: &str = ".settled";

/// So many lines that do not count are left where they are.
const MANY: usize = 1_000;
/// How often, and with which pause, the lock is tried: somebody may have stopped the process that has it.
const ATTEMPTS: usize = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// What the stages of a graph were last keyed by.
#[derive(Debug, Default)]
pub struct LastKeys {
    /// By the names of stages as they stand in the file.
    stages: HashMap<String, Last>,
    lines: usize,
}

#[derive(Clone, Debug)]
struct Last {
    key: Key,
    /// As JSON, if it is kept here.
    action: Option<String>,
}

impl LastKeys {
    /// What a stage was last keyed by, if it ever was.
    pub fn key(&self, stage: &str) -> Option<Key> {
        self.stages.get(&local::file_name(stage)).map(|last| last.key)
    }

    /// The action of that key, if it was not recorded here.
    pub fn action<Action: DeserializeOwned>(&self, stage: &str) -> Option<Action> {
        serde_json::from_str(self.stages.get(&local::file_name(stage))?.action.as_ref()?).ok()
    }

    /// Whether something would have to be kept for a stage, named as in the file.
    fn lacks(&self, stage: &str, key: &Key, with_action: bool) -> bool {
        let is_kept = |last: &Last| last.key == *key && (last.action.is_some() || !with_action);
        !self.stages.get(stage).is_some_and(is_kept)
    }

    /// Reads whole lines; gives how many bytes they are.
    fn read(&mut self, bytes: &[u8]) -> usize {
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        for line in bytes[..end].split_inclusive(|byte| *byte == b'\n') {
            self.lines += 1;
            let line = str::from_utf8(line).unwrap_or_default().trim_end();
            let Some((stage, last)) = line.split_once(' ') else { continue };
            let (key, action) = last.split_once(' ').map_or((last, None), |(key, action)| (key, Some(action)));
            let is_whole = action.is_none_or(|action| serde_json::from_str::<IgnoredAny>(action).is_ok());
            if let Ok(key) = key.parse()
                && is_whole
            {
                self.stages.insert(stage.to_owned(), Last { key, action: action.map(str::to_owned) });
            }
        }
        end
    }
}

/// The file of a graph, as far as it was read.
#[derive(Default)]
pub(super) struct Keeping {
    last: LastKeys,
    /// Nothing else gets its inode while it is open.
    file: Option<File>,
    read: u64,
}

impl Keeping {
    /// Reads what was added since it was read last.
    fn read_on(&mut self, path: &Path) -> io::Result<()> {
        if self.file.as_ref().is_none_or(|file| !folder::has_name(file, path)) {
            *self = Self::default();
            match plain::open_plain(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                opened => self.file = Some(opened?),
            }
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut added = Vec::new();
        file.read_to_end(&mut added)?;
        self.read += self.last.read(&added) as u64;
        Ok(())
    }

    /// Adds lines. Only while nobody else does.
    fn add(&mut self, path: &Path, added: &[(String, Last)]) -> Result<(), StoreError> {
        let written = |error| StoreError::io("write", path)(error);
        let LastKeys { stages, lines } = &self.last;
        if lines + added.len() > 2 * (stages.len() + added.len()) + MANY {
            return self.replace(path, added);
        }
        let mut file = match File::options().append(true).create(true).open(path) {
            // The file may be another user's, and the folder ours.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return self.replace(path, added),
            opened => opened.map_err(written)?,
        };
        // What could not be read as a line is the beginning of one.
        let is_torn = file.metadata().map_err(written)?.len() > self.read;
        let end = if is_torn { "\n" } else { "" };
        let lines: String = added.iter().map(line).collect();
        failpoint::write("derived.write", &mut file, format!("{end}{lines}").as_bytes()).map_err(written)
    }

    /// Writes the file anew, without the lines that do not count.
    fn replace(&mut self, path: &Path, added: &[(String, Last)]) -> Result<(), StoreError> {
        let mut stages: BTreeMap<String, Last> = std::mem::take(self).last.stages.into_iter().collect();
        stages.extend(added.iter().cloned());
        local::replace(path, stages.into_iter().map(|kept| line(&kept)).collect::<String>().as_bytes())
    }
}

/// Of the keys, of which there may be none yet.
fn size_of(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        found => Ok(found?.len()),
    }
}

fn line((stage, Last { key, action }): &(String, Last)) -> String {
    action.as_ref().map_or_else(|| format!("{stage} {key}\n"), |action| format!("{stage} {key} {action}\n"))
}

/// The right to write in the folder of a graph.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let open = || match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
        // Where locks are this machine's, reading will do.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => File::open(&path).map_err(|_| error),
        opened => opened,
    };
    let opened = match folder::make(&path, open) {
        // Nothing but such files has its name.
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            folder::remove_any(&path)?;
            open()
        }
        opened => opened,
    };
    let file = opened.map_err(StoreError::io("open", &path))?;
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
        }
    }
    Err(StoreError::io("lock", path)(io::Error::other("another process keeps it locked")))
}

impl Store {
    /// What the stages of a graph were last keyed by. What cannot be read is not known.
    pub fn last_keys(&self, graph: &str) -> LastKeys {
        let mut last = LastKeys::default();
        last.read(&read_plain(&self.last(graph).join(KEYS)).unwrap_or_default());
        last
    }

    /// The plan whose keys are those that were kept last for all of its stages.
    pub fn remembered_plan(&self, graph: &str) -> Option<Digest> {
        let folder = self.last(graph);
        let text = String::from_utf8(read_plain(&folder.join(SETTLED)).ok()?).ok()?;
        let (plan, size) = text.trim().split_once(' ')?;
        // A power cut may have taken the end of the keys.
        let is_whole = size.parse() == Ok(size_of(&folder.join(KEYS)).ok()?);
        plan.parse().ok().filter(|_| is_whole)
    }

    /// Keeps what stages are keyed by, so that a later plan can say what changed, with the actions of those that are not recorded
    /// here; and if they are all that a plan has, which it is.
    pub fn remember_keys<'a, Action: Serialize + 'a>(
        &self,
        graph: &str,
        stages: impl IntoIterator<Item = (&'a str, Key, Option<&'a Action>)>,
        plan: Option<&Digest>,
    ) -> Result<(), StoreError> {
        let folder = self.last(graph);
        let (path, settled) = (folder.join(KEYS), folder.join(SETTLED));
        let stages: Vec<_> =
            stages.into_iter().map(|(stage, key, action)| (local::file_name(stage), key, action)).collect();
        let mut all = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let keeping = all.entry(graph.to_owned()).or_default();
        let is_known = plan.is_none_or(|plan| self.remembered_plan(graph).as_ref() == Some(plan));
        // Nothing is to be written most of the time.
        let lacking = |last: &LastKeys| -> Vec<_> {
            stages.iter().filter(|(stage, key, action)| last.lacks(stage, key, action.is_some())).collect()
        };
        if is_known && keeping.read_on(&path).is_ok() && lacking(&keeping.last).is_empty() {
            return Ok(());
        }
        let _lock = lock(&folder)?;
        match keeping.read_on(&path) {
            // Nothing but such files has their names; and of what another user keeps to himself nobody has any use.
            Err(error)
                if error.kind() == ErrorKind::PermissionDenied
                    || !fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) =>
            {
                folder::remove_any(&path)?;
            }
            read => read.map_err(StoreError::io("read", &path))?,
        }
        let mut added = Vec::new();
        for (stage, key, action) in lacking(&keeping.last) {
            let action = action.map(serde_json::to_string).transpose();
            let action = action.map_err(|error| StoreError::Bug { path: path.clone(), problem: error.to_string() })?;
            added.push((stage.clone(), Last { key: *key, action }));
        }
        if !added.is_empty() {
            // First, so that nobody takes what is kept from here on for what was kept before.
            folder::remove_any(&settled)?;
            if keeping.file.is_none() {
                // Earlier versions had a file for each stage. What stays of that takes room, and no more.
                let mut earlier = folder::entries(&folder)?;
                earlier.retain(|path| path.extension().is_some_and(|end| end == "json"));
                let _ = earlier.iter().try_for_each(|path| folder::remove_any(path));
            }
            keeping.add(&path, &added)?;
            keeping.read_on(&path).map_err(StoreError::io("read", &path))?;
        }
        match plan {
            Some(plan) if self.remembered_plan(graph).as_ref() != Some(plan) => {
                let size = size_of(&path).map_err(StoreError::io("read", &path))?;
                local::replace(&settled, format!("{plan} {size}\n").as_bytes())
            }
            _ => Ok(()),
        }
    }

    fn last(&self, graph: &str) -> PathBuf {
        self.local("last").join(local::file_name(graph))
    }
}
