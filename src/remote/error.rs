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
            Self::Address { .. } | Self::Key { .. } => Blame::Input,
            Self::Unusable { .. } | Self::Request { .. } | Self::Damaged { .. } | Self::System(_) => Blame::Environment,
            Self::Encoding { .. } => Blame::Bug,
            Self::Store(error) => error.blame(),
        }
    }
}
