//! Which files were found to hold the content that their name says: digest, inode and change time as they were then.
//!
//! An object is trusted while it has the modification time of a sealed file *and* the inode and change time noted
//! here. Whoever writes to it and sets size and modification time back has changed the change time, which nobody can
//! set; then it is hashed. The same goes for files that this machine has never looked at. Only what happens below
//! the file system (a disk that rots) shows no trace but to `store check`, which hashes everything.
//!
//! The index is a derived file of fixed-size entries that are only ever appended, each with a check of its own: one
//! that was torn is skipped, and a lost index costs one look at every file.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use rustix::fs::OFlags;

use super::{Store, StoreError, local, open_plain};
use crate::{digest::Digest, failpoint};

const CONTENT: usize = 48;
const CHECK: usize = 8;
const ENTRY: usize = CONTENT + CHECK;
/// From here on it is worth looking whether most entries are out of date.
const MANY: usize = 4096;

/// So many entries are worth a write.
const MUCH: usize = 256;

/// Digest, inode, change time in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Seen([u8; CONTENT]);

impl Seen {
    fn of(digest: &Digest, metadata: &fs::Metadata) -> Self {
        let changed = metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec());
        let mut content = [0; CONTENT];
        content[..32].copy_from_slice(digest.as_bytes());
        content[32..40].copy_from_slice(&metadata.ino().to_le_bytes());
        content[40..].copy_from_slice(&changed.to_le_bytes());
        Self(content)
    }

    fn digest(&self) -> Digest {
        let mut digest = [0; 32];
        digest.copy_from_slice(&self.0[..32]);
        blake3::Hash::from_bytes(digest).into()
    }

    fn check(&self) -> [u8; CHECK] {
        let mut check = [0; CHECK];
        check.copy_from_slice(&Digest::of(&self.0).as_bytes()[..CHECK]);
        check
    }
}

/// The index; read when first needed.
pub(super) struct Seals {
    path: PathBuf,
    known: HashSet<Seen>,
    /// How far the file has been read, and which file that was.
    read: u64,
    file: Option<u64>,
    added: VecDeque<Seen>,
    /// How many were ever added.
    count: u64,
    /// How many results were taken in that are not on the disk yet.
    held_back: usize,
}

impl Drop for Seals {
    fn drop(&mut self) {
        self.save();
    }
}

