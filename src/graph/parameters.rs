//! The `params` block, and what a profile and `--set` make of it.

use super::{
    Overrides, Problem,
    outline::Entry,
    profiles,
    suggest::similar,
    syntax::{Span, Value, ValueKind, parse},
    translate::describe,
};

/// A parameter with the value that counts.
pub(super) struct Effective {
    pub(super) name: String,
    /// From the name to the end of the value that counts, in the profile or else in `params`.
    pub(super) definition: Span,
    /// The value as RON text.
    pub(super) text: String,
    /// What stood behind `--set NAME=`, if anything did.
    pub(super) set: Option<String>,
    /// Whether it is the value in `params`.
    pub(super) is_default: bool,
    /// Whether the value is told to be wrong already, so that what follows from it is not told too.
    pub(super) is_refused: bool,
}

/// The parameters with their defaults, then with the values of the profile, then with what is set, in its order, so that
/// the last of equal names counts.
pub(super) fn apply(
    entries: &[Entry<'_>],
    profiles: &[Entry<'_>],
    overrides: &Overrides,
    commas: &[usize],
    source: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Effective> {
    let mut effective: Vec<Effective> = entries
        .iter()
        .map(|entry| {
            let refused = refuse_calls(entry.value, source);
            let is_refused = !refused.is_empty();
            problems.extend(refused);
            Effective {
                name: entry.name.to_owned(),
                definition: entry.span(),
                text: with_commas(entry.value.span, commas, source),
                set: None,
                is_default: true,
                is_refused,
            }
        })
        .collect();
    for value in profiles::values(profiles, overrides.profile.as_deref(), entries, source, problems) {
        if let Some(parameter) = effective.iter_mut().find(|parameter| parameter.name == value.name) {
            parameter.definition = value.span();
            parameter.text = with_commas(value.value.span, commas, source);
            parameter.is_default = false;
        }
    }
    for (name, text) in &overrides.set {
        let Some(index) = entries.iter().position(|entry| entry.name == name) else {
            problems.push(unknown(name, text, entries));
            continue;
        };
        match (override_value(&entries[index], text, source), effective.get_mut(index)) {
            (Ok(value), Some(parameter)) => {
                parameter.text = value;
                parameter.set = Some(text.clone());
                parameter.is_default = false;
            }
            (Err(problem), _) => problems.push(*problem),
            (Ok(_), None) => {}
        }
    }
    effective
}

fn with_commas(span: Span, commas: &[usize], source: &str) -> String {
    let mut text = String::new();
    let mut from = span.start;
    for &comma in commas.iter().filter(|&&comma| span.contains(comma)) {
        text.push_str(Span::new(from, comma).of(source));
        text.push(',');
        from = comma;
    }
    text.push_str(Span::new(from, span.end).of(source));
    text
}

fn unknown(name: &str, text: &str, entries: &[Entry<'_>]) -> Problem {
    let problem = Problem::of_file(format!("`--set {name}={text}`: the graph has no parameter `{name}`"));
    let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    match similar(name, names.iter().copied()) {
        Some(right) => problem.with_hint(format!("a parameter with a similar name exists: `--set {right}={text}`")),
        None if names.is_empty() => problem.with_hint("give it a default in the graph: `params: {\"name\": value}`"),
        None => problem.with_hint(format!("its parameters: {}", super::suggest::list(names))),
    }
}

/// The RON text of an override.
fn override_value(entry: &Entry<'_>, text: &str, source: &str) -> Result<String, Box<Problem>> {
    let name = entry.name;
    let parsed = parse(text);
    let is_string = matches!(entry.value.kind, ValueKind::Text(_));
    if is_string && parsed.value.as_ref().is_none_or(|value| value.as_text().is_none()) {
        // A quote in front announces RON, so a mistake in it is told rather than taken as text.
        if !text.starts_with('"') {
            return quote(text).map_err(|why| Box::new(Problem::of_file(format!("`--set {name}={text}`: {why}"))));
        }
    }
    let place = |problem: Problem| {
        problem.with_hint(format!("write a value of RON, such as the default: `--set {}`", assignment(entry, source)))
    };
    let Some(value) = parsed.value.filter(|_| parsed.problems.is_empty()) else {
        let why = parsed.problems.into_iter().next().map(|problem| problem.message).unwrap_or_default();
        let message = format!("`--set {name}={text}` is no RON value: {why}");
        return Err(Box::new(place(Problem::at(entry.span(), message, "the parameter's default"))));
    };
    if let Some(problem) = refuse_calls(&value, text).into_iter().next() {
        let message = format!("`--set {name}={text}`: {}", problem.message);
        return Err(Box::new(Problem::at(entry.span(), message, "the parameter's default")));
    }
    let (expected, found) = (class(entry.value, source), class(&value, text));
    if expected != found {
        let message = format!("`--set {name}={text}`: the value is {}, expected {}", found.words(), expected.words());
        let label = format!("the default is {}", describe(entry.value, source));
        return Err(Box::new(place(Problem::at(entry.span(), message, label))));
    }
    Ok(value.span.of(text).to_owned())
}

/// The default as an argument, quoted for a shell where that is needed.
fn assignment(entry: &Entry<'_>, source: &str) -> String {
    let text = entry.value.as_text().unwrap_or_else(|| entry.value.span.of(source));
    let argument = format!("{}={text}", entry.name);
    let is_plain = |next: char| next.is_ascii_alphanumeric() || "=_-./:+,@%".contains(next);
    if argument.chars().all(is_plain) { argument } else { format!("'{}'", argument.replace('\'', r"'\''")) }
}

/// A string as RON text.
fn quote(text: &str) -> Result<String, String> {
    ron::to_string(text).map_err(|error| error.to_string())
}

/// What an override may not change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Number,
    Boolean,
    Text,
    List,
    Map,
    Other,
}

impl Class {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Boolean => "`true` or `false`",
            Self::Text => "a string",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Other => "a name or settings in parentheses",
        }
    }
}

/// What sort of value it is.
pub(super) fn class(value: &Value, source: &str) -> Class {
    match &value.kind {
        ValueKind::Text(_) | ValueKind::Literal => Class::Text,
        ValueKind::List(_) => Class::List,
        ValueKind::Map(_) => Class::Map,
        ValueKind::Struct { .. } | ValueKind::Tuple { .. } => Class::Other,
        ValueKind::Word => match value.span.of(source) {
            "true" | "false" => Class::Boolean,
            word if word.starts_with(|next: char| next.is_ascii_digit() || matches!(next, '+' | '-' | '.')) => {
                Class::Number
            }
            "inf" | "NaN" => Class::Number,
            _ => Class::Other,
        },
    }
}

/// A parameter's value is a literal: calls in it are not resolved.
pub(super) fn refuse_calls(value: &Value, source: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    value.walk(&mut |value| {
        if let Some(name) = value.name()
            && value.is_call(source)
        {
            let call = name.of(source);
            problems.push(Problem::at(
                value.span,
                format!("a parameter's value may not hold a call such as `{call}(…)`"),
                "expected a literal value",
            ));
        }
    });
    problems
}
