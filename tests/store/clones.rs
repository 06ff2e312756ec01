//! Views on a file system where files can share their blocks.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use tempfile::TempDir;
use twdag::{digest::Digest, store::Store};

use crate::place::{Place, overwrite};

const LARGE: usize = 32 << 20;

/// An XFS of its own in a file. Mounting needs rights that not every user has.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        fs::create_dir(&mount).unwrap();
        let does = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).arg(&image);
            if program == "mount" {
                command.arg(&mount);
            }
            command.output().is_ok_and(|output| output.status.success())
        };
        (does("mkfs.xfs", &["-q"]) && does("mount", &["-o", "loop"])).then(|| Self(folder))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.path()).status().is_ok_and(|status| status.success()));
    }
}

fn free(path: &Path) -> u64 {
    rustix::fs::syncfs(File::open(path).unwrap()).unwrap();
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bfree * stat.f_frsize
}

#[test]
fn a_large_file_of_a_view_shares_blocks_and_its_removal_leaves_the_object_known() {
    let Some(mounted) = Mounted::new() else {
        writeln!(std::io::stderr(), "SKIPPED: no XFS can be made and mounted here (mkfs.xfs, the rights to mount)")
            .unwrap();
        return;
    };
    let place = Place::within(&mounted.path());
    let large: String = (0..LARGE / 8).map(|number| format!("{number:07}\n")).collect();
    let (artifact, small) = (place.ingest(&[("large", &large)]), place.ingest(&[("small", "one")]));
    let object = place.named("objects", &Digest::of(large.as_bytes()));

    let before = free(&mounted.path());
    let view = place.store.view(&artifact).unwrap();
    assert!(before - free(&mounted.path()) < LARGE as u64 / 4, "the bytes are there once");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_ne!(inode(&view.join("large")), inode(&object));
    assert_eq!(fs::metadata(view.join("large")).unwrap().mode() & 0o777, 0o444);
    assert_eq!(inode(&place.store.view(&small).unwrap().join("small")), inode(&place.object("one")));

    let again = |artifact| Store::open(place.store.root()).unwrap().view(artifact).unwrap();
    overwrite(&view.join("large"), "two");
    assert_eq!(fs::read(again(&artifact).join("large")).unwrap(), large.as_bytes());
    assert_eq!(fs::read(&object).unwrap(), large.as_bytes(), "what was written to was no name of the object");

    // A new file of a view is noted, and so is an object that was hashed again.
    let noted = || fs::metadata(place.store.root().join("local/seals")).unwrap().len();
    let put_back = |artifact| {
        let (before, view) = (noted(), again(artifact));
        fs::set_permissions(&view, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir_all(view).unwrap();
        again(artifact);
        noted() - before
    };
    let (large, small) = (put_back(&artifact), put_back(&small));
    assert!(0 < large && large < small, "the object that has lost a name is hashed, the other is not: {large} {small}");
}
