//! Brings a file or folder into the store: from this machine, or over https with a pinned digest.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

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
        /// Globs that choose files; empty means all.
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
    /// The address.
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

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
