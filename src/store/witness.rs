//! What an answer rests on: files as `stat` saw them. While every one of them is as it was, an answer that was found
//! once is found again by looking at all of them and reading none.
//!
//! A file is a witness only if its last change was a second or more before the search for the answer began: then
//! whatever was read of it is what it holds, and every later write shows (see [`Identity::is_settled`]). Of an object, the
//! index of seals must moreover know it as it is now.
//!
//! The list is bytes that are used as they lie in a file, since a large graph has a hundred thousand witnesses:
//!
//! ```text
//! outside   number, then for each: identity (40 bytes), length of its path, path
//! inside    for each of actions, trees, objects: number, then for each: digest (32 bytes), identity (40 bytes)
//! ```
//!
//! Numbers are little-endian, of 8 bytes; times are nanoseconds since 1970.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::SystemTime,
};

use rustix::fs::{AtFlags, CWD};

use super::{Store, StoreError, network, stat_index::Identity};
use crate::digest::{ArtifactId, Digest, Key};

/// The rooms whose files are named by digests.
const ROOMS: [&str; 3] = ["actions", "trees", "objects"];
const RECORDS: usize = 0;
const MANIFESTS: usize = 1;
const OBJECTS: usize = 2;

const NUMBER: usize = 8;
const IDENTITY: usize = 5 * NUMBER;
const DIGEST: usize = 32;
const INSIDE: usize = DIGEST + IDENTITY;
/// From here on another thread is worth its start.
const SHARE: usize = 500;
/// More threads only wait for each other in the kernel.
const MOST_THREADS: usize = 8;

/// Files that an answer rests on, while they are being gathered.
#[derive(Debug)]
pub struct Witnesses {
    began: SystemTime,
    outside: BTreeMap<PathBuf, Identity>,
    inside: [BTreeMap<Digest, Identity>; 3],
}

impl Witnesses {
    /// None yet. `began` is when the search for the answer began, before the first file was read.
    pub fn since(began: SystemTime) -> Self {
        Self { began, outside: BTreeMap::new(), inside: Default::default() }
    }

    /// Adds a file or folder outside the store; links are followed. Whether it is fit to be a witness.
    pub fn add(&mut self, path: &Path) -> bool {
        let Ok(metadata) = fs::metadata(path) else { return false };
        let identity = Identity::of(&metadata);
        let fit = path.is_absolute() && identity.is_settled(self.began);
        self.outside.insert(path.to_owned(), identity);
        fit
    }

    /// The list as bytes, for [`Store::agrees`].
    pub fn bytes(&self) -> Vec<u8> {
        let count: usize = self.inside.iter().map(BTreeMap::len).sum();
        let mut bytes = Vec::with_capacity(count * INSIDE + self.outside.len() * 2 * INSIDE);
        let number = |bytes: &mut Vec<u8>, number: usize| bytes.extend_from_slice(&(number as u64).to_le_bytes());
        number(&mut bytes, self.outside.len());
        for (path, identity) in &self.outside {
            bytes.extend_from_slice(&encode(identity));
            number(&mut bytes, path.as_os_str().len());
            bytes.extend_from_slice(path.as_os_str().as_bytes());
        }
        for room in &self.inside {
            number(&mut bytes, room.len());
            for (digest, identity) in room {
                bytes.extend_from_slice(digest.as_bytes());
                bytes.extend_from_slice(&encode(identity));
            }
        }
        bytes
    }
}

impl Store {
    /// Adds the files of a source, and the folders that tell of new ones. Whether they are fit to be witnesses of the
    /// source having this digest.
    pub fn witness_source(
        &self,
        witnesses: &mut Witnesses,
        path: &Path,
        files: &[String],
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let Some(before) = self.source_witnesses(path, files)? else { return Ok(false) };
        // First, since what was changed just now would be read once more, for nothing.
        if !before.keys().all(|path| witnesses.add(path)) {
            return Ok(false);
        }
        // Between two equal answers nothing was changed, so that this is the digest of what `stat` has seen.
        let same = self.digest_source(path, files)? == *digest;
        Ok(same && self.source_witnesses(path, files)? == Some(before))
    }

