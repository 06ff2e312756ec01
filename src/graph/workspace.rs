//! The workspace file `twdag.ron`: what this machine has for stages to use, and where results are shared. Nothing of it
//! enters a key.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use twdag_stages::stage::Isolation;

use super::{
    GraphError, Problem,
    amount::GPU,
    outline::repeated_fields,
    policy::{expected_amount, read_amount, resource_name},
    suggest::similar,
    syntax::{Span, Value, ValueKind, parse},
    translate::describe,
};

/// The name of the file, which marks the folder of a workspace.
pub const WORKSPACE_FILE: &str = "twdag.ron";

const VERSION: &str = "1";
const FIELDS: [&str; 5] = ["version", "resources", "remote_store", "trusted_keys", "isolation"];
const ADDRESS: &str = "\"s3://bucket/prefix\"";
const KEYS: &str = "[\"ed25519:…\"] (`twdag store keygen` prints one)";
const ISOLATION: [(&str, Isolation); 3] =
    [("Off", Isolation::Off), ("Warn", Isolation::Warn), ("Enforce", Isolation::Enforce)];
const EXPECTED: &str = "expected `Workspace(version: 1)`";

/// What a workspace file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workspace {
    /// How much there is of each resource that it names.
    pub resources: BTreeMap<String, Available>,
    /// The address of the store that a team shares.
    pub remote_store: Option<String>,
    /// The public keys whose results are used from there; everybody's if there is none.
    pub trusted_keys: Vec<String>,
    /// How far programs that stages start are kept from what those do not declare.
    pub isolation: Option<Isolation>,
}

/// How much there is of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Available {
    /// So many units, or bytes.
    Amount(u64),
    /// These devices.
    Devices(Vec<String>),
}

impl Workspace {
    /// Reads the workspace file in `folder`; without one, or with an empty one, nothing is said.
    pub fn load(folder: &Path) -> Result<Self, GraphError> {
        let path = folder.join(WORKSPACE_FILE);
        match fs::read_to_string(&path) {
            Ok(source) => Self::from_text(&path, &source),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                let problem = Problem::of_file(format!("the workspace file cannot be read: {error}"));
                Err(GraphError::new(path, "", vec![problem]))
            }
        }
    }

    /// As [`Workspace::load`], for text that is already there.
    pub fn from_text(path: &Path, source: &str) -> Result<Self, GraphError> {
        let mut workspace = Self::default();
        if source.trim().is_empty() {
            return Ok(workspace);
        }
        let mut parsed = parse(source);
        let mut problems = std::mem::take(&mut parsed.problems);
        if let Some(root) = &parsed.value {
            workspace.read(root, source, &mut problems);
        }
        if problems.is_empty() {
            return Ok(workspace);
        }
        Err(GraphError::new(PathBuf::from(path), source, problems))
    }

    fn read(&mut self, root: &Value, source: &str, problems: &mut Vec<Problem>) {
        let fields = match &root.kind {
            ValueKind::Struct { name: Some(name), fields } if name.of(source) == "Workspace" => fields,
            _ => {
                problems.push(Problem::at(root.head(), "this is no workspace file", EXPECTED));
                return;
            }
        };
        problems.extend(repeated_fields(fields, source));
        if !fields.iter().any(|field| similar(field.name.of(source), FIELDS) == Some("version")) {
            let problem = Problem::at(root.head(), "the workspace file has no `version`", "`version` is missing");
            problems.push(problem.with_hint("add `version: 1`"));
        }
        for field in fields {
            match field.name.of(source) {
                "version" if field.value.span.of(source) == VERSION => {}
                "version" => {
                    let found = describe(&field.value, source);
                    let message = format!("`version` of the workspace file is {found}, expected 1");
                    problems.push(Problem::at(field.value.head(), message, "expected 1"));
                }
                "resources" => self.read_resources(&field.value, source, problems),
                "remote_store" => {
                    self.remote_store = field.value.as_text().map(str::to_owned);
                    if self.remote_store.is_none() {
                        let found = describe(&field.value, source);
                        let message = format!("`remote_store` is {found}, expected an address such as {ADDRESS}");
                        problems.push(Problem::at(field.value.head(), message, format!("expected {ADDRESS}")));
                    }
                }
                "trusted_keys" => {
                    let items = if let ValueKind::List(items) = &field.value.kind { &items[..] } else { &[] };
                    let keys: Option<Vec<String>> =
                        items.iter().map(|item| item.as_text().map(str::to_owned)).collect();
                    // An empty list would trust everybody, which is not what it looks like.
                    if let Some(keys) = keys.filter(|keys| !keys.is_empty()) {
                        self.trusted_keys = keys;
                    } else {
                        let found = describe(&field.value, source);
                        let message = format!("`trusted_keys` is {found}, expected public keys such as {KEYS}");
                        problems.push(Problem::at(field.value.head(), message, format!("expected {KEYS}")));
                    }
                }
                "isolation" => {
                    let word = field.value.span.of(source);
                    self.isolation = ISOLATION.iter().find(|(name, _)| *name == word).map(|(_, isolation)| *isolation);
                    if self.isolation.is_none() {
                        let found = describe(&field.value, source);
                        let message = format!("`isolation` is {found}, expected `Off`, `Warn` or `Enforce`");
                        problems.push(Problem::at(field.value.head(), message, "expected `Off`, `Warn` or `Enforce`"));
                    }
                }
                unknown => problems.push(
                    Problem::at(field.name, format!("`Workspace` has no field `{unknown}`"), "not a field")
                        .with_suggestion("field", field.name, unknown, &FIELDS, str::to_owned),
                ),
            }
        }
    }

    fn read_resources(&mut self, value: &Value, source: &str, problems: &mut Vec<Problem>) {
        let ValueKind::Map(entries) = &value.kind else {
            let expected = "a map such as `{\"cpu\": 8}`";
            let message = format!("`resources` is {}, expected {expected}", describe(value, source));
            problems.push(Problem::at(value.head(), message, format!("expected {expected}")));
            return;
        };
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for (key, value) in entries {
            let Some(name) = resource_name(key, source, problems) else { continue };
            if let Some(&first) = seen.get(name) {
                let problem = Problem::at(key.span, format!("`{name}` stands twice"), "here again");
                problems.push(problem.with_place(first, "first here"));
            }
            seen.insert(name, key.span);
            let (available, expected) = if name == GPU {
                (devices(value, source).map(Available::Devices), DEVICES)
            } else {
                (read_amount(name, value, source).map(Available::Amount), expected_amount(name))
            };
            if let Some(available) = available {
                self.resources.insert(name.to_owned(), available);
            } else {
                let message = format!("`resources.{name}` is {}, expected {expected}", describe(value, source));
                problems.push(Problem::at(value.head(), message, format!("expected {expected}")));
            }
        }
    }
}

