//! Files and folders of this machine.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use walkdir::WalkDir;

use crate::stage::{Context, SettingError, SourcePath, StageError};

/// Bytes that are copied between two looks at the cancel flag.
const CHUNK: u64 = 8 << 20;

/// Refuses names that would leave the artifact.
pub(super) fn check_name(path: &str, name: &str) -> Result<(), SettingError> {
    let is_plain = !name.is_empty()
        && !name.contains(char::is_control)
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain {
        return Ok(());
    }
    Err(SettingError::new(path, format!("`{name}`"), "a relative path without `.` and `..`"))
}

/// Refuses names of files that would leave the artifact, and other ways to write a name: two of one file would overwrite each
/// other.
pub(super) fn check_file_name(path: &str, name: &str) -> Result<(), SettingError> {
    check_name(path, name)?;
    if name.split('/').all(|part| !part.is_empty() && part != ".") {
        return Ok(());
    }
    Err(SettingError::new(
        path,
        format!("`{name}`"),
        "the plain name of a file, without `.`, `//` and a `/` at its end",
    ))
}

/// The patterns as one matcher; `None` if all files are meant.
pub(super) fn patterns(files: &[String]) -> Result<Option<GlobSet>, SettingError> {
    let mut set = GlobSetBuilder::new();
    for (index, pattern) in files.iter().enumerate() {
        // The same rule as that of the digest of a source: `*` does not cross a `/`.
        let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(|error| {
            SettingError::new(format!("from.files.{index}"), format!("`{pattern}` ({})", error.kind()), "a glob")
        })?;
        set.add(glob);
    }
    let set = set.build().map_err(|error| SettingError::new("from.files", error, "globs"))?;
    Ok((!files.is_empty()).then_some(set))
}

pub(super) fn file(path: &SourcePath, name: Option<&str>, context: &Context) -> Result<(), StageError> {
    let from = context.source(path);
    let metadata = fs::metadata(&from).map_err(|error| missing(&from, &error, context))?;
    if metadata.is_dir() {
        return Err(StageError::input(&from, "is a folder, expected a file; use `Folder(path: …)`"));
    }
    let own_name = from.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.map(str::to_owned).or(own_name);
    let name = name.ok_or_else(|| StageError::input(&from, "has no file name; give one with `name`"))?;
    copy_all(&[(name, from)], context)
}

pub(super) fn folder(path: &SourcePath, files: &[String], context: &Context) -> Result<(), StageError> {
    let from = context.source(path);
    let metadata = fs::metadata(&from).map_err(|error| missing(&from, &error, context))?;
    if !metadata.is_dir() {
        return Err(StageError::input(&from, "is a file, expected a folder; use `File(path: …)`"));
    }
    let chosen = patterns(files)?;
    let mut found = Vec::new();
    for entry in WalkDir::new(&from).min_depth(1).sort_by_file_name() {
        let entry = entry.map_err(|error| StageError::io("read", &from)(error.into()))?;
        // A link to a file counts as the file.
        if entry.file_type().is_dir() || entry.path().is_dir() {
            continue;
        }
        let below = entry.path().strip_prefix(&from).unwrap_or(entry.path());
        let Some(name) = below.to_str() else {
            return Err(StageError::input(entry.path(), "the name is no UTF-8 text; rename the file"));
        };
        if chosen.as_ref().is_none_or(|chosen| chosen.is_match(name)) {
            found.push((name.to_owned(), entry.into_path()));
        }
    }
    if found.is_empty() {
        let problem = match files {
            [] => "the folder holds no file".to_owned(),
            files => format!("no file in this folder matches {}", files.join(", ")),
        };
        return Err(StageError::input(&from, problem));
    }
    copy_all(&found, context)
}

fn missing(path: &Path, error: &io::Error, context: &Context) -> StageError {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let workspace = context.workspace().display();
            StageError::input(
                path,
                format!("there is no such file or folder (paths start at the workspace {workspace})"),
            )
        }
        _ => StageError::input(path, format!("cannot be read: {error}")),
    }
}

fn copy_all(files: &[(String, PathBuf)], context: &Context) -> Result<(), StageError> {
    let mut total = 0;
    for (_, path) in files {
        total += fs::metadata(path).map_err(|error| missing(path, &error, context))?.len();
    }
    let mut done = 0;
    for (name, path) in files {
        copy(path, &context.output().join(name), context, |bytes| {
            done += bytes;
            context.progress(done, total, "bytes", name.as_str());
        })?;
    }
    Ok(())
}

/// Copies the bytes of a file, not its mode and times; refuses a file that changes meanwhile.
fn copy(from: &Path, to: &Path, context: &Context, mut copied: impl FnMut(u64)) -> Result<(), StageError> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(StageError::io("create", parent))?;
    }
    let mut source = File::open(from).map_err(|error| missing(from, &error, context))?;
    let mut target = File::create(to).map_err(StageError::io("write", to))?;
    let before = source.metadata().map_err(StageError::io("read", from))?;
    let mut done = 0;
    loop {
        context.check_canceled()?;
        let bytes = io::copy(&mut source.by_ref().take(CHUNK), &mut target)
            .map_err(StageError::io("copy", format!("{} to {}", from.display(), to.display())))?;
        if bytes == 0 {
            break;
        }
        done += bytes;
        copied(bytes);
    }
    // By the path, so that a file put in its place counts as a change too.
    let after = fs::metadata(from).map_err(|error| missing(from, &error, context))?;
    if identity(&before) != identity(&after) || done != before.len() {
        return Err(StageError::input(from, "changed while it was copied; run again when it is complete"));
    }
    Ok(())
}

fn identity(metadata: &Metadata) -> [i64; 6] {
    [
        metadata.dev() as i64,
        metadata.ino() as i64,
        metadata.len() as i64,
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime_nsec(),
    ]
}