impl Seals {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: HashSet::new(), read: 0, file: None, added: VecDeque::new(), count: 0, held_back: 0 }
    }

    /// Whether a file was found to hold this content and was not touched since.
    pub(super) fn has(&mut self, digest: &Digest, metadata: &fs::Metadata) -> bool {
        let seen = Seen::of(digest, metadata);
        if self.known.contains(&seen) {
            return true;
        }
        // Another process may have noted it in the meantime. Without a readable index nothing is known.
        let _ = self.read_on();
        self.known.contains(&seen)
    }

    /// [`Seals::has`] for each of many files; what others noted is read once at most.
    pub(super) fn has_each<'a>(
        &mut self,
        files: impl Iterator<Item = (&'a Digest, &'a fs::Metadata)>,
    ) -> impl Iterator<Item = bool> {
        let seen: Vec<Seen> = files.map(|(digest, metadata)| Seen::of(digest, metadata)).collect();
        if !seen.iter().all(|seen| self.known.contains(seen)) {
            let _ = self.read_on();
        }
        seen.into_iter().map(|seen| self.known.contains(&seen))
    }

    /// Notes that a file holds this content; [`Seals::save`] tells others.
    pub(super) fn add(&mut self, digest: &Digest, metadata: &fs::Metadata) {
        let seen = Seen::of(digest, metadata);
        if self.known.insert(seen) {
            self.added.push_back(seen);
            self.count += 1;
        }
    }

    /// A result is taken in that is not on the disk yet: until [`Seals::let_go`] others are told nothing. What a power cut
    /// takes must not be known to be there.
    pub(super) fn hold_back(&mut self) {
        self.held_back += 1;
    }

    /// How much was added until now.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A result is on the disk, and with `whole` so is all that had been added when there was `count`.
    pub(super) fn let_go(&mut self, count: u64, whole: bool) {
        self.held_back = self.held_back.saturating_sub(1);
        if whole {
            let rest = self.count.saturating_sub(count).min(self.added.len() as u64) as usize;
            self.append(self.added.len() - rest);
        } else {
            self.save();
        }
    }

    /// So many results that were held back will not be put on the disk: nothing is known any more of what was added. Says
    /// what that was; the kernel does not say what of it could not be written.
    pub(super) fn give_up(&mut self, results: usize) -> Vec<Digest> {
        self.held_back = self.held_back.saturating_sub(results);
        let lost: Vec<Seen> = self.added.drain(..).collect();
        for seen in &lost {
            self.known.remove(seen);
        }
        lost.iter().map(Seen::digest).collect()
    }

    /// Nothing is known any more of objects that turned out to be damaged.
    pub(super) fn forget(&mut self, damaged: &HashSet<Digest>) {
        // What is read later says nothing of the past. Without a readable index nothing is known.
        let _ = self.read_on();
        self.known.retain(|seen| !damaged.contains(&seen.digest()));
    }

    /// Writes an index that holds what was added and nothing else.
    pub(super) fn replace(&mut self) -> Result<(), StoreError> {
        let bytes: Vec<u8> = self.added.drain(..).flat_map(|seen| [&seen.0[..], &seen.check()].concat()).collect();
        local::replace(&self.path, &bytes)
    }

    /// Tells others what was added, unless a result is held back.
    pub(super) fn save(&mut self) {
        if self.held_back == 0 {
            self.append(self.added.len());
        }
    }

    /// Appends the first of what was added, in one write. What cannot be kept is looked at again some day.
    fn append(&mut self, count: usize) {
        let mut bytes = Vec::with_capacity(count * ENTRY);
        for seen in self.added.drain(..count) {
            bytes.extend_from_slice(&seen.0);
            bytes.extend_from_slice(&seen.check());
        }
        if !bytes.is_empty() {
            let append = || {
                // Not to wait for whoever reads from it, if it is a pipe.
                let flags = OFlags::NONBLOCK.bits().cast_signed();
                let mut file = File::options().append(true).create(true).custom_flags(flags).open(&self.path)?;
                failpoint::write("seals.append", &mut file, &bytes)
            };
            let _: io::Result<()> = append();
        }
    }

    /// The same if there is much; what was added is written at the latest when the index is dropped.
    pub(super) fn save_much(&mut self) {
        if self.added.len() >= MUCH {
            self.save();
        }
    }

    fn read_on(&mut self) -> io::Result<()> {
        let found = fs::metadata(&self.path)?;
        if self.file == Some(found.ino()) && self.read == found.len() {
            return Ok(());
        }
        let mut file = open_plain(&self.path)?;
        let metadata = file.metadata()?;
        if self.file.replace(metadata.ino()) != Some(metadata.ino()) || metadata.len() < self.read {
            self.read = 0;
        }
        if metadata.len() == self.read {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::with_capacity((metadata.len() - self.read) as usize);
        file.read_to_end(&mut bytes)?;
        let begins = self.read == 0;
        let (found, used) = entries(&bytes);
        self.read += used as u64;
        if begins && found.len() > MANY {
            self.compact(&found);
        }
        self.known.extend(found);
        Ok(())
    }

    /// Writes the index anew if most of it is out of date: of a file that was touched again only the last entry
    /// counts. What others append meanwhile may be lost, and looked at again.
    fn compact(&self, found: &[Seen]) {
        let last: HashMap<&[u8], usize> =
            found.iter().enumerate().map(|(position, seen)| (&seen.0[..40], position)).collect();
        if last.len() * 2 > found.len() {
            return;
        }
        let mut positions: Vec<usize> = last.into_values().collect();
        positions.sort_unstable();
        let bytes: Vec<u8> = positions
            .into_iter()
            .flat_map(|position| [&found[position].0[..], &found[position].check()].concat())
            .collect();
        let _ = local::replace(&self.path, &bytes);
    }
}