/// What a list of devices looks like, for messages.
const DEVICES: &str = "a list of different devices such as `[\"0\", \"1\"]`";

fn devices(value: &Value, source: &str) -> Option<Vec<String>> {
    let ValueKind::List(items) = &value.kind else { return None };
    let names: Option<Vec<&str>> = items
        .iter()
        .map(|item| match &item.kind {
            ValueKind::Word => Some(item.span.of(source)),
            _ => item.as_text(),
        })
        .collect();
    device_list(&names?)
}

impl Available {
    /// Reads `NAME=AMOUNT` of a command line, such as `cpu=4`, `memory=16GiB`, `gpu=0,1`; what was expected otherwise.
    pub fn from_argument(name: &str, text: &str) -> Result<Self, String> {
        if let Some(why) = super::names::refuse_resource(name) {
            return Err(why.to_owned());
        }
        let text = text.trim();
        if name == GPU {
            let names: Vec<&str> = text.split(',').map(str::trim).filter(|_| !text.is_empty()).collect();
            let devices = device_list(&names).map(Self::Devices);
            return devices.ok_or_else(|| "expected names of different devices, such as gpu=0,1".to_owned());
        }
        let quoted = format!("\"{text}\"");
        let text = if name == super::amount::MEMORY { &quoted } else { text };
        let value = parse(text).value.filter(|value| value.span.of(text) == text);
        value
            .and_then(|value| read_amount(name, &value, text))
            .map(Self::Amount)
            .ok_or_else(|| format!("expected {}", expected_amount(name).replace(" in quotes", "").replace('"', "`")))
    }
}

/// Devices as CUDA_VISIBLE_DEVICES may name them, each once.
fn device_list(names: &[&str]) -> Option<Vec<String>> {
    let is_name = |name: &&str| {
        !name.is_empty() && name.chars().all(|next| next.is_ascii_alphanumeric() || "-_/:.".contains(next))
    };
    let mut devices: Vec<String> = Vec::new();
    for name in names {
        if !is_name(name) || devices.iter().any(|device| device == name) {
            return None;
        }
        devices.push((*name).to_owned());
    }
    Some(devices)
}
