//! Manifests: the files of an artifact.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
};

use serde::{Deserialize, Serialize};

use super::{Store, StoreError, sealed};
use crate::digest::{ArtifactId, Digest};

const VERSION: u32 = 1;
/// Longer names of files or folders fit on no usual disk.
const LONGEST_NAME: usize = 255;
/// No file system holds a file with more bytes, let alone several.
const MOST_BYTES: u64 = i64::MAX.cast_unsigned();

/// The files of an artifact in the byte order of their paths. Its canonical JSON is what an [`ArtifactId`] is the
/// digest of; empty folders are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    files: Vec<Entry>,
}

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its path inside the artifact, with `/` between the parts.
    pub path: String,
    /// The digest of its content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it may be run.
    pub executable: bool,
}

impl Manifest {
    pub(super) fn new(files: Vec<Entry>) -> Self {
        Self { version: VERSION, files }
    }

    /// The files, sorted.
    pub fn files(&self) -> &[Entry] {
        &self.files
    }

    /// The length of all files together, in bytes. What is read is refused if that is no number.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// The canonical JSON.
    pub fn bytes(&self) -> Vec<u8> {
        // Strings, numbers and flags cannot fail to become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The artifact that has exactly these files.
    pub fn artifact(&self) -> ArtifactId {
        Digest::of(&self.bytes()).into()
    }

    /// Reads canonical JSON; says what is wrong otherwise. A path that leads out of the folder is refused, since
    /// a store may come from somewhere else.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if manifest.version != VERSION {
            return Err(format!("it has version {}, this twdag reads version {VERSION}", manifest.version));
        }
        if !manifest.files.is_sorted_by(|one, two| one.path < two.path) {
            return Err("its files are not sorted".to_owned());
        }
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
        if let Some(file) = manifest.files.iter().find(|file| !file.path.split('/').all(is_plain)) {
            return Err(format!("it names a file `{}`", file.path.escape_debug()));
        }
        let total = manifest.files.iter().try_fold(0_u64, |total, file| total.checked_add(file.size));
        if total.is_none_or(|total| total > MOST_BYTES) {
            return Err(format!("its files have more than {MOST_BYTES} bytes together, which no file system holds"));
        }
        let mut sizes = HashMap::with_capacity(manifest.files.len());
        match manifest.files.iter().find(|file| *sizes.entry(file.digest).or_insert(file.size) != file.size) {
            Some(file) => Err(format!("`{}` has the digest of another file and not its size", file.path)),
            None => Ok(manifest),
        }
    }

    /// Reads the list of files of this artifact from somewhere else; says what is wrong if it is not exactly that, or may
    /// not be.
    pub fn of_artifact(artifact: &ArtifactId, bytes: &[u8]) -> Result<Self, String> {
        if Digest::of(bytes) != *artifact.digest() {
            return Err("its bytes are not those of its digest".to_owned());
        }
        let manifest = Self::parse(bytes)?;
        let files = &manifest.files;
        let is_file = |path: &str| files.binary_search_by(|file| (*file.path).cmp(path)).is_ok();
        for Entry { path, .. } in files {
            if path.split('/').any(|part| part.len() > LONGEST_NAME) {
                return Err(format!("it names a file `{path}`, and no name has more than {LONGEST_NAME} bytes"));
            }
            if let Some((end, _)) = path.match_indices('/').find(|(end, _)| is_file(&path[..*end])) {
                return Err(format!("it names `{}` as a file and as a folder", &path[..end]));
            }
        }
        Ok(manifest)
    }

    /// The digest of what a reference `"stage/path"` points to: the whole artifact, or a file or folder inside.
    pub fn digest_inside(&self, path: Option<&str>) -> Result<Digest, StoreError> {
        let Some(path) = path else { return Ok(*self.artifact().digest()) };
        self.inside(path).ok_or_else(|| StoreError::NotInside { path: path.to_owned(), holds: self.top() })
    }

    /// The digest of a file, or of the folder at `path` as if it were an artifact of its own.
    fn inside(&self, path: &str) -> Option<Digest> {
        let path = path.trim_end_matches('/');
        if let Some(file) = self.files.iter().find(|file| file.path == path) {
            return Some(file.digest);
        }
        let prefix = format!("{path}/");
        let below: Vec<Entry> = self
            .files
            .iter()
            .filter_map(|file| Some(Entry { path: file.path.strip_prefix(&prefix)?.to_owned(), ..file.clone() }))
            .collect();
        (!below.is_empty()).then(|| *Self::new(below).artifact().digest())
    }

    fn top(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .files
            .iter()
            .map(|file| file.path.split_once('/').map_or(file.path.as_str(), |(folder, _)| folder).to_owned())
            .collect();
        names.dedup();
        names
    }
}

impl Store {
    /// The manifest of an artifact, checked against the artifact's name.
    pub fn manifest(&self, artifact: &ArtifactId) -> Result<Manifest, StoreError> {
        self.read_manifest(artifact).map_err(|problem| StoreError::Artifact { artifact: *artifact, problem })
    }

    /// Like [`Store::manifest`]; the error says in plain words what is wrong.
    pub(super) fn read_manifest(&self, artifact: &ArtifactId) -> Result<Manifest, String> {
        let path = self.named("trees", artifact.digest());
        let (bytes, inode) = self.look_twice(&path, sealed::read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "its list of files is not in the store".to_owned(),
            _ => format!("{} cannot be read: {error}", path.display()),
        })?;
        if Digest::of(&bytes) != *artifact.digest() {
            let problem = format!("its list of files was changed ({})", path.display());
            self.set_aside(&path, inode, &problem);
            return Err(problem);
        }
        Manifest::parse(&bytes).map_err(|problem| format!("{} cannot be used: {problem}", path.display()))
    }

    /// The first file, in the order of paths, in which two artifacts differ, and the difference in plain words.
    pub(super) fn first_difference(&self, earlier: &ArtifactId, new: &ArtifactId) -> (Option<String>, String) {
        let (Ok(earlier), Ok(new)) = (self.read_manifest(earlier), self.read_manifest(new)) else {
            return (None, "the list of files of one of them is lost, so nobody can tell where they differ".to_owned());
        };
        let by_path = |manifest: &Manifest| -> BTreeMap<String, Entry> {
            manifest.files.iter().map(|file| (file.path.clone(), file.clone())).collect()
        };
        let (earlier, new) = (by_path(&earlier), by_path(&new));
        let paths: BTreeSet<&String> = earlier.keys().chain(new.keys()).collect();
        for path in paths {
            let difference = match (earlier.get(path), new.get(path)) {
                (before, now) if before == now => continue,
                (Some(before), Some(now)) if before.digest == now.digest => {
                    "which may be run in one of them only".to_owned()
                }
                (Some(before), Some(now)) => format!("of {} bytes before and {} bytes now", before.size, now.size),
                (Some(_), None) => "which is missing now".to_owned(),
                (None, _) => "which was not there before".to_owned(),
            };
            return (Some(path.clone()), format!("the first file that differs is `{path}`, {difference}"));
        }
        (None, "their files are the same".to_owned())
    }

    /// The digest of what a reference `"stage/path"` points to: the whole artifact, or a file or folder inside.
    pub fn digest_inside(&self, artifact: &ArtifactId, path: Option<&str>) -> Result<Digest, StoreError> {
        if path.is_none() { Ok(*artifact.digest()) } else { self.manifest(artifact)?.digest_inside(path) }
    }
}
