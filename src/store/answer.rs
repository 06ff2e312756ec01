//! Answers that were found before, kept with what they rest on. Derived: one that is missing, damaged, of another
//! version, or rests on a file that is not as it was, is no answer, and has to be found again.
//!
//! An answer is a folder `local/settled/QUESTION`: `witnesses` holds the facts of the answer, the digests of its other
//! files, and the list of witnesses, all below one check.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Store, StoreError, Witnesses, folder, local, read_plain};
use crate::digest::Digest;

const MAGIC: &[u8; 16] = b"twdag settled 1\n";
const WITNESSES: &str = "witnesses";
/// So many answers are kept; the one that was not used for longest goes first.
const MOST: usize = 16;

#[derive(Serialize, Deserialize)]
struct Head<F> {
    facts: F,
    files: BTreeMap<String, Kept>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    digest: Digest,
    size: u64,
    modified: SystemTime,
}

/// An answer that still holds.
#[derive(Debug)]
pub struct Answer<F> {
    /// What is known at once.
    pub facts: F,
    files: BTreeMap<String, Kept>,
    folder: PathBuf,
}

impl<F> Answer<F> {
    /// Where a file of the answer lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The digest of a file of the answer.
    pub fn digest(&self, name: &str) -> Option<&Digest> {
        self.files.get(name).map(|kept| &kept.digest)
    }

    /// Whether a file of the answer was not written to, as far as `stat` tells. Not by its change time: it may get other
    /// names.
    pub fn is_whole(&self, name: &str) -> bool {
        let found = fs::metadata(self.path(name)).and_then(|found| Ok((found.len(), found.modified()?)));
        matches!((self.files.get(name), found), (Some(kept), Ok((size, modified))) if kept.size == size && kept.modified == modified)
    }

    /// The content of a file of the answer; `None` if it is not what it was.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = read_plain(&self.path(name)).ok()?;
        (self.digest(name) == Some(&Digest::of(&bytes))).then_some(bytes)
    }
}

/// Whether the store at `root` may have an answer, without opening it.
pub fn may_have_answer(root: &Path, question: &Digest) -> bool {
    root.join("local/settled").join(question.to_string()).join(WITNESSES).exists()
}

impl Store {
    /// The answer to a question, if everything that it rests on is as it was.
    pub fn answer<F: DeserializeOwned>(&self, question: &Digest) -> Option<Answer<F>> {
        let folder = self.answer_folder(question);
        let bytes = read_plain(&folder.join(WITNESSES)).ok()?;
        let (check, content) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
        if check != Digest::of(content).as_bytes() {
            return None;
        }
        let (length, content) = content.split_at_checked(8)?;
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (head, list) = content.split_at_checked(length)?;
        let Head { facts, files } = serde_json::from_slice(head).ok()?;
        if !self.agrees(list) {
            return None;
        }
        // The oldest answer goes first: one that is used is young again. If that cannot be noted, it only goes earlier.
        let _ = File::open(folder.join(WITNESSES)).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Answer { facts, files, folder })
    }

    /// Keeps an answer. Of two that are kept at the same time one stays, or none.
    pub fn keep_answer(
        &self,
        question: &Digest,
        facts: &impl Serialize,
        files: &[(&str, &[u8])],
        witnesses: &Witnesses,
    ) -> Result<(), StoreError> {
        let folder = self.answer_folder(question);
        let path = folder.join(WITNESSES);
        let mut kept = BTreeMap::new();
        for (name, bytes) in files {
            let path = folder.join(name);
            local::replace(&path, bytes)?;
            let modified =
                fs::metadata(&path).and_then(|found| found.modified()).map_err(StoreError::io("read", path))?;
            kept.insert((*name).to_owned(), Kept { digest: Digest::of(bytes), size: bytes.len() as u64, modified });
        }
        let head = serde_json::to_vec(&Head { facts, files: kept })
            .map_err(|error| StoreError::Bug { path: path.clone(), problem: error.to_string() })?;
        let content = [&(head.len() as u64).to_le_bytes()[..], &head, &witnesses.bytes()].concat();
        local::replace(&path, &[&MAGIC[..], Digest::of(&content).as_bytes(), &content].concat())?;
        self.drop_old_answers(MOST)
    }

    /// Removes all but the latest answers.
    pub(super) fn drop_old_answers(&self, most: usize) -> Result<(), StoreError> {
        let mut answers: Vec<_> = folder::entries(&self.local("settled"))?
            .into_iter()
            .map(|answer| (fs::metadata(answer.join(WITNESSES)).and_then(|found| found.modified()).ok(), answer))
            .collect();
        answers.sort();
        let old = answers.len().saturating_sub(most);
        answers.into_iter().take(old).try_for_each(|(_, answer)| folder::remove(&answer))
    }

    fn answer_folder(&self, question: &Digest) -> PathBuf {
        self.local("settled").join(question.to_string())
    }
}