    /// Adds the record of an action, the list of files of its result, and those files. Whether they are fit.
    pub fn witness_result(&self, witnesses: &mut Witnesses, key: &Key, artifact: &ArtifactId) -> bool {
        let began = witnesses.began;
        let look = |room: usize, digest: &Digest| {
            let metadata = fs::symlink_metadata(self.named(ROOMS[room], digest)).ok()?;
            let identity = Identity::of(&metadata);
            (metadata.is_file() && identity.is_settled(began)).then_some((metadata, identity))
        };
        let Some((_, record)) = look(RECORDS, key.digest()) else { return false };
        witnesses.inside[RECORDS].insert(*key.digest(), record);
        if witnesses.inside[MANIFESTS].contains_key(artifact.digest()) {
            return true;
        }
        let Some((_, list)) = look(MANIFESTS, artifact.digest()) else { return false };
        let Ok(manifest) = self.read_manifest(artifact) else { return false };
        for entry in manifest.files() {
            if witnesses.inside[OBJECTS].contains_key(&entry.digest) {
                continue;
            }
            match look(OBJECTS, &entry.digest) {
                Some((metadata, object)) if self.seals().has(&entry.digest, &metadata) => {
                    witnesses.inside[OBJECTS].insert(entry.digest, object);
                }
                _ => return false,
            }
        }
        witnesses.inside[MANIFESTS].insert(*artifact.digest(), list);
        true
    }

    /// Whether every witness in a list is as it was. What is no such list agrees with nothing.
    pub fn agrees(&self, list: &[u8]) -> bool {
        let Some(list) = List::read(list) else { return false };
        let mut rooms = Vec::with_capacity(ROOMS.len());
        for room in ROOMS {
            let Ok(folder) = File::open(self.root().join(room)) else { return false };
            rooms.push(folder);
        }
        let differs = AtomicBool::new(false);
        let shares = list.shares();
        let look = |share: usize| {
            // Whoever finds a difference spares the others the rest.
            let same = list.agrees(&rooms, (share, shares), || !differs.load(Ordering::Relaxed));
            if !same {
                differs.store(true, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for share in 1..shares {
                if thread::Builder::new().spawn_scoped(scope, move || look(share)).is_err() {
                    look(share);
                }
            }
            look(0);
        });
        !differs.into_inner()
    }
}

/// A list as it lies in its bytes.
struct List<'a> {
    /// Paths and identities.
    outside: Vec<(&'a [u8], &'a [u8])>,
    /// Digests and identities.
    inside: [&'a [u8]; 3],
}

impl<'a> List<'a> {
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let count = number(&mut bytes)?;
        let mut outside = Vec::with_capacity(count.min(bytes.len() / IDENTITY));
        for _ in 0..count {
            let identity = take(&mut bytes, IDENTITY)?;
            let length = number(&mut bytes)?;
            outside.push((take(&mut bytes, length)?, identity));
        }
        let mut inside = [&bytes[..0]; 3];
        for room in &mut inside {
            let count = number(&mut bytes)?;
            *room = take(&mut bytes, count.checked_mul(INSIDE)?)?;
        }
        bytes.is_empty().then_some(Self { outside, inside })
    }

    /// How many threads shall look.
    fn shares(&self) -> usize {
        let count = self.outside.len() + self.inside.iter().map(|room| room.len() / INSIDE).sum::<usize>();
        match (count / SHARE).min(MOST_THREADS) {
            0 | 1 => 1,
            worth => worth.min(thread::available_parallelism().map_or(1, usize::from)),
        }
    }

