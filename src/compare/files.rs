//! Folder beside folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{CompareError, Comparison, FileDifference, FileFacts, Tolerances, bytes, meaning::Meaning, tensors, text};
use crate::store::Entry;

/// A result: its files and where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// The folder.
    pub path: &'a Path,
    /// Its files as its list of files names them.
    pub files: &'a [Entry],
}

/// Compares two results. `tokens` is the token set to which per-token arrays belong, if it is known.
pub fn folders(
    one: Folder<'_>,
    other: Folder<'_>,
    tokens: Option<&Path>,
    tolerances: Tolerances<'_>,
) -> Result<Comparison, CompareError> {
    let by_path = |folder: Folder<'_>| -> BTreeMap<String, FileFacts> {
        let files = folder.files.iter();
        let facts = |file: &Entry| FileFacts { digest: file.digest, size: file.size, executable: file.executable };
        files.map(|file| (file.path.clone(), facts(file))).collect()
    };
    let (in_one, in_other) = (by_path(one), by_path(other));
    let mut comparison = Comparison::default();
    for path in in_one.keys().chain(in_other.keys()).collect::<BTreeSet<_>>() {
        let (first, second) = (in_one.get(path), in_other.get(path));
        if first == second {
            comparison.same += 1;
            continue;
        }
        let mut difference = FileDifference {
            path: path.clone(),
            one: first.cloned(),
            other: second.cloned(),
            first_byte: None,
            first_line: None,
            same_tensors: 0,
            tensors: Vec::new(),
            header_differs: false,
            values: Vec::new(),
            differing_values: 0,
            values_outside: None,
            problem: None,
        };
        if let (Some(first), Some(second)) = (first, second)
            && first.digest != second.digest
        {
            let paths = (one.path.join(path), other.path.join(path));
            difference.first_byte = bytes::first(&paths.0, &paths.1)?;
            let meaning = Meaning { folders: (one.path, other.path), file: path, tokens };
            contents(&mut difference, (&paths.0, &paths.1), &meaning, tolerances)?;
        }
        comparison.files.push(difference);
    }
    Ok(comparison)
}

/// What is to be said of the contents of two files beyond their bytes.
fn contents(
    difference: &mut FileDifference,
    (one, other): (&Path, &Path),
    meaning: &Meaning<'_>,
    tolerances: Tolerances<'_>,
) -> Result<(), CompareError> {
    match Path::new(&difference.path).extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => match tensors::compare(one, other, meaning, tolerances.tensor)? {
            Ok(found) => {
                (difference.same_tensors, difference.tensors) = (found.same, found.differing);
                difference.header_differs = found.header_differs;
            }
            Err(problem) => difference.problem = Some(problem),
        },
        Some("json") => match text::values(one, other, tolerances.value)? {
            Ok(values) => note(difference, values),
            Err(problem) => difference.problem = Some(problem),
        },
        Some("jsonl") => {
            difference.first_line = text::first_line(one, other)?;
            if let Some(values) = text::values_of_lines(one, other, tolerances.value)? {
                note(difference, values);
            }
        }
        _ => difference.first_line = text::first_line(one, other)?,
    }
    Ok(())
}

fn note(difference: &mut FileDifference, values: text::Values) {
    difference.values = values.named;
    difference.differing_values = values.count;
    difference.values_outside = values.outside;
}
