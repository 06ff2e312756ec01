//! What can go wrong with a remote store. A run goes on without it.

use std::path::PathBuf;

use thiserror::Error;

use super::Address;
use crate::{blame::Blame, store::StoreError};

/// An error of a remote store.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// An address that is none.
    #[error(
        "`{given}` is no address of a remote store: {problem}; expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
    )]
    Address {
        /// The address, without anything secret.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The store could not be opened with what the environment says.
    #[error("the remote store {address} cannot be used: {problem}")]
    Unusable {
        /// Where it is.
        address: Address,
        /// What is wrong.
        problem: String,
    },
    /// A request failed, after it was repeated where that makes sense.
    #[error("the remote store {address}: cannot {verb} {object}: {problem}")]
    Request {
        /// Where it is.
        address: Address,
        /// What was tried.
        verb: &'static str,
        /// The object's name below the address.
        object: String,
        /// What the server or the network said.
        problem: String,
    },
    /// Something there is not what it must be.
    #[error("the remote store {address}: {object}: {problem}")]
    Damaged {
        /// Where it is.
        address: Address,
        /// The object's name below the address.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key for signing that cannot be used.
    #[error("the signing key {}: {problem}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// What this machine says would count for nobody, or not for all.
    #[error("the remote store {address} is left as it is: {problem}")]
    Unheard {
        /// Where it is.
        address: Address,
        /// Why, and what to do.
        problem: String,
    },
    /// What results need cannot be told.
    #[error(
        "the remote store {address} is left as it is, since what cannot be read may say that something is needed:\n  {}\nIf a later \
         version of twdag wrote it, collect with that. Results that are damaged are given up by `twdag store check --remote`; what \
         somebody keeps is written anew by `twdag store push` on that machine; --give-up-unreadable collects as if it were not there",
        unread.join("\n  ")
    )]
    Unread {
        /// Where it is.
        address: Address,
        /// What cannot be read, and why.
        unread: Vec<String>,
    },
    /// Something that is to be stored has no form as bytes.
    #[error("internal error: {what} cannot be written as bytes: {source}; please report it")]
    Encoding {
        /// What it is.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The system refused to start threads.
    #[error("cannot set up the connection to the remote store: {0}")]
    System(#[source] std::io::Error),
    /// Something about the store of this machine.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoteError {
    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Address { .. } | Self::Key { .. } | Self::Unheard { .. } => Blame::Input,
            Self::Unusable { .. }
            | Self::Request { .. }
            | Self::Damaged { .. }
            | Self::Unread { .. }
            | Self::System(_) => Blame::Environment,
            Self::Encoding { .. } => Blame::Bug,
            Self::Store(error) => error.blame(),
        }
    }
}
