//! A store in a folder of its own, and what fills it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tempfile::TempDir;
use twdag::{
    digest::{ArtifactId, Digest, Key},
    store::{Provenance, Record, Store},
};

pub(crate) struct Place {
    folder: TempDir,
    pub(crate) store: Store,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub(crate) fn within(folder: &Path) -> Self {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an output folder as a stage would.
    pub(crate) fn output(&self, files: &[(&str, &str)]) -> PathBuf {
        let output = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        write_files(&output, files);
        output
    }

    pub(crate) fn ingest(&self, files: &[(&str, &str)]) -> ArtifactId {
        self.store.ingest(&self.output(files)).unwrap()
    }

    /// Where something named by its digest lies.
    pub(crate) fn named(&self, room: &str, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.store.root().join(room).join(&name[..2]).join(&name[2..])
    }

    pub(crate) fn object(&self, content: &str) -> PathBuf {
        self.named("objects", &Digest::of(content.as_bytes()))
    }
}

pub(crate) fn write_files(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

pub(crate) fn read_files(folder: &Path) -> BTreeMap<String, String> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let name = entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

pub(crate) fn listed(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

/// Writes to a file whatever its mode says, as root or a stray process can. One that was set aside comes back.
pub(crate) fn overwrite(path: &Path, content: impl AsRef<[u8]>) {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::write(path, content).unwrap();
}

pub(crate) fn key(name: &str) -> Key {
    Digest::of(name.as_bytes()).into()
}

pub(crate) fn record(key: Key, artifact: ArtifactId) -> Record {
    Record {
        key,
        artifact,
        kind: "Tokenize".to_owned(),
        revision: 1,
        graph: "quickstart".to_owned(),
        stage: "tokens".to_owned(),
        settings: serde_json::json!({ "length": 512, "rate": 0.1 }),
        inputs: Vec::new(),
        references: Vec::new(),
        sources: Vec::new(),
        file_names: BTreeMap::new(),
        numeric_class: None,
        provenance: Provenance::here(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH, 0.25),
        notices: vec!["one document is empty".to_owned()],
        part: None,
        parts: Vec::new(),
    }
}
