//! Why a command did not do what it was asked for, and the exit code that follows.

use std::fmt::Display;

use super::output::{self, BAD, paint};
use crate::{
    blame::{Blame, exit},
    graph::GraphError,
    lock::LockError,
    plan::PlanError,
    provenance::ProvenanceError,
    remote::RemoteError,
    run::error::RunError,
    store::StoreError,
};

/// A command's end that is no success.
#[derive(Debug)]
pub(super) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// A message and whose fault it is.
    pub(super) fn new(message: impl Display, blame: Blame) -> Self {
        Self { text: format!("{}: {message}\n", paint(BAD, "error")), code: code(blame) }
    }

    /// Wrong usage.
    pub(super) fn usage(message: impl Display) -> Self {
        Self::new(message, Blame::Graph)
    }

    /// Something that is asked for has not been computed.
    pub(super) fn missing(message: impl Display) -> Self {
        Self::new(message, Blame::Stage)
    }

    /// What was to go to standard output is not all there.
    pub(super) fn unwritten(error: &std::io::Error) -> Self {
        Self::new(
            format!("cannot write to standard output: {error}; what was printed is incomplete"),
            Blame::Environment,
        )
    }

    /// Something is not what it was said to be.
    pub(super) fn not_reproducible(message: impl Display) -> Self {
        Self { code: exit::NOT_REPRODUCIBLE, ..Self::new(message, Blame::Stage) }
    }

    /// Tells it on standard error; the exit code.
    pub(super) fn tell(self) -> u8 {
        output::err(&self.text);
        self.code
    }
}

/// Before anything runs, what the user wrote or gave is wrong usage; the rest keeps a stage from running.
fn code(blame: Blame) -> u8 {
    match blame {
        Blame::Graph | Blame::Input => exit::USAGE,
        Blame::Environment | Blame::Stage | Blame::Bug => exit::STAGE_FAILED,
    }
}

impl From<GraphError> for Failure {
    fn from(error: GraphError) -> Self {
        // Rendered with colours, which the way out removes where nobody wants them.
        let mut text = error.render(true);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Self { text, code: exit::USAGE }
    }
}

macro_rules! by_blame {
    ($($error:ty),*) => { $(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(&error, error.blame())
            }
        }
    )* };
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Text(error) => error.into(),
            error => Self::new(&error, error.blame()),
        }
    }
}

by_blame!(StoreError, PlanError, RunError, RemoteError, ProvenanceError);
