//! Who asks: which paths it names, and where those lead from where it stands.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStringExt, fs::FileExt},
    path::{Component, Path, PathBuf},
};

/// The longest path that the kernel takes.
const LONGEST_PATH: usize = 4096;
/// As many bytes as lie on one page lie within reach of each other.
const PAGE: usize = 4096;
/// So many links the kernel follows.
const MOST_LINKS: usize = 40;

/// A thread that waits for an answer.
pub(super) struct Caller {
    pub(super) id: u32,
}

/// Nobody may look at the caller.
#[derive(Debug)]
pub(super) struct Unseen;

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Without links, but for the last name if links are not followed there.
    pub(super) path: PathBuf,
    /// Whether something stands there. The folder of it does.
    pub(super) exists: bool,
}

impl Caller {
    /// A path in its memory, made whole. Nothing for what the kernel refuses anyway: no text, too long a text, or a descriptor
    /// that is not open; and for an empty one, unless that stands for the descriptor.
    pub(super) fn path(&self, folder: i32, address: u64, takes_empty: bool) -> Result<Option<PathBuf>, Unseen> {
        let Some(text) = self.text(address)? else { return Ok(None) };
        if text.is_empty() && !takes_empty {
            return Ok(None);
        }
        self.whole(folder, PathBuf::from(OsString::from_vec(text)))
    }

    /// Makes a path whole that starts at a folder.
    pub(super) fn whole(&self, folder: i32, path: PathBuf) -> Result<Option<PathBuf>, Unseen> {
        if path.is_absolute() {
            return Ok(Some(path));
        }
        let base = match folder {
            libc::AT_FDCWD => self.link("cwd"),
            descriptor => self.link(&format!("fd/{descriptor}")),
        };
        match base {
            Ok(base) => Ok(Some(base.join(path))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Unseen),
            Err(_) => Ok(None),
        }
    }

    /// Bytes in its memory; nothing if there is no such memory.
    pub(super) fn memory(&self, address: u64, length: usize) -> Result<Option<Vec<u8>>, Unseen> {
        let mut bytes = vec![0; length];
        Ok(self.open()?.read_exact_at(&mut bytes, address).is_ok().then_some(bytes))
    }

    /// Where a path leads from its root; nothing if a folder of it does not exist, or if it is another name of what is open
    /// already and stands in no folder, as pipes and deleted files do.
    pub(super) fn place(&self, path: &Path, follows: bool) -> Option<Place> {
        let root = self.link("root").ok()?;
        let mut left: Vec<OsString> = names(path);
        let mut at = root.clone();
        let mut links = 0;
        while let Some(name) = left.pop() {
            match name.as_encoded_bytes() {
                b"/" => at.clone_from(&root),
                b".." if at == root => {}
                b".." => {
                    at.pop();
                }
                _ => {
                    let next = at.join(self.of_caller(&at, &name));
                    let Ok(found) = fs::symlink_metadata(&next) else {
                        return left.is_empty().then_some(Place { path: next, exists: false });
                    };
                    if !found.is_symlink() || (left.is_empty() && !follows) {
                        at = next;
                        continue;
                    }
                    links += 1;
                    let target = fs::read_link(&next).ok().filter(|_| links <= MOST_LINKS)?;
                    if at.starts_with("/proc") && fs::symlink_metadata(at.join(&target)).is_err() {
                        return None;
                    }
                    left.extend(names(&target));
                }
            }
        }
        Some(Place { path: at, exists: true })
    }

    /// For whoever looks, these names stand for himself.
    fn of_caller(&self, folder: &Path, name: &OsStr) -> OsString {
        let is_own = folder == Path::new("/proc") && (name == "self" || name == "thread-self");
        if is_own { self.id.to_string().into() } else { name.to_owned() }
    }

    /// Bytes up to a zero.
    fn text(&self, address: u64) -> Result<Option<Vec<u8>>, Unseen> {
        let memory = self.open()?;
        let mut text = Vec::new();
        while text.len() < LONGEST_PATH {
            let Some(at) = address.checked_add(text.len() as u64) else { return Ok(None) };
            // What lies behind the end of a page may not be there.
            let mut piece = vec![0; PAGE - at as usize % PAGE];
            let length = match memory.read_at(&mut piece, at) {
                Ok(length) if length > 0 => length,
                _ => return Ok(None),
            };
            match piece[..length].iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend(&piece[..end]);
                    return Ok(Some(text));
                }
                None => text.extend(&piece[..length]),
            }
        }
        Ok(None)
    }

    fn open(&self) -> Result<File, Unseen> {
        File::open(self.of("mem")).map_err(|_| Unseen)
    }

    fn link(&self, name: &str) -> io::Result<PathBuf> {
        fs::read_link(self.of(name))
    }

    fn of(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.id.to_string()).join(name)
    }
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| (component != Component::CurDir).then(|| component.as_os_str().to_owned());
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process};

    use super::*;

    #[test]
    fn a_path_leads_where_it_leads_for_the_caller() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), "").unwrap();
        symlink("../a", root.join("a/up")).unwrap();
        symlink(root.join("a/new"), root.join("dangling")).unwrap();
        symlink("round", root.join("round")).unwrap();
        let caller = Caller { id: process::id() };
        let place = |path: &str, follows| {
            let place = caller.place(&root.join(path), follows);
            place.map(|place| (place.path.strip_prefix(&root).unwrap().display().to_string(), place.exists))
        };
        let at = |path: &str, exists| Some((path.to_owned(), exists));
        assert_eq!(place("a/b/../up/./file", true), at("a/file", true));
        assert_eq!(place("a/up", false), at("a/up", true));
        assert_eq!(place("a/up", true), at("a", true));
        assert_eq!(place("dangling", true), at("a/new", false));
        assert_eq!(place("dangling", false), at("dangling", true));
        assert_eq!(place("none", true), at("none", false));
        assert_eq!(place("none/none", true), None);
        assert_eq!(place("round", true), None);

        let of = |path: &str| caller.place(Path::new(path), true).map(|place| place.path);
        let cwd = fs::canonicalize(".").unwrap();
        assert_eq!(of("/proc/self/cwd"), Some(cwd.clone()));
        assert_eq!(of("/proc/thread-self/cwd/.."), cwd.parent().map(Path::to_owned));
        assert_eq!(of(&format!("/proc/self/root{}", cwd.display())), Some(cwd));
        assert_eq!(of("/../proc/self"), Some(PathBuf::from(format!("/proc/{}", process::id()))));
        let (pipe, _other) = io::pipe().unwrap();
        assert_eq!(of(&format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe))), None);
    }
}
