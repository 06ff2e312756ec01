//! Brings files into the store: from this machine, over https or from buckets with a pinned digest, or from a model hub.

mod address;
mod disk;
mod hub;
mod local;
mod origin;
mod partial;
mod pin;
mod pinned;
mod request;
mod transfer;

use std::{collections::BTreeMap, future::Future, time::Duration};

use serde::{Deserialize, Serialize};

use self::hub::Repository;
use crate::stage::{
    Context, Estimate, Kind, Manner, Numerics, Outlook, Outlooks, SettingError, Source, SourcePath, StageError,
};

/// The commit that a branch of a hub stood at, if a warning of a `Download` tells of one.
pub fn commit_in(notice: &str) -> Option<&str> {
    hub::commit_in(notice)
}

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
    /// Files whose digests are known, from https (or http on this machine) and from buckets.
    Url {
        /// File name in the artifact -> addresses and digest.
        files: BTreeMap<String, Pinned>,
    },
    /// Files of a model or dataset of a hub that speaks the Hugging Face protocol. `HF_TOKEN`, `HF_ENDPOINT`,
    /// `HF_HUB_OFFLINE`, `HF_HOME` and `HF_HUB_CACHE` are honoured; none of them changes the key.
    Hub {
        /// `owner/name`.
        repository: String,
        /// What sort of repository it is.
        #[serde(default)]
        holds: Holding,
        /// A commit, or a branch or tag: that is looked up when the stage runs, and the result then stays.
        #[serde(default = "default_revision")]
        revision: String,
        /// Globs that choose files (`*` stays within one folder, `**` does not); each must match one. Empty means all.
        #[serde(default)]
        files: Vec<String>,
    },
}

/// What a repository of a hub holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// A model.
    #[default]
    Model,
    /// A dataset.
    Dataset,
}

fn default_revision() -> String {
    "main".to_owned()
}

/// A remote file and what its bytes must hash to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The address: `https://`, or `s3://`, `gs://`, `az://` with bucket and path. It enters keys and records, so it must hold
    /// no password.
    pub url: String,
    /// Other addresses of the same bytes, asked in this order if the first does not give them. They do not enter the key.
    #[serde(default)]
    pub mirrors: Manner<Vec<String>>,
    /// `sha256:HEX` or `blake3:HEX`.
    pub digest: String,
}

impl Kind for Download {
    const NAME: &'static str = "Download";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str =
        "Brings files into the store: from this machine, by an address and a pinned digest, or from a model hub.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn check(&self) -> Result<(), SettingError> {
        match &self.from {
            From::Folder { below, files, .. } => {
                if !below.is_empty() {
                    local::check_name("from.below", below)?;
                }
                local::patterns(files).map(|_| ())
            }
            From::File { name, .. } => name.as_ref().map_or(Ok(()), |name| local::check_file_name("from.name", name)),
            From::Url { files } => {
                if files.is_empty() {
                    return Err(SettingError::new("from.files", "empty", "at least one file"));
                }
                for (name, pinned) in files {
                    local::check_file_name("from.files", name)?;
                    let folders = name.match_indices('/').map(|(end, _)| &name[..end]);
                    if let Some(folder) = folders.into_iter().find(|folder| files.contains_key(*folder)) {
                        let expected = format!("another name, as `{folder}` is a file and cannot be a folder too");
                        return Err(SettingError::new("from.files", format!("`{name}`"), expected));
                    }
                    pinned.addresses(name)?;
                    pin::Pin::parse(&format!("from.files.{name}.digest"), &pinned.digest)?;
                }
                Ok(())
            }
            From::Hub { repository, holds, revision, files } => {
                Repository { name: repository, kind: *holds, revision }.check()?;
                local::patterns(files).map(|_| ())
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
            From::Url { .. } | From::Hub { .. } => Vec::new(),
        }
    }

    fn estimate(&self, _inputs: &Outlooks<'_>) -> Estimate {
        let outlook = match &self.from {
            From::Hub { repository, holds: Holding::Model, .. } => hub::outlook(repository),
            _ => Outlook::default(),
        };
        Estimate { outlook, work: None }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        match &self.from {
            From::Folder { path, below, files } => local::folder(&path.join(below), files, context),
            From::File { path, name } => local::file(path, name.as_deref(), context),
            From::Url { files } => pinned::fetch(files, context),
            From::Hub { repository, holds, revision, files } => {
                hub::fetch(Repository { name: repository, kind: *holds, revision }, files, context)
            }
        }
    }
}

/// How often a wish to stop is noticed while waiting for the network.
const GLANCE: Duration = Duration::from_millis(100);

/// Does work that waits for the network, until it ends or the stage is asked to stop.
fn on_the_network(context: &Context, work: impl Future<Output = Result<(), StageError>>) -> Result<(), StageError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StageError::io("start", "the network runtime"))?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result,
            () = canceled(context) => Err(StageError::Canceled),
        }
    })
}

/// Ends when the stage is asked to stop.
async fn canceled(context: &Context) {
    let mut glance = tokio::time::interval(GLANCE);
    while !context.is_canceled() {
        glance.tick().await;
    }
}
