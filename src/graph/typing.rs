//! Untyped stage to typed stage.

use std::collections::HashMap;

use ron::{Error, error::SpannedError};
use twdag_stages::{
    registry::{self, Entry as KindEntry},
    stage::Stage,
};

use super::{
    Problem,
    outline::repeated_fields,
    substitute::{Edit, Edited},
    suggest::similar,
    syntax::{Field, Span, Value, ValueKind},
    translate::{Site, field_at},
};

/// How many unknown settings of one stage are told at once.
const ROUNDS: usize = 16;

/// A stage, or nothing if it could not be typed.
#[derive(Default)]
pub(super) struct Typed {
    pub(super) stage: Option<Box<dyn Stage>>,
    /// Misspelt settings: how they should be called, and how they are.
    pub(super) renamed: Vec<(String, String)>,
}

/// Types the stage at `site`. It may be typed although there are problems.
pub(super) fn stage(site: Site<'_>, commas: &[usize], problems: &mut Vec<Problem>) -> Typed {
    let mut typed = Typed::default();
    typed.stage = read(site, commas, &mut typed.renamed, problems);
    typed
}

fn read(
    site: Site<'_>,
    commas: &[usize],
    renamed: &mut Vec<(String, String)>,
    problems: &mut Vec<Problem>,
) -> Option<Box<dyn Stage>> {
    let kind = kind(site, problems);
    let before = problems.len();
    let mut edits = calls(site, problems);
    repetitions(site, problems);
    let kind = kind?;
    if problems.len() > before || uses_refused(site) {
        return None;
    }
    let missing = commas.iter().filter(|&&comma| site.value.span.contains(comma));
    edits.extend(missing.map(|&comma| Edit { span: Span::new(comma, comma), text: ",".to_owned() }));
    for _ in 0..ROUNDS {
        let edited = Edited::new(site.source, site.value.span, &edits);
        let error = match kind.from_ron(&registry::ron_options(), &edited.text) {
            Ok(stage) => return Some(stage),
            Err(error) => error,
        };
        let start = edited.original(edited.offset(error.span.start));
        let end = edited.original(edited.offset(error.span.end));
        let choices = match &error.code {
            Error::ExpectedIdentifier | Error::SuggestRawIdentifier(_) => choices(site, kind, &edits, start, end),
            _ => &[],
        };
        let inside = |call| {
            (edited.inside(call, edited.offset(error.span.start)), edited.inside(call, edited.offset(error.span.end)))
        };
        problems.push(site.translate(&error.code, (start, end), &inside, choices));
        let repair = repair(site, &error, start)?;
        if !repair.text.is_empty() {
            renamed.push((repair.text.clone(), repair.span.of(site.source).to_owned()));
        }
        edits.push(repair);
    }
    None
}

fn kind(site: Site<'_>, problems: &mut Vec<Problem>) -> Option<KindEntry> {
    let value = site.value;
    let head = value.head();
    let name = head.of(site.source);
    let named = value.name().is_some() || value.kind == ValueKind::Word && name.starts_with(char::is_alphabetic);
    if !named {
        let message = format!("stage `{}` has no kind", site.stage);
        let mut problem = Problem::at(head, message, "expected a kind with settings, such as `Tokenize(…)`");
        problem = problem.with_hint(format!("known kinds: {}", kinds().join(", ")));
        problems.push(problem);
        return None;
    }
    if name == "param" {
        let message = format!("stage `{}` cannot be a parameter as a whole", site.stage);
        problems.push(Problem::at(value.span, message, "expected a kind with settings, such as `Tokenize(…)`"));
        return None;
    }
    let found = registry::find(name);
    if found.is_none() {
        let names: Vec<&str> = registry::KINDS.iter().map(|entry| entry.info.name).collect();
        problems.push(Problem::at(head, format!("there is no stage kind `{name}`"), "unknown kind").with_suggestion(
            "kind",
            head,
            name,
            &names,
            str::to_owned,
        ));
    }
    found
}

fn kinds() -> Vec<&'static str> {
    registry::KINDS.iter().map(|entry| entry.info.name).collect()
}

