//! How a stage is run, apart from what it computes: resources, retries, timeout. Nothing of it enters a key.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use twdag_stages::stage::{Allowed, KindInfo};

use super::{
    Comparator, Node, Problem,
    amount::{self, BYTES, CPU, DURATION, MEMORY},
    comparator, names,
    outline::{Entry, repeated_fields},
    parameters::Effective,
    suggest::similar,
    syntax::{Field, Span, Value, ValueKind, parse},
    translate::{Site, describe},
};

/// How a stage is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What it asks for, by the name of the resource.
    pub resources: BTreeMap<String, Request>,
    /// How often it is started again after it failed.
    pub retries: u32,
    /// How long the first retry waits; each further one waits twice as long as the one before.
    pub back_off: Duration,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// How a result is compared when it is computed again.
    pub comparator: Comparator,
    /// What a program may do beyond what the stage declares where isolation would tell of it or refuse it.
    pub allowed: Allowed,
}

/// How much a stage asks for, and where that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of `memory`, whole units of anything else.
    pub amount: u64,
    /// The line in the graph file, from 1.
    pub line: usize,
    /// The column there, in characters from 1.
    pub column: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            resources: BTreeMap::new(),
            retries: 0,
            back_off: Duration::from_secs(1),
            timeout: None,
            comparator: Comparator::Bitwise,
            allowed: Allowed::default(),
        }
    }
}

const FIELDS: [&str; 6] = ["resources", "retries", "back_off", "timeout", "comparator", "allow"];
const ALLOWED: &str = "`(read: [\"/srv/models\"], network: true)`, or one of them";
const MOST_RETRIES: u64 = 100;

