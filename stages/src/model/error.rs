//! What can be wrong with a model folder or a call.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::stage::StageError;

/// Why a model could not be read, written or run.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The system refused a file operation.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `config.json` is no JSON object.
    #[error("{}: not a JSON object: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        problem: String,
    },
    /// A field of `config.json` is missing, of the wrong type, or asks for what is not supported.
    #[error("{}: field `{field}`: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, dots for nesting.
        field: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A safetensors file cannot be read as a whole.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// One tensor of a safetensors file is not what the configuration says.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A token id that the model does not have.
    #[error(
        "token {token} at sequence {sequence}, position {position} is outside the model's vocabulary of {vocabulary}; the tokens were made with another tokenizer"
    )]
    Token {
        /// The id.
        token: u32,
        /// Number of the sequence in the batch.
        sequence: usize,
        /// Position within the sequence.
        position: usize,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A sequence that is longer than the rotary embedding is made for.
    #[error("found sequences of {length} tokens, expected {longest} at most: the model's LongRoPE factors end there")]
    Length {
        /// Tokens in each sequence.
        length: usize,
        /// Most tokens that the embedding allows.
        longest: usize,
    },
    /// A rotary embedding that does not fit the model.
    #[error("`{setting}` of the rotary embedding: found {found}, expected {expected}")]
    Rope {
        /// The setting.
        setting: &'static str,
        /// Found.
        found: String,
        /// Expected.
        expected: String,
    },
    /// A logit from which no token can be chosen.
    #[error(
        "the logit of token {id} after {position} tokens of sequence {sequence} is {logit}; the model is broken or was trained too fast"
    )]
    Logit {
        /// The logit.
        logit: f32,
        /// Its token.
        id: usize,
        /// Number of the sequence in the batch.
        sequence: usize,
        /// How many tokens it had.
        position: usize,
    },
    /// A way to choose tokens that has no meaning.
    #[error("`{setting}` of the sampling: found {found}, expected {expected}")]
    Sampling {
        /// The setting.
        setting: &'static str,
        /// Found.
        found: String,
        /// Expected.
        expected: String,
    },
    /// An adapter that cannot be made for the model.
    #[error("`{setting}` of the adapter: found {found}, expected {expected}")]
    Adapter {
        /// The setting, a number in dots for an element of a list.
        setting: String,
        /// Found.
        found: String,
        /// Expected.
        expected: String,
    },
    /// A device of which candle or its driver says that it cannot go on.
    #[error("the device failed: {problem}")]
    Device {
        /// What was said, and what to do if that is known.
        problem: String,
    },
    /// The caller broke the agreement on sizes.
    #[error("{what}: found {found}, expected {expected}")]
    Size {
        /// Which quantity.
        what: &'static str,
        /// Found.
        found: usize,
        /// Expected.
        expected: String,
    },
}

impl ModelError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl From<ModelError> for StageError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Io { action, path, source } => Self::io(action, path)(source),
            ModelError::Json { path, problem } => {
                Self::Input { path, problem: format!("not a JSON object: {problem}") }
            }
            ModelError::Config { path, field, problem } => {
                Self::Input { path, problem: format!("field `{field}`: {problem}") }
            }
            ModelError::Checkpoint { path, problem } => Self::Input { path, problem },
            ModelError::Tensor { path, tensor, problem } => {
                Self::Input { path, problem: format!("tensor `{tensor}`: {problem}") }
            }
            error @ (ModelError::Token { .. }
            | ModelError::Length { .. }
            | ModelError::Rope { .. }
            | ModelError::Logit { .. }
            | ModelError::Sampling { .. }
            | ModelError::Adapter { .. }) => Self::Failed(error.to_string()),
            ModelError::Device { problem } => {
                Self::Environment { action: "compute on the device".to_owned(), source: io::Error::other(problem) }
            }
            error @ ModelError::Size { .. } => Self::Bug(error.to_string()),
        }
    }
}
