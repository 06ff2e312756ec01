//! Two results side by side: which files differ, and where in them first. What other people's libraries can read of a file is
//! compared as what it is (tensors, JSON, lines of text), everything else byte by byte.
//!
//! This is the one room of the orchestrator that opens tensors, as any reader of safetensors would: to say where two differ.

mod bytes;
mod element;
mod files;
mod meaning;
mod tensors;
mod text;

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use files::{Folder, folders};

use crate::{blame::Blame, digest::Digest};

/// Why two results cannot be compared.
#[derive(Debug, Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct CompareError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl CompareError {
    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        Blame::Environment
    }

    fn of(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { path, source }
    }
}

/// All in which two results differ; `docs/machine-readable.md` is the contract.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// How many files are the same in both.
    pub same: usize,
    /// The files that are not, in the order of their paths.
    pub files: Vec<FileDifference>,
}

impl Comparison {
    /// Whether nothing differs but numbers of tensors and of JSON within the bounds that were given for them.
    pub fn is_within_bounds(&self) -> bool {
        let is_near = |tensor: &TensorDifference| {
            tensor.one == tensor.other && tensor.elements.as_ref().is_some_and(|elements| elements.outside == Some(0))
        };
        self.files.iter().all(|file| {
            let are_tensors_near = !file.header_differs && !file.tensors.is_empty() && file.tensors.iter().all(is_near);
            let are_values_near = file.differing_values > 0 && file.values_outside == Some(0);
            let same_mode =
                file.one.as_ref().map(|facts| facts.executable) == file.other.as_ref().map(|facts| facts.executable);
            file.problem.is_none() && same_mode && (are_tensors_near || are_values_near)
        })
    }
}

/// A file that is not the same in two results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileDifference {
    /// Its path inside the results.
    pub path: String,
    /// The file in the one result; nothing if it is not there.
    pub one: Option<FileFacts>,
    /// The file in the other.
    pub other: Option<FileFacts>,
    /// The first byte that differs.
    pub first_byte: Option<FirstByte>,
    /// The first line that differs, if both files are text.
    pub first_line: Option<FirstLine>,
    /// If both are safetensors: how many tensors are the same.
    pub same_tensors: usize,
    /// The tensors that are not, in the order of their names.
    pub tensors: Vec<TensorDifference>,
    /// If both are safetensors: whether their `__metadata__` differs, or the order of their tensors.
    #[serde(default)]
    pub header_differs: bool,
    /// If both are JSON, or lines of JSON: the values that differ, the first of them.
    pub values: Vec<ValueDifference>,
    /// How many values differ in all.
    pub differing_values: usize,
    /// How many of those lie outside the tolerance, if one was given for any of the file's values.
    #[serde(default)]
    pub values_outside: Option<usize>,
    /// Why the contents could not be compared as what the file's name says.
    pub problem: Option<String>,
}

/// What a list of files says of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// The digest of its content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it may be run.
    pub executable: bool,
}

/// The first byte in which two files differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstByte {
    /// Its place, from 0.
    pub offset: u64,
    /// The byte in the one; nothing behind its end.
    pub one: Option<u8>,
    /// The byte in the other.
    pub other: Option<u8>,
}

/// The first line in which two texts differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstLine {
    /// Its number, from 1.
    pub number: u64,
    /// The line in the one; nothing behind its end.
    pub one: Option<String>,
    /// The line in the other.
    pub other: Option<String>,
}

/// A value of a JSON file that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueDifference {
    /// Its place, such as `tasks.held_out.mean`; in lines of JSON, the line stands before it: `line 3: loss`.
    pub place: String,
    /// The value in the one; nothing if it is not there.
    pub one: Option<Value>,
    /// The value in the other.
    pub other: Option<Value>,
}

/// A tensor that is not the same in two files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// What it is in the one; nothing if it is not there.
    pub one: Option<TensorFacts>,
    /// What it is in the other.
    pub other: Option<TensorFacts>,
    /// How its elements differ, if both have the same shape.
    pub elements: Option<ElementDifferences>,
}

/// Type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorFacts {
    /// The type of its elements, such as `F32`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// How the elements of two tensors of the same shape differ. Differences are of the other from the one; one that is no number
/// (of a NaN) counts as infinite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ElementDifferences {
    /// All elements.
    pub count: u64,
    /// Those whose bytes differ.
    pub differing: u64,
    /// The greatest absolute difference; `null` in JSON if it is infinite.
    #[serde(with = "finite")]
    pub greatest: f64,
    /// The mean absolute difference over all elements.
    #[serde(with = "finite")]
    pub mean: f64,
    /// How many lie outside the tolerance, if one was given.
    pub outside: Option<u64>,
    /// The first one that differs, or lies outside the tolerance.
    pub first: Option<FirstElement>,
}

/// The first element that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstElement {
    /// Its place in each dimension, from 0.
    pub index: Vec<usize>,
    /// Its value in the one; `null` if it is no finite number.
    pub one: Value,
    /// Its value in the other.
    pub other: Value,
    /// What it is, such as the sequence and position of a token; nothing where that is not known.
    pub meaning: Option<String>,
}

/// Which numbers may lie apart, and how far.
#[derive(Clone, Copy)]
pub struct Tolerances<'a> {
    /// How far the elements of the tensor of that name.
    pub tensor: &'a dyn Fn(&str) -> Option<Bounds>,
    /// How far the number at that place in JSON.
    pub value: &'a dyn Fn(&str) -> Option<Bounds>,
}

impl Tolerances<'_> {
    /// None: all must be the same.
    pub const NONE: Tolerances<'static> = Tolerances { tensor: &|_| None, value: &|_| None };
}

impl std::fmt::Debug for Tolerances<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tolerances")
    }
}

/// How far numbers may lie apart: `|one - other| <= absolute + relative * |one|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The absolute part.
    pub absolute: f64,
    /// The part that grows with the value.
    pub relative: f64,
}

impl Bounds {
    /// Whether a difference from a value of that magnitude is within them; one from an infinity or a NaN never is.
    fn hold(&self, difference: f64, magnitude: f64) -> bool {
        difference.is_finite() && difference <= self.absolute + self.relative * magnitude
    }
}

/// JSON knows no infinity.
mod finite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        number.is_finite().then_some(*number).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}
