//! The top level of a graph: version, title, parameters, stages, policy.

use std::collections::HashMap;

use super::{
    Problem, names,
    suggest::similar,
    syntax::{Field, Parsed, Span, Value, ValueKind},
    translate::describe,
};

/// The version of the language that is read.
const VERSION: &str = "1";
const FIELDS: [&str; 5] = ["version", "title", "params", "stages", "policy"];
const EXTENSIONS: [&str; 3] = ["implicit_some", "unwrap_newtypes", "unwrap_variant_newtypes"];

/// What stands at the top level, stages still untyped.
#[derive(Default)]
pub(super) struct Outline<'a> {
    pub(super) title: Option<String>,
    pub(super) parameters: Vec<Entry<'a>>,
    pub(super) stages: Vec<Entry<'a>>,
    pub(super) policies: Vec<Entry<'a>>,
}

/// A named value.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) name_span: Span,
    pub(super) value: &'a Value,
}

impl Entry<'_> {
    /// From the name to the end of the value.
    pub(super) fn span(&self) -> Span {
        Span::new(self.name_span.start, self.value.span.end)
    }
}

/// Reads the top level; what cannot be read is left out and told in `problems`.
pub(super) fn read<'a>(parsed: &'a Parsed, source: &str, problems: &mut Vec<Problem>) -> Outline<'a> {
    for &extension in &parsed.extensions {
        let name = extension.of(source);
        if !EXTENSIONS.contains(&name) {
            problems.push(
                Problem::at(extension, format!("the RON extension `{name}` is not used in graphs"), "not used here")
                    .with_suggestion("extension", extension, name, &EXTENSIONS, str::to_owned),
            );
        }
    }
    let mut outline = Outline::default();
    let Some(root) = &parsed.value else { return outline };
    let Some(fields) = root_fields(root, source, problems) else { return outline };
    check_fields(fields, root, source, problems);
    for field in fields {
        match field.name.of(source) {
            "version" => check_version(&field.value, source, problems),
            "title" => match field.value.as_text() {
                Some(title) => outline.title = Some(title.to_owned()),
                None => problems.push(wrong("title", "a string", &field.value, source)),
            },
            "params" if outline.parameters.is_empty() => {
                outline.parameters = entries("parameter", "params", &field.value, source, problems);
            }
            "stages" if outline.stages.is_empty() => {
                outline.stages = entries("stage", "stages", &field.value, source, problems);
                if let ValueKind::Map(entries) = &field.value.kind
                    && entries.is_empty()
                {
                    problems.push(Problem::at(field.value.span, "the graph has no stages", "nothing in here"));
                }
            }
            "policy" if outline.policies.is_empty() => {
                outline.policies = entries("policy", "policy", &field.value, source, problems);
            }
            _ => {}
        }
    }
    outline
}

fn root_fields<'a>(root: &'a Value, source: &str, problems: &mut Vec<Problem>) -> Option<&'a [Field]> {
    let expected = "expected `Graph(version: 1, stages: {…})`";
    let name = root.name().map(|name| name.of(source));
    match (&root.kind, name) {
        (ValueKind::Struct { fields, .. }, Some("Graph")) => Some(fields),
        (ValueKind::Tuple { items, name: Some(name) }, Some("Graph")) if items.is_empty() => {
            problems.push(Problem::at(*name, "the graph is empty", expected));
            None
        }
        (ValueKind::Struct { .. } | ValueKind::Tuple { .. }, Some(found)) if found != "Graph" => {
            let message = format!("the file holds `{found}`, not a graph");
            let problem = Problem::at(root.head(), message, "expected `Graph`");
            problems.push(match similar(found, ["Graph"]) {
                Some(right) => problem.with_patch("a graph starts with its name", root.head(), right),
                None => problem,
            });
            None
        }
        (ValueKind::Struct { .. }, None) => {
            let place = Span::new(root.span.start, root.span.start);
            problems.push(
                Problem::at(place, "the name `Graph` is missing in front of the parentheses", "expected `Graph` here")
                    .with_patch("put it in front", place, "Graph"),
            );
            None
        }
        _ => {
            problems.push(Problem::at(root.head(), "this is no graph", expected));
            None
        }
    }
}

