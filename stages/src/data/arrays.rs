//! One f32 for each target of each sequence: losses (`Score`) and weights (`Postprocess`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    DataError, PartLayout, TensorFile, TokenSet,
    json::{read_json, write_json},
    layout::part_name,
    tensor_file::{Place, TensorOut, write_tensors},
};

/// What the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayKind {
    /// Cross-entropy of each target in nats.
    CrossEntropy,
    /// Weight of each target in the training loss.
    Weights,
}

impl ArrayKind {
    /// The name of the tensor.
    pub fn tensor(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::Weights => "weights",
        }
    }

    /// The name of the file that describes the set.
    pub fn metadata_file(self) -> &'static str {
        match self {
            Self::CrossEntropy => "scores.json",
            Self::Weights => "weights.json",
        }
    }
}

/// `scores.json` and `weights.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArraysMetadata {
    /// Sequences in all parts.
    pub sequences: usize,
    /// Tokens in each sequence, L; a row has L - 1 entries, entry i for the prediction of token i + 1.
    pub length: usize,
    /// Part files.
    pub parts: usize,
    /// The short windows of a score; `null` if the whole sequence was seen.
    #[serde(default)]
    pub windows: Option<ScoreWindows>,
    /// [`TokenSet::digest`] of the tokens that the entries belong to.
    pub tokens: String,
}

/// The short windows that a score was computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreWindows {
    /// Tokens in each window, S.
    pub length: usize,
    /// Distance between window starts, T.
    pub step: usize,
    /// Whether the first token of every window was replaced by BOS.
    #[serde(default)]
    pub bos: bool,
}

/// An open set of per-target arrays.
pub struct ArraySet {
    kind: ArrayKind,
    folder: PathBuf,
    metadata: ArraysMetadata,
    layout: PartLayout,
    parts: Vec<(TensorFile, Place)>,
}

impl ArraySet {
    /// Opens the folder that `Score` or `Postprocess` wrote; checks the header of every part.
    pub fn open(folder: &Path, kind: ArrayKind) -> Result<Self, DataError> {
        let about = folder.join(kind.metadata_file());
        let metadata: ArraysMetadata = read_json(&about)?;
        let parts = (0..metadata.parts)
            .map(|part| {
                let file = TensorFile::open(&folder.join(part_name(part)))?;
                let place = file.find::<f32>(kind.tensor(), None, Some(metadata.length.saturating_sub(1)))?;
                Ok((file, place))
            })
            .collect::<Result<Vec<_>, DataError>>()?;
        let layout = PartLayout::of(parts.iter().map(|(_, place)| place.rows));
        if layout.sequences() != metadata.sequences {
            let (expected, found) = (metadata.sequences, layout.sequences());
            return Err(DataError::content(
                about,
                format!("it speaks of {expected} sequences, the parts hold {found}"),
            ));
        }
        Ok(Self { kind, folder: folder.to_owned(), metadata, layout, parts })
    }

    /// The content of the describing file.
    pub fn metadata(&self) -> &ArraysMetadata {
        &self.metadata
    }

    /// Sequences in all parts.
    pub fn sequences(&self) -> usize {
        self.metadata.sequences
    }

    /// Entries in each row, L - 1.
    pub fn targets(&self) -> usize {
        self.metadata.length.saturating_sub(1)
    }

    /// Which sequences stand in which part.
    pub fn layout(&self) -> &PartLayout {
        &self.layout
    }

    /// The entries of one sequence; `[length - 1]`, all finite.
    pub fn row(&self, sequence: usize) -> Result<Vec<f32>, DataError> {
        let Some((part, row)) = self.layout.locate(sequence) else {
            let sequences = self.sequences();
            let problem = format!("there is no sequence {sequence}, only {sequences} (from 0)");
            return Err(DataError::content(&self.folder, problem));
        };
        let (file, place) = &self.parts[part];
        let values: Vec<f32> = file.row(place, row);
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(DataError::Tensor {
                path: file.path().to_owned(),
                tensor: self.kind.tensor().to_owned(),
                expected: "finite numbers".to_owned(),
                found: format!("{} in row {row}, column {at}", values[at]),
            }),
            None => Ok(values),
        }
    }

    /// Refuses arrays that were made for other tokens: joined by content, not by order.
    pub fn check_tokens(&self, tokens: &TokenSet) -> Result<(), DataError> {
        self.check_digest(tokens.length(), &tokens.digest())
    }

    /// Like [`Self::check_tokens`], for a digest that is already known.
    pub fn check_digest(&self, length: usize, tokens: &str) -> Result<(), DataError> {
        if self.metadata.length == length && self.metadata.tokens == tokens {
            return Ok(());
        }
        let about = self.folder.join(self.kind.metadata_file());
        let (found_length, found) = (self.metadata.length, &self.metadata.tokens);
        let problem = format!(
            "made for other tokens: expected length {length}, digest {tokens}, found length {found_length}, digest \
             {found}; give the stage the tokens that were scored"
        );
        Err(DataError::content(about, problem))
    }
}

/// Writes a set of per-target arrays part by part, in any order, so that an interrupted stage can keep finished parts.
pub struct ArraySetWriter {
    folder: PathBuf,
    kind: ArrayKind,
    layout: PartLayout,
    metadata: ArraysMetadata,
}

impl ArraySetWriter {
    /// Writes into `folder`, which exists, with the parts of `layout`. `length` is that of the token sequences, L;
    /// `tokens` is [`TokenSet::digest`].
    pub fn new(
        folder: &Path,
        kind: ArrayKind,
        layout: PartLayout,
        length: usize,
        tokens: String,
        windows: Option<ScoreWindows>,
    ) -> Self {
        let metadata = ArraysMetadata { sequences: layout.sequences(), length, parts: layout.parts(), windows, tokens };
        Self { folder: folder.to_owned(), kind, layout, metadata }
    }

    /// Which sequences stand in which part.
    pub fn layout(&self) -> &PartLayout {
        &self.layout
    }

    /// Writes one part: `values` are the rows of its sequences one after the other, `[rows, length - 1]`.
    pub fn write_part(&self, part: usize, values: &[f32]) -> Result<(), DataError> {
        let columns = self.metadata.length.saturating_sub(1);
        let rows = self.layout.range(part).len();
        let path = self.folder.join(part_name(part));
        if values.len() != rows * columns {
            return Err(DataError::Tensor {
                path,
                tensor: self.kind.tensor().to_owned(),
                expected: format!("{rows} x {columns} values"),
                found: values.len().to_string(),
            });
        }
        write_tensors(&path, &[TensorOut::new(self.kind.tensor(), columns, values)])
    }

    /// Writes the describing file. All parts must have been written.
    pub fn finish(self) -> Result<ArraysMetadata, DataError> {
        write_json(&self.folder.join(self.kind.metadata_file()), &self.metadata)?;
        Ok(self.metadata)
    }
}