/// Those of some objects that are as they were when they were last hashed, before names of theirs go.
pub(super) fn known(store: &Store, digests: Vec<Digest>) -> Vec<Digest> {
    let mut seals = store.seals();
    let as_noted =
        |digest: &Digest| fs::symlink_metadata(store.object(digest)).is_ok_and(|metadata| seals.has(digest, &metadata));
    digests.into_iter().filter(as_noted).collect()
}

/// Notes objects that names were just taken from.
pub(super) fn note(store: &Store, digests: &[Digest]) {
    let mut seals = store.seals();
    for digest in digests {
        if let Ok(metadata) = fs::symlink_metadata(store.object(digest)) {
            seals.add(digest, &metadata);
        }
    }
    seals.save();
}

/// The intact entries, and how many bytes need not be read again. After a torn entry, the next one is found by
/// trying every byte.
fn entries(bytes: &[u8]) -> (Vec<Seen>, usize) {
    let mut found = Vec::with_capacity(bytes.len() / ENTRY);
    let mut at = 0;
    let mut used = 0;
    while let Some(entry) = bytes.get(at..at + ENTRY) {
        let mut content = [0; CONTENT];
        content.copy_from_slice(&entry[..CONTENT]);
        let seen = Seen(content);
        if entry[CONTENT..] == seen.check() {
            found.push(seen);
            at += ENTRY;
            used = at;
        } else {
            at += 1;
        }
    }
    (found, used)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf, Vec<(Digest, fs::Metadata)>) {
        let folder = tempfile::tempdir().unwrap();
        let files = (0..3_u8)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                fs::write(&path, [number]).unwrap();
                (Digest::of(&[number]), path.metadata().unwrap())
            })
            .collect();
        let path = folder.path().join("seals");
        (folder, path, files)
    }

    #[test]
    fn what_one_process_notes_another_one_knows_although_a_third_died_while_writing() {
        let (_folder, path, files) = place();
        let mut reader = Seals::new(path.clone());
        assert!(!reader.has(&files[0].0, &files[0].1));
        for (torn, (digest, metadata)) in files.iter().enumerate() {
            let mut writer = Seals::new(path.clone());
            writer.add(digest, metadata);
            writer.save();
            // Half an entry of somebody who was killed.
            File::options().append(true).open(&path).unwrap().write_all(&[7; ENTRY][..20 * torn]).unwrap();
            assert!(reader.has(digest, metadata), "{torn}");
        }
        assert!(files.iter().all(|(digest, metadata)| Seals::new(path.clone()).has(digest, metadata)));
        assert!(!reader.has(&files[0].0, &files[1].1));
    }

    #[test]
    fn no_changed_byte_of_the_index_is_trusted() {
        let (_folder, path, files) = place();
        let mut index = Seals::new(path.clone());
        index.add(&files[0].0, &files[0].1);
        index.save();
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            fs::write(&path, changed).unwrap();
            assert!(!Seals::new(path.clone()).has(&files[0].0, &files[0].1), "{position}");
        }
    }

    #[test]
    fn an_index_of_mostly_old_entries_shrinks_and_keeps_the_last_ones() {
        let (folder, path, files) = place();
        let touched = folder.path().join("0");
        let mut index = Seals::new(path.clone());
        let mut bytes = Vec::new();
        for number in 0..2 * MANY as u64 {
            let mut seen = Seen::of(&files[0].0, &touched.metadata().unwrap());
            seen.0[40..].copy_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&[&seen.0[..], &seen.check()].concat());
        }
        fs::write(&path, &bytes).unwrap();
        index.add(&files[1].0, &files[1].1);
        index.save();
        assert!(Seals::new(path.clone()).has(&files[1].0, &files[1].1));
        assert_eq!(fs::metadata(&path).unwrap().len() as usize, 2 * ENTRY);
        assert!(Seals::new(path).has(&files[1].0, &files[1].1));
    }
}
