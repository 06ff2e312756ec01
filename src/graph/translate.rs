//! What the `ron` crate says about a stage's settings, in our own sentences and in the user's file.

use ron::Error;

use super::{
    Problem,
    parameters::Effective,
    syntax::{Span, Value, ValueKind, parse},
};

/// A stage in the user's file, for messages about it.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) source: &'a str,
    pub(super) stage: &'a str,
    pub(super) value: &'a Value,
    pub(super) parameters: &'a [Effective],
}

/// A value that an error is about.
#[derive(Clone)]
pub(super) struct Found<'a> {
    /// Its place in the stage, such as `shape.lambda`; empty for the stage itself.
    pub(super) path: String,
    pub(super) value: &'a Value,
    pub(super) parent: Option<&'a Value>,
    /// How the value is called in a message.
    pub(super) described: String,
}

impl<'a> Site<'a> {
    /// The value that a position means. The `ron` crate points at a value, at the white space in front of it, or
    /// (`may_be_behind`) behind it.
    pub(super) fn find(&self, position: (usize, usize), may_be_behind: bool) -> Found<'a> {
        descend(self.value, self.source, position, may_be_behind, |value| self.parameter(value).is_some())
    }

    /// The parameter that a value is a call of.
    pub(super) fn parameter(&self, value: &Value) -> Option<&'a Effective> {
        let ValueKind::Tuple { name: Some(name), items } = &value.kind else { return None };
        if name.of(self.source) != "param" {
            return None;
        }
        let wanted = items.first()?.as_text()?;
        self.parameters.iter().find(|parameter| parameter.name == wanted)
    }

    /// Says where the value of a parameter call comes from.
    pub(super) fn explain(&self, problem: Problem, value: &Value) -> Problem {
        match self.parameter(value) {
            None => problem,
            Some(Effective { name, set: Some(text), .. }) => {
                problem.with_note(format!("the value of parameter `{name}` comes from `--set {name}={text}`"))
            }
            Some(Effective { name, definition, .. }) => {
                problem.with_place(*definition, format!("the value of parameter `{name}` comes from here"))
            }
        }
    }

    fn called(&self, path: &str) -> String {
        if path.is_empty() {
            format!("stage `{}`", self.stage)
        } else {
            format!("setting `{path}` of stage `{}`", self.stage)
        }
    }

    /// The sentence for a value of the wrong type.
    pub(super) fn wrong_type(&self, found: &Found<'_>, expected: &str) -> Problem {
        let message = format!("{} is {}, expected {expected}", self.called(&found.path), found.described);
        let span = if self.parameter(found.value).is_some() { found.value.span } else { found.value.head() };
        self.explain(Problem::at(span, message, format!("expected {expected}")), found.value)
    }

    /// Turns an error into a problem. `position` is a place in the user's file; `inside` says for the place of a
    /// parameter's call which place in the parameter's value is meant.
    pub(super) fn translate(
        &self,
        error: &Error,
        position: (usize, usize),
        inside: &dyn Fn(Span) -> (usize, usize),
        choices: &[&str],
    ) -> Problem {
        let start = position.0;
        let behind = matches!(error, Error::ExpectedStructLike | Error::Message(_));
        let mut found = self.find(position, behind);
        if let Some(parameter) = self.parameter(found.value)
            && let Some(value) = parse(&parameter.text).value
        {
            let inner = descend(&value, &parameter.text, inside(found.value.span), behind, |_| false);
            found.path = join(found.path, &inner.path);
            found.described = inner.described;
        }
        let text = found.value.span.of(self.source);
        match error {
            Error::NoSuchStructField { expected, found: wrong, .. } => {
                self.unknown_field(&found, start, wrong, expected)
            }
            Error::MissingStructField { field, .. } => self.missing_field(&found, field),
            Error::NoSuchEnumVariant { expected, found: wrong, .. } => self.unknown_choice(&found, wrong, expected),
            Error::ExpectedIdentifier | Error::SuggestRawIdentifier(_) | Error::InvalidIdentifier(_) => {
                self.no_choice(&found, choices)
            }
            Error::ExpectedString => self.no_string(&found, start),
            Error::ExpectedArray => {
                let problem = self.wrong_type(&found, "a list");
                let single = matches!(found.value.kind, ValueKind::Text(_) | ValueKind::Word);
                if single {
                    problem.with_patch("put it in a list", found.value.span, format!("[{text}]"))
                } else {
                    problem
                }
            }
            Error::ExpectedMap => self.wrong_type(&found, "a map `{\"name\": …}`"),
            Error::ExpectedBoolean => self.wrong_type(&found, "`true` or `false`"),
            Error::ExpectedFloat | Error::FloatUnderscore => self.wrong_type(&found, "a number"),
            Error::ExpectedInteger | Error::InvalidIntegerDigit { .. } => self.wrong_type(&found, "a whole number"),
            Error::IntegerOutOfBounds if found.described.starts_with("`-") => {
                self.wrong_type(&found, "a whole number that is not negative")
            }
            Error::IntegerOutOfBounds => self.wrong_type(&found, "a whole number that is not so large"),
            Error::ExpectedStructLike | Error::ExpectedNamedStructLike(_) => {
                if found.value.kind == ValueKind::Word && text.starts_with(char::is_uppercase) {
                    let label = "expected `(name: value)` behind the name";
                    Problem::at(
                        found.value.span,
                        format!("{}: `{text}` needs settings", self.called(&found.path)),
                        label,
                    )
                } else {
                    self.wrong_type(&found, "settings in parentheses `(name: value)`")
                }
            }
            Error::ExpectedDifferentStructName { expected, found: wrong } => Problem::at(
                found.value.head(),
                format!("{}: `{wrong}` is not expected here", self.called(&found.path)),
                "wrong name",
            )
            .with_patch(format!("the name is `{expected}`, or none at all"), found.value.head(), *expected),
            Error::ExpectedUnit => self.wrong_type(&found, "`()`"),
            Error::ExpectedComma if found.value.kind == ValueKind::Word => self.wrong_type(&found, "a whole number"),
            Error::ExpectedComma | Error::TrailingCharacters if found.value.name().is_some() => {
                let name = found.value.head().of(self.source);
                let inside = Span::new(found.value.head().end, found.value.span.end);
                Problem::at(
                    inside,
                    format!("{}: `{name}` has no settings", self.called(&found.path)),
                    "nothing may be here",
                )
                .with_patch("leave the parentheses out", inside, "")
            }
            Error::InvalidValueForType { expected, .. } | Error::ExpectedDifferentLength { expected, .. } => {
                self.wrong_type(&found, expected)
            }
            other => {
                let message = format!("{}: {}", self.called(&found.path), lowercase_first(&other.to_string()));
                let span = if self.parameter(found.value).is_some() { found.value.span } else { found.value.head() };
                self.explain(Problem::at(span, message, "this is wrong"), found.value)
            }
        }
    }

    fn unknown_field(&self, found: &Found<'_>, start: usize, wrong: &str, expected: &[&str]) -> Problem {
        let owner = match found.value.name() {
            _ if self.parameter(found.value).is_some() => self.called(&found.path),
            Some(name) => format!("`{}`", name.of(self.source)),
            None => self.called(&found.path),
        };
        let message = format!("{owner} has no setting `{wrong}`");
        let label = format!("not a setting of {owner}");
        let place = field_at(found.value, start);
        let problem = Problem::at(place.unwrap_or(found.value.span), message, label);
        match place {
            Some(place) => problem.with_suggestion("setting", place, wrong, expected, str::to_owned),
            None => self
                .explain(problem, found.value)
                .with_hint(format!("known settings: {}", super::suggest::list(expected.iter().copied()))),
        }
    }

    fn missing_field(&self, found: &Found<'_>, field: &str) -> Problem {
        let owner = match found.value.name() {
            _ if self.parameter(found.value).is_some() => self.called(&found.path),
            Some(name) if found.path.is_empty() => {
                format!("stage `{}`: `{}`", self.stage, name.of(self.source))
            }
            Some(name) => format!("{}: `{}`", self.called(&found.path), name.of(self.source)),
            None => self.called(&found.path),
        };
        let span = if self.parameter(found.value).is_some() { found.value.span } else { found.value.head() };
        let label = format!("`{field}: …` is missing");
        self.explain(Problem::at(span, format!("{owner} lacks the setting `{field}`"), label), found.value)
    }

    fn unknown_choice(&self, found: &Found<'_>, wrong: &str, expected: &[&str]) -> Problem {
        let message = format!("{} has no choice `{wrong}`", self.called(&found.path));
        if self.parameter(found.value).is_some() {
            let list = super::suggest::list(expected.iter().copied());
            let problem = Problem::at(found.value.span, message, "not a choice");
            return self.explain(problem, found.value).with_hint(format!("known choices: {list}"));
        }
        let head = found.value.head();
        Problem::at(head, message, "not a choice").with_suggestion("choice", head, wrong, expected, str::to_owned)
    }

    /// A choice was expected and something else than a name found, or a name of a setting was expected.
    fn no_choice(&self, found: &Found<'_>, choices: &[&str]) -> Problem {
        if choices.is_empty()
            && let Some(parent) = found.parent
            && let ValueKind::Tuple { name: Some(name), .. } = &parent.kind
        {
            let owner = name.of(self.source);
            let message = format!("a setting of `{owner}` has no name");
            return Problem::at(found.value.head(), message, "expected `name: value`");
        }
        let problem = self.wrong_type(found, "a choice");
        match found.value.as_text() {
            Some(text) if choices.contains(&text) => {
                problem.with_patch("choices are written without quotes", found.value.span, text)
            }
            _ if choices.is_empty() => problem.with_hint("choices are names without quotes"),
            _ => problem.with_hint(format!("known choices: {}", super::suggest::list(choices.iter().copied()))),
        }
    }

    fn no_string(&self, found: &Found<'_>, start: usize) -> Problem {
        // Keys of maps are no values, so the position of a key means the map.
        if let ValueKind::Map(entries) = &found.value.kind
            && let Some((key, _)) = entries.iter().find(|(key, _)| key.span.contains(start))
        {
            let text = key.span.of(self.source);
            let message = format!("a name in {} must be in quotes", self.called(&found.path));
            return Problem::at(key.span, message, "expected a string").with_patch(
                "put it in quotes",
                key.span,
                format!("\"{text}\""),
            );
        }
        let problem = self.wrong_type(found, "a string");
        let text = found.value.span.of(self.source);
        if found.value.kind == ValueKind::Word {
            problem.with_patch("put it in quotes", found.value.span, format!("\"{text}\""))
        } else {
            problem
        }
    }
}

