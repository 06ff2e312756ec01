//! What this machine has found to be gone from a remote store, or to be other bytes there: publications, by their names. One that
//! is published again has another name, so that no note stands in its way.

use std::{collections::HashSet, fs, path::Path};

use crate::{
    digest::Digest,
    store::{Store, StoreError},
};

const FILE: &str = "lost";

/// What was noted.
pub(super) fn noted(store: &Store, folder: &Path) -> HashSet<Digest> {
    // Without the notes it is found out once more.
    let text = fs::read_to_string(store.derived(folder.join(FILE))).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Notes it.
pub(super) fn note(store: &Store, folder: &Path, lost: &HashSet<Digest>) -> Result<(), StoreError> {
    let mut lines: Vec<String> = lost.iter().map(|name| format!("{name}\n")).collect();
    lines.sort();
    store.keep_derived(folder.join(FILE), lines.concat().as_bytes())
}
