//! Looking at every byte of a store, and repairing what can be repaired.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    Entry, Store, StoreError, folder, hash,
    lock::open_to_lock,
    network, origin,
    seals::{self, Seals},
    verdict,
};
use crate::digest::{ArtifactId, Digest, Key};

/// A half-written file outside the rooms that a check has to itself is nobody's after this time.
const ABANDONED: Duration = Duration::from_hours(1);

/// What a check has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// File contents that are as their names say.
    pub objects: u64,
    /// Their length together.
    pub bytes: u64,
    /// Lists of files that are as their names say.
    pub artifacts: u64,
    /// Records that can be read and whose files are all there.
    pub records: u64,
    /// What was wrong.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Whether anything was lost or other than it must be. Leftovers and strangers do no harm.
    pub fn is_whole(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding.sort, Sort::Foreign | Sort::Leftover))
    }
}

/// Something that a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Of what sort it is.
    pub sort: Sort,
    /// Where it is, or was.
    pub path: PathBuf,
    /// What is wrong, in plain words.
    pub problem: String,
    /// What was done about it, in plain words.
    pub repair: String,
}

/// Sorts of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Other than its name says.
    Damaged,
    /// A result that was recorded and whose files are not all there any more.
    Lost,
    /// Not of twdag; it is left where it is.
    Foreign,
    /// Left by a process that was interrupted; it is removed.
    Leftover,
}

