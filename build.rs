//! Links the program to a fixed address. Its many tables of addresses, those of the libraries for tensors above all, are
//! then right as they lie in the file; otherwise each start of the program, and of each of its workers, rewrites them
//! all, page by page, before anything else.
//!
//! Also tells the program which commit its code is of, for records.

use std::{env, fs, path::Path, process::Command};

/// What the code of the program is. Other commits change nothing of it and need no other program.
const CODE: [&str; 7] =
    ["Cargo.lock", "Cargo.toml", "build.rs", "rust-toolchain.toml", "src", "stages/Cargo.toml", "stages/src"];

fn main() {
    // Whenever one of these changes, the program is compiled anyway.
    for path in CODE {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rustc-env=TWDAG_COMMIT={}", commit().unwrap_or_else(|| "unknown".to_owned()));
    let target = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let linked_by = env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    if target == "linux" && linked_by == "gnu" {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}

/// The last commit that changed the code, with `-changed` behind it if the code was changed since. Nothing without git, or if this
/// folder is not a repository itself but lies in one, as an unpacked archive may.
fn commit() -> Option<String> {
    let root = fs::canonicalize(env::var_os("CARGO_MANIFEST_DIR")?).ok()?;
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        // A hook of git compiles with these set.
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(variable);
        }
        let output = command.current_dir(&root).arg("--no-optional-locks").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    if fs::canonicalize(Path::new(&git(&["rev-parse", "--show-toplevel"])?)).ok()? != root {
        return None;
    }
    let commit = git(&[&["log", "-1", "--format=%H", "--"], &CODE[..]].concat()).filter(|commit| !commit.is_empty())?;
    let changed = git(&[&["status", "--porcelain", "--"], &CODE[..]].concat())?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-changed") })
}
