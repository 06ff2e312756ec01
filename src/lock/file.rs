//! The file: RON, one line a stage, sorted by name, so that git merges what two branches changed in different stages.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
};

use ron::{
    Options,
    error::{Position, SpannedError},
    extensions::Extensions,
    ser::PrettyConfig,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;
use thiserror::Error;

use crate::{
    blame::Blame,
    digest::{ArtifactId, Digest, Key},
    graph::{Graph, GraphError, Problem, syntax::Span},
    plan::{Action, Plan, PlannedStage},
    store::{RecordInput, Store, StoreError},
};

const VERSION: u32 = 1;
const CONFLICT: [&str; 4] = ["<<<<<<<", "|||||||", "=======", ">>>>>>>"];

/// What a lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The file.
    pub path: PathBuf,
    /// The parameters that had another value than the graph's default, as RON text.
    pub set: BTreeMap<String, String>,
    /// The stages by name.
    pub stages: BTreeMap<String, LockedStage>,
}

/// What a lock file says of a stage. Key and artifact decide; the rest tells what differs, where the store has nothing to
/// compare with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedStage {
    /// What the stage is keyed by.
    pub key: Key,
    /// Its result.
    pub artifact: ArtifactId,
    /// Its kind.
    pub kind: String,
    /// The revision of the kind.
    pub revision: u32,
    /// Device kind and dtype, if the result depends on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numeric_class: Option<String>,
    /// The commit that a branch of a model hub stood at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The settings that are given, as shown to people.
    pub settings: Value,
    /// The content of the stages it reads, by the place in the settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Digest>,
    /// The content of what it reads from outside the graph, by the place in the settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Digest>,
    /// The names of those sources that are single files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub file_names: BTreeMap<String, String>,
}

/// Why there is no lock.
#[derive(Debug, Error)]
pub enum LockError {
    /// A stage has no result that could be locked.
    #[error(
        "stage `{stage}` has not been computed ({reason}), and a lock names results; compute them first with: twdag run {graph}"
    )]
    NotComputed {
        /// The stage.
        stage: String,
        /// Why it has no result.
        reason: String,
        /// The graph file as the user named it.
        graph: String,
    },
    /// The file cannot be read, or does not say what a lock says.
    #[error(transparent)]
    Text(#[from] GraphError),
    /// The place of the file is taken by something else.
    #[error(
        "{} is there already and is no lock file, so it is not replaced; name another file with --lock-file, or remove it", path.display()
    )]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be told whether the place of the file is taken.
    #[error("cannot read {}, which the lock would replace: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A broken promise inside twdag.
    #[error("internal error: {0}; please report it")]
    Bug(String),
}

impl LockError {
    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotComputed { .. } => Blame::Stage,
            Self::Text(_) | Self::Taken { .. } => Blame::Graph,
            Self::Unreadable { .. } | Self::Write { .. } => Blame::Environment,
            Self::Store(error) => error.blame(),
            Self::Bug(_) => Blame::Bug,
        }
    }
}

/// The file without its version.
#[derive(Deserialize)]
#[serde(rename = "Lock", deny_unknown_fields)]
struct Content {
    #[allow(dead_code, reason = "it was judged before")]
    version: u32,
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(deserialize_with = "each_once")]
    stages: BTreeMap<String, LockedStage>,
}

#[derive(Deserialize)]
#[serde(rename = "Lock")]
struct Head {
    version: u32,
}

impl Lock {
    /// The lock file of a graph: `NAME.lock.ron` beside `NAME.ron`.
    pub fn path_of(graph: &Path) -> PathBuf {
        graph.with_extension("lock.ron")
    }

    /// Locks a plan in which everything is cached.
    pub fn of(path: PathBuf, graph: &Graph, plan: &Plan, store: &Store) -> Result<Self, LockError> {
        let set = graph.parameters.iter().filter(|parameter| parameter.is_set);
        let stages = plan.stages.iter().map(|stage| Ok((stage.name.clone(), locked(graph, stage, store)?)));
        Ok(Self {
            path,
            set: set.map(|parameter| (parameter.name.clone(), parameter.value.clone())).collect(),
            stages: stages.collect::<Result<_, LockError>>()?,
        })
    }

