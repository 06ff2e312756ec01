//! How a result is compared with the one on record when it is computed again.

use std::fmt;

use globset::{Glob, GlobMatcher};

use super::syntax::{Value, ValueKind};

/// How a result is compared with the one on record.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Comparator {
    /// Every byte must be the same.
    #[default]
    Bitwise,
    /// Elements of some tensors and some numbers of JSON may lie apart: `|recorded - new| <= absolute + relative * |recorded|`. All else
    /// must be the same.
    Tolerance {
        /// The absolute part.
        absolute: f64,
        /// The part that grows with the value.
        relative: f64,
        /// Globs over the names of the tensors that are meant.
        tensors: Vec<Pattern>,
        /// Globs over the places of the numbers that are meant in JSON files and in each line of JSON Lines, such as
        /// `tasks.held_out.mean`.
        values: Vec<Pattern>,
    },
}

/// A glob over names of tensors, or places of values.
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.glob() == other.0.glob()
    }
}

impl Eq for Comparator {}

impl Comparator {
    /// How far elements of a tensor may lie apart, absolutely and relatively; nothing if they must be the same.
    pub fn of_tensor(&self, name: &str) -> Option<(f64, f64)> {
        match self {
            Self::Tolerance { absolute, relative, tensors, .. } if is_meant(tensors, name) => {
                Some((*absolute, *relative))
            }
            _ => None,
        }
    }

    /// The same of the number at a place in JSON.
    pub fn of_value(&self, place: &str) -> Option<(f64, f64)> {
        match self {
            Self::Tolerance { absolute, relative, values, .. } if is_meant(values, place) => {
                Some((*absolute, *relative))
            }
            _ => None,
        }
    }
}

fn is_meant(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|glob| glob.0.is_match(name))
}

impl fmt::Display for Comparator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bitwise => formatter.write_str("Bitwise"),
            Self::Tolerance { absolute, relative, tensors, values } => {
                write!(formatter, "Tolerance(absolute: {absolute:e}, relative: {relative:e}")?;
                for (name, patterns) in [("tensors", tensors), ("values", values)] {
                    if !patterns.is_empty() {
                        let patterns: Vec<String> =
                            patterns.iter().map(|glob| format!("{:?}", glob.0.glob().glob())).collect();
                        write!(formatter, ", {name}: [{}]", patterns.join(", "))?;
                    }
                }
                formatter.write_str(")")
            }
        }
    }
}

/// What a comparator looks like, for messages.
pub(super) const EXPECTED: &str = "`Bitwise` or `Tolerance(absolute: 1e-6, relative: 1e-5, tensors: [\"*\"])` with numbers from 0 on and patterns, for numbers in JSON \
     also `values: [\"*.mean\"]`";

/// Reads a comparator.
pub(super) fn read(value: &Value, text: &str) -> Option<Comparator> {
    if value.kind == ValueKind::Word && value.span.of(text) == "Bitwise" {
        return Some(Comparator::Bitwise);
    }
    let ValueKind::Struct { name: Some(name), fields } = &value.kind else { return None };
    if name.of(text) != "Tolerance" {
        return None;
    }
    let (mut absolute, mut relative, mut tensors, mut values) = (0.0, 0.0, Vec::new(), Vec::new());
    for field in fields {
        match field.name.of(text) {
            "absolute" => absolute = number(&field.value, text)?,
            "relative" => relative = number(&field.value, text)?,
            "tensors" => tensors = patterns(&field.value)?,
            "values" => values = patterns(&field.value)?,
            _ => return None,
        }
    }
    let is_idle = tensors.is_empty() && values.is_empty();
    (!is_idle).then_some(Comparator::Tolerance { absolute, relative, tensors, values })
}

fn number(value: &Value, text: &str) -> Option<f64> {
    let number: f64 = value.span.of(text).replace('_', "").parse().ok()?;
    (value.kind == ValueKind::Word && number.is_finite() && number >= 0.0).then_some(number)
}

fn patterns(value: &Value) -> Option<Vec<Pattern>> {
    let ValueKind::List(items) = &value.kind else { return None };
    let pattern = |item: &Value| Some(Pattern(Glob::new(item.as_text()?).ok()?.compile_matcher()));
    let patterns: Vec<Pattern> = items.iter().map(pattern).collect::<Option<_>>()?;
    (!patterns.is_empty()).then_some(patterns)
}
