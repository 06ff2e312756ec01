//! Digests of files and folders outside the graph.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use globset::{GlobBuilder, GlobMatcher};
use walkdir::{DirEntry, WalkDir};

use super::{Store, StoreError, folder, hash, network, stat_index::Identity};
use crate::{canon, digest::Digest};

/// What `stat` says of the files of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState(BTreeMap<PathBuf, Identity>);

impl SourceState {
    /// How long it takes at `time` until every later change would show in a [`SourceState`]; nothing if it would now.
    pub fn unsettled(&self, time: SystemTime) -> Option<Duration> {
        self.0.values().filter_map(|identity| identity.unsettled(time)).max()
    }

    /// The first file that is not the same in `later`, or is only in one of them.
    pub fn first_change<'a>(&'a self, later: &'a Self) -> Option<&'a Path> {
        let paths = self.0.keys().chain(later.0.keys()).filter(|path| self.0.get(*path) != later.0.get(*path));
        paths.min().map(PathBuf::as_path)
    }
}

impl Store {
    /// The digest of a source: of the content of a file, or of the names and contents of the files below a folder
    /// that any of the patterns in `files` matches (all files if there are none). Names are relative to the folder.
    /// Links to files count as the files; a folder behind a link is refused. A file that has not changed since it
    /// was last hashed is not read.
    pub fn digest_source(&self, path: &Path, files: &[String]) -> Result<Digest, StoreError> {
        let path = &std::path::absolute(path).map_err(StoreError::io("find", path))?;
        let look = Look::at(path);
        let metadata = look.metadata(path)?;
        let digest =
            if metadata.is_dir() { self.digest_folder(path, files, look) } else { self.digest_file(path, look) };
        // What cannot be kept, on a full disk above all, is hashed again some day.
        let _ = self.stat_index.lock().unwrap_or_else(PoisonError::into_inner).save();
        digest
    }

    /// The files that a source counts, each as `stat` sees it now. Two equal answers, before and after some work, mean
    /// that nothing was written in between, not even what was taken back again.
    pub fn source_state(&self, path: &Path, files: &[String]) -> Result<SourceState, StoreError> {
        let path = std::path::absolute(path).map_err(StoreError::io("find", path))?;
        let look = Look::at(&path);
        let metadata = look.metadata(&path)?;
        if !metadata.is_dir() {
            return Ok(SourceState(BTreeMap::from([(path, Identity::of(&metadata))])));
        }
        let patterns = files.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<Vec<_>, _>>()?;
        let found = chosen(&path, &patterns)?.files.into_iter().map(|(_, path)| {
            let metadata = look.metadata(&path)?;
            Ok((path, Identity::of(&metadata)))
        });
        found.collect::<Result<_, StoreError>>().map(SourceState)
    }

    /// The files that a source counts and the folders in which others could appear, each as `stat` sees it; `None` if
    /// that does not tell all (a link that counts for nothing today may do so tomorrow).
    pub(super) fn source_witnesses(
        &self,
        path: &Path,
        files: &[String],
    ) -> Result<Option<BTreeMap<PathBuf, Identity>>, StoreError> {
        let mut state = self.source_state(path, files)?.0;
        let path = std::path::absolute(path).map_err(StoreError::io("find", path))?;
        if !path.is_dir() {
            return Ok(Some(state));
        }
        let patterns = files.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<Vec<_>, _>>()?;
        let Chosen { folders, ignored_links, .. } = chosen(&path, &patterns)?;
        for folder in folders {
            let metadata = fs::metadata(&folder).map_err(|error| unreadable(&folder, &error))?;
            state.insert(folder, Identity::of(&metadata));
        }
        Ok((!ignored_links).then_some(state))
    }

    fn digest_folder(&self, folder: &Path, files: &[String], look: Look) -> Result<Digest, StoreError> {
        let patterns = files.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<Vec<_>, _>>()?;
        let mut found = chosen(folder, &patterns)?.files;
        if found.is_empty() {
            let problem = if files.is_empty() {
                "the folder holds no file".to_owned()
            } else {
                format!("no file in this folder matches `{}`", files.join("` or `"))
            };
            return Err(StoreError::source_file(folder, problem));
        }
        // It may be named by way of a link.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Ok(within) = real(self.root()).strip_prefix(real(folder)) {
            let store = folder.join(within);
            if found.iter().any(|(_, path)| path.starts_with(&store)) {
                let problem = format!(
                    "holds files of the store {}, which every run writes to; choose files that leave it out, or name another \
                     store with --store",
                    store.display()
                );
                return Err(StoreError::source_file(folder, problem));
            }
        }
        found.sort();
        let digests = found
            .into_iter()
            .map(|(name, path)| self.digest_file(&path, look).map(|digest| (name, digest)))
            .collect::<Result<Vec<_>, _>>()?;
        let bytes = canon::encode(&digests)
            .map_err(|error| StoreError::Bug { path: folder.to_owned(), problem: error.to_string() })?;
        Ok(Digest::of(&bytes))
    }

    fn digest_file(&self, path: &Path, look: Look) -> Result<Digest, StoreError> {
        let metadata = look.metadata(path)?;
        if !metadata.is_file() {
            return Err(StoreError::source_file(path, "is no file (a socket, pipe or device)"));
        }
        let identity = Identity::of(&metadata);
        let index = || self.stat_index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = index().get(path, &identity) {
            return Ok(digest);
        }
        let started = SystemTime::now();
        let (digest, length) = hash::hash(path)?;
        if Identity::of(&look.metadata(path)?) != identity {
            return Err(StoreError::source_file(path, "changed while it was read; run again when it is complete"));
        }
        if length != identity.size {
            let problem = format!(
                "has {length} bytes where its size is said to be {}, as what the system makes up in /proc and /sys, which \
                 changes without a trace; copy it into a file, and name that",
                identity.size
            );
            return Err(StoreError::source_file(path, problem));
        }
        if identity.is_settled(started) {
            index().add(path, identity, digest);
        }
        Ok(digest)
    }
}

