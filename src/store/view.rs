//! The way out: read-only folders that show an artifact.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, linkat};
use walkdir::WalkDir;

use super::{Entry, Manifest, Store, StoreError, folder, hash::hash_open, network, object, object::OBJECTS};
use crate::{digest::ArtifactId, failpoint};

/// From this size on a file gets a clone where the file system can, and not a hard link: a clone that is removed leaves no trace on the
/// object, which then need not be hashed again. It costs an inode, which a small file is not worth.
const WORTH_CLONING: u64 = 1 << 20;

/// So many files are linked between looking at their objects and noting that these have another name: not so many that somebody
/// would have the time to write to one.
const AT_ONCE: usize = 4096;

/// Longer lists of files are read again when they are needed.
const FEW: usize = 64;

/// A folder that showed an artifact when it was looked at.
#[derive(Debug)]
pub struct View {
    artifact: ArtifactId,
    path: PathBuf,
    inode: u64,
    /// The list of files, if it is a short one.
    manifest: Option<Manifest>,
}

impl View {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// A read-only folder that holds an artifact, looked at file by file: clones of large objects that share their blocks (where the file
    /// system can), hard links to the others, or copies where those cannot be (files that may be run, file systems without links). It
    /// is made once, and again if somebody damaged it.
    pub fn view(&self, artifact: &ArtifactId) -> Result<PathBuf, StoreError> {
        Ok(self.show(artifact)?.path)
    }

    /// As [`Store::view`], to be looked at again with [`Store::is_shown`].
    pub fn show(&self, artifact: &ArtifactId) -> Result<View, StoreError> {
        let _hold = self.hold()?;
        let manifest = self.manifest(artifact)?;
        let path = self.local("views").join(artifact.to_string());
        if !self.is_whole(&path, &manifest) {
            self.make_view(&path, artifact, &manifest)?;
        }
        let inode = fs::symlink_metadata(&path).map_err(StoreError::io("read", &path))?.ino();
        let manifest = Some(manifest).filter(|manifest| manifest.files().len() <= FEW);
        Ok(View { artifact: *artifact, path, inode, manifest })
    }

    /// Whether a folder is still the same, and shows nothing but its artifact: another one may take its place if it is damaged.
    pub fn is_shown(&self, view: &View) -> Result<bool, StoreError> {
        let is_there = fs::symlink_metadata(&view.path).is_ok_and(|metadata| metadata.ino() == view.inode);
        let is_whole = |manifest: &Manifest| is_there && self.is_whole(&view.path, manifest);
        Ok(match &view.manifest {
            Some(manifest) => is_whole(manifest),
            None => is_whole(&self.manifest(&view.artifact)?),
        })
    }

    fn make_view(&self, view: &Path, artifact: &ArtifactId, manifest: &Manifest) -> Result<(), StoreError> {
        let views = folder::parent(view)?;
        let building = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(views)
            .map_err(StoreError::io("write into", views))?
            .keep();
        let mut linked = Vec::new();
        let built = self.build(&building, artifact, manifest, &mut linked);
        let built = built.and_then(|()| self.put_in_place(&building, view, manifest));
        if building.exists() {
            folder::remove(&building)?;
            // They have lost those names again.
            self.note(linked);
        }
        built
    }

    /// Fills a new view. `linked` are the objects that got a name by that, each with its inode.
    fn build<'a>(
        &self,
        building: &Path,
        artifact: &ArtifactId,
        manifest: &'a Manifest,
        linked: &mut Vec<(&'a Entry, u64)>,
    ) -> Result<(), StoreError> {
        let damaged = |problem| StoreError::Artifact { artifact: *artifact, problem };
        let takes_long = |entry: &&Entry| entry.executable || entry.size >= WORTH_CLONING;
        let (long, short): (Vec<&Entry>, Vec<&Entry>) = manifest.files().iter().partition(takes_long);
        self.look_all(&long).map_err(damaged)?;
        for entry in long {
            let to = building.join(&entry.path);
            folder::parent(&to)?;
            failpoint::pass("view.link").map_err(StoreError::io("write", &to))?;
            let from = self.object(&entry.digest);
            if entry.size >= WORTH_CLONING && clone(&from, &to).is_ok() {
                self.finish_copy(&to, entry).map_err(StoreError::io("write", &to))?;
                continue;
            }
            // One that was written to since it was looked at must not be noted for its new name.
            let known = self.known(entry);
            if !entry.executable && fs::hard_link(&from, &to).is_ok() {
                linked.extend(known.map(|inode| (entry, inode)));
                self.note(known.map(|inode| (entry, inode)));
            } else {
                self.copy(&from, &to, entry)?;
            }
        }
        let open = |folder: &Path| File::open(folder).map_err(StoreError::io("read", folder));
        let (objects, view) = (open(&self.root().join(OBJECTS))?, open(building)?);
        let mut made = "";
        for entries in short.chunks(AT_ONCE) {
            let known = self.find_all(entries).map_err(damaged)?;
            let first = linked.len();
            for (&entry, known) in entries.iter().zip(known) {
                let folder = entry.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                if folder != made {
                    folder::parent(&building.join(&entry.path))?;
                    made = folder;
                }
                failpoint::pass("view.link")
                    .map_err(|error| StoreError::io("write", &building.join(&entry.path))(error))?;
                // From the open folders: names that begin there are found sooner.
                match linkat(&objects, object::name(&entry.digest), &view, &entry.path, AtFlags::empty()) {
                    Ok(()) => linked.extend(known.map(|inode| (entry, inode))),
                    Err(_) => self.copy(&self.object(&entry.digest), &building.join(&entry.path), entry)?,
                }
            }
            self.note(linked[first..].iter().copied());
        }
        self.seals().save();
        for found in WalkDir::new(building).contents_first(true) {
            let found = found.map_err(|error| folder::walk_error(building, error))?;
            if found.file_type().is_dir() {
                fs::set_permissions(found.path(), fs::Permissions::from_mode(0o555))
                    .map_err(StoreError::io("protect", found.path()))?;
            }
        }
        Ok(())
    }