/// How far the hashing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// Bytes hashed.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Store {
    /// Hashes everything, sets damage aside, drops records whose files are gone, so that their makers run again, and
    /// removes what interrupted processes left. What a living process uses is left alone.
    pub fn check(&self, progress: &(dyn Fn(Hashing) + Sync)) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        let good = {
            let _hold = self.hold()?;
            self.release();
            let good = self.check_objects(&mut checked, progress)?;
            self.check_trees(&mut checked)?;
            good
        };
        // What is on the way to the disk must not be noted before it is there.
        self.flush(|| good.keys().map(|digest| self.object(digest)).collect())?;
        // The rest takes moments. Nobody writes meanwhile, so that a half-written file is nobody's.
        let _alone = self.alone()?;
        self.check_records(&mut checked, &good)?;
        self.check_pins(&mut checked)?;
        self.check_views(&mut checked, &good)?;
        self.remove_leftovers(&mut checked)?;
        self.rebuild_indexes(&good)?;
        for damage in self.take_damage() {
            let repair = match &damage.quarantine {
                Some(quarantine) => format!("set aside in {}", quarantine.display()),
                None => "it could not be moved and is not used".to_owned(),
            };
            checked.add(Sort::Damaged, damage.path, damage.problem, repair);
        }
        checked.findings.sort_by(|one, two| (one.sort, &one.path).cmp(&(two.sort, &two.path)));
        // What could not be moved may have been found twice.
        checked.findings.dedup_by(|later, one| (one.sort, &one.path) == (later.sort, &later.path));
        Ok(checked)
    }

    /// Hashes all objects on all cores.
    fn check_objects(
        &self,
        checked: &mut Checked,
        progress: &(dyn Fn(Hashing) + Sync),
    ) -> Result<HashMap<Digest, fs::Metadata>, StoreError> {
        let stock = self.stock("objects")?;
        self.check_strangers("objects", &stock.foreign, checked);
        let sizes: Vec<u64> =
            stock.named.iter().map(|(_, path)| fs::symlink_metadata(path).map_or(0, |found| found.len())).collect();
        let total = sizes.iter().sum();
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let good = Mutex::new(HashMap::with_capacity(stock.named.len()));
        let damaged = Mutex::new(HashSet::new());
        let work = || {
            while let Some((digest, path)) = stock.named.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Ok(metadata) = fs::symlink_metadata(path) {
                    match rehash(path, &metadata, digest) {
                        Ok(metadata) => {
                            good.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest, metadata);
                        }
                        Err(Wrong::Gone) => {}
                        Err(Wrong::Content(problem)) => {
                            damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
                            self.set_aside(path, metadata.ino(), &problem);
                        }
                    }
                    let done = done.fetch_add(metadata.len(), Ordering::Relaxed) + metadata.len();
                    progress(Hashing { done, total });
                }
            }
        };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        let good = good.into_inner().unwrap_or_else(PoisonError::into_inner);
        // One that could not be moved must not count as what it was.
        self.seals().forget(&damaged.into_inner().unwrap_or_else(PoisonError::into_inner));
        checked.objects = good.len() as u64;
        checked.bytes = good.values().map(fs::Metadata::len).sum();
        Ok(good)
    }

    /// What has the name of a folder of a room and is none is in the way, and set aside.
    fn check_strangers(&self, room: &str, paths: &[PathBuf], checked: &mut Checked) {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let in_the_way = |path: &Path| {
            let name = path.file_name()?.as_encoded_bytes();
            let is_named =
                name.len() == 2 && name.iter().copied().all(is_digit) && path.parent()? == self.root().join(room);
            if is_named { fs::symlink_metadata(path).ok() } else { None }
        };
        for path in paths {
            match in_the_way(path) {
                Some(metadata) => self.set_aside(path, metadata.ino(), "it has the name of a folder, and is none"),
                None => checked.add(Sort::Foreign, path.clone(), "not of twdag".to_owned(), "left as it is".to_owned()),
            }
        }
    }

    fn check_trees(&self, checked: &mut Checked) -> Result<(), StoreError> {
        let stock = self.stock("trees")?;
        self.check_strangers("trees", &stock.foreign, checked);
        for (digest, path) in &stock.named {
            match self.read_manifest(&(*digest).into()) {
                Ok(_) => checked.artifacts += 1,
                // What is damaged was set aside; the rest is of another version.
                Err(problem) if path.exists() => {
                    checked.add(Sort::Foreign, path.clone(), problem, "left as it is".to_owned());
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn check_records(&self, checked: &mut Checked, good: &HashMap<Digest, fs::Metadata>) -> Result<(), StoreError> {
        let stock = self.stock("actions")?;
        self.check_strangers("actions", &stock.foreign, checked);
        for (digest, path) in &stock.named {
            let key: Key = (*digest).into();
            let record = match self.read_record(&key) {
                Ok(Some(record)) => record,
                Err(problem) if path.exists() => {
                    checked.add(Sort::Foreign, path.clone(), problem, "left as it is".to_owned());
                    continue;
                }
                Ok(None) | Err(_) => continue,
            };
            match self.lost(&record.artifact, good) {
                None => checked.records += 1,
                Some(problem) => {
                    folder::remove_any(path)?;
                    let problem =
                        format!("the result of stage `{}` of graph `{}`: {problem}", record.stage, record.graph);
                    checked.add(
                        Sort::Lost,
                        path.clone(),
                        problem,
                        "its record was removed; a run computes it again".to_owned(),
                    );
                }
            }
        }
        Ok(())
    }

    /// What is missing of an artifact; `good` are objects that need not be looked at again.
    fn lost(&self, artifact: &ArtifactId, good: &HashMap<Digest, fs::Metadata>) -> Option<String> {
        let manifest = match self.read_manifest(artifact) {
            Ok(manifest) => manifest,
            Err(problem) => return Some(problem),
        };
        manifest.files().iter().find_map(|entry| match good.get(&entry.digest) {
            Some(metadata) if metadata.len() == entry.size => None,
            _ => self.object_problem(entry),
        })
    }

    fn check_pins(&self, checked: &mut Checked) -> Result<(), StoreError> {
        for path in folder::entries(&self.root().join("pins"))? {
            if folder::is_draft(&path) {
                continue;
            }
            if let Err(problem) = Self::read_pin(&path) {
                let repair = "left as it is, and nothing is collected: remove the file and pin again".to_owned();
                checked.add(Sort::Damaged, path, problem.to_string(), repair);
            }
        }
        Ok(())
    }

    /// Every view is looked at; a file in one that is a copy is hashed.
    fn check_views(&self, checked: &mut Checked, good: &HashMap<Digest, fs::Metadata>) -> Result<(), StoreError> {
        for view in folder::entries(&self.local("views"))? {
            if folder::is_draft(&view) {
                let (problem, repair) = (ABANDONED_PROBLEM.to_owned(), REMOVED.to_owned());
                folder::remove_any(&view)?;
                checked.add(Sort::Leftover, view, problem, repair);
                continue;
            }
            let name = view.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let manifest = name.parse().ok().and_then(|artifact| self.read_manifest(&artifact).ok());
            let Some(manifest) = manifest else {
                folder::remove_any(&view)?;
                let problem = "it shows an artifact that is not in the store any more".to_owned();
                checked.add(Sort::Leftover, view, problem, REMOVED.to_owned());
                continue;
            };
            let whole = |entry: &Entry| {
                let path = view.join(&entry.path);
                fs::symlink_metadata(&path).is_ok_and(|metadata| {
                    let hashed = good.get(&entry.digest).is_some_and(|object| object.ino() == metadata.ino());
                    hashed || rehash(&path, &metadata, &entry.digest).is_ok()
                })
            };
            if !manifest.files().iter().all(whole) || !self.is_whole(&view, &manifest) {
                // A view that goes takes a name from each of its objects. Whoever changed it may have written to them since they were hashed.
                let digests = manifest.files().iter().map(|entry| entry.digest);
                let untouched: Vec<Digest> = digests.filter(|digest| self.is_as_hashed(digest, good)).collect();
                folder::remove_any(&view)?;
                seals::note(self, &untouched);
                let problem = "somebody changed the folder that shows an artifact".to_owned();
                checked.add(Sort::Damaged, view, problem, "removed; it is made anew when it is asked for".to_owned());
            }
        }
        Ok(())
    }

    fn remove_leftovers(&self, checked: &mut Checked) -> Result<(), StoreError> {
        let mut leftovers = Vec::new();
        for room in ["objects", "trees", "actions", verdict::ROOM, origin::ROOM] {
            leftovers.extend(self.stock(room)?.drafts);
        }
        leftovers.extend(folder::entries(&self.root().join("pins"))?.into_iter().filter(|path| folder::is_draft(path)));
        // Others write here without holding the store.
        let abandoned = |path: &PathBuf| {
            folder::is_draft(path) && folder::age(path, SystemTime::now()).is_some_and(|age| age > ABANDONED)
        };
        let mut open = folder::entries(&self.local(""))?;
        for graph in folder::entries(&self.local("last"))? {
            open.extend(folder::entries(&graph).unwrap_or_default());
        }
        leftovers.extend(open.into_iter().filter(abandoned));
        for path in leftovers {
            folder::remove_any(&path)?;
            checked.add(Sort::Leftover, path, ABANDONED_PROBLEM.to_owned(), REMOVED.to_owned());
        }
        self.leased(true)?;
        self.free_claims()?;
        Ok(())
    }

    /// Removes the files of claims that nobody holds. Only while the store is held alone: a claim is taken while it
    /// is held, so nobody has opened one of them and not locked it yet.
    pub(super) fn free_claims(&self) -> Result<HashSet<String>, StoreError> {
        self.claims(folder::remove_any)
    }

    /// The keys that somebody holds the claim of.
    pub(super) fn claimed(&self) -> Result<HashSet<String>, StoreError> {
        self.claims(|_| Ok(()))
    }

    fn claims(&self, free: fn(&Path) -> Result<(), StoreError>) -> Result<HashSet<String>, StoreError> {
        let mut held = HashSet::new();
        for path in folder::entries(&self.local("claims"))? {
            let is_free = match open_to_lock(&path) {
                Err(error) if network::is_gone(&error) => continue,
                opened => opened.is_ok_and(|file| file.try_lock().is_ok()),
            };
            if is_free {
                free(&path)?;
            } else {
                held.insert(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        Ok(held)
    }

    /// Whether nobody wrote to an object since it was hashed. Views may have come and gone, which the index knows.
    fn is_as_hashed(&self, digest: &Digest, good: &HashMap<Digest, fs::Metadata>) -> bool {
        let (Some(hashed), Ok(now)) = (good.get(digest), fs::symlink_metadata(self.object(digest))) else {
            return false;
        };
        let identity = |metadata: &fs::Metadata| (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
        identity(hashed) == identity(&now) || self.seals().has(digest, &now)
    }

    /// The index of objects is what was found; the index of sources goes if it cannot be read, and fills again.
    fn rebuild_indexes(&self, good: &HashMap<Digest, fs::Metadata>) -> Result<(), StoreError> {
        let path = self.local("seals");
        let mut fresh = Seals::new(path.clone());
        for digest in good.keys().filter(|digest| self.is_as_hashed(digest, good)) {
            if let Ok(now) = fs::symlink_metadata(self.object(digest)) {
                fresh.add(digest, &now);
            }
        }
        // Where there is no room for it, what the old one knows must not count either: everything is hashed again.
        fresh.replace().or_else(|_| folder::remove_any(&path))?;
        *self.seals() = Seals::new(path);
        self.stat_index.lock().unwrap_or_else(PoisonError::into_inner).repair()
    }
}

const ABANDONED_PROBLEM: &str = "left half-written by a process that was interrupted";
const REMOVED: &str = "removed";

impl Checked {
    fn add(&mut self, sort: Sort, path: PathBuf, problem: String, repair: String) {
        self.findings.push(Finding { sort, path, problem, repair });
    }
}

enum Wrong {
    Gone,
    Content(String),
}

/// Hashes a file whatever the index says; what `stat` said before.
fn rehash(path: &Path, metadata: &fs::Metadata, digest: &Digest) -> Result<fs::Metadata, Wrong> {
    if !metadata.is_file() {
        return Err(Wrong::Content(format!("{} is no file", path.display())));
    }
    match hash::hash(path) {
        Ok((found, _)) if found == *digest => Ok(metadata.clone()),
        Ok((found, size)) => {
            Err(Wrong::Content(format!("its {size} bytes have the digest {found}, which is not its name")))
        }
        // Somebody else has set it aside.
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Err(Wrong::Gone),
        Err(error) => Err(Wrong::Content(error.to_string())),
    }
}
