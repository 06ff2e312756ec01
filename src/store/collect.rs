//! Garbage collection: what no root reaches goes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{InUse, Manifest, Store, StoreError, folder, inventory::length, origin, seals, verdict};
use crate::digest::{ArtifactId, Digest, Key};

/// Something that keeps artifacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// What it is.
    pub sort: RootSort,
    /// Its name: of a pin, of a run folder.
    pub name: String,
    /// What it keeps.
    pub artifacts: BTreeSet<ArtifactId>,
    /// When it was used; the oldest go first if a size is not to be exceeded.
    pub time: Timestamp,
}

/// Sorts of roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootSort {
    /// A process that lives relies on it.
    Running,
    /// Somebody pinned it.
    Pin,
    /// A past run gave or used it.
    Run,
    /// It was recorded a short time ago.
    Recent,
}

/// What is to stay.
#[derive(Clone, Debug)]
pub struct Retention {
    /// What stays because of pins and runs.
    pub roots: Vec<Root>,
    /// What was recorded later than this stays, and so does unfinished work that was touched later.
    pub since: SystemTime,
    /// What all that stays may have at most, in bytes; pins and what is running stay nevertheless.
    pub max_size: Option<u64>,
    /// Whether to tell only what would go.
    pub dry_run: bool,
}

/// What stays and what goes, or went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// What keeps how much.
    pub roots: Vec<Kept>,
    /// File contents that stay, in bytes.
    pub kept_bytes: u64,
    /// What goes, or went.
    pub removed: Removed,
    /// Runs that no longer keep their results because of the size.
    pub let_go: Vec<String>,
    /// Whether what pins and running processes keep alone is too much.
    pub over_size: bool,
}

/// How much a root keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// What it is.
    pub sort: RootSort,
    /// Its name.
    pub name: String,
    /// How many artifacts it keeps.
    pub artifacts: u64,
    /// Their file contents, each counted once, in bytes.
    pub bytes: u64,
    /// Those that no other root keeps: what would go with it.
    pub alone_bytes: u64,
}

/// What goes, or went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Records.
    pub records: u64,
    /// Lists of files.
    pub artifacts: u64,
    /// File contents.
    pub objects: u64,
    /// Folders that show artifacts.
    pub views: u64,
    /// Folders of unfinished work.
    pub scratch: u64,
    /// Folders of past runs.
    pub runs: u64,
    /// Files in quarantine.
    pub quarantined: u64,
    /// Logs of checks that failed.
    pub check_logs: u64,
    /// The length of all of these in bytes.
    pub bytes: u64,
}

/// The artifacts of a store by what reaches them.
pub struct Reach {
    manifests: HashMap<ArtifactId, Manifest>,
    roots: Vec<Root>,
}

impl Store {
    /// Removes what no root reaches. `runs` are the run folders that may go if they are older than what stays.
    /// Waits until nobody looks into the store; what living processes rely on stays.
    pub fn collect(&self, retention: Retention) -> Result<Collected, StoreError> {
        let _alone = self.alone()?;
        let in_use = self.leased(!retention.dry_run)?;
        let records = self.records()?;
        let since = retention.since;
        let mut roots = retention.roots;
        roots.push(Root {
            sort: RootSort::Running,
            name: "processes that run now".to_owned(),
            artifacts: in_use.artifacts.clone(),
            time: Timestamp::MAX,
        });
        for record in records.iter().filter(|record| record.written >= since) {
            roots.push(Root {
                sort: RootSort::Recent,
                name: String::new(),
                artifacts: BTreeSet::from([record.artifact]),
                time: Timestamp::try_from(record.written).unwrap_or(Timestamp::MAX),
            });
        }
        with_parts(&mut roots, records.iter().map(|record| (record.artifact, record.parts.as_slice())));
        let mut reach = self.reach(roots);
        let mut collected = Collected::default();
        if let Some(max_size) = retention.max_size {
            collected.let_go = reach.shrink(max_size);
            collected.over_size = reach.bytes() > max_size;
        }
        collected.roots = reach.kept();
        collected.kept_bytes = reach.bytes();
        let mut sweep = Sweep { store: self, dry_run: retention.dry_run, removed: Removed::default() };
        sweep.artifacts(&reach, &records)?;
        sweep.work(since, &in_use, &reach)?;
        collected.removed = sweep.removed;
        Ok(collected)
    }

    fn records(&self) -> Result<Vec<Recorded>, StoreError> {
        let mut records = Vec::new();
        for (digest, path) in self.stock("actions")?.named {
            let key: Key = digest.into();
            // A damaged record was set aside by this look; one of another version stays, and keeps nothing.
            let Ok(Some(record)) = self.read_record(&key) else { continue };
            let written =
                fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(StoreError::io("read", &path))?;
            let parts = record.parts.into_iter().map(|part| part.artifact).collect();
            records.push(Recorded { path, artifact: record.artifact, parts, written });
        }
        Ok(records)
    }