/// How the files of a source are looked at.
#[derive(Clone, Copy)]
struct Look {
    /// Whether others may change them without this machine being told.
    asks: bool,
}

impl Look {
    fn at(source: &Path) -> Self {
        network::ask_for_name(source);
        Self { asks: network::is_elsewhere(source) }
    }

    fn metadata(self, path: &Path) -> Result<fs::Metadata, StoreError> {
        if self.asks {
            network::ask(path);
        }
        fs::metadata(path).map_err(|error| unreadable(path, &error))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::source_file(
        path,
        match error.kind() {
            io::ErrorKind::NotFound if path.is_symlink() => "is a symbolic link to nothing".to_owned(),
            io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
            _ => format!("cannot be read: {error}"),
        },
    )
}

/// A pattern for whole paths, and one for each part, to tell which folders can hold a match.
struct Pattern {
    whole: GlobMatcher,
    /// `None` for a part that can stand for several, such as `**`.
    parts: Vec<Option<GlobMatcher>>,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, StoreError> {
        let compile = |part: &str| {
            let glob = GlobBuilder::new(part).literal_separator(true).build();
            glob.map(|glob| glob.compile_matcher())
        };
        let whole = compile(pattern)
            .map_err(|error| StoreError::Pattern { pattern: pattern.to_owned(), problem: error.kind().to_string() })?;
        // A part that does not compile alone, such as half of `{a/b,c}`, can stand for anything.
        let parts =
            pattern.split('/').map(|part| if part.contains("**") { None } else { compile(part).ok() }).collect();
        Ok(Self { whole, parts })
    }

    /// Whether the folder `name` can hold a file that matches.
    fn reaches(&self, name: &str) -> bool {
        let mut parts = self.parts.iter();
        for part in name.split('/') {
            match parts.next() {
                Some(Some(pattern)) if pattern.is_match(part) => {}
                Some(None) => return true,
                _ => return false,
            }
        }
        parts.next().is_some()
    }
}

/// What a source folder counts.
#[derive(Default)]
struct Chosen {
    /// Files, each with its name below the folder.
    files: Vec<(String, PathBuf)>,
    /// The folders that were looked into, the source itself among them.
    folders: Vec<PathBuf>,
    /// Whether there are links that count for nothing.
    ignored_links: bool,
}

fn chosen(folder: &Path, patterns: &[Pattern]) -> Result<Chosen, StoreError> {
    let reaches = |name: &str| patterns.is_empty() || patterns.iter().any(|pattern| pattern.reaches(name));
    let matches = |name: &str| patterns.is_empty() || patterns.iter().any(|pattern| pattern.whole.is_match(name));
    let enters = |entry: &DirEntry| {
        // A name that is no UTF-8 goes on, to be refused below.
        !entry.file_type().is_dir() || folder::relative(folder, entry.path()).is_none_or(|name| reaches(&name))
    };
    let mut found = Chosen { folders: vec![folder.to_owned()], ..Chosen::default() };
    // `folder` itself may be a link, which walkdir follows.
    for entry in WalkDir::new(folder).min_depth(1).into_iter().filter_entry(|entry| entry.depth() == 0 || enters(entry))
    {
        let entry = entry.map_err(|error| folder::walk_error(folder, error))?;
        let path = entry.path();
        let kind = entry.file_type();
        if kind.is_dir() {
            found.folders.push(path.to_owned());
            continue;
        }
        let name = folder::relative(folder, path)
            .ok_or_else(|| StoreError::source_file(path, "the name is not UTF-8 text; rename the file"))?;
        if kind.is_file() && network::is_removed(path) {
            continue;
        }
        let is_folder_link = kind.is_symlink() && path.is_dir();
        if is_folder_link && reaches(&name) {
            return Err(StoreError::source_file(
                path,
                "is a symbolic link to a folder, which is not followed; name that folder as a source of its own, or choose files that leave it out",
            ));
        }
        if !is_folder_link && matches(&name) {
            found.files.push((name, path.to_owned()));
        } else {
            found.ignored_links |= kind.is_symlink();
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_was_written_to_just_now_is_settled_when_a_later_write_would_show() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "one").unwrap();
        let state = store.source_state(&file, &[]).unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        let rest = state.unsettled(written).unwrap();
        assert!(rest >= Duration::from_millis(10), "a clock may move on a hundred times a second");
        assert_eq!(state.unsettled(written + rest), None);
        // A clock that is not the one of the file system tells nothing.
        assert_eq!(state.unsettled(written - Duration::from_hours(1)), None);
    }
}
