//! Brings a file or folder into the store: from this machine, or over https with a pinned digest.

mod address;
mod local;
mod pin;
mod remote;

use serde::{Deserialize, Serialize};

use crate::stage::{Context, Kind, Numerics, SettingError, Source, SourcePath, StageError};

/// Settings of a `Download` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Where the bytes come from.
    pub from: From,
}

/// Where a download comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum From {
    /// Files below a folder of this machine, relative to the workspace.
    Folder {
        /// The folder.
        path: SourcePath,
        /// A folder below it whose content is meant; empty means `path` itself.
        #[serde(default)]
        below: String,
        /// Globs that choose files (`*` stays within one folder, `**` does not); empty means all.
        #[serde(default)]
        files: Vec<String>,
    },
    /// One file of this machine, relative to the workspace.
    File {
        /// The file.
        path: SourcePath,
        /// Its name in the artifact; its own name if absent.
        #[serde(default)]
        name: Option<String>,
    },
    /// Files from https (or http on this machine) whose digests are known.
    Url {
        /// File name in the artifact -> address and digest.
        files: std::collections::BTreeMap<String, Pinned>,
    },
}

/// A remote file and what its bytes must hash to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The address. It enters keys and records, so it must hold no password.
    pub url: String,
    /// `sha256:HEX` or `blake3:HEX`.
    pub digest: String,
}

impl Kind for Download {
    const NAME: &'static str = "Download";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str =
        "Brings a file or folder into the store: from this machine, or over https with a pinned digest.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn check(&self) -> Result<(), SettingError> {
        match &self.from {
            From::Folder { below, files, .. } => {
                if !below.is_empty() {
                    local::check_name("from.below", below)?;
                }
                local::patterns(files).map(|_| ())
            }
            From::File { name, .. } => name.as_ref().map_or(Ok(()), |name| local::check_name("from.name", name)),
            From::Url { files } => {
                if files.is_empty() {
                    return Err(SettingError::new("from.files", "empty", "at least one file"));
                }
                for (name, pinned) in files {
                    local::check_name("from.files", name)?;
                    address::check(&format!("from.files.{name}.url"), &pinned.url)?;
                    pin::Pin::parse(&format!("from.files.{name}.digest"), &pinned.digest)?;
                }
                Ok(())
            }
        }
    }

    fn sources(&self) -> Vec<Source> {
        match &self.from {
            From::Folder { path, below, files } => {
                vec![Source { role: "from.path".to_owned(), path: path.join(below), files: files.clone() }]
            }
            From::File { path, .. } => {
                vec![Source { role: "from.path".to_owned(), path: path.clone(), files: Vec::new() }]
            }
            From::Url { .. } => Vec::new(),
        }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        match &self.from {
            From::Folder { path, below, files } => local::folder(&path.join(below), files, context),
            From::File { path, name } => local::file(path, name.as_deref(), context),
            From::Url { files } => remote::fetch(files, context),
        }
    }
}
