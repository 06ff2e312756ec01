//! What can be wrong with a file of an artifact or a corpus.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::stage::StageError;

/// Why a file could not be read or written.
#[derive(Debug, Error)]
pub enum DataError {
    /// The content is not what it must be.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file, or the folder that lacks one.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A tensor of a safetensors file is not what it must be.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The name of the tensor.
        tensor: String,
        /// Dtype and shape, or values, that would be right.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The system refused.
    #[error("{action}: {source}")]
    System {
        /// What was tried, such as "write /path".
        action: String,
        /// What the system said.
        source: io::Error,
    },
}

impl DataError {
    pub(super) fn content(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self::Content { path: path.into(), problem: problem.to_string() }
    }

    /// For `map_err`: a file that is missing is the input's fault, anything else the machine's.
    pub(super) fn io(verb: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let (verb, path) = (verb.to_owned(), path.into());
        move |source| {
            if verb == "read" && source.kind() == io::ErrorKind::NotFound {
                Self::content(path, "there is no such file; the artifact is incomplete or of another kind")
            } else {
                Self::System { action: format!("{verb} {}", path.display()), source }
            }
        }
    }
}

impl From<DataError> for StageError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Content { path, problem } => Self::Input { path, problem },
            DataError::Tensor { path, tensor, expected, found } => {
                Self::Input { path, problem: format!("tensor `{tensor}`: expected {expected}, found {found}") }
            }
            DataError::System { action, source } => Self::Environment { action, source },
        }
    }
}
