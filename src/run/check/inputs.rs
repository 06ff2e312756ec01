//! Inputs of a stage in other folders, where programs that list them find the files in another order.
//!
//! Only in memory is that order sure to be another one. There is little memory for files in many a container, so that what is
//! copied there is decided by what is free when a check begins, and the scheduler starts no rerun whose copies do not fit beside the others'.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    digest::ArtifactId,
    run::error::RunError,
    store::{Entry, Manifest, Store},
};

/// Larger inputs are not copied.
const LARGEST: u64 = 256 << 20;
/// In memory each may take so much.
const LARGEST_IN_MEMORY: u64 = 64 << 20;
/// A file system in memory lists what came last first; most on disks have an order of their own that nobody can choose.
const MEMORY: &str = "/dev/shm";
/// Files in memory take whole pages.
const PAGE: u64 = 4096;

/// The memory that there is for copies of inputs.
pub(super) struct Room {
    /// In bytes; nothing where there is no such file system.
    free: Option<u64>,
}

impl Room {
    pub(super) fn find() -> Self {
        let found = rustix::fs::statvfs(MEMORY).ok();
        Self { free: found.map(|found| found.f_bavail.saturating_mul(found.f_frsize)) }
    }

    /// In bytes.
    pub(super) fn free(&self) -> u64 {
        self.free.unwrap_or(0)
    }

    /// Which inputs of a stage are copied into memory: the first that fit when nothing else is there.
    pub(super) fn place<'a>(&self, store: &Store, artifacts: impl Iterator<Item = &'a ArtifactId>) -> InMemory {
        let mut in_memory = InMemory::default();
        for artifact in artifacts {
            // Whoever reads one that cannot be read says so.
            if let Ok(manifest) = store.manifest(artifact)
                && !in_memory.places.contains_key(artifact)
            {
                let bytes = self.bytes(&manifest, in_memory.bytes);
                in_memory.bytes += bytes.as_ref().copied().unwrap_or(0);
                in_memory.places.insert(*artifact, bytes.map(|_| ()));
            }
        }
        in_memory
    }

    /// What an input takes beside so much that is taken, or why it is not copied into memory.
    fn bytes(&self, manifest: &Manifest, taken: u64) -> Result<u64, String> {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let files = manifest.files();
        if !has_order(files) {
            return Ok(0);
        }
        if files.iter().any(|file| file.executable) {
            return Err(format!("an input holds programs, which may not be started in {MEMORY} everywhere"));
        }
        if manifest.size() > LARGEST_IN_MEMORY {
            return Err(format!("an input of {:.1} MB is too large for {MEMORY}", megabytes(manifest.size())));
        }
        let free = self.free.ok_or_else(|| format!("there is no {MEMORY} here"))?;
        let bytes: u64 = files.iter().map(|file| file.size.next_multiple_of(PAGE)).sum();
        if bytes > free.saturating_sub(taken) {
            let (bytes, free, taken) = (megabytes(bytes), megabytes(free), megabytes(taken));
            let others = if taken > 0.0 { format!(" for it and for {taken:.1} MB of others") } else { String::new() };
            return Err(format!(
                "no room in {MEMORY}: an input takes {bytes:.1} MB, and {free:.1} MB were free{others}"
            ));
        }
        Ok(bytes)
    }
}

/// Which inputs of a stage are copied into memory.
#[derive(Clone, Debug, Default)]
pub(super) struct InMemory {
    bytes: u64,
    /// Those that are not have a reason.
    places: BTreeMap<ArtifactId, Result<(), String>>,
}

impl InMemory {
    /// What they take there.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The inputs of one run.
pub(super) struct Inputs {
    folder: PathBuf,
    in_memory: InMemory,
    places: BTreeMap<ArtifactId, PathBuf>,
    memory: Option<TempDir>,
    kept_order: Option<String>,
    have_order: bool,
}

impl Inputs {
    /// Inputs that lie in memory, or below `folder`.
    pub(super) fn new(folder: &Path, in_memory: InMemory) -> Self {
        Self {
            folder: folder.join("inputs"),
            in_memory,
            places: BTreeMap::new(),
            memory: None,
            kept_order: None,
            have_order: false,
        }
    }

    /// Whether there is an input of several files, which alone can come in another order.
    pub(super) fn have_order(&self) -> bool {
        self.have_order
    }

    /// Why the files of an input come in the usual order, if they do.
    pub(super) fn kept_order(&self) -> Option<String> {
        self.kept_order.clone()
    }

