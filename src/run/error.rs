//! What can go wrong with a run as a whole, and with one stage of it.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::job::JobError;
use crate::{
    blame::Blame,
    plan::PlanError,
    store::{StoreError, TwoResults},
};

/// Why a run could not be carried out at all. A stage that fails is no such error: the run's outcome tells of it.
#[derive(Debug, Error)]
pub enum RunError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run folder cannot be written to.
    #[error("cannot write into {}: {source}", path.display())]
    Folder {
        /// The run folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused what a run needs: signals, timers.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A broken promise inside twdag.
    #[error("internal error: {0}; please report it")]
    Bug(&'static str),
}

impl RunError {
    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Store(error) => error.blame(),
            Self::Folder { .. } | Self::System { .. } => Blame::Environment,
            Self::Bug(_) => Blame::Bug,
        }
    }
}

/// Why a stage has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) message: String,
    pub(super) blame: Blame,
    /// The two results, if the stage has another one than before.
    pub(super) two_results: Option<Box<TwoResults>>,
}

impl Trouble {
    pub(super) fn new(message: impl Into<String>, blame: Blame) -> Self {
        Self { message: message.into(), blame, two_results: None }
    }

    /// For `map_err` on what the system refuses.
    pub(super) fn system(action: &str) -> impl FnOnce(io::Error) -> Self {
        let action = action.to_owned();
        move |source| Self::new(format!("cannot {action}: {source}"), Blame::Environment)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let (message, blame) = (error.to_string(), error.blame());
        let two_results = if let StoreError::Nondeterministic(results) = error { Some(results) } else { None };
        Self { message, blame, two_results }
    }
}

impl From<PlanError> for Trouble {
    fn from(error: PlanError) -> Self {
        Self::new(error.to_string(), error.blame())
    }
}

impl From<JobError> for Trouble {
    fn from(error: JobError) -> Self {
        let blame = match error {
            JobError::File { .. } => Blame::Environment,
            JobError::Format { .. } => Blame::Bug,
        };
        Self::new(error.to_string(), blame)
    }
}
