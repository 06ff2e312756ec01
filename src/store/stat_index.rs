//! Which content a file had when it was last hashed, so that an unchanged source is not read again.
//!
//! An entry counts only if device, inode, size, modification and change time are all the same. A file that was
//! written to less than a second before it was hashed gets no entry: it could change once more without any of the
//! five showing it, since file systems tick coarsely.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{StoreError, local, read_plain, sealed};
use crate::digest::Digest;

const SETTLED: Duration = Duration::from_secs(1);

/// Two changes that lie as far apart have different times on disks of Linux: before 6.13, these come from a clock that moves on 100 to 1,000
/// times a second. Where they hold whole seconds alone (ext3), it takes a second more.
const TICK: Duration = Duration::from_millis(20);

/// What `stat` says of a file's identity; times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: i128,
    pub(super) changed: i128,
}

impl Identity {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long it takes at `time` until a later change has another time; nothing if it would have that now, or if the times come from a
    /// clock that is not this machine's.
    pub(super) fn unsettled(&self, time: SystemTime) -> Option<Duration> {
        let changed = u64::try_from(self.changed).ok()?;
        let changed = Duration::from_nanos(changed);
        let tick = if changed.subsec_nanos() == 0 { Duration::from_secs(1) + TICK } else { TICK };
        let end = SystemTime::UNIX_EPOCH + changed + tick;
        end.duration_since(time).ok().filter(|rest| !rest.is_zero() && *rest <= 2 * tick)
    }

    /// Whether the last change is old enough at `time` for another one to show.
    pub(super) fn is_settled(&self, time: SystemTime) -> bool {
        let latest = time
            .checked_sub(SETTLED)
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |age| age.as_nanos() as i128);
        self.modified < latest && self.changed < latest
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Known {
    identity: Identity,
    digest: Digest,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    version: u32,
    files: BTreeMap<String, Known>,
}

const VERSION: u32 = 1;

/// The index; read when first needed, written by [`StatIndex::save`].
pub(super) struct StatIndex {
    path: PathBuf,
    loaded: Option<BTreeMap<String, Known>>,
    added: BTreeMap<String, Known>,
}

impl StatIndex {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, loaded: None, added: BTreeMap::new() }
    }

    /// The digest of a file that is as it was when it was hashed.
    pub(super) fn get(&mut self, path: &Path, identity: &Identity) -> Option<Digest> {
        let path = path.to_string_lossy();
        let loaded = self.loaded.get_or_insert_with(|| load(&self.path));
        let known = self.added.get(&*path).or_else(|| loaded.get(&*path))?;
        (known.identity == *identity).then_some(known.digest)
    }

    pub(super) fn add(&mut self, path: &Path, identity: Identity, digest: Digest) {
        self.added.insert(path.to_string_lossy().into_owned(), Known { identity, digest });
    }

    /// Removes an index that cannot be read, so that it fills again.
    pub(super) fn repair(&mut self) -> Result<(), StoreError> {
        let unreadable = read_plain(&self.path).is_ok_and(|bytes| sealed::open::<Content>(&bytes).is_err());
        if unreadable {
            fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))?;
            self.loaded = None;
        }
        Ok(())
    }

    /// Writes what was added. Entries that another process wrote in the meantime stay; if two write in the same
    /// moment, one set is lost and hashed again some day.
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        if self.added.is_empty() {
            return Ok(());
        }
        let mut files = load(&self.path);
        files.append(&mut self.added);
        let content = Content { version: VERSION, files };
        let bytes = sealed::seal(&content)
            .map_err(|error| StoreError::Bug { path: self.path.clone(), problem: error.to_string() })?;
        self.loaded = Some(content.files);
        local::replace(&self.path, &bytes)
    }
}

/// An index that is missing, damaged or of another version is empty.
fn load(path: &Path) -> BTreeMap<String, Known> {
    read_plain(path)
        .ok()
        .and_then(|bytes| sealed::open::<Content>(&bytes).ok())
        .filter(|content| content.version == VERSION)
        .map(|content| content.files)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Identity, StatIndex};
    use crate::digest::Digest;

    const SECOND: i128 = 1_000_000_000;
    const SEEN: Identity = Identity { device: 1, inode: 2, size: 3, modified: 40 * SECOND, changed: 50 * SECOND };

    #[test]
    fn an_entry_counts_while_nothing_that_stat_tells_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = (folder.path().join("index.json"), folder.path().join("file"));
        let mut index = StatIndex::new(path.clone());
        index.add(&file, SEEN, Digest::of(b"one"));
        assert_eq!(index.get(&file, &SEEN), Some(Digest::of(b"one")));
        index.save().unwrap();
        let mut again = StatIndex::new(path);
        assert_eq!(again.get(&file, &SEEN), Some(Digest::of(b"one")));
        assert_eq!(again.get(&folder.path().join("other"), &SEEN), None);
        let changed = [
            Identity { device: 9, ..SEEN },
            Identity { inode: 9, ..SEEN },
            Identity { size: 9, ..SEEN },
            Identity { modified: 40 * SECOND + 1, ..SEEN },
            Identity { changed: 50 * SECOND + 1, ..SEEN },
        ];
        for identity in changed {
            assert_eq!(again.get(&file, &identity), None, "{identity:?}");
        }
    }

    #[test]
    fn entries_of_several_processes_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.json");
        let (mut one, mut two) = (StatIndex::new(path.clone()), StatIndex::new(path.clone()));
        for (index, name) in [(&mut one, "one"), (&mut two, "two")] {
            let file = folder.path().join(name);
            assert_eq!(index.get(&file, &SEEN), None);
            index.add(&file, SEEN, Digest::of(name.as_bytes()));
        }
        one.save().unwrap();
        two.save().unwrap();
        let mut both = StatIndex::new(path);
        for name in ["one", "two"] {
            assert_eq!(both.get(&folder.path().join(name), &SEEN), Some(Digest::of(name.as_bytes())));
        }
    }

    #[test]
    fn a_file_settles_a_second_after_its_last_change() {
        let at = |milliseconds| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        assert!(!SEEN.is_settled(at(50_000)));
        assert!(!SEEN.is_settled(at(51_000)));
        assert!(SEEN.is_settled(at(51_001)));
        // A time in the future, as a wrong clock gives, never settles.
        let future = Identity { modified: 99 * SECOND, ..SEEN };
        assert!(!future.is_settled(at(60_000)));
    }
}
