//! The store through its public surface: nothing half-written is trusted, nothing damaged blocks.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tempfile::TempDir;
use twdag::{
    digest::{ArtifactId, Digest, Key},
    store::{Lookup, Provenance, Record, Store, StoreError},
};

struct Place {
    folder: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    /// Writes an output folder as a stage would.
    fn output(&self, files: &[(&str, &str)]) -> PathBuf {
        let output = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        write_files(&output, files.iter().copied());
        output
    }

    fn ingest(&self, files: &[(&str, &str)]) -> ArtifactId {
        self.store.ingest(&self.output(files)).unwrap()
    }

    fn named(&self, room: &str, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.store.root().join(room).join(&name[..2]).join(&name[2..])
    }

    fn source(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn write_files<'a>(folder: &Path, files: impl IntoIterator<Item = (&'a str, &'a str)>) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn read_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let name = entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn key(name: &str) -> Key {
    Digest::of(name.as_bytes()).into()
}

fn record(key: Key, artifact: ArtifactId) -> Record {
    Record {
        key,
        artifact,
        kind: "Tokenize".to_owned(),
        revision: 1,
        graph: "quickstart".to_owned(),
        stage: "tokens".to_owned(),
        settings: serde_json::json!({ "length": 512 }),
        inputs: Vec::new(),
        sources: Vec::new(),
        numeric_class: None,
        provenance: Provenance::here(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH, 0.25),
        notices: vec!["one document is empty".to_owned()],
    }
}

#[test]
fn a_published_record_is_found_with_its_files() {
    let place = Place::new();
    let artifact = place.ingest(&[("a.txt", "one"), ("b/c.txt", "two")]);
    let published = record(key("x"), artifact);
    assert_eq!(place.store.lookup(&key("x")).unwrap(), Lookup::Absent);
    place.store.publish(&published).unwrap();
    assert_eq!(place.store.record(&key("x")).unwrap(), Some(published));
    let view = place.store.view(&artifact).unwrap();
    assert_eq!(
        read_files(&view),
        BTreeMap::from([("a.txt".into(), b"one".to_vec()), ("b/c.txt".into(), b"two".to_vec())])
    );
    assert!(matches!(place.store.digest_inside(&artifact, Some("d")), Err(StoreError::NotInside { .. })));
}
