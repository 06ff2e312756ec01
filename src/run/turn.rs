//! Whose turn it is to compute an action: among the processes of this machine, and among the machines of a team.

use std::{fs::File, sync::Arc};

use crate::{
    digest::Key,
    remote,
    store::{Claim, Store},
};

/// The right to compute an action. It ends when this is dropped and no worker holds the file any more.
#[derive(Debug)]
pub(super) struct Turn {
    /// If there is a team. It goes first: whoever is next on this machine must find no claim of this one there.
    there: Option<remote::Claim>,
    here: Claim,
}

impl Turn {
    pub(super) const fn new(here: Claim, there: Option<remote::Claim>) -> Self {
        Self { there, here }
    }

    /// Ends it after the result is recorded and the worker is done. While others have it too, it lasts as long as they do.
    pub(super) fn end(self: Arc<Self>, store: &Store, key: &Key) {
        if let Some(Self { there, here }) = Arc::into_inner(self) {
            drop(there);
            store.end_claim(here, key);
        }
    }

    /// The claim among the processes that use the store here.
    pub(super) const fn here(&self) -> &Claim {
        &self.here
    }

    /// The locked file.
    pub(super) fn file(&self) -> &File {
        self.here.file()
    }
}