/// Reads the `policy` block and gives each stage its own.
pub(super) fn apply(
    entries: &[Entry<'_>],
    stages: &[Entry<'_>],
    parameters: &[Effective],
    source: &str,
    nodes: &mut [Node],
    problems: &mut Vec<Problem>,
) {
    for entry in entries {
        if !stages.iter().any(|stage| stage.name == entry.name) {
            let names: Vec<&str> = stages.iter().map(|stage| stage.name).collect();
            let message = format!("the policy is for stage `{}`, which does not exist", entry.name.escape_debug());
            let spelling = |right: &str| format!("\"{right}\"");
            problems.push(Problem::at(entry.name_span, message, "no such stage").with_suggestion(
                "stage",
                entry.name_span,
                entry.name,
                &names,
                spelling,
            ));
            continue;
        }
        let site = Site { source, stage: entry.name, value: entry.value, parameters };
        let node = nodes.iter_mut().find(|node| node.name == entry.name);
        let kind = node.as_ref().map(|node| node.stage.kind());
        let policy = Reader { site, kind, problems }.policy();
        if let Some(node) = node {
            node.policy = policy;
        }
    }
}

struct Reader<'a, 'p> {
    site: Site<'a>,
    /// The kind of the stage, if it has one.
    kind: Option<KindInfo>,
    problems: &'p mut Vec<Problem>,
}

impl<'a> Reader<'a, '_> {
    fn policy(&mut self) -> Policy {
        let mut policy = Policy::default();
        let (site, source) = (self.site, self.site.source);
        let fields = match &site.value.kind {
            ValueKind::Struct { name: None, fields } => fields.as_slice(),
            ValueKind::Tuple { name: None, items } if items.is_empty() => &[],
            _ => {
                let expected = "settings in parentheses such as `(retries: 2)`";
                let message = format!(
                    "the policy of stage `{}` is {}, expected {expected}",
                    site.stage,
                    describe(site.value, source)
                );
                self.problems.push(Problem::at(site.value.head(), message, format!("expected {expected}")));
                return policy;
            }
        };
        self.problems.extend(repeated_fields(fields, source));
        for field in fields {
            match field.name.of(source) {
                "resources" => policy.resources = self.resources(&field.value),
                "retries" => {
                    let expected = format!("a whole number up to {MOST_RETRIES}");
                    let read = |value: &Value, text: &str| whole(value, text).filter(|&count| count <= MOST_RETRIES);
                    policy.retries = self.read("retries", &field.value, &expected, read).unwrap_or_default() as u32;
                }
                "back_off" => {
                    let read = |value: &Value, _: &str| amount::duration(value.as_text()?);
                    policy.back_off = self.read("back_off", &field.value, DURATION, read).unwrap_or(policy.back_off);
                }
                "timeout" => {
                    let read = |value: &Value, _: &str| amount::duration(value.as_text()?);
                    policy.timeout = self.read("timeout", &field.value, DURATION, read);
                }
                "comparator" => {
                    let read = |value: &Value, text: &str| comparator::read(value, text);
                    let found = self.read("comparator", &field.value, comparator::EXPECTED, read);
                    policy.comparator = found.unwrap_or_default();
                }
                "allow" => {
                    policy.allowed = self.read("allow", &field.value, ALLOWED, allowed).unwrap_or_default();
                    self.judge_allowed(field, &policy.allowed);
                }
                unknown => self.problems.push(
                    Problem::at(field.name, format!("a policy has no field `{unknown}`"), "not a field of a policy")
                        .with_suggestion("field", field.name, unknown, &FIELDS, str::to_owned),
                ),
            }
        }
        policy
    }

    /// Refuses what would allow nothing.
    fn judge_allowed(&mut self, field: &Field, allowed: &Allowed) {
        let site = self.site;
        if let Some(kind) = self.kind.as_ref().filter(|kind| !kind.starts_programs) {
            let message = format!(
                "`allow` in the policy of stage `{}` is for programs, and a stage of kind `{}` starts none",
                site.stage, kind.name
            );
            let problem = Problem::at(field.name, message, "allows nothing");
            self.problems.push(problem.with_hint("remove it: stages of that kind are never isolated"));
        }
        for (index, path) in allowed.read.iter().enumerate() {
            let is_of_another = path.starts_with('~') && path != "~" && !path.starts_with("~/");
            if !is_of_another {
                continue;
            }
            let (place, _) = field.value.locate(&format!("read.{index}"), site.source);
            let message = format!(
                "`allow.read` in the policy of stage `{}` is `{}`, and home folders of others are not looked up",
                site.stage,
                path.escape_debug()
            );
            let problem = Problem::at(place.span, message, "expected a whole path, or one below `~/`");
            let problem = problem.with_hint(format!("of a file in the workspace write `./{}`", path.escape_debug()));
            self.problems.push(site.explain(problem, place));
        }
    }

    fn resources(&mut self, value: &'a Value) -> BTreeMap<String, Request> {
        let source = self.site.source;
        let mut resources = BTreeMap::new();
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        let ValueKind::Map(entries) = &value.kind else {
            let expected = "a map such as `{\"cpu\": 2}`";
            self.wrong("resources", value, &describe(value, source), expected);
            return resources;
        };
        for (key, value) in entries {
            let Some(name) = resource_name(key, source, self.problems) else { continue };
            if let Some(&first) = seen.get(name) {
                let problem = Problem::at(key.span, format!("`{name}` stands twice"), "here again");
                self.problems.push(problem.with_place(first, "first here"));
            }
            seen.insert(name, key.span);
            let expected = expected_amount(name);
            let read = |value: &Value, text: &str| read_amount(name, value, text);
            if let Some(amount) = self.read(&format!("resources.{name}"), value, expected, read) {
                let (line, column) = place(source, value.span.start);
                resources.insert(name.to_owned(), Request { amount, line, column });
            }
        }
        resources
    }

    /// Reads a value that may be a parameter.
    fn read<T>(
        &mut self,
        path: &str,
        value: &Value,
        expected: &str,
        read: impl Fn(&Value, &str) -> Option<T>,
    ) -> Option<T> {
        let source = self.site.source;
        let (meant, text) = match self.site.parameter(value) {
            // What is wrong with it is told where it stands.
            Some(parameter) if parameter.is_refused => return None,
            Some(parameter) => (Cow::Owned(parse(&parameter.text).value?), parameter.text.as_str()),
            None => (Cow::Borrowed(value), source),
        };
        if let ValueKind::Struct { fields, .. } = &meant.kind {
            let repeated = repeated_fields(fields, text);
            if !repeated.is_empty() {
                if let Cow::Borrowed(_) = meant {
                    self.problems.extend(repeated);
                } else {
                    let described = format!("{} in which a field stands twice", describe(&meant, text));
                    self.wrong(path, value, &described, expected);
                }
                return None;
            }
        }
        let found = read(&meant, text);
        if found.is_none() {
            let described = describe(&meant, text);
            self.wrong(path, value, &described, expected);
        }
        found
    }

    fn wrong(&mut self, path: &str, value: &Value, found: &str, expected: &str) {
        let message = format!("`{path}` in the policy of stage `{}` is {found}, expected {expected}", self.site.stage);
        let span = if self.site.parameter(value).is_some() { value.span } else { value.head() };
        let problem = Problem::at(span, message, format!("expected {expected}"));
        self.problems.push(match self.unknown_parameter(value) {
            Some(hint) => problem.with_hint(hint),
            None => self.site.explain(problem, value),
        });
    }

    fn unknown_parameter(&self, value: &Value) -> Option<String> {
        let ValueKind::Tuple { name: Some(name), items } = &value.kind else { return None };
        if name.of(self.site.source) != "param" || self.site.parameter(value).is_some() {
            return None;
        }
        let wanted = items.first()?.as_text()?;
        let names: Vec<&str> = self.site.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        Some(match similar(wanted, names) {
            Some(right) => format!("there is no parameter `{wanted}`, but one named `{right}`"),
            None => format!("there is no parameter `{wanted}`"),
        })
    }
}

/// What a program may do beyond what its stage declares.
fn allowed(value: &Value, text: &str) -> Option<Allowed> {
    let ValueKind::Struct { name: None, fields } = &value.kind else { return None };
    let mut allowed = Allowed::default();
    for field in fields {
        match (field.name.of(text), &field.value.kind) {
            ("read", ValueKind::List(items)) => {
                let path = |item: &Value| Some(item.as_text().filter(|path| !path.is_empty())?.to_owned());
                allowed.read = items.iter().map(path).collect::<Option<_>>()?;
            }
            ("network", ValueKind::Word) => allowed.network = field.value.span.of(text).parse().ok()?,
            _ => return None,
        }
    }
    Some(allowed)
}

/// The name of a resource, which is any name in quotes.
pub(super) fn resource_name<'a>(key: &'a Value, source: &str, problems: &mut Vec<Problem>) -> Option<&'a str> {
    let name = names::quoted(key, "resource", source, problems)?;
    let Some(why) = names::refuse_resource(name) else { return Some(name) };
    let message = format!("`{}` cannot be the name of a resource", name.escape_debug());
    problems.push(Problem::at(key.span, message, "not allowed").with_note(why));
    None
}

/// What the amount of a resource looks like.
pub(super) fn expected_amount(name: &str) -> &'static str {
    match name {
        MEMORY => BYTES,
        CPU => "a whole number of at least 1",
        _ => "a whole number",
    }
}

/// The amount of a resource.
pub(super) fn read_amount(name: &str, value: &Value, text: &str) -> Option<u64> {
    match name {
        MEMORY => amount::bytes(value.as_text()?),
        CPU => whole(value, text).filter(|&amount| amount > 0),
        _ => whole(value, text),
    }
}

/// A whole number.
fn whole(value: &Value, text: &str) -> Option<u64> {
    if value.kind != ValueKind::Word {
        return None;
    }
    // Amounts up to this can be added up without a thought.
    value.span.of(text).replace('_', "").parse().ok().filter(|&amount: &u64| amount < 1 << 53)
}

/// Line and column of a byte, both from 1, the column in characters.
fn place(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}
