//! The store of this machine and a remote one behind it, as plans look into them.

use std::{cell::RefCell, collections::HashMap};

use super::{Known, Remote};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::{Lookup, Record, Store, StoreError},
};

/// The store of this machine, and a remote one behind it, if there is one.
#[derive(Clone)]
pub struct Tiers<'a> {
    /// The store of this machine.
    pub store: &'a Store,
    remote: Option<&'a Remote>,
    seen: RefCell<HashMap<ArtifactId, Known>>,
}

/// Where the result of an action was found.
#[derive(Debug)]
pub enum Found {
    /// On this machine.
    Here(Box<Record>),
    /// In the remote store alone.
    There(Box<Record>),
    /// Nowhere; what this machine knows of it.
    Nowhere(Lookup),
}

impl<'a> From<&'a Store> for Tiers<'a> {
    fn from(store: &'a Store) -> Self {
        Self::new(store, None)
    }
}

impl<'a> Tiers<'a> {
    /// A remote store that is not read from is none.
    pub fn new(store: &'a Store, remote: Option<&'a Remote>) -> Self {
        Self { store, remote: remote.filter(|remote| remote.mode().reads()), seen: RefCell::default() }
    }

    /// The remote store.
    pub fn remote(&self) -> Option<&'a Remote> {
        self.remote
    }

    /// The result of an action, without a request.
    pub fn lookup(&self, key: &Key) -> Result<Found, StoreError> {
        let lookup = match self.store.lookup(key)? {
            Lookup::Hit(record) => return Ok(Found::Here(record)),
            lookup => lookup,
        };
        let Some((remote, known)) = self.remote.and_then(|remote| Some((remote, remote.known(self.store, key)?)))
        else {
            return Ok(Found::Nowhere(lookup));
        };
        remote.note(self.store, &known);
        let record = Box::new(known.record.clone());
        self.seen.borrow_mut().insert(record.artifact, known);
        Ok(Found::There(record))
    }

    /// Keeps what lookups have found, so that the next ones need no request.
    pub fn keep(&self) {
        self.remote.into_iter().for_each(|remote| remote.keep_notes(self.store));
    }

    /// Whether references can point into a result: its list of files is here, or comes now. If it does not come, the remote store
    /// does not have the result any more, as far as later looks are concerned.
    pub fn can_look_into(&self, artifact: &ArtifactId) -> bool {
        let mut seen = self.seen.borrow_mut();
        let (Some(remote), Some(known)) = (self.remote, seen.get_mut(artifact)) else { return true };
        let Err(error) = remote.manifest(self.store, known) else { return true };
        remote.tell(format!("{error}; the result that it belongs to counts as not there"));
        seen.remove(artifact);
        false
    }

    /// The digest of what a reference `"stage/path"` points to.
    pub fn digest_inside(&self, artifact: &ArtifactId, path: Option<&str>) -> Result<Digest, StoreError> {
        let mut seen = self.seen.borrow_mut();
        let (Some(remote), Some(known), Some(_)) = (self.remote, seen.get_mut(artifact), path) else {
            return self.store.digest_inside(artifact, path);
        };
        let manifest = remote
            .manifest(self.store, known)
            .map_err(|error| StoreError::Artifact { artifact: *artifact, problem: error.to_string() })?;
        manifest.digest_inside(path)
    }
}