    /// A folder that holds an artifact, at another place than usual where that is possible.
    pub(super) fn place(&mut self, store: &Store, artifact: &ArtifactId) -> Result<PathBuf, RunError> {
        if let Some(place) = self.places.get(artifact) {
            return Ok(place.clone());
        }
        let (view, manifest) = (store.view(artifact)?, store.manifest(artifact)?);
        let (size, has_order) = (manifest.size(), has_order(manifest.files()));
        self.have_order |= has_order;
        let place = if size > LARGEST {
            if has_order {
                self.kept_order
                    .get_or_insert_with(|| format!("an input of {} MB is too large to be copied", size / 1_000_000));
            }
            view
        } else {
            self.copy(artifact, &view, manifest.files())?
        };
        self.places.insert(*artifact, place.clone());
        Ok(place)
    }

    /// Copies the files to where they are listed in another order; to the disk if that is nowhere.
    fn copy(&mut self, artifact: &ArtifactId, view: &Path, files: &[Entry]) -> Result<PathBuf, RunError> {
        let (usual, name) = (listed(view), artifact.to_string());
        let mut why = None;
        if has_order(files) {
            let refused = self.in_memory.places.get(artifact).cloned();
            why = match refused.unwrap_or_else(|| Err(format!("no room in {MEMORY} was kept for an input"))) {
                Err(refused) => Some(refused),
                Ok(()) => match self.copy_to_memory(&name, view, &usual, files)? {
                    Ok(Some(place)) => return Ok(place),
                    Ok(None) => None,
                    Err(source) => Some(format!("{MEMORY} took no copy of an input: {source}")),
                },
            };
        }
        let place = self.folder.join(name);
        if !fill_otherwise(view, &place, &usual, files).map_err(in_folder(&place))? {
            const SAME: &str = "list the same names in the same order, whatever order they were made in";
            self.kept_order.get_or_insert_with(|| match why {
                Some(why) => format!("{why}, and folders of the store {SAME}"),
                None => format!("the file systems here {SAME}"),
            });
        }
        Ok(place)
    }

    /// Where the files lie in memory, in another order. Nothing if there is none, or an error if memory took no copy: then nothing is left there.
    fn copy_to_memory(
        &mut self,
        name: &str,
        view: &Path,
        usual: &[PathBuf],
        files: &[Entry],
    ) -> Result<io::Result<Option<PathBuf>>, RunError> {
        let memory = match self.memory.take().map_or_else(in_memory, Ok) {
            Ok(memory) => self.memory.insert(memory),
            Err(source) => return Ok(Err(source)),
        };
        let place = memory.path().join(name);
        let filled = fill_otherwise(view, &place, usual, files);
        if matches!(filled, Ok(true)) {
            return Ok(Ok(Some(place)));
        }
        if place.exists() {
            fs::remove_dir_all(&place).map_err(in_folder(&place))?;
        }
        Ok(filled.map(|_| None))
    }
}

fn in_memory() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("twdag-check-").tempdir_in(MEMORY)
}

fn in_folder(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::Folder { path, source }
}

/// Whether files can come in more than one order.
fn has_order(files: &[Entry]) -> bool {
    files.len() > 1
}

/// All files and folders below a folder, in the order in which the system lists them, folders before what they hold.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(folder).min_depth(1).into_iter().flatten();
    all.filter_map(|entry| Some(entry.path().strip_prefix(folder).ok()?.to_owned())).collect()
}

/// Makes a folder that holds the same files. Whether they are listed in another order than the usual one, where they have any.
fn fill_otherwise(view: &Path, place: &Path, usual: &[PathBuf], files: &[Entry]) -> io::Result<bool> {
    for reversed in [false, true] {
        fill(view, place, usual, files, reversed)?;
        if !has_order(files) || listed(place) != usual {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes a folder that holds the same files, made in the order given or the reverse of it.
fn fill(view: &Path, place: &Path, order: &[PathBuf], files: &[Entry], reversed: bool) -> io::Result<()> {
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::create_dir_all(place)?;
    let order: Vec<&PathBuf> = if reversed { order.iter().rev().collect() } else { order.iter().collect() };
    for path in order {
        let (from, to) = (view.join(path), place.join(path));
        if from.is_dir() {
            fs::create_dir_all(&to)?;
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&from, &to)?;
        let executable = files.iter().any(|file| file.executable && path.as_os_str() == file.path.as_str());
        fs::set_permissions(&to, fs::Permissions::from_mode(if executable { 0o555 } else { 0o444 }))?;
    }
    Ok(())
}
