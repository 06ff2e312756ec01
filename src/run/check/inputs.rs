//! Inputs of a stage in other folders, where programs that list them find the files in another order.

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
    store::{Entry, Store},
};

/// Larger inputs are not copied.
const LARGEST: u64 = 256 << 20;
/// In memory they may take so much.
const LARGEST_IN_MEMORY: u64 = 64 << 20;
/// A file system in memory lists what came last first; most on disks have an order of their own that nobody can choose.
const MEMORY: &str = "/dev/shm";

/// The inputs of one run.
pub(super) struct Inputs {
    folder: PathBuf,
    places: BTreeMap<ArtifactId, PathBuf>,
    in_memory: Option<TempDir>,
    kept_order: Option<String>,
    have_order: bool,
}

impl Inputs {
    /// Inputs that may lie below `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.join("inputs"),
            places: BTreeMap::new(),
            in_memory: None,
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
        let size = manifest.size();
        let has_order = manifest.files().len() > 1;
        self.have_order |= has_order;
        let place = if size > LARGEST {
            if has_order {
                self.kept_order
                    .get_or_insert_with(|| format!("an input of {} MB is too large to be copied", size / 1_000_000));
            }
            view
        } else {
            let is_plain = manifest.files().iter().all(|file| !file.executable);
            let memory = if is_plain && size <= LARGEST_IN_MEMORY { self.memory() } else { None };
            let name = artifact.to_string();
            let roots = memory.into_iter().chain([self.folder.clone()]);
            self.copy(&view, manifest.files(), roots.map(|root| root.join(&name)))?
        };
        self.places.insert(*artifact, place.clone());
        Ok(place)
    }

    fn memory(&mut self) -> Option<PathBuf> {
        if self.in_memory.is_none() {
            self.in_memory = tempfile::Builder::new().prefix("twdag-check-").tempdir_in(MEMORY).ok();
        }
        self.in_memory.as_ref().map(|folder| folder.path().to_owned())
    }

    /// Copies the files to the first of the places where they are listed in another order; to the last one if there is none.
    fn copy(
        &mut self,
        view: &Path,
        files: &[Entry],
        places: impl Iterator<Item = PathBuf>,
    ) -> Result<PathBuf, RunError> {
        let usual = listed(view);
        let mut last = None;
        for place in places {
            for reversed in [false, true] {
                let copied = fill(view, &place, &usual, files, reversed);
                // Memory may be full; then there is the other place.
                if let Err(source) = copied {
                    last = Some(Err(RunError::Folder { path: place.clone(), source }));
                    break;
                }
                if files.len() < 2 || listed(&place) != usual {
                    return Ok(place);
                }
                last = Some(Ok(place.clone()));
            }
        }
        let why = "the file systems here list the same names in the same order, whatever order they were made in";
        self.kept_order.get_or_insert_with(|| why.to_owned());
        last.unwrap_or(Err(RunError::Bug("there is no place for inputs")))
    }
}

/// All files and folders below a folder, in the order in which the system lists them, folders before what they hold.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(folder).min_depth(1).into_iter().flatten();
    all.filter_map(|entry| Some(entry.path().strip_prefix(folder).ok()?.to_owned())).collect()
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
