//! Token sets: what `Tokenize` writes and what scoring, training and evaluation read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DataError, PartLayout, TensorFile, json::read_json, layout::part_name, tensor_file::Place};

/// `tokens.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensMetadata {
    /// Sequences in all parts.
    pub sequences: usize,
    /// Tokens in each sequence.
    pub length: usize,
    /// Part files.
    pub parts: usize,
    /// The id that every sequence starts with, if the tokenizer has one.
    pub bos: Option<u32>,
    /// One more than the largest id that the tokenizer knows.
    pub vocabulary: usize,
    /// BLAKE3 of `tokenizer.json`, hexadecimal.
    pub tokenizer: String,
    /// Documents read, those too short for a sequence included.
    pub documents: usize,
}

/// Which tokens of a sequence need far context, known because the corpus planted the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroundTruth {
    /// 1 where the token is part of a value that only a fact planted in the same sequence can tell, else 0; `[length]`.
    pub far: Vec<u8>,
    /// The number of that fact within the sequence, -1 elsewhere; `[length]`.
    pub fact: Vec<i32>,
    /// Tokens back to the planted value, 0 elsewhere; `[length]`.
    pub distance: Vec<u32>,
}

/// Where a sequence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The number of its document among those that were read.
    pub document: u32,
    /// Its own number among the sequences of that document.
    pub number: u32,
}

struct Part {
    file: TensorFile,
    ids: Place,
    origin: Option<Place>,
    truth: Option<[Place; 3]>,
}

/// An open token set. Opening checks the header of every part; ids are checked against the vocabulary as they are read.
pub struct TokenSet {
    folder: PathBuf,
    metadata: TokensMetadata,
    layout: PartLayout,
    parts: Vec<Part>,
}

impl TokenSet {
    /// Opens the folder that `Tokenize` wrote.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let about = folder.join("tokens.json");
        let metadata: TokensMetadata = read_json(&about)?;
        let length = metadata.length;
        let parts = (0..metadata.parts)
            .map(|part| {
                let file = TensorFile::open(&folder.join(part_name(part)))?;
                let ids = file.find::<u32>("input_ids", None, Some(length))?;
                let rows = Some(ids.rows);
                let origin = if file.has("origin") { Some(file.find::<u32>("origin", rows, Some(2))?) } else { None };
                let truth = if file.has("far") {
                    Some([
                        file.find::<u8>("far", rows, Some(length))?,
                        file.find::<i32>("fact", rows, Some(length))?,
                        file.find::<u32>("distance", rows, Some(length))?,
                    ])
                } else {
                    None
                };
                Ok(Part { file, ids, origin, truth })
            })
            .collect::<Result<Vec<_>, DataError>>()?;
        let layout = PartLayout::of(parts.iter().map(|part| part.ids.rows));
        if layout.sequences() != metadata.sequences {
            let (expected, found) = (metadata.sequences, layout.sequences());
            return Err(DataError::content(
                about,
                format!("it speaks of {expected} sequences, the parts hold {found}"),
            ));
        }
        Ok(Self { folder: folder.to_owned(), metadata, layout, parts })
    }

    /// The content of `tokens.json`.
    pub fn metadata(&self) -> &TokensMetadata {
        &self.metadata
    }

    /// Sequences in all parts.
    pub fn sequences(&self) -> usize {
        self.metadata.sequences
    }

    /// Tokens in each sequence, L.
    pub fn length(&self) -> usize {
        self.metadata.length
    }

    /// Which sequences stand in which part.
    pub fn layout(&self) -> &PartLayout {
        &self.layout
    }

    /// The tokenizer that made the ids.
    pub fn tokenizer(&self) -> PathBuf {
        self.folder.join("tokenizer.json")
    }

    /// Whether every part tells which tokens need far context.
    pub fn has_truth(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.truth.is_some())
    }

    /// The ids of one sequence; `[length]`.
    pub fn sequence(&self, sequence: usize) -> Result<Vec<u32>, DataError> {
        let (part, row) = self.locate(sequence)?;
        let ids: Vec<u32> = part.file.row(&part.ids, row);
        match ids.iter().position(|&id| id as usize >= self.metadata.vocabulary) {
            Some(at) => Err(DataError::Tensor {
                path: part.file.path().to_owned(),
                tensor: "input_ids".to_owned(),
                expected: format!("ids below {}", self.metadata.vocabulary),
                found: format!("{} in row {row}, column {at}", ids[at]),
            }),
            None => Ok(ids),
        }
    }

    /// Which tokens of one sequence need far context; `None` if the corpus had no facts.
    pub fn truth(&self, sequence: usize) -> Result<Option<GroundTruth>, DataError> {
        let (part, row) = self.locate(sequence)?;
        Ok(part.truth.as_ref().map(|[far, fact, distance]| GroundTruth {
            far: part.file.row(far, row),
            fact: part.file.row(fact, row),
            distance: part.file.row(distance, row),
        }))
    }

    /// Where one sequence comes from; `None` in token sets that do not tell.
    pub fn origin(&self, sequence: usize) -> Result<Option<Origin>, DataError> {
        let (part, row) = self.locate(sequence)?;
        Ok(part.origin.as_ref().map(|origin| {
            let values: Vec<u32> = part.file.row(origin, row);
            Origin { document: values[0], number: values[1] }
        }))
    }

    /// BLAKE3 over the little-endian ids of some sequences in that order, hexadecimal.
    pub fn digest_of(&self, sequences: impl IntoIterator<Item = usize>) -> Result<String, DataError> {
        let mut hasher = blake3::Hasher::new();
        for sequence in sequences {
            let (part, row) = self.locate(sequence)?;
            hasher.update(part.file.row_bytes(&part.ids, row));
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// BLAKE3 over the little-endian ids of all sequences in order, hexadecimal: what scores and weights carry to
    /// tell which tokens they belong to.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in &self.parts {
            hasher.update_rayon(part.file.all_bytes(&part.ids));
        }
        hasher.finalize().to_hex().to_string()
    }

    fn locate(&self, sequence: usize) -> Result<(&Part, usize), DataError> {
        let found = self.layout.locate(sequence).and_then(|(part, row)| Some((self.parts.get(part)?, row)));
        found.ok_or_else(|| {
            let sequences = self.sequences();
            DataError::content(&self.folder, format!("there is no sequence {sequence}, only {sequences} (from 0)"))
        })
    }
}
