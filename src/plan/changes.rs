//! Differences between two actions, in plain words.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

use super::Action;
use crate::store::RecordInput;

/// Something in which two actions differ.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The stage is of another kind.
    Kind {
        /// The former kind.
        from: String,
        /// The kind now.
        to: String,
    },
    /// The kind computes something else than it did.
    Revision {
        /// The former revision.
        from: u32,
        /// The revision now.
        to: u32,
    },
    /// A setting has another value.
    Setting {
        /// Its place in the settings.
        path: String,
        /// The former value as in a graph file; `None` if it was not set.
        from: Option<String>,
        /// The value now; `None` if it is not set.
        to: Option<String>,
    },
    /// What the stage reads from another stage has another content.
    Input {
        /// Its place in the settings.
        role: String,
        /// What became of it.
        what: Difference,
    },
    /// What the stage reads from outside the graph has another content.
    Source {
        /// Its place in the settings.
        role: String,
        /// What became of it.
        what: Difference,
    },
    /// A single file that the stage reads from outside the graph has another name.
    FileName {
        /// Its place in the settings.
        role: String,
        /// The former name.
        from: String,
        /// The name now.
        to: String,
    },
    /// It is computed in another device kind or dtype.
    NumericClass {
        /// The former class.
        from: Option<String>,
        /// The class now.
        to: Option<String>,
    },
}

/// What became of something that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It was not read before.
    Added,
    /// It is not read any more.
    Removed,
    /// Its content is another one.
    Changed,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { from, to } => write!(formatter, "kind changed: {from} → {to}"),
            Self::Revision { from, to } => write!(formatter, "kind revision changed: {from} → {to}"),
            Self::Setting { path, from: Some(from), to: Some(to) } => {
                write!(formatter, "setting `{path}` changed: {from} → {to}")
            }
            Self::Setting { path, to: Some(to), .. } => write!(formatter, "setting `{path}` added: {to}"),
            Self::Setting { path, from, .. } => {
                write!(formatter, "setting `{path}` removed: it was {}", from.as_deref().unwrap_or("unset"))
            }
            Self::Input { role, what } => write!(formatter, "input `{role}` {what}"),
            Self::Source { role, what } => write!(formatter, "source `{role}` {what}"),
            Self::FileName { role, from, to } => write!(formatter, "source `{role}` renamed: `{from}` → `{to}`"),
            Self::NumericClass { from, to } => {
                let name = |class: &Option<String>| class.clone().unwrap_or_else(|| "exact".to_owned());
                write!(formatter, "numeric class changed: {} → {}", name(from), name(to))
            }
        }
    }
}

/// All in which `new` differs from `old`. References and paths do not count, what they point to does.
pub fn changes(old: &Action, new: &Action) -> Vec<Change> {
    if old.kind != new.kind {
        return vec![Change::Kind { from: old.kind.clone(), to: new.kind.clone() }];
    }
    let mut changes = Vec::new();
    if old.revision != new.revision {
        changes.push(Change::Revision { from: old.revision, to: new.revision });
    }
    let roles = [&old.inputs, &new.inputs, &old.sources, &new.sources]
        .into_iter()
        .flatten()
        .map(|input| input.role.as_str())
        .collect();
    Comparison { roles, changes: &mut changes }.compare("", Some(&old.settings), Some(&new.settings));
    differences(&old.inputs, &new.inputs, |role, what| changes.push(Change::Input { role, what }));
    differences(&old.sources, &new.sources, |role, what| changes.push(Change::Source { role, what }));
    for (role, to) in &new.file_names {
        if let Some(from) = old.file_names.get(role).filter(|from| *from != to) {
            changes.push(Change::FileName { role: role.clone(), from: from.clone(), to: to.clone() });
        }
    }
    if old.numeric_class != new.numeric_class {
        changes.push(Change::NumericClass { from: old.numeric_class.clone(), to: new.numeric_class.clone() });
    }
    changes
}

fn differences(old: &[RecordInput], new: &[RecordInput], mut found: impl FnMut(String, Difference)) {
    for input in new {
        match old.iter().find(|former| former.role == input.role) {
            None => found(input.role.clone(), Difference::Added),
            Some(former) if former.digest != input.digest => found(input.role.clone(), Difference::Changed),
            Some(_) => {}
        }
    }
    for former in old.iter().filter(|former| new.iter().all(|input| input.role != former.role)) {
        found(former.role.clone(), Difference::Removed);
    }
}