/// Resolves the calls in a stage's settings.
fn calls(site: Site<'_>, problems: &mut Vec<Problem>) -> Vec<Edit> {
    let mut edits = Vec::new();
    site.value.walk(&mut |value| {
        let Some(name) = value.name() else { return };
        let call = name.of(site.source);
        if !value.is_call(site.source) || std::ptr::eq(value, site.value) {
            return;
        }
        if call != "param" {
            problems.push(
                Problem::at(name, format!("there is no function `{call}`"), "unknown function").with_suggestion(
                    "function",
                    name,
                    call,
                    &["param"],
                    str::to_owned,
                ),
            );
            return;
        }
        let wanted = match &value.kind {
            ValueKind::Tuple { items, .. } if items.len() == 1 => items.first(),
            _ => None,
        };
        let Some(wanted) = wanted else {
            problems.push(Problem::at(value.span, "`param` takes one name", "expected `param(\"name\")`"));
            return;
        };
        let Some(text) = wanted.as_text() else {
            let problem = Problem::at(wanted.span, "a parameter's name must be in quotes", "expected a string");
            let found = wanted.span.of(site.source);
            problems.push(match wanted.kind {
                ValueKind::Word => problem.with_patch("put it in quotes", wanted.span, format!("\"{found}\"")),
                _ => problem,
            });
            return;
        };
        if let Some(parameter) = site.parameter(value) {
            edits.push(Edit { span: value.span, text: parameter.text.clone() });
            return;
        }
        let names: Vec<&str> = site.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        let message = format!("there is no parameter `{}`", text.escape_debug());
        let problem = Problem::at(wanted.span, message, "not in `params`");
        let spelling = |right: &str| format!("\"{right}\"");
        problems.push(problem.with_suggestion("parameter", wanted.span, text, &names, spelling));
    });
    edits
}

/// Whether a parameter that is told to be wrong is used here.
fn uses_refused(site: Site<'_>) -> bool {
    let mut found = false;
    site.value.walk(&mut |value| found |= site.parameter(value).is_some_and(|parameter| parameter.is_refused));
    found
}

/// Names that stand twice in one struct or map: the `ron` crate would keep the last entry of a map silently.
fn repetitions(site: Site<'_>, problems: &mut Vec<Problem>) {
    site.value.walk(&mut |value| match &value.kind {
        ValueKind::Struct { fields, .. } => problems.extend(repeated_fields(fields, site.source)),
        ValueKind::Map(entries) => {
            let mut seen: HashMap<&str, Span> = HashMap::new();
            for (key, _) in entries {
                let name = key.as_text().unwrap_or_else(|| key.span.of(site.source));
                match seen.get(name) {
                    Some(&first) => problems.push(
                        Problem::at(key.span, format!("`{}` stands twice", name.escape_debug()), "here again")
                            .with_place(first, "first here"),
                    ),
                    None => {
                        seen.insert(name, key.span);
                    }
                }
            }
        }
        _ => {}
    });
}

/// What makes the text free of an unknown setting, so that the rest can be judged too.
fn repair(site: Site<'_>, error: &SpannedError, start: usize) -> Option<Edit> {
    let Error::NoSuchStructField { expected, found: wrong, .. } = &error.code else { return None };
    let found = site.find((start, start), false);
    let place = field_at(found.value, start)?;
    let ValueKind::Struct { fields, .. } = &found.value.kind else { return None };
    let taken = |name: &str| fields.iter().any(|field| field.name.of(site.source) == name);
    if let Some(right) = similar(wrong, expected.iter().copied())
        && !taken(right)
    {
        return Some(Edit { span: place, text: right.to_owned() });
    }
    let index = fields.iter().position(|field| field.name == place)?;
    // Up to the next field, or with its comma up to the closing parenthesis.
    let end = fields.get(index + 1).map_or(found.value.span.end.saturating_sub(1), |Field { name, .. }| name.start);
    Some(Edit { span: Span::new(place.start, end), text: String::new() })
}

/// The names among which the value at a place chooses, found by asking for one that cannot exist.
fn choices(site: Site<'_>, kind: KindEntry, edits: &[Edit], start: usize, end: usize) -> &'static [&'static str] {
    let value: &Value = site.find((start, end), false).value;
    let mut probing = vec![Edit { span: value.span, text: "no_such_choice".to_owned() }];
    probing.extend(edits.iter().filter(|edit| edit.span != value.span).cloned());
    let edited = Edited::new(site.source, site.value.span, &probing);
    match kind.from_ron(&registry::ron_options(), &edited.text).err().map(|error| error.code) {
        Some(Error::NoSuchEnumVariant { expected, found, .. }) if found == "no_such_choice" => expected,
        _ => &[],
    }
}