    /// Fills a file of a view that cannot be a link of its object.
    fn copy(&self, from: &Path, to: &Path, entry: &Entry) -> Result<(), StoreError> {
        // What is there already may be another name of an object.
        let copy = || io::copy(&mut File::open(from)?, &mut File::create_new(to)?);
        copy().and_then(|_| self.finish_copy(to, entry)).map_err(StoreError::io("write", to))
    }

    /// Seals a copy of an object that was looked at before.
    fn finish_copy(&self, to: &Path, entry: &Entry) -> io::Result<()> {
        object::seal(to, entry.executable)?.sync_all()?;
        // What was written to the object since is in the copy.
        if self.known(entry).is_none() && hash_open(&File::open(to)?)?.0 != entry.digest {
            return Err(io::Error::other("the object was written to while it was copied; run again"));
        }
        self.seals().add(&entry.digest, &fs::symlink_metadata(to)?);
        Ok(())
    }

    /// Renames the new view into place. Another process may do the same at the same time, with the same result.
    fn put_in_place(&self, building: &Path, view: &Path, manifest: &Manifest) -> Result<(), StoreError> {
        // Each round either wins or finds what another process has put there in the meantime.
        for _ in 0..16 {
            match failpoint::pass("view.rename").and_then(|()| fs::rename(building, view)) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.ask_for_folder(view);
                    if self.is_whole(view, manifest) {
                        return Ok(());
                    }
                    if view.symlink_metadata().is_err() {
                        return Err(StoreError::io("create", view)(error));
                    }
                    discard(view)?;
                }
            }
        }
        Err(StoreError::io("replace", view)(io::Error::other("something else keeps writing there")))
    }

    /// Whether a view holds exactly the files of the manifest; a file that was not seen as it is now is hashed.
    pub(super) fn is_whole(&self, view: &Path, manifest: &Manifest) -> bool {
        let mut entries = manifest.files().iter();
        let mut found = Vec::with_capacity(manifest.files().len());
        for entry in WalkDir::new(view).min_depth(1) {
            let Ok(entry) = entry else { return false };
            if entry.file_type().is_dir() || network::is_removed(entry.path()) {
                continue;
            }
            let (Some(name), Ok(metadata)) = (folder::relative(view, entry.path()), entry.metadata()) else {
                return false;
            };
            found.push((name, metadata));
        }
        found.sort_by(|one, two| one.0.cmp(&two.0));
        found.len() == manifest.files().len()
            && found.iter().zip(entries.by_ref()).all(|((name, metadata), entry)| {
                *name == entry.path && self.holds(&view.join(name), metadata, entry).unwrap_or(false)
            })
    }
}

/// A file of its own that shares its blocks with another until one of them is written to; an error where the file system cannot do that.
fn clone(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let source = File::open(from)?;
        let target = File::create_new(to)?;
        rustix::fs::ioctl_ficlone(&target, &source).or_else(|error| {
            fs::remove_file(to)?;
            Err(error.into())
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Moves a damaged view out of the way before removing it, so that no half of it is ever seen under its name.
fn discard(view: &Path) -> Result<(), StoreError> {
    let views = folder::parent(view)?;
    let aside =
        tempfile::Builder::new().prefix(".old-").tempdir_in(views).map_err(StoreError::io("write into", views))?;
    let old = aside.path().join("view");
    // Renaming into another folder needs write permission on the folder itself.
    if view.is_dir() {
        let _ = fs::set_permissions(view, fs::Permissions::from_mode(0o755));
    }
    match failpoint::pass("view.discard").and_then(|()| fs::rename(view, &old)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("replace", view)(error)),
        _ if old.is_dir() => folder::remove(&old),
        _ => Ok(()),
    }
}