struct Comparison<'a> {
    roles: BTreeSet<&'a str>,
    changes: &'a mut Vec<Change>,
}

impl Comparison<'_> {
    fn compare(&mut self, path: &str, old: Option<&Value>, new: Option<&Value>) {
        let old = old.filter(|value| !value.is_null());
        let new = new.filter(|value| !value.is_null());
        if old == new || self.roles.contains(path) {
            return;
        }
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match (old, new) {
            // The name of a variant is no part of a path, as in the errors of settings.
            (Some(Value::Object(one)), Some(Value::Object(two))) => match (variant(one), variant(two)) {
                (Some((one, before)), Some((two, after))) if one == two => {
                    return self.compare(path, Some(before), Some(after));
                }
                (None, None) => {
                    let names: BTreeSet<&String> = one.keys().chain(two.keys()).collect();
                    for name in names {
                        self.compare(&below(name), one.get(name), two.get(name));
                    }
                    return;
                }
                _ => {}
            },
            (Some(Value::Array(one)), Some(Value::Array(two))) => {
                for index in 0..one.len().max(two.len()) {
                    self.compare(&below(&index.to_string()), one.get(index), two.get(index));
                }
                return;
            }
            _ => {}
        }
        let is_variant = |value: Option<&Value>| value.and_then(Value::as_object).and_then(variant).is_some();
        let are_variants = is_variant(old) || is_variant(new);
        let shown = |value: &Value| match value {
            // Beside a variant with contents, a string is a variant without.
            Value::String(name) if are_variants => name.clone(),
            value => shorten(&ron(value)),
        };
        self.changes.push(Change::Setting { path: path.to_owned(), from: old.map(shown), to: new.map(shown) });
    }
}

/// The value at a place in settings.
pub(super) fn at<'a>(value: &'a Value, place: &str) -> Option<&'a Value> {
    if place.is_empty() {
        return Some(value);
    }
    match value {
        Value::Object(fields) => {
            // The name of a variant is no part of a path.
            if let Some(found) = variant(fields).and_then(|(_, inner)| at(inner, place)) {
                return Some(found);
            }
            let below = |name: &str| {
                let rest = place.strip_prefix(name)?;
                if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
            };
            // A name that a user chose may hold dots itself: the longest that fits wins.
            let mut fitting: Vec<_> =
                fields.iter().filter_map(|(name, inner)| Some((name.len(), inner, below(name)?))).collect();
            fitting.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
            fitting.into_iter().find_map(|(_, inner, rest)| at(inner, rest))
        }
        Value::Array(items) => {
            let (index, rest) = place.split_once('.').unwrap_or((place, ""));
            at(items.get(index.parse::<usize>().ok()?)?, rest)
        }
        _ => None,
    }
}

/// The name and contents of an enum variant: JSON shows it as an object with one name in upper camel case, which
/// fields never have and names that users choose seldom; for one that does, only a part of the path is missing.
fn variant(object: &Map<String, Value>) -> Option<(&str, &Value)> {
    let is_variant = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.contains(|letter: char| letter.is_ascii_lowercase())
            && name.chars().all(|letter| letter.is_ascii_alphanumeric())
    };
    let mut entries = object.iter();
    match (entries.next(), entries.next()) {
        (Some((name, value)), None) if is_variant(name) => Some((name, value)),
        _ => None,
    }
}

/// A value about as it stands in a graph file.
fn ron(value: &Value) -> String {
    let fields = |object: &Map<String, Value>| {
        let fields: Vec<String> = object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name}: {}", ron(value)))
            .collect();
        format!("({})", fields.join(", "))
    };
    match value {
        Value::Null => "None".to_owned(),
        Value::Object(object) => match variant(object) {
            Some((name, Value::Object(inner))) if variant(inner).is_none() => format!("{name}{}", fields(inner)),
            Some((name, inner)) => format!("{name}({})", ron(inner)),
            None => fields(object),
        },
        Value::Array(values) => format!("[{}]", values.iter().map(ron).collect::<Vec<_>>().join(", ")),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