    /// Whether a share of each part is as it was.
    fn agrees(&self, rooms: &[File], share: (usize, usize), go_on: impl Fn() -> bool) -> bool {
        let outside = &self.outside[range(self.outside.len(), share)];
        let mut asked = None;
        let mut agree = outside.iter().all(|(path, identity)| {
            let path = Path::new(OsStr::from_bytes(path));
            let folder = path.parent();
            if asked != folder {
                // On a network file system the name may be another file's by now.
                folder.into_iter().for_each(network::ask);
                asked = folder;
            }
            let found = network::identity(CWD, path, AtFlags::empty());
            go_on() && found.is_ok_and(|found| encode(&found) == **identity)
        });
        let mut name = [0; 65];
        for (folder, entries) in rooms.iter().zip(self.inside) {
            let part = range(entries.len() / INSIDE, share);
            agree = agree
                && entries[part.start * INSIDE..part.end * INSIDE].chunks_exact(INSIDE).all(|entry| {
                    let (digest, identity) = entry.split_at(DIGEST);
                    write_name(digest, &mut name);
                    let found = network::identity(folder, &name[..], AtFlags::SYMLINK_NOFOLLOW);
                    // The inode is the one of a file, so that the sort of what is found need not be looked at.
                    go_on() && found.is_ok_and(|found| encode(&found) == *identity)
                });
        }
        agree
    }
}

/// The indexes of one share, where all are as large as can be.
fn range(count: usize, (share, shares): (usize, usize)) -> Range<usize> {
    count * share / shares..count * (share + 1) / shares
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8]) -> Option<usize> {
    let number = take(bytes, NUMBER)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(number)).ok()
}

/// `ab/REST` for a digest.
fn write_name(digest: &[u8], name: &mut [u8; 65]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut at = 0;
    for (index, byte) in digest.iter().enumerate() {
        name[at] = DIGITS[usize::from(byte >> 4)];
        name[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
        if index == 0 {
            name[at] = b'/';
            at += 1;
        }
    }
}

fn encode(identity: &Identity) -> [u8; IDENTITY] {
    let Identity { device, inode, size, modified, changed } = *identity;
    // Nanoseconds of 64 bits last until the year 2262.
    pack([device, inode, size, modified as u64, changed as u64])
}

fn pack(fields: [u64; 5]) -> [u8; IDENTITY] {
    let mut bytes = [0; IDENTITY];
    for (place, field) in bytes.chunks_exact_mut(NUMBER).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_of(paths: &[PathBuf]) -> Vec<u8> {
        // As if it were long after.
        let mut witnesses = Witnesses::since(SystemTime::now() + std::time::Duration::from_hours(1));
        assert!(paths.iter().all(|path| witnesses.add(path)));
        witnesses.bytes()
    }

    #[test]
    fn every_byte_of_a_list_counts_and_so_does_every_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let paths: Vec<PathBuf> = (0..5).map(|number| folder.path().join(number.to_string())).collect();
        for path in &paths {
            fs::write(path, "one").unwrap();
        }
        let list = list_of(&paths);
        assert!(store.agrees(&list));
        for position in 0..list.len() {
            let mut changed = list.clone();
            changed[position] ^= 1;
            assert!(!store.agrees(&changed), "{position}");
            assert!(!store.agrees(&list[..position]), "{position}");
        }
        for path in &paths {
            let list = list_of(&paths);
            fs::write(path, "two").unwrap();
            assert!(!store.agrees(&list), "{}", path.display());
        }
        let list = list_of(&paths);
        fs::remove_file(&paths[4]).unwrap();
        assert!(!store.agrees(&list));
    }

    #[test]
    fn what_was_changed_just_now_is_no_witness() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        assert!(!Witnesses::since(SystemTime::now()).add(&path));
        assert!(!Witnesses::since(SystemTime::now()).add(&folder.path().join("missing")));
    }

    #[test]
    fn shares_cover_everything_once() {
        for (count, shares) in [(0, 3), (1, 3), (7, 3), (9, 3), (10, 1)] {
            let all: Vec<usize> = (0..shares).flat_map(|share| range(count, (share, shares))).collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
