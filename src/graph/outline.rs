//! The top level of a graph: version, title, parameters, profiles, stages, policy.

use std::collections::HashMap;

use super::{
    Problem, names,
    suggest::similar,
    syntax::{Field, Parsed, Span, Value, ValueKind},
    translate::describe,
};

/// The version of the language that is read.
const VERSION: &str = "1";
const FIELDS: [&str; 6] = ["version", "title", "params", "profiles", "stages", "policy"];
const EXTENSIONS: [&str; 3] = ["implicit_some", "unwrap_newtypes", "unwrap_variant_newtypes"];

/// What stands at the top level, stages still untyped.
#[derive(Default)]
pub(super) struct Outline<'a> {
    pub(super) title: Option<String>,
    pub(super) parameters: Vec<Entry<'a>>,
    pub(super) profiles: Vec<Entry<'a>>,
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
                outline.parameters = entries(Named::Parameter, "params", &field.value, source, problems);
            }
            "profiles" if outline.profiles.is_empty() => {
                outline.profiles = entries(Named::Profile, "profiles", &field.value, source, problems);
            }
            "stages" if outline.stages.is_empty() => {
                outline.stages = entries(Named::Stage, "stages", &field.value, source, problems);
                if let ValueKind::Map(entries) = &field.value.kind
                    && entries.is_empty()
                {
                    problems.push(Problem::at(field.value.span, "the graph has no stages", "nothing in here"));
                }
            }
            "policy" if outline.policies.is_empty() => {
                outline.policies = entries(Named::Policy, "policy", &field.value, source, problems);
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

/// What the names of a map stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Parameter,
    Profile,
    /// A parameter that a profile gives a value.
    Value,
    Stage,
    /// A stage that has a policy.
    Policy,
}

impl Named {
    const fn word(self) -> &'static str {
        match self {
            Self::Parameter | Self::Value => "parameter",
            Self::Profile => "profile",
            Self::Stage => "stage",
            Self::Policy => "policy",
        }
    }

    /// Why it cannot have that name.
    fn refuse(self, name: &str) -> Option<&'static str> {
        match self {
            Self::Stage => names::refuse_stage(name),
            Self::Parameter | Self::Profile => names::refuse_parameter(name),
            // Whether there is something of that name is judged later.
            Self::Value | Self::Policy => None,
        }
    }

    /// What is wrong if a name stands twice, and what to do.
    fn twice(self, name: &str) -> (String, &'static str) {
        let name = name.escape_debug();
        match self {
            Self::Policy => (format!("stage `{name}` has two policies"), "make one of them"),
            Self::Value => (format!("parameter `{name}` has two values"), "keep one of them"),
            _ => (format!("two {}s are named `{name}`", self.word()), "rename one of them"),
        }
    }
}

/// The entries of a map with names as keys.
pub(super) fn entries<'a>(
    what: Named,
    field: &str,
    value: &'a Value,
    source: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Entry<'a>> {
    let ValueKind::Map(map) = &value.kind else {
        problems.push(wrong(field, "a map `{\"name\": …}`", value, source));
        return Vec::new();
    };
    let mut found: Vec<Entry<'a>> = Vec::new();
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for (key, value) in map {
        let Some(name) = names::quoted(key, what.word(), source, problems) else { continue };
        if let Some(why) = what.refuse(name) {
            problems.push(
                Problem::at(
                    key.span,
                    format!("`{}` cannot be the name of a {}", name.escape_debug(), what.word()),
                    "not allowed",
                )
                .with_note(why),
            );
        }
        if let Some(&first) = seen.get(name) {
            let (message, hint) = what.twice(name);
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
