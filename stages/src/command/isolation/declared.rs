//! What a program may read and write: what its stage declares, and what every program needs.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use crate::command::program;

/// Programs, libraries and settings of the system.
const SYSTEM: [&str; 13] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/proc",
    "/sys",
];
/// Devices that every program may use, terminals among them, and memory that processes share.
const DEVICES: [&str; 11] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
    "/dev/dri",
    "/dev/kfd",
];
/// Where services lie that tell names of users, as `/etc/passwd` does: C libraries ask them unasked.
const NAME_SERVICES: [&str; 3] = ["/run/nscd", "/run/systemd/userdb", "/var/lib/sss/pipes"];
/// Devices whose names begin so.
const NUMBERED_DEVICES: &str = "nvidia";

/// Files and folders with all that is in them.
#[derive(Clone, Debug, Default)]
pub(in crate::command) struct Declared {
    /// What may be read and started.
    read: BTreeSet<PathBuf>,
    /// What may be written, too.
    write: BTreeSet<PathBuf>,
    /// Where Unix sockets may be connected to, besides.
    connect: BTreeSet<PathBuf>,
    /// Whether the network may be used.
    network: bool,
}

impl Declared {
    /// What every program needs, this one above all, which the stage finds through `paths` (its PATH). `stated` are files and folders of
    /// which the stage states what it reads: no folder of programs may hold them, and a program in them brings no folder along.
    pub(in crate::command) fn of_program(program: &str, paths: &OsStr, stated: &[&Path]) -> Self {
        let mut declared = Self::default();
        declared.read.extend(SYSTEM.iter().filter_map(|path| fs::canonicalize(path).ok()));
        let devices = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
        let numbered = devices
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NUMBERED_DEVICES)));
        let devices = DEVICES.iter().map(PathBuf::from).chain(numbered);
        declared.write.extend(devices.filter_map(|path| fs::canonicalize(path).ok()));

        let stated: Vec<PathBuf> = stated.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let home = env::var_os("HOME").and_then(|home| fs::canonicalize(home).ok());
        let apart: Vec<PathBuf> = stated.iter().cloned().chain(home).collect();
        let folders: Vec<PathBuf> = env::split_paths(paths).filter(|folder| folder.is_absolute()).collect();
        let mut programs = folders;
        let named = program::find(program, paths);
        // A program that is a link, as those of Python's environments are, needs what lies beside the one that it leads to.
        for path in named.iter().cloned().chain(named.as_ref().and_then(|path| fs::canonicalize(path).ok())) {
            declared.read.extend(fs::canonicalize(&path).ok());
            let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
            programs.extend(folder.filter(|folder| {
                let named = path.file_name().map(|name| folder.join(name)).unwrap_or_default();
                !stated.iter().any(|stated| named.starts_with(stated))
            }));
        }
        for folder in programs {
            let Ok(folder) = fs::canonicalize(folder) else { continue };
            let prefix = installed_in(&folder).filter(|prefix| !holds_any(prefix, &apart));
            let found = prefix.or_else(|| Some(folder).filter(|folder| !holds_any(folder, &apart)));
            declared.read.extend(found);
        }
        declared
    }

    /// Something that the stage reads.
    pub(in crate::command) fn read(&mut self, path: &Path) {
        self.read.extend(fs::canonicalize(path).ok());
    }

    /// A folder that the stage writes to.
    pub(in crate::command) fn write(&mut self, path: &Path) {
        self.write.extend(fs::canonicalize(path).ok());
    }

    /// Something that may be read although the stage does not declare it, and services there that may be used.
    pub(in crate::command) fn allow(&mut self, path: &Path) {
        self.read(path);
        self.connect.extend(fs::canonicalize(path).ok());
    }

    /// The network may be used.
    pub(in crate::command) fn allow_network(&mut self) {
        self.network = true;
    }

    /// Whether the network may be used.
    pub(super) fn may_use_network(&self) -> bool {
        self.network
    }

    /// Whether a Unix socket may be connected to: one of the stage's own, of a service that looks names of users up, or one that is allowed.
    pub(super) fn may_connect(&self, path: &Path) -> bool {
        let lies_in = |root: &Path| path.starts_with(root);
        self.may_write(path)
            || NAME_SERVICES.iter().any(|root| lies_in(root.as_ref()))
            || self.connect.iter().any(|root| lies_in(root))
    }

    /// Whether a path without links may be read.
    pub(super) fn may_read(&self, path: &Path) -> bool {
        self.may_write(path) || self.read.iter().any(|root| path.starts_with(root))
    }

    /// Whether a path without links may be written.
    pub(super) fn may_write(&self, path: &Path) -> bool {
        self.write.iter().any(|root| path.starts_with(root))
    }

    /// What may be read.
    pub(super) fn readable(&self) -> impl Iterator<Item = &Path> {
        self.read.iter().map(PathBuf::as_path)
    }

    /// What may be written, too.
    pub(super) fn writable(&self) -> impl Iterator<Item = &Path> {
        self.write.iter().map(PathBuf::as_path)
    }
}

/// Where the programs of a folder `PREFIX/bin` have their libraries: in `PREFIX`.
fn installed_in(folder: &Path) -> Option<PathBuf> {
    let is_bin = matches!(folder.file_name()?.to_str()?, "bin" | "sbin" | "condabin" | "shims");
    is_bin.then(|| folder.parent().map(Path::to_owned)).flatten()
}

/// Whether one of those lies in a folder, or is it.
fn holds_any(folder: &Path, apart: &[PathBuf]) -> bool {
    apart.iter().any(|path| path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_reads_what_it_is_installed_with_and_no_folder_that_is_kept_apart() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        for folder in ["tool/bin", "tool/lib", "home/bin", "real/bin", "searched/bin", "home/graphs/scripts"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for program in
            ["tool/bin/tool", "home/bin/own", "real/bin/real", "searched/bin/found", "home/graphs/scripts/run.sh"]
        {
            fs::write(root.join(program), "").unwrap();
            fs::set_permissions(root.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("real/bin/real"), root.join("tool/bin/link")).unwrap();
        let apart = root.join("home/graphs");
        let paths = env::join_paths([root.join("searched/bin")]).unwrap();
        let of = |program: &str| Declared::of_program(root.join(program).to_str().unwrap(), &paths, &[&apart]);

        assert!(of("tool/bin/tool").may_read(&root.join("tool/lib/part.so")));
        assert!(!of("tool/bin/tool").may_read(&root.join("real/bin/real")));
        let link = of("tool/bin/link");
        assert!(link.may_read(&root.join("tool/lib")) && link.may_read(&root.join("real/lib")));
        let own = of("home/bin/own");
        assert!(own.may_read(&root.join("home/bin/own")) && !own.may_read(&root.join("home/graphs/data")));
        let script = of("home/graphs/scripts/run.sh");
        assert!(script.may_read(&root.join("home/graphs/scripts/run.sh")));
        assert!(!script.may_read(&root.join("home/graphs/scripts/config.txt")));
        let found = Declared::of_program("found", &paths, &[&apart]);
        assert!(found.may_read(&root.join("searched/lib")) && !found.may_read(&root.join("tool/lib")));
        assert!(own.may_read(Path::new("/usr/lib/x")) && !own.may_write(Path::new("/usr/lib/x")));
        assert!(own.may_write(Path::new("/dev/null")) && !own.may_write(Path::new("/dev/nullify")));
    }
}
