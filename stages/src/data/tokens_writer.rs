//! Writes token sets part by part.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    DataError, GroundTruth, Origin, TokensMetadata,
    json::write_json,
    layout::{PART_SEQUENCES, part_name},
    tensor_file::{TensorOut, write_tensors},
};

/// Takes sequences in order and writes a part whenever one is full.
pub struct TokenSetWriter {
    folder: PathBuf,
    length: usize,
    parts: usize,
    sequences: usize,
    has_truth: bool,
    ids: Vec<u32>,
    origins: Vec<u32>,
    truth: GroundTruth,
}

impl TokenSetWriter {
    /// Writes into `folder`, which exists. With `has_truth`, every sequence brings its ground truth.
    pub fn new(folder: &Path, length: usize, has_truth: bool) -> Self {
        let truth = GroundTruth { far: Vec::new(), fact: Vec::new(), distance: Vec::new() };
        Self {
            folder: folder.to_owned(),
            length,
            parts: 0,
            sequences: 0,
            has_truth,
            ids: Vec::new(),
            origins: Vec::new(),
            truth,
        }
    }

    /// Adds one sequence of `length` ids (and as many entries of ground truth).
    pub fn push(&mut self, ids: &[u32], origin: Origin, truth: Option<&GroundTruth>) -> Result<(), DataError> {
        let lengths_fit = ids.len() == self.length
            && truth.is_none_or(|truth| [truth.far.len(), truth.fact.len(), truth.distance.len()] == [self.length; 3]);
        if !lengths_fit || truth.is_some() != self.has_truth {
            return Err(DataError::content(&self.folder, "a sequence of another length or without its ground truth"));
        }
        self.ids.extend_from_slice(ids);
        self.origins.extend([origin.document, origin.number]);
        if let Some(truth) = truth {
            self.truth.far.extend_from_slice(&truth.far);
            self.truth.fact.extend_from_slice(&truth.fact);
            self.truth.distance.extend_from_slice(&truth.distance);
        }
        self.sequences += 1;
        if self.sequences.is_multiple_of(PART_SEQUENCES) { self.flush() } else { Ok(()) }
    }

    /// Writes the last part, `tokens.json` and a copy of the tokenizer, whose digest goes into the metadata.
    pub fn finish(
        mut self,
        tokenizer: &Path,
        bos: Option<u32>,
        vocabulary: usize,
        documents: usize,
    ) -> Result<TokensMetadata, DataError> {
        if !self.ids.is_empty() {
            self.flush()?;
        }
        let bytes = fs::read(tokenizer).map_err(DataError::io("read", tokenizer))?;
        let copy = self.folder.join("tokenizer.json");
        fs::write(&copy, &bytes).map_err(DataError::io("write", &copy))?;
        let metadata = TokensMetadata {
            sequences: self.sequences,
            length: self.length,
            parts: self.parts,
            bos,
            vocabulary,
            tokenizer: blake3::hash(&bytes).to_hex().to_string(),
            documents,
        };
        write_json(&self.folder.join("tokens.json"), &metadata)?;
        Ok(metadata)
    }

    fn flush(&mut self) -> Result<(), DataError> {
        let mut tensors =
            vec![TensorOut::new("input_ids", self.length, &self.ids), TensorOut::new("origin", 2, &self.origins)];
        if self.has_truth {
            tensors.push(TensorOut::new("far", self.length, &self.truth.far));
            tensors.push(TensorOut::new("fact", self.length, &self.truth.fact));
            tensors.push(TensorOut::new("distance", self.length, &self.truth.distance));
        }
        write_tensors(&self.folder.join(part_name(self.parts)), &tensors)?;
        self.parts += 1;
        self.ids.clear();
        self.origins.clear();
        self.truth.far.clear();
        self.truth.fact.clear();
        self.truth.distance.clear();
        Ok(())
    }
}