    /// Whether the file there is a lock, be it one that cannot be read, rather than a graph or anything else: by its first word.
    pub fn is_at(path: &Path) -> io::Result<bool> {
        if !fs::metadata(path)?.is_file() {
            return Ok(false);
        }
        let text = String::from_utf8(fs::read(path)?).unwrap_or_default();
        let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("//"));
        Ok(first.is_some_and(|line| line.starts_with("Lock")))
    }

    /// Fails if a lock that is written there would replace anything but a lock.
    pub fn need_place(path: &Path) -> Result<(), LockError> {
        match Self::is_at(path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(LockError::Taken { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(LockError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Reads a lock file.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        let refuse = |source: &str, problem| LockError::Text(GraphError::new(path, source, vec![problem]));
        let source = fs::read_to_string(path).map_err(|error| {
            let problem = match error.kind() {
                io::ErrorKind::NotFound => {
                    Problem::of_file(format!("there is no lock file {}", path.display())).with_hint(
                        "make it with `twdag lock GRAPH` where all results are as they should be, and commit it beside the graph",
                    )
                }
                _ => Problem::of_file(format!("the lock file cannot be read: {error}")),
            };
            refuse("", problem)
        })?;
        parse(&source).map_err(|problem| refuse(&source, *problem)).map(|Content { set, stages, .. }| Self {
            path: path.to_owned(),
            set,
            stages,
        })
    }

    /// The text of the file: the same lock gives the same bytes.
    pub fn text(&self) -> Result<String, LockError> {
        let mut text = String::from(
            "// What each stage is keyed by and gave. Made by `twdag lock`; `twdag run --locked` holds a run to it.\n\
             // After a merge conflict: take either side, then `twdag run` and `twdag lock` again.\n\
             Lock(\n    version: 1,\n",
        );
        // Writing to a string does not fail.
        let _ = writeln!(text, "    set: {},", line(&self.set)?);
        text.push_str("    stages: {\n");
        for (name, stage) in &self.stages {
            // Git takes changes of two neighbouring lines for a conflict; a blank one keeps stages apart.
            let _ = writeln!(text, "        {}: {},\n", line(name)?, line(stage)?);
        }
        text.push_str("    },\n)\n");
        Ok(text)
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self) -> Result<(), LockError> {
        let text = self.text()?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            let mut builder = tempfile::Builder::new();
            builder.prefix(".new-").permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
            let mut file = builder.tempfile_in(folder)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(|source| LockError::Write { path: self.path.clone(), source })
    }
}

impl LockedStage {
    /// What the stage was keyed by.
    pub fn action(&self) -> Action {
        let read = |digests: &BTreeMap<String, Digest>| -> Vec<RecordInput> {
            digests.iter().map(|(role, digest)| RecordInput { role: role.clone(), digest: *digest }).collect()
        };
        Action {
            key: self.key,
            kind: self.kind.clone(),
            revision: self.revision,
            settings: self.settings.clone(),
            inputs: read(&self.inputs),
            sources: read(&self.sources),
            file_names: self.file_names.clone(),
            numeric_class: self.numeric_class.clone(),
        }
    }
}

fn locked(graph: &Graph, stage: &PlannedStage, store: &Store) -> Result<LockedStage, LockError> {
    let (Some(action), Some(artifact)) = (&stage.action, stage.artifact) else {
        return Err(LockError::NotComputed {
            stage: stage.name.clone(),
            reason: stage.reason.clone(),
            graph: graph.path.display().to_string(),
        });
    };
    let digests =
        |read: &[RecordInput]| read.iter().map(|input| (input.role.clone(), input.digest)).collect::<BTreeMap<_, _>>();
    let notices = store.record(&action.key)?.map(|record| record.notices).unwrap_or_default();
    Ok(LockedStage {
        key: action.key,
        artifact,
        kind: action.kind.clone(),
        revision: action.revision,
        numeric_class: action.numeric_class.clone(),
        commit: notices.iter().find_map(|notice| twdag_stages::download::commit_in(notice)).map(str::to_owned),
        settings: given(&action.settings),
        inputs: digests(&action.inputs),
        sources: digests(&action.sources),
        file_names: action.file_names.clone(),
    })
}

/// Settings without those that are not given: a new version may know more of these, and the line shall stay what it is.
fn given(settings: &Value) -> Value {
    match settings {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name.clone(), given(value))).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(given).collect()),
        other => other.clone(),
    }
}

fn options() -> Options {
    Options::default().with_default_extension(Extensions::IMPLICIT_SOME)
}

