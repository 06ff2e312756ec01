//! Artifacts and records. Plain files that never change are the truth:
//!
//! ```text
//! objects/ab/REST   contents of files, named by their BLAKE3
//! trees/ab/REST     manifests of artifacts, named by their BLAKE3
//! actions/ab/REST   records, named by the key of the action
//! verdicts/ab/REST  what came of computing a result again, named by the key of the action
//! origins/ab/REST   where a result came from that was computed elsewhere, named by what its record says of its making
//! pins/NAME.json    results that stay, whatever is collected
//! local/            what is derived or private to this machine: views, indexes, scratch, claims, leases, runs, quarantine
//! ```
//!
//! Whatever has its final name is complete: it was written under another name, or inside a stage's scratch folder, before.
//! It may not be on the disk yet; then nothing notes what it holds, and who finds it after a power cut hashes it. An object carries a fixed modification time, and an index notes the inode and change time
//! it had when its content was last hashed; one that differs in any of them (copied, touched, tampered with) is hashed
//! again before it is trusted. What turns out to be damaged is set aside in `local/quarantine` and computed again.

mod answer;
mod check;
mod claim;
mod collect;
mod error;
mod flush;
mod folder;
mod hash;
mod ingest;
mod inventory;
mod last;
mod lease;
mod local;
mod lock;
mod manifest;
mod network;
mod object;
mod origin;
mod partial;
mod pin;
mod plain;
mod provenance;
mod quarantine;
mod record;
mod sealed;
mod seals;
mod source;
mod stat_index;
mod transfer;
mod verdict;
mod view;
mod witness;

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, Weak},
};

pub use answer::{Answer, may_have_answer};
pub use check::{Checked, Finding, Hashing, Sort};
pub use claim::{CheckFolder, Claim, ClaimAttempt};
pub use collect::{Collected, Kept, Reach, Removed, Retention, Root, RootSort, with_parts};
pub use error::{StoreError, TwoResults};
pub use folder::remove as remove_folder;
pub use inventory::RoomSize;
pub use last::LastKeys;
pub use lease::{Hold, InUse};
pub use manifest::{Entry, Manifest};
pub use network::ask_for_name;
pub use origin::Origin;
pub use partial::Partial;
pub use pin::{Pin, PinnedStage};
pub use plain::{open_plain, read_plain};
pub use provenance::{COMMIT, Provenance};
pub use quarantine::Damage;
pub use record::{Lookup, Record, RecordInput, RecordedPart, RecordedReference};
pub use source::SourceState;
pub use transfer::{Arrivals, Arrived, put};
pub use view::View;
pub use witness::Witnesses;

use rustix::fs::Access;

use crate::digest::Digest;

/// The store of this machine. Any number of processes may use one at the same time.
pub struct Store {
    root: PathBuf,
    stat_index: Mutex<stat_index::StatIndex>,
    seals: Mutex<seals::Seals>,
    damage: Mutex<Vec<Damage>>,
    opened: Mutex<Option<Hold>>,
    /// The lock of the last hold, as long as somebody has it.
    held: Mutex<Weak<File>>,
    lease: Mutex<Option<lease::Lease>>,
    flusher: flush::Flusher,
    /// Scratch folders of finished actions, empty, for others to use.
    spare: Mutex<Vec<PathBuf>>,
    /// Files of ended claims, for others to use.
    spare_claims: Mutex<Vec<claim::SpareClaim>>,
    /// Where it is kept what the stages of graphs were last keyed by.
    keeping: Mutex<HashMap<String, last::Keeping>>,
}

impl Store {
    /// Opens the store at `root`, and creates it if it is not there. Nothing is collected until [`Store::release`], or
    /// the end of the store.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        for folder in ["objects", "trees", "actions", "local"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(StoreError::unusable(&root, "create", &folder))?;
        }
        let local = root.join("local");
        rustix::fs::access(&local, Access::WRITE_OK)
            .map_err(|error| StoreError::unusable(&root, "write into", &local)(error.into()))?;
        let stat_index = Mutex::new(stat_index::StatIndex::new(local.join("stat-index.json")));
        let seals = Mutex::new(seals::Seals::new(local.join("seals")));
        let store = Self {
            root,
            stat_index,
            seals,
            damage: Mutex::default(),
            opened: Mutex::default(),
            held: Mutex::default(),
            lease: Mutex::default(),
            flusher: flush::Flusher::default(),
            spare: Mutex::default(),
            spare_claims: Mutex::default(),
            keeping: Mutex::default(),
        };
        let hold = store.hold()?;
        *store.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(hold);
        Ok(store)
    }

    /// Opens a store that is there.
    pub fn existing(root: &Path) -> Result<Self, StoreError> {
        if root.join("objects").is_dir() && root.join("actions").is_dir() {
            Self::open(root)
        } else {
            Err(StoreError::NoStore { path: root.to_owned() })
        }
    }

    /// The folder that the store lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn local(&self, below: &str) -> PathBuf {
        self.root.join("local").join(below)
    }

    fn named(&self, room: &str, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let (folder, rest) = name.split_at(2);
        // In one piece: long lists of files have thousands.
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + room.len() + name.len() + 3);
        path.extend([self.root.as_path(), room.as_ref(), folder.as_ref(), rest.as_ref()]);
        path
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for spare in self.spare.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // What stays is collected some day.
            let _ = folder::remove(&spare);
        }
    }
}