/// Goes from a value inwards to the one that a position means, not into one where `stop` holds.
fn descend<'a>(
    root: &'a Value,
    source: &str,
    (start, end): (usize, usize),
    may_be_behind: bool,
    stop: impl Fn(&Value) -> bool,
) -> Found<'a> {
    let mut found = Found { path: String::new(), value: root, parent: None, described: String::new() };
    while !stop(found.value) {
        let children = found.value.children(source);
        let is_only = children.len() == 1 && matches!(found.value.kind, ValueKind::Tuple { .. });
        let hit = children.iter().find(|(_, child)| child.span.contains(start)).or_else(|| {
            let in_front = children.iter().find(|(_, child)| start < child.span.start && child.span.start <= end);
            in_front.or_else(|| children.iter().find(|(_, child)| may_be_behind && child.span.end == start))
        });
        let Some((name, child)) = hit else { break };
        found.path = if is_only { found.path } else { join(found.path, name) };
        found.parent = Some(found.value);
        found.value = child;
    }
    found.described = describe(found.value, source);
    found
}

fn join(path: String, name: &str) -> String {
    match (path.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => path,
        (false, false) => format!("{path}.{name}"),
    }
}

/// Where the name of the field that `offset` is in stands.
pub(super) fn field_at(value: &Value, offset: usize) -> Option<Span> {
    let ValueKind::Struct { fields, .. } = &value.kind else { return None };
    fields.iter().map(|field| field.name).find(|name| name.contains(offset))
}

/// A value as it is called in a message.
pub(super) fn describe(value: &Value, source: &str) -> String {
    let text = value.span.of(source);
    match &value.kind {
        ValueKind::Word | ValueKind::Text(_) | ValueKind::Literal
            if text.chars().count() <= 60 && !text.contains('\n') =>
        {
            format!("`{text}`")
        }
        ValueKind::Word => "a long word".to_owned(),
        ValueKind::Text(_) | ValueKind::Literal => "a long string".to_owned(),
        ValueKind::List(_) => "a list".to_owned(),
        ValueKind::Map(_) => "a map".to_owned(),
        ValueKind::Struct { name: None, .. } | ValueKind::Tuple { name: None, .. } => "`(…)`".to_owned(),
        ValueKind::Struct { name: Some(name), .. } | ValueKind::Tuple { name: Some(name), .. } => {
            let name = name.of(source);
            if value.is_call(source) { format!("`{text}`") } else { format!("`{name}(…)`") }
        }
    }
}

fn lowercase_first(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_lowercase().chain(rest).collect()).unwrap_or_default()
}
