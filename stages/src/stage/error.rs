//! Errors of stages, with whose fault they are.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Whose fault an error is; the orchestrator turns it into an exit code and a tone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The graph file or a setting in it.
    Graph,
    /// A file that the user gave.
    Input,
    /// The machine: disk, memory, permissions, network.
    Environment,
    /// The stage's own computation (a program that failed, a loss that is not finite).
    Stage,
    /// twdag itself.
    Bug,
}

/// A setting whose value cannot be used. `path` is the place inside the stage, such as `weighting.shape.lambda`,
/// so that the graph reader can underline it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("setting `{path}` is {found}, expected {expected}")]
pub struct SettingError {
    /// Field names from the stage inwards, joined by dots; list elements by their number.
    pub path: String,
    /// The value found, as the user would write it.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

impl SettingError {
    /// Puts the three parts together.
    pub fn new(path: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> Self {
        Self { path: path.into(), found: found.to_string(), expected: expected.into() }
    }
}

/// Why a stage did not produce its output. Messages are fragments that follow "stage `name` failed: ".
#[derive(Debug, Error)]
pub enum StageError {
    /// A setting that only shows to be wrong against the data.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A file of an input, or a source file, is not what it must be.
    #[error("{}: {problem}", path.display())]
    Input {
        /// The file at fault.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        problem: String,
    },
    /// The machine refused: disk full, no permission, network gone.
    #[error("{action}: {source}{}", advice(source))]
    Environment {
        /// What was tried, such as "write /path".
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// The computation itself went wrong; says where and what to do.
    #[error("{0}")]
    Failed(String),
    /// Somebody asked the stage to stop; what it kept in its scratch folder lets it go on later.
    #[error("stopped on request")]
    Canceled,
    /// A broken promise inside twdag.
    #[error("internal error: {0}; please report it")]
    Bug(String),
}

/// How to make room on a disk.
pub(crate) const MAKE_ROOM: &str =
    "make room (`twdag store gc` tells what can go), or put the store on another disk with --store";

fn advice(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("; {MAKE_ROOM}, and run again: what the stage keeps of its work stays where it is")
        }
        _ => String::new(),
    }
}

impl StageError {
    /// An input file that is not what it must be.
    pub fn input(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self::Input { path: path.into(), problem: problem.to_string() }
    }

    /// For `map_err` on file operations: `.map_err(StageError::io("write", &path))`.
    pub fn io(verb: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let action = format!("{verb} {}", path.into().display());
        move |source| Self::Environment { action, source }
    }

    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Setting(_) => Blame::Graph,
            Self::Input { .. } => Blame::Input,
            Self::Environment { .. } => Blame::Environment,
            Self::Failed(_) | Self::Canceled => Blame::Stage,
            Self::Bug(_) => Blame::Bug,
        }
    }
}