    fn reach(&self, roots: Vec<Root>) -> Reach {
        let mut manifests = HashMap::new();
        for artifact in roots.iter().flat_map(|root| &root.artifacts) {
            // An artifact that is gone keeps nothing.
            if !manifests.contains_key(artifact)
                && let Ok(manifest) = self.read_manifest(artifact)
            {
                manifests.insert(*artifact, manifest);
            }
        }
        Reach::new(roots, manifests)
    }
}

struct Recorded {
    path: PathBuf,
    artifact: ArtifactId,
    parts: Vec<ArtifactId>,
    written: SystemTime,
}

/// Who keeps a result keeps the parts that it was joined from, which `joined` tells.
pub fn with_parts<'a>(roots: &mut [Root], joined: impl Iterator<Item = (ArtifactId, &'a [ArtifactId])>) {
    let mut parts: HashMap<ArtifactId, Vec<ArtifactId>> = HashMap::new();
    for (artifact, of_it) in joined.filter(|(_, of_it)| !of_it.is_empty()) {
        parts.entry(artifact).or_default().extend(of_it);
    }
    if parts.is_empty() {
        return;
    }
    for root in roots {
        let kept: Vec<ArtifactId> =
            root.artifacts.iter().filter_map(|artifact| parts.get(artifact)).flatten().copied().collect();
        root.artifacts.extend(kept);
    }
}

/// Lengths together. A list of files of a stranger may name any, so that a few come to more than one of them can be.
fn total<'a>(lengths: impl Iterator<Item = &'a u64>) -> u128 {
    lengths.map(|&length| u128::from(length)).sum()
}

fn as_bytes(total: u128) -> u64 {
    u64::try_from(total).unwrap_or(u64::MAX)
}

impl Reach {
    /// What roots reach. An artifact whose list of files is not known keeps nothing.
    pub fn new(roots: Vec<Root>, manifests: HashMap<ArtifactId, Manifest>) -> Self {
        Self { manifests, roots }
    }

    fn objects<'a>(&'a self, artifacts: impl IntoIterator<Item = &'a ArtifactId>) -> HashMap<Digest, u64> {
        artifacts
            .into_iter()
            .filter_map(|artifact| self.manifests.get(artifact))
            .flat_map(Manifest::files)
            .map(|entry| (entry.digest, entry.size))
            .collect()
    }

    /// All that they reach.
    pub fn live(&self) -> HashSet<ArtifactId> {
        self.roots.iter().flat_map(|root| &root.artifacts).copied().collect()
    }

    /// The contents of all files of that, each counted once, in bytes; the largest number if it is none.
    pub fn bytes(&self) -> u64 {
        as_bytes(total(self.objects(&self.live()).values()))
    }

    /// Lets the oldest runs and records go until the rest is no larger than that; the names of the runs.
    pub fn shrink(&mut self, max_size: u64) -> Vec<String> {
        let mut users: HashMap<Digest, u64> = HashMap::new();
        for root in &self.roots {
            for digest in self.objects(&root.artifacts).into_keys() {
                *users.entry(digest).or_default() += 1;
            }
        }
        let mut size = total(self.objects(&self.live()).values());
        let mut order: Vec<usize> = (0..self.roots.len())
            .filter(|&root| matches!(self.roots[root].sort, RootSort::Run | RootSort::Recent))
            .collect();
        // Of those of the same time a forecast must choose the same ones as the deed.
        order.sort_by(|&one, &two| {
            let age = |root: usize| (self.roots[root].time, &self.roots[root].name, &self.roots[root].artifacts);
            age(one).cmp(&age(two))
        });
        let mut gone = BTreeSet::new();
        for root in order {
            if size <= u128::from(max_size) {
                break;
            }
            for (digest, bytes) in self.objects(&self.roots[root].artifacts) {
                if let Some(count) = users.get_mut(&digest) {
                    *count -= 1;
                    if *count == 0 {
                        // Somebody else may have said another length of it.
                        size = size.saturating_sub(u128::from(bytes));
                    }
                }
            }
            gone.insert(root);
        }
        let mut place = 0..;
        let (gone, kept) = std::mem::take(&mut self.roots)
            .into_iter()
            .partition(|_| place.next().is_some_and(|place| gone.contains(&place)));
        self.roots = kept;
        let gone: Vec<Root> = gone;
        gone.into_iter().filter(|root| root.sort == RootSort::Run).map(|root| root.name).collect()
    }

    /// How much each root keeps; what was recorded recently counts as one.
    pub fn kept(&self) -> Vec<Kept> {
        let mut named: BTreeMap<(RootSort, &str), BTreeSet<ArtifactId>> = BTreeMap::new();
        for root in self.roots.iter().filter(|root| !root.artifacts.is_empty()) {
            named.entry((root.sort, &root.name)).or_default().extend(&root.artifacts);
        }
        let mut users: HashMap<Digest, u64> = HashMap::new();
        let objects: Vec<_> = named.values().map(|artifacts| self.objects(artifacts)).collect();
        for digest in objects.iter().flat_map(HashMap::keys) {
            *users.entry(*digest).or_default() += 1;
        }
        named
            .into_iter()
            .zip(&objects)
            .map(|(((sort, name), artifacts), objects)| Kept {
                sort,
                name: name.to_owned(),
                artifacts: artifacts.len() as u64,
                bytes: as_bytes(total(objects.values())),
                alone_bytes: as_bytes(total(
                    objects.iter().filter(|(digest, _)| users[*digest] == 1).map(|(_, bytes)| bytes),
                )),
            })
            .collect()
    }
}