fn check_fields(fields: &[Field], root: &Value, source: &str, problems: &mut Vec<Problem>) {
    for field in fields {
        let name = field.name.of(source);
        if !FIELDS.contains(&name) {
            problems.push(
                Problem::at(field.name, format!("`Graph` has no field `{name}`"), "not a field of `Graph`")
                    .with_suggestion("field", field.name, name, &FIELDS, str::to_owned),
            );
        }
    }
    problems.extend(repeated_fields(fields, source));
    for (required, example) in [("version", "version: 1"), ("stages", "stages: {…}")] {
        // A misspelt name is told already.
        if !fields.iter().any(|field| similar(field.name.of(source), FIELDS) == Some(required)) {
            problems.push(
                Problem::at(root.head(), format!("the graph has no `{required}`"), format!("`{required}` is missing"))
                    .with_hint(format!("add `{example}`")),
            );
        }
    }
}

fn check_version(value: &Value, source: &str, problems: &mut Vec<Problem>) {
    let found = value.span.of(source);
    if found == VERSION {
        return;
    }
    let newer = value.kind == ValueKind::Word && found.parse::<u64>().is_ok();
    let problem = if newer {
        Problem::at(
            value.span,
            format!("version {found} of the graph language is not known to this twdag"),
            format!("expected {VERSION}"),
        )
        .with_hint("use a newer twdag, or write the graph in version 1")
    } else {
        wrong("version", "the number 1", value, source)
    };
    problems.push(problem);
}

fn wrong(field: &str, expected: &str, value: &Value, source: &str) -> Problem {
    Problem::at(
        value.head(),
        format!("`{field}` is {}, expected {expected}", describe(value, source)),
        format!("expected {expected}"),
    )
}

/// The entries of a map with names as keys.
fn entries<'a>(what: &str, field: &str, value: &'a Value, source: &str, problems: &mut Vec<Problem>) -> Vec<Entry<'a>> {
    let ValueKind::Map(map) = &value.kind else {
        problems.push(wrong(field, "a map `{\"name\": …}`", value, source));
        return Vec::new();
    };
    let mut found: Vec<Entry<'a>> = Vec::new();
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for (key, value) in map {
        let Some(name) = names::quoted(key, what, source, problems) else { continue };
        let refused = match what {
            "stage" => names::refuse_stage(name),
            // Whether there is such a stage is judged later.
            "policy" => None,
            _ => names::refuse_parameter(name),
        };
        if let Some(why) = refused {
            problems.push(
                Problem::at(
                    key.span,
                    format!("`{}` cannot be the name of a {what}", name.escape_debug()),
                    "not allowed",
                )
                .with_note(why),
            );
        }
        if let Some(&first) = seen.get(name) {
            let (message, hint) = if what == "policy" {
                (format!("stage `{}` has two policies", name.escape_debug()), "make one of them")
            } else {
                (format!("two {what}s are named `{}`", name.escape_debug()), "rename one of them")
            };
            let problem = Problem::at(key.span, message, "here again");
            problems.push(problem.with_place(first, "first here").with_hint(hint));
            continue;
        }
        seen.insert(name, key.span);
        found.push(Entry { name, name_span: key.span, value });
    }
    found
}

/// Fields that stand twice in one struct.
pub(super) fn repeated_fields(fields: &[Field], source: &str) -> Vec<Problem> {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    let mut problems = Vec::new();
    for field in fields {
        let name = field.name.of(source);
        match seen.get(name) {
            Some(&first) => problems.push(
                Problem::at(field.name, format!("`{name}` stands twice"), "here again").with_place(first, "first here"),
            ),
            None => {
                seen.insert(name, field.name);
            }
        }
    }
    problems
}
