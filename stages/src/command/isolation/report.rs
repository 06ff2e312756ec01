//! What a program did beyond what its stage declares, in words.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// So many of a sort are named.
const NAMED: usize = 8;
/// So many are kept.
const KEPT: usize = 1000;

/// What a program did beyond what its stage declares. Where it is refused that, what it tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::command) struct Report {
    read: BTreeSet<PathBuf>,
    written: BTreeSet<PathBuf>,
    /// Addresses, and sockets whose addresses are not known.
    reached: BTreeSet<String>,
    sockets: BTreeSet<String>,
    unseen: BTreeSet<String>,
    /// What could not be enforced or seen on this machine.
    pub(in crate::command) gaps: Vec<String>,
}

impl Report {
    pub(super) fn read(&mut self, path: &Path) {
        note(&mut self.read, path.to_owned());
    }

    pub(super) fn written(&mut self, path: &Path) {
        note(&mut self.written, path.to_owned());
    }

    pub(super) fn reached(&mut self, address: String) {
        note(&mut self.reached, address);
    }

    pub(super) fn socket(&mut self, family: String) {
        note(&mut self.sockets, family);
    }

    pub(super) fn unseen(&mut self, what: &str) {
        note(&mut self.unseen, what.to_owned());
    }

    /// What it did, and what to do about that: a sentence for each sort.
    pub(in crate::command) fn sentences(&self) -> Vec<String> {
        let paths = |paths: &BTreeSet<PathBuf>| list(paths.iter().map(|path| path.display().to_string()));
        let mut sentences = Vec::new();
        if !self.read.is_empty() {
            sentences.push(format!(
                "read {}: declare files of the workspace in `files`, and results of stages in `inputs`",
                paths(&self.read)
            ));
        }
        if !self.written.is_empty() {
            sentences
                .push(format!("write {}: write below `{{out}}`, the working folder or TMPDIR", paths(&self.written)));
        }
        // A socket that was connected is told of by its address.
        let network = if self.reached.is_empty() { &self.sockets } else { &self.reached };
        if !network.is_empty() {
            sentences.push(format!(
                "reach the network ({}): let a `Download` stage fetch what is needed, and name that in `inputs`",
                list(network.iter().cloned())
            ));
        }
        if !self.unseen.is_empty() {
            sentences.push(format!("use {}, whose reads and writes are not seen", list(self.unseen.iter().cloned())));
        }
        sentences
    }
}

fn note<T: Ord>(set: &mut BTreeSet<T>, item: T) {
    if set.len() < KEPT {
        set.insert(item);
    }
}

/// The first ones, and how many more. What a program makes of a name must not become an order to a terminal.
fn list(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(NAMED);
    let mut named: Vec<String> = items.take(NAMED).map(|item| item.escape_debug().to_string()).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join(", ")
}
