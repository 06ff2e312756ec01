//! What lies in a store, room by room.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use walkdir::WalkDir;

use super::{Record, Store, StoreError, folder, network};
use crate::digest::{ArtifactId, Digest};

/// How much lies in one room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoomSize {
    /// The folder below the store.
    pub room: String,
    /// Files in it. One that has several names counts in the first room that has it.
    pub files: u64,
    /// Their length in bytes.
    pub bytes: u64,
}

/// The rooms in the order in which shared files are counted.
const ROOMS: &[&str] = &[
    "objects",
    "trees",
    "actions",
    "verdicts",
    "origins",
    "pins",
    "local/scratch",
    "local/views",
    "local/quarantine",
    "local/runs",
    "local",
];

impl Store {
    /// How much lies in each room.
    pub fn sizes(&self) -> Vec<RoomSize> {
        let mut seen = HashSet::new();
        let mut sizes = Vec::new();
        for room in ROOMS {
            let mut size = RoomSize { room: (*room).to_owned(), files: 0, bytes: 0 };
            // What goes away during the walk does not count.
            for entry in WalkDir::new(self.root().join(room)).into_iter().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())) {
                    size.files += 1;
                    size.bytes += metadata.len();
                }
            }
            sizes.push(size);
        }
        sizes
    }

    /// The artifacts whose names start with these digits.
    pub fn artifacts_named(&self, digits: &str) -> Result<Vec<ArtifactId>, StoreError> {
        let named = self.stock("trees")?.named.into_iter().map(|(digest, _)| ArtifactId::from(digest));
        Ok(named.filter(|artifact| artifact.to_string().starts_with(digits)).collect())
    }

    /// All records that can be read, in the order of their keys.
    pub fn all_records(&self) -> Result<Vec<Record>, StoreError> {
        let named = self.stock("actions")?.named.into_iter();
        Ok(named.filter_map(|(digest, _)| self.read_record(&digest.into()).ok().flatten()).collect())
    }

    /// What has a digest as its name in `objects`, `trees` or `actions`, and the rest.
    pub(super) fn stock(&self, room: &str) -> Result<Stock, StoreError> {
        let mut stock = Stock::default();
        for shelf in folder::entries(&self.root().join(room))? {
            let prefix = name(&shelf);
            if !shelf.is_dir() || prefix.len() != 2 {
                stock.sort_out(shelf);
                continue;
            }
            for path in folder::entries(&shelf)? {
                match format!("{prefix}{}", name(&path)).parse() {
                    Ok(digest) => stock.named.push((digest, path)),
                    Err(_) => stock.sort_out(path),
                }
            }
        }
        Ok(stock)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The contents of a room.
#[derive(Debug, Default)]
pub(super) struct Stock {
    /// What is named by a digest.
    pub(super) named: Vec<(Digest, PathBuf)>,
    /// Half-written files of processes that write now, or died.
    pub(super) drafts: Vec<PathBuf>,
    /// What the store never wrote.
    pub(super) foreign: Vec<PathBuf>,
}

impl Stock {
    fn sort_out(&mut self, path: PathBuf) {
        if folder::is_draft(&path) {
            self.drafts.push(path);
        } else if !network::is_removed(&path) {
            self.foreign.push(path);
        }
    }
}

/// The length of a file; none for what is not there.
pub(super) fn length(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}
