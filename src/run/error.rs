//! What can go wrong with a run as a whole, and with one stage of it.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use super::job::JobError;
use crate::{
    blame::Blame,
    compare::CompareError,
    graph::amount::{GPU, MEMORY, Shown},
    lock::Deviation,
    plan::PlanError,
    remote::RemoteError,
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
    /// Stages ask for more than there is.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  and "))]
    Excess(Vec<Excess>),
    /// Two results cannot be compared.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// What a stage reads cannot be looked at again.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// What a remote store gave cannot be taken in.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A broken promise inside twdag.
    #[error("internal error: {0}; please report it")]
    Bug(&'static str),
}

impl RunError {
    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Store(error) => error.blame(),
            Self::Compare(error) => error.blame(),
            Self::Plan(error) => error.blame(),
            Self::Remote(error) => error.blame(),
            Self::Folder { .. } | Self::System { .. } => Blame::Environment,
            Self::Excess(_) => Blame::Graph,
            Self::Bug(_) => Blame::Bug,
        }
    }
}

/// A stage that asks for more of a resource than there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The graph file.
    pub graph: PathBuf,
    /// The line of the request in it.
    pub line: usize,
    /// The column of the request.
    pub column: usize,
    /// The stage.
    pub stage: String,
    /// The resource.
    pub resource: String,
    /// What is asked for.
    pub amount: u64,
    /// What there is; `None` if nobody has heard of the resource.
    pub total: Option<u64>,
    /// A known resource with a similar name.
    pub similar: Option<String>,
}

impl fmt::Display for Excess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { graph, line, column, stage, resource, amount, total, similar } = self;
        let shown = Shown(resource, *amount);
        write!(formatter, "{}:{line}:{column}: stage `{stage}` asks for {shown} of `{resource}`, ", graph.display())?;
        match (total, similar) {
            (None, Some(similar)) => return write!(formatter, "which does not exist; did you mean `{similar}`?"),
            (None, None) => write!(formatter, "of which nothing is known; say how much there is with ")?,
            (Some(total), _) => write!(
                formatter,
                "but there is only {}; ask for less, or say what there is with ",
                Shown(resource, *total)
            )?,
        }
        if resource == GPU {
            write!(formatter, "the names of devices, such as `--resource gpu=0,1`, or ")?;
            write!(formatter, "`resources: {{\"gpu\": [\"0\", \"1\"]}}` in twdag.ron")
        } else {
            let text = shown.to_string().replace(' ', "");
            let value = if resource == MEMORY { format!("\"{shown}\"") } else { text.clone() };
            write!(
                formatter,
                "`--resource {resource}={text}`, or `resources: {{\"{resource}\": {value}}}` in twdag.ron"
            )
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
    /// In what the stage is not what the lock says, if it is held to one.
    pub(super) deviation: Option<Box<Deviation>>,
}

impl Trouble {
    pub(super) fn new(message: impl Into<String>, blame: Blame) -> Self {
        Self { message: message.into(), blame, two_results: None, deviation: None }
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
        Self { two_results, ..Self::new(message, blame) }
    }
}

impl From<RunError> for Trouble {
    fn from(error: RunError) -> Self {
        Self::new(error.to_string(), error.blame())
    }
}

impl From<Deviation> for Trouble {
    fn from(deviation: Deviation) -> Self {
        let message = deviation.to_string();
        Self { deviation: Some(Box::new(deviation)), ..Self::new(message, Blame::Stage) }
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
