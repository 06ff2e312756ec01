//! What this machine knows of results whose bytes are elsewhere, so that the next plan needs no request.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::segment::{Heading, MOST, Operation, Published, decode, encode};
use crate::{
    digest::Key,
    store::{Manifest, Record, Store},
};

/// A result that a remote store has.
#[derive(Clone, Debug)]
pub struct Known {
    /// How it came about.
    pub record: Record,
    /// Its files, unless there are so many that their list has to be fetched.
    pub(super) manifest: Option<Manifest>,
    pub(super) published: Published,
}

fn path(folder: &Path, key: &Key) -> PathBuf {
    let name = key.to_string();
    let (shelf, rest) = name.split_at(2);
    folder.join("known").join(shelf).join(rest)
}

/// What was noted of the result of an action.
pub(super) fn noted(store: &Store, folder: &Path, key: &Key) -> Option<Known> {
    let bytes = fs::read(store.derived(path(folder, key))).ok()?;
    match decode(&bytes, MOST).ok()?.1.into_iter().next()? {
        Operation::Publish(published) => published.open(key).ok(),
        Operation::Differs { .. } | Operation::Lost(_) => None,
    }
}

/// Notes it. If that cannot be written, the next plan asks again.
pub(super) fn note(store: &Store, folder: &Path, known: &Known) {
    let path = path(folder, &known.record.key);
    if !store.derived(&path).exists() {
        let mut published = known.published.clone();
        if published.manifest.is_none() {
            published.manifest =
                known.manifest.as_ref().map(|list| String::from_utf8_lossy(&list.bytes()).into_owned());
        }
        let operation = Operation::Publish(Box::new(published));
        if let Ok(bytes) = encode(&Heading { number: 0, origin: None, checkpoint: 0 }, [&operation], MOST) {
            let _ = store.keep_derived(path, &bytes);
        }
    }
}

/// Forgets it. If that cannot be done, the bytes turn out to be missing once more.
pub(super) fn forget(store: &Store, folder: &Path, key: &Key) {
    let _ = store.drop_derived(path(folder, key));
}
