//! What a program did beyond what its stage declares, in words.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// So many of a sort are named.
const NAMED: usize = 8;
/// So many are kept.
const KEPT: usize = 1000;

/// What paths are called: these words stand in records, which others read on other machines.
#[derive(Clone, Debug)]
pub(in crate::command) struct Names {
    workspace: PathBuf,
    others: Vec<(PathBuf, String)>,
}

impl Names {
    /// Names in the workspace start there.
    pub(in crate::command) fn new(workspace: &Path) -> Self {
        Self { workspace: whole(workspace), others: Vec::new() }
    }

    /// Something that has a name of its own.
    pub(in crate::command) fn add(&mut self, path: &Path, name: impl Into<String>) {
        self.others.push((whole(path), name.into()));
    }

    fn of(&self, path: &Path) -> String {
        let named = self.others.iter().filter(|(root, _)| path.starts_with(root));
        let nearest = named.max_by_key(|(root, _)| root.components().count());
        // The store may lie in the workspace, and that in the home folder.
        let nearest = nearest.filter(|(root, _)| !self.has(path) || root.starts_with(&self.workspace));
        let (root, name) = nearest.map_or((&self.workspace, "."), |(root, name)| (root, name.as_str()));
        match path.strip_prefix(root) {
            Ok(rest) if rest.as_os_str().is_empty() => name.to_owned(),
            Ok(rest) if name == "." => rest.display().to_string(),
            Ok(rest) => format!("{name}/{}", rest.display()),
            Err(_) => path.display().to_string(),
        }
    }

    fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.workspace)
    }
}

/// Without links, as paths are that programs have opened.
fn whole(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// What a program did beyond what its stage declares. Where it is refused that, what it tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::command) struct Report {
    read: BTreeSet<PathBuf>,
    written: BTreeSet<PathBuf>,
    /// Addresses, and sockets whose addresses are not known.
    reached: BTreeSet<String>,
    sockets: BTreeSet<String>,
    /// Unix sockets of others.
    connected: BTreeSet<PathBuf>,
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

    pub(super) fn connected(&mut self, path: &Path) {
        note(&mut self.connected, path.to_owned());
    }

    pub(super) fn unseen(&mut self, what: &str) {
        note(&mut self.unseen, what.to_owned());
    }

    /// What it did, and what to do about that: a sentence for each sort.
    pub(in crate::command) fn sentences(&self, names: &Names) -> Vec<String> {
        let paths = |paths: &BTreeSet<PathBuf>| list(paths.iter().map(|path| names.of(path)));
        let mut sentences = Vec::new();
        if !self.read.is_empty() {
            let elsewhere = if self.read.iter().all(|path| names.has(path)) {
                ""
            } else {
                "; a program elsewhere, with its libraries, is readable if its folder is in PATH, that of the stage's `env` or else \
                 that of twdag; other files elsewhere may be allowed in the policy of the stage (`allow: (read: […])`)"
            };
            sentences.push(format!(
                "read {}: declare files of the workspace in `files`, and results of stages in `inputs`{elsewhere}",
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
                "reach the network ({}): let a `Download` stage fetch what is needed, and name that in `inputs`, or allow it in the policy \
                 of the stage (`allow: (network: true)`)",
                list(network.iter().cloned())
            ));
        }
        if !self.connected.is_empty() {
            sentences.push(format!(
                "connect to {}: start what it needs in the stage, or allow it in the policy of the stage (`allow: (read: […])`)",
                paths(&self.connected)
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
