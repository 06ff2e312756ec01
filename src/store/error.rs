//! What can go wrong with the store, and whose fault it is.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use thiserror::Error;

use crate::{
    blame::Blame,
    digest::{ArtifactId, Key},
};

/// An error of the store. Nothing that was stored before is lost by any of them.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store cannot be opened for writing.
    #[error(
        "the store {} cannot be used: cannot {verb} {}: {source}; make it a folder that you may write to, or name another one with --store",
        root.display(), path.display()
    )]
    Unusable {
        /// The store.
        root: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused an operation.
    #[error("cannot {verb} {}: {source}{}", path.display(), advice(verb, source))]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A stage wrote something that no artifact can hold.
    #[error("{}: {problem}", path.display())]
    Output {
        /// The file at fault, or the whole output folder.
        path: PathBuf,
        /// What was found and what an artifact may hold.
        problem: String,
    },
    /// An artifact that is asked for is not in the store, or is damaged.
    #[error("artifact {artifact}: {problem}; run the graph again to compute it anew")]
    Artifact {
        /// The artifact.
        artifact: ArtifactId,
        /// What is missing or damaged.
        problem: String,
    },
    /// A reference `"stage/path"` to something that the artifact does not have.
    #[error("there is no `{path}` in the artifact; it holds {}", listed(holds))]
    NotInside {
        /// The path asked for.
        path: String,
        /// The files and folders at the top of the artifact.
        holds: Vec<String>,
    },
    /// A source file or folder that is missing, or not what it must be.
    #[error("{}: {problem}", path.display())]
    Source {
        /// The file at fault.
        path: PathBuf,
        /// What was found and what to do.
        problem: String,
    },
    /// A pin that cannot be read.
    #[error("the pin {} cannot be read: {problem}; what it keeps is unknown, so nothing is collected: remove the file and pin again", path.display())]
    Pin {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no store where one is looked for.
    #[error("there is no store in {}; name one with --store", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// A pattern that chooses files and cannot be read.
    #[error("the pattern `{pattern}` cannot be read: {problem}")]
    Pattern {
        /// The pattern as the user wrote it.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The same action gave two results.
    #[error(transparent)]
    Nondeterministic(Box<TwoResults>),
    /// Something of twdag's own that JSON cannot hold.
    #[error("internal error: cannot write {}: {problem}; please report it", path.display())]
    Bug {
        /// The file meant.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
}

/// Two results of one action that differ.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the result is not reproducible: action {key} gave artifact {existing} before and {new} now; {difference}; {}",
    advice_on(lost.as_deref())
)]
pub struct TwoResults {
    /// The action.
    pub key: Key,
    /// The result that was recorded before.
    pub existing: ArtifactId,
    /// The result that differs.
    pub new: ArtifactId,
    /// The file that differs first, in the order of paths; `None` if the earlier list of files is lost.
    pub file: Option<String>,
    /// The same in plain words.
    pub difference: String,
    /// What became of the earlier result's files, if they are lost: then the new result is recorded in its place.
    /// Otherwise the earlier one stays.
    pub lost: Option<String>,
}

fn advice_on(lost: Option<&str>) -> String {
    const CAUSE: &str = "look for what makes the stage give other bytes for the same settings and inputs: a clock, an \
        unseeded random choice, an undeclared file, another kind of processor";
    match lost {
        None => format!("the earlier one stays in use; {CAUSE}"),
        Some(problem) => format!(
            "files of the earlier one are lost ({problem}), so the new one is recorded in its place: run again to go \
             on with it, or {CAUSE}"
        ),
    }
}

impl StoreError {
    /// For `map_err` on file operations: `.map_err(StoreError::io("write", &path))`.
    pub(super) fn io(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { verb, path, source }
    }

    pub(super) fn unusable(root: &Path, verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unusable { root: root.to_owned(), verb, path: path.to_owned(), source }
    }

    pub(super) fn output(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Output { path: path.into(), problem: problem.into() }
    }

    pub(super) fn source_file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Source { path: path.into(), problem: problem.into() }
    }

    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unusable { .. } | Self::Io { .. } | Self::Artifact { .. } | Self::Pin { .. } => Blame::Environment,
            Self::Output { .. } | Self::Nondeterministic(_) => Blame::Stage,
            Self::NotInside { .. } | Self::Pattern { .. } => Blame::Graph,
            Self::Source { .. } | Self::NoStore { .. } => Blame::Input,
            Self::Bug { .. } => Blame::Bug,
        }
    }
}

fn advice(verb: &str, source: &io::Error) -> &'static str {
    if source.raw_os_error() == Some(Errno::NOLCK.raw_os_error()) {
        return "; the file system keeps no locks: mount it with NFS version 4, or with version 3 where `rpc.statd` runs here and on the server";
    }
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and run again: what was computed stays where it is"
        }
        io::ErrorKind::PermissionDenied if verb == "read" => "; allow reading it and run again",
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; allow writing there and run again: what was computed stays where it is"
        }
        _ => "",
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}