/// A value on one line.
fn line(value: &impl Serialize) -> Result<String, LockError> {
    let style = PrettyConfig::new().compact_structs(true).compact_maps(true).compact_arrays(true);
    options().to_string_pretty(value, style).map_err(|error| LockError::Bug(format!("a lock has no RON form: {error}")))
}

fn parse(source: &str) -> Result<Content, Box<Problem>> {
    if let Some(problem) = conflict(source) {
        return Err(Box::new(problem));
    }
    let unreadable = |error: SpannedError| {
        let (start, end) = (offset(source, error.span.start), offset(source, error.span.end));
        // A place of no width would show nothing.
        let next = source.get(start..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        let span = Span::new(start, end.max(start + next));
        let problem = Problem::at(span, format!("this is no lock file of twdag: {}", error.code), "here");
        Box::new(problem.with_hint("make it anew with `twdag run GRAPH` and `twdag lock GRAPH`"))
    };
    match options().from_str::<Head>(source).map_err(unreadable)? {
        Head { version: VERSION } => options().from_str(source).map_err(unreadable),
        Head { version } => {
            let message = format!("the lock file has version {version}, this twdag reads version {VERSION}");
            Err(Box::new(Problem::of_file(message).with_hint("use a newer twdag, or lock again with this one")))
        }
    }
}

/// What git leaves where it cannot merge.
fn conflict(source: &str) -> Option<Problem> {
    let mut start = 0;
    for line in source.split_inclusive('\n') {
        let text = line.trim_end();
        if CONFLICT.iter().any(|mark| text.starts_with(mark)) {
            let span = Span::new(start, start + text.len());
            let problem = Problem::at(span, "the lock file holds a merge conflict", "git left this here");
            return Some(
                problem.with_hint("take either side, then make it anew with `twdag run GRAPH` and `twdag lock GRAPH`"),
            );
        }
        start += line.len();
    }
    None
}

/// The byte at a line and column, both from 1.
fn offset(source: &str, position: Position) -> usize {
    let before: usize = source.split_inclusive('\n').take(position.line.saturating_sub(1)).map(str::len).sum();
    let line = source.get(before..).unwrap_or_default();
    let column = line.char_indices().nth(position.col.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    before + column
}

/// A map whose keys stand once each: a merge may have left a stage twice, and a plain map would keep the last silently.
fn each_once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, LockedStage>, D::Error> {
    struct EachOnce;

    impl<'de> Visitor<'de> for EachOnce {
        type Value = BTreeMap<String, LockedStage>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a map from names of stages")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut entries: M) -> Result<Self::Value, M::Error> {
            let mut stages = BTreeMap::new();
            while let Some(name) = entries.next_key::<String>()? {
                if stages.contains_key(&name) {
                    return Err(M::Error::custom(format!("stage `{name}` stands twice")));
                }
                stages.insert(name, entries.next_value()?);
            }
            Ok(stages)
        }
    }

    deserializer.deserialize_map(EachOnce)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stage(settings: serde_json::Value) -> LockedStage {
        LockedStage {
            key: Digest::of(b"key").into(),
            artifact: Digest::of(b"artifact").into(),
            kind: "Command".to_owned(),
            revision: 1,
            numeric_class: Some("cpu-f32".to_owned()),
            commit: None,
            settings,
            inputs: BTreeMap::from([("text.0".to_owned(), Digest::of(b"input"))]),
            sources: BTreeMap::new(),
            file_names: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same_whatever_the_settings_hold() {
        let settings = json!({
            "run": ["sh", "-c", "echo \"a\\n\" \u{7} \u{1F600}"], "rate": 1.5e-3, "small": 1e-300, "third": 1.0 / 3.0,
            "float": 1.0, "whole": 1, "negative": -7, "large": u64::MAX, "nothing": null, "flag": true,
            "shape": {"Dense": {"lambda": 0.1}}, "empty": {}, "list": [], "a key with \" in it": "x",
        });
        let lock = Lock {
            path: PathBuf::from("a.lock.ron"),
            set: BTreeMap::from([("name".to_owned(), "\"text\"".to_owned())]),
            stages: BTreeMap::from([("a".to_owned(), stage(settings)), ("b".to_owned(), stage(json!(null)))]),
        };
        let text = lock.text().unwrap();
        let Content { set, stages, .. } = parse(&text).unwrap_or_else(|problem| panic!("{problem:?}\n{text}"));
        assert_eq!((&set, &stages), (&lock.set, &lock.stages));
        assert_eq!(text.lines().filter(|line| line.starts_with("        \"")).count(), 2, "{text}");
    }
}
