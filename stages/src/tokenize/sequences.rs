//! Sequences on their way from documents to parts: kept in a file, since a corpus may not fit into memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::facts::Needed;
use crate::{
    data::{GroundTruth, Origin},
    stage::StageError,
};

/// Takes sequences in document order.
pub(super) struct SequencesIn {
    path: PathBuf,
    file: BufWriter<File>,
    kept: Kept,
}

/// What is known of the sequences beside their ids.
#[derive(Default)]
struct Kept {
    length: usize,
    count: usize,
    has_facts: bool,
    origins: Vec<Origin>,
    needed: BTreeMap<usize, Vec<Needed>>,
}

/// Sequences that can be taken in any order. They are numbered in the order of the documents.
pub(super) trait Sequences {
    fn count(&self) -> usize;
    /// Whether any document that has a sequence knows of facts.
    fn has_facts(&self) -> bool;
    fn origin(&self, sequence: usize) -> Origin;
    fn ids(&self, sequence: usize) -> Result<Vec<u32>, StageError>;
    /// Which tokens of a sequence need far context; none where nothing is known of facts.
    fn truth(&self, sequence: usize) -> Result<GroundTruth, StageError>;
}

/// Sequences in a file.
pub(super) struct SequencesOut {
    path: PathBuf,
    file: File,
    kept: Kept,
}

impl SequencesIn {
    /// Starts a new file in `scratch`. Nothing is resumed: tokenizing is quick.
    pub(super) fn new(scratch: &Path, length: usize) -> Result<Self, StageError> {
        let path = scratch.join("sequences");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = BufWriter::new(file.map_err(StageError::io("write", &path))?);
        Ok(Self { path, file, kept: Kept { length, ..Kept::default() } })
    }

    pub(super) fn count(&self) -> usize {
        self.kept.count
    }

    /// Adds a sequence; `needed` is `None` if its document knows of no facts.
    pub(super) fn push(&mut self, ids: &[u32], origin: Origin, needed: Option<Vec<Needed>>) -> Result<(), StageError> {
        for id in ids {
            self.file.write_all(&id.to_le_bytes()).map_err(StageError::io("write", &self.path))?;
        }
        if let Some(needed) = needed {
            self.kept.has_facts = true;
            if !needed.is_empty() {
                self.kept.needed.insert(self.kept.count, needed);
            }
        }
        self.kept.origins.push(origin);
        self.kept.count += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<SequencesOut, StageError> {
        let file = self.file.into_inner().map_err(|error| StageError::io("write", &self.path)(error.into_error()))?;
        Ok(SequencesOut { path: self.path, file, kept: self.kept })
    }
}

impl Sequences for SequencesOut {
    fn count(&self) -> usize {
        self.kept.count
    }

    fn has_facts(&self) -> bool {
        self.kept.has_facts
    }

    fn origin(&self, sequence: usize) -> Origin {
        self.kept.origins[sequence]
    }

    fn ids(&self, sequence: usize) -> Result<Vec<u32>, StageError> {
        let width = self.kept.length * size_of::<u32>();
        let mut bytes = vec![0; width];
        self.file.read_exact_at(&mut bytes, (sequence * width) as u64).map_err(StageError::io("read", &self.path))?;
        let (ids, _) = bytes.as_chunks();
        Ok(ids.iter().map(|id| u32::from_le_bytes(*id)).collect())
    }

    fn truth(&self, sequence: usize) -> Result<GroundTruth, StageError> {
        Ok(truth(self.kept.length, self.kept.needed.get(&sequence).map_or(&[], Vec::as_slice)))
    }
}

/// The ground truth of a sequence; a token that two facts need belongs to the first.
pub(super) fn truth(length: usize, needed: &[Needed]) -> GroundTruth {
    let mut truth = GroundTruth { far: vec![0; length], fact: vec![-1; length], distance: vec![0; length] };
    for needed in needed {
        if truth.far[needed.position] == 0 {
            truth.far[needed.position] = 1;
            truth.fact[needed.position] = needed.fact;
            truth.distance[needed.position] = needed.distance;
        }
    }
    truth
}

impl SequencesOut {
    /// Removes the file.
    pub(super) fn discard(self) -> Result<(), StageError> {
        std::fs::remove_file(&self.path).map_err(StageError::io("remove", &self.path))
    }
}
