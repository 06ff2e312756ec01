//! JSON by its values, other text by its lines.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde_json::Value;

use super::{CompareError, FirstLine, ValueDifference};

/// Of values that differ, so many are named.
const NAMED: usize = 100;
/// Lines are shown up to here.
const LONGEST: usize = 200;
/// What is longer than this without an end of line is no text.
const LONGEST_LINE: u64 = 1 << 20;

/// The values that differ between two JSON files, the first of them, and how many there are.
type Values = (Vec<ValueDifference>, usize);

/// Compares two JSON files by their values; the inner error says in plain words which is none.
pub(super) fn values(one: &Path, other: &Path) -> Result<Result<Values, String>, CompareError> {
    let read = |path: &Path| -> Result<Result<Value, String>, CompareError> {
        let bytes = fs::read(path).map_err(CompareError::of(path))?;
        Ok(serde_json::from_slice(&bytes).map_err(|error| format!("{} is no JSON: {error}", path.display())))
    };
    let (one, other) = match (read(one)?, read(other)?) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(problem), _) | (_, Err(problem)) => return Ok(Err(problem)),
    };
    let (mut found, mut count) = (Vec::new(), 0);
    walk("", Some(&one), Some(&other), &mut |place, one, other| {
        count += 1;
        if found.len() < NAMED {
            found.push(ValueDifference { place: place.to_owned(), one: one.cloned(), other: other.cloned() });
        }
    });
    Ok(Ok((found, count)))
}

fn walk(
    place: &str,
    one: Option<&Value>,
    other: Option<&Value>,
    found: &mut impl FnMut(&str, Option<&Value>, Option<&Value>),
) {
    if one == other {
        return;
    }
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match (one, other) {
        (Some(Value::Object(first)), Some(Value::Object(second))) => {
            let new = second.keys().filter(|name| !first.contains_key(*name));
            for name in first.keys().chain(new) {
                walk(&below(name), first.get(name), second.get(name), found);
            }
        }
        (Some(Value::Array(first)), Some(Value::Array(second))) => {
            for index in 0..first.len().max(second.len()) {
                walk(&below(&index.to_string()), first.get(index), second.get(index), found);
            }
        }
        _ => found(place, one, other),
    }
}

/// The first line in which two texts differ; nothing if one of them is no text.
pub(super) fn first_line(one: &Path, other: &Path) -> Result<Option<FirstLine>, CompareError> {
    let open = |path: &Path| File::open(path).map(BufReader::new).map_err(CompareError::of(path));
    let (mut first, mut second) = (open(one)?, open(other)?);
    for number in 1.. {
        let left = line(&mut first).map_err(CompareError::of(one))?;
        let right = line(&mut second).map_err(CompareError::of(other))?;
        if left.is_none() && right.is_none() {
            return Ok(None);
        }
        if left == right {
            continue;
        }
        let text = |bytes: Option<Vec<u8>>| match bytes.map(String::from_utf8) {
            None => Some(None),
            Some(Ok(text)) if !text.contains('\0') => Some(Some(shown(&text))),
            Some(_) => None,
        };
        let (Some(one), Some(other)) = (text(left), text(right)) else { return Ok(None) };
        return Ok(Some(FirstLine { number, one, other }));
    }
    Ok(None)
}

/// The next line; nothing at the end.
fn line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes)?;
    Ok((read > 0).then_some(bytes))
}

fn shown(text: &str) -> String {
    let text = text.trim_end_matches(['\n', '\r']);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
