//! Why a plan cannot be made.

use std::path::PathBuf;

use thiserror::Error;
use twdag_stages::stage::{Reference, SourcePath};

use crate::{blame::Blame, canon::CanonError, store::StoreError};

/// Why a plan cannot be made.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A file or folder outside the graph that a stage reads is missing or unusable.
    #[error("stage `{stage}`: setting `{role}` names `{given}`: {source} (relative paths start at {})", workspace.display())]
    Source {
        /// The stage that reads it.
        stage: String,
        /// The place in its settings.
        role: String,
        /// The path as it stands in the graph.
        given: SourcePath,
        /// The folder that relative paths start at.
        workspace: PathBuf,
        /// What is wrong, with the whole path.
        source: Box<StoreError>,
    },
    /// A reference into an artifact that does not have it.
    #[error("stage `{stage}`: setting `{role}` refers to `{reference}`: {source}")]
    Input {
        /// The stage that reads it.
        stage: String,
        /// The place in its settings.
        role: String,
        /// The reference.
        reference: Reference,
        /// What is wrong.
        source: Box<StoreError>,
    },
    /// Settings that no key can hold.
    #[error("stage `{stage}`: {source}")]
    Settings {
        /// The stage.
        stage: String,
        /// What is wrong.
        source: CanonError,
    },
    /// The store refused.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// A broken promise inside twdag.
    #[error("internal error: {0}; please report it")]
    Bug(String),
}

impl From<StoreError> for PlanError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl PlanError {
    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Source { source, .. } | Self::Input { source, .. } | Self::Store(source) => source.blame(),
            Self::Settings { .. } => Blame::Graph,
            Self::Bug(_) => Blame::Bug,
        }
    }

    /// The stage and the setting at fault, if it is one's.
    pub fn place(&self) -> Option<(&str, &str)> {
        match self {
            Self::Source { stage, role, .. } | Self::Input { stage, role, .. } => Some((stage, role)),
            Self::Settings { .. } | Self::Store(_) | Self::Bug(_) => None,
        }
    }
}