/// Takes away, in an order that a kill may end anywhere: first what points to something, then that.
struct Sweep<'a> {
    store: &'a Store,
    dry_run: bool,
    removed: Removed,
}

impl Sweep<'_> {
    fn take(&mut self, path: &Path, bytes: u64) -> Result<(), StoreError> {
        self.removed.bytes += bytes;
        if self.dry_run { Ok(()) } else { folder::remove_any(path) }
    }

    fn artifacts(&mut self, reach: &Reach, records: &[Recorded]) -> Result<(), StoreError> {
        let live = reach.live();
        let objects = reach.objects(&live);
        for record in records.iter().filter(|record| !live.contains(&record.artifact)) {
            self.take(&record.path, length(&record.path))?;
            self.removed.records += 1;
        }
        for (digest, path) in self.store.stock(verdict::ROOM)?.named {
            if !self.store.named("actions", &digest).exists() {
                self.take(&path, length(&path))?;
            }
        }
        for (digest, path) in self.store.stock(origin::ROOM)?.named {
            // One that cannot be read may be of a record that stays.
            let key = self.store.origin_of(&digest);
            if key.is_some_and(|key| !self.store.named("actions", key.digest()).exists()) {
                self.take(&path, length(&path))?;
            }
        }
        let is_live = |digest: &Digest| live.contains(&(*digest).into());
        for view in folder::entries(&self.store.local("views"))? {
            let name = view.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.parse::<ArtifactId>().is_ok_and(|artifact| live.contains(&artifact)) {
                continue;
            }
            self.view(&view, &name)?;
        }
        for (digest, path) in self.store.stock("trees")?.named.into_iter().filter(|(digest, _)| !is_live(digest)) {
            // One that cannot be read may be of another version, which knows what it means.
            if self.store.read_manifest(&digest.into()).is_ok() {
                self.take(&path, length(&path))?;
                self.removed.artifacts += 1;
            }
        }
        for (digest, path) in self.store.stock("objects")?.named {
            if !objects.contains_key(&digest) {
                self.take(&path, length(&path))?;
                self.removed.objects += 1;
            }
        }
        Ok(())
    }

    /// A view's files are other names of objects, some of which stay: those get a new change time.
    fn view(&mut self, view: &Path, name: &str) -> Result<(), StoreError> {
        self.removed.views += 1;
        if self.dry_run {
            return Ok(());
        }
        let manifest = name.parse().ok().and_then(|artifact| self.store.read_manifest(&artifact).ok());
        let whole: Vec<Digest> = manifest.iter().flat_map(Manifest::files).map(|entry| entry.digest).collect();
        let known = seals::known(self.store, whole);
        folder::remove_any(view)?;
        seals::note(self.store, &known);
        Ok(())
    }

    /// Unfinished work, past runs, the quarantine and logs of checks.
    fn work(&mut self, since: SystemTime, in_use: &InUse, reach: &Reach) -> Result<(), StoreError> {
        let store = self.store;
        let old =
            |path: &PathBuf| fs::symlink_metadata(path).and_then(|found| found.modified()).is_ok_and(|at| at < since);
        let claimed = if self.dry_run { store.claimed()? } else { store.free_claims()? };
        for path in folder::entries(&store.local("scratch"))?.into_iter().filter(old) {
            if !claimed.contains(&*path.file_name().unwrap_or_default().to_string_lossy()) {
                self.take(&path, folder::size(&path))?;
                self.removed.scratch += 1;
            }
        }
        let kept: HashSet<&str> =
            reach.roots.iter().filter(|root| root.sort == RootSort::Run).map(|root| root.name.as_str()).collect();
        for path in folder::entries(&store.local("runs"))?.into_iter().filter(old) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !kept.contains(&*name) && !in_use.runs.contains(&name) {
                self.take(&path, folder::size(&path))?;
                self.removed.runs += 1;
            }
        }
        for path in folder::entries(&store.local("quarantine"))?.into_iter().filter(old) {
            self.take(&path, folder::size(&path))?;
            self.removed.quarantined += 1;
        }
        for path in folder::entries(&store.local("checks"))?.into_iter().filter(old) {
            self.take(&path, length(&path))?;
            self.removed.check_logs += 1;
        }
        Ok(())
    }
}
