//! JSON by its values, other text by its lines.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde_json::Value;

use super::{Bounds, CompareError, FirstLine, ValueDifference};

/// Of values that differ, so many are named.
const NAMED: usize = 100;
/// So much of a line is shown.
const LONGEST: usize = 200;
/// So much of that stands before the first letter that differs.
const BEFORE: usize = 40;
/// What is longer than this without an end of line is no text.
const LONGEST_LINE: u64 = 1 << 20;

/// The values that differ between two JSON files.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The first of them.
    pub(super) named: Vec<ValueDifference>,
    /// How many there are.
    pub(super) count: usize,
    /// How many of those lie outside the bounds, if there are bounds for any.
    pub(super) outside: Option<usize>,
    /// How many have no bounds.
    exact: usize,
}

/// How far the number at a place may lie apart.
type OfValue<'a> = &'a dyn Fn(&str) -> Option<Bounds>;

impl Values {
    /// Adds those of two values; `line` stands before their places.
    fn add(&mut self, line: &str, one: Option<&Value>, other: Option<&Value>, bounds: OfValue<'_>) {
        let mut exact = 0;
        walk("", one, other, &mut |place, one, other| {
            self.count += 1;
            if self.named.len() < NAMED {
                let place = format!("{line}{place}");
                self.named.push(ValueDifference { place, one: one.cloned(), other: other.cloned() });
            }
            let both = one.and_then(Value::as_f64).zip(other.and_then(Value::as_f64));
            match both.zip(bounds(place)) {
                Some(((one, other), bounds)) => {
                    *self.outside.get_or_insert(0) += usize::from(!bounds.hold((one - other).abs(), one.abs()));
                }
                None => exact += 1,
            }
        });
        self.exact += exact;
    }

    /// What must be the same and is not lies outside.
    fn finish(mut self) -> Self {
        self.outside = self.outside.map(|outside| outside + self.exact);
        self
    }
}

/// Compares two files of JSON Lines by their values; nothing if one of them is none, or they have not as many lines.
pub(super) fn values_of_lines(one: &Path, other: &Path, bounds: OfValue<'_>) -> Result<Option<Values>, CompareError> {
    let open = |path: &Path| File::open(path).map(BufReader::new).map_err(CompareError::of(path));
    let (mut first, mut second) = (open(one)?, open(other)?);
    let mut values = Values::default();
    for number in 1.. {
        let left = line(&mut first).map_err(CompareError::of(one))?;
        let right = line(&mut second).map_err(CompareError::of(other))?;
        let (left, right) = match (left, right) {
            (Some(left), Some(right)) if left == right => continue,
            (Some(left), Some(right)) => (left, right),
            (None, None) => break,
            _ => return Ok(None),
        };
        let (Ok(left), Ok(right)) = (serde_json::from_slice(&left), serde_json::from_slice(&right)) else {
            return Ok(None);
        };
        values.add(&format!("line {number}: "), Some(&left), Some(&right), bounds);
    }
    Ok(Some(values.finish()))
}

/// Compares two JSON files by their values; the inner error says in plain words which is none.
pub(super) fn values(one: &Path, other: &Path, bounds: OfValue<'_>) -> Result<Result<Values, String>, CompareError> {
    let read = |path: &Path| -> Result<Result<Value, String>, CompareError> {
        let bytes = fs::read(path).map_err(CompareError::of(path))?;
        Ok(serde_json::from_slice(&bytes).map_err(|error| format!("{} is no JSON: {error}", path.display())))
    };
    let (one, other) = match (read(one)?, read(other)?) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(problem), _) | (_, Err(problem)) => return Ok(Err(problem)),
    };
    let mut values = Values::default();
    values.add("", Some(&one), Some(&other), bounds);
    Ok(Ok(values.finish()))
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
            Some(Ok(text)) if !text.contains('\0') => Some(Some(text)),
            Some(_) => None,
        };
        let (Some(one), Some(other)) = (text(left), text(right)) else { return Ok(None) };
        let letters = |text: &Option<String>| text.iter().flat_map(|text| text.chars()).collect::<Vec<_>>();
        let same = letters(&one).iter().zip(&letters(&other)).take_while(|(one, other)| one == other).count();
        let shown = |text: Option<String>| text.map(|text| excerpt(&text, same));
        return Ok(Some(FirstLine { number, one: shown(one), other: shown(other) }));
    }
    Ok(None)
}

/// The next line; nothing at the end.
fn line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes)?;
    Ok((read > 0).then_some(bytes))
}

/// As much of a line as is shown, around the letter at `place`.
fn excerpt(text: &str, place: usize) -> String {
    let letters: Vec<char> = text.trim_end_matches(['\n', '\r']).chars().collect();
    let start = if place < LONGEST - BEFORE { 0 } else { (place - BEFORE).min(letters.len()) };
    let end = letters.len().min(start + LONGEST);
    let cut = |is_cut| if is_cut { "…" } else { "" };
    let shown: String = letters[start..end].iter().collect();
    format!("{}{shown}{}", cut(start > 0), cut(end < letters.len()))
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn a_long_line_is_shown_where_it_differs() {
        let line = format!("{}X{}\n", "é".repeat(300), "b".repeat(300));
        assert_eq!(excerpt(&line, 300), format!("…{}X{}…", "é".repeat(40), "b".repeat(159)));
        assert_eq!(excerpt(&line, 3), format!("{}…", "é".repeat(200)));
        assert_eq!(excerpt("short\r\n", 5), "short");
        // The other line goes on.
        assert_eq!(excerpt(&"a".repeat(250), 250), format!("…{}", "a".repeat(40)));
        assert_eq!(excerpt("", 0), "");
    }
}
