//! Where the program of a stage lies.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

/// The program that a name leads to, as it does for shells: a name with a `/` is a path, others are looked for in the folders
/// of `paths` (a PATH). `None` if none of them has it.
pub(super) fn find(program: &str, paths: &OsStr) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    let folders = env::split_paths(paths).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(program)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    access(path, Access::EXEC_OK).is_ok() && path.is_file()
}
