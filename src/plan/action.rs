//! Actions: a stage with everything that determines its result, and the key made of exactly that.

use std::{collections::BTreeMap, thread, time::SystemTime};

use serde::{Deserialize, Serialize, Serializer};
use twdag_stages::stage::{Part, Reference, Source};

use super::{PlanError, changes};
use crate::{
    canon,
    digest::{ArtifactId, Digest, Key},
    graph::{Graph, Node},
    remote::Tiers,
    store::{Record, RecordInput, SourceState, Store, StoreError},
};

/// Changes with the meaning of keys; then nothing that was computed before is found any more.
const CONTEXT: &str = "twdag 1 action";
/// The same for parts, so that no part is ever taken for a stage.
const PART_CONTEXT: &str = "twdag 1 part";

/// So often sources that go on changing are looked at.
const LOOKS: usize = 4;

/// A stage with everything that determines its result. Its key covers neither the names of stages nor paths nor
/// anything of the machine but the numeric class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Names the action by everything that determines its result.
    pub key: Key,
    /// The kind of the stage.
    pub kind: String,
    /// The revision of the kind.
    pub revision: u32,
    /// The settings as shown to people; the key covers their canonical encoding instead.
    pub settings: serde_json::Value,
    /// The content of the stages it reads, by the place in the settings.
    pub inputs: Vec<RecordInput>,
    /// The content of what it reads from outside the graph, by the place in the settings.
    pub sources: Vec<RecordInput>,
    /// The names of those sources that are single files, without the folders they lie in: a stage sees the name, and
    /// may name its output after it.
    pub file_names: BTreeMap<String, String>,
    /// Device kind and dtype, if the result depends on them.
    pub numeric_class: Option<String>,
}

impl Action {
    /// The action of a node whose inputs and sources have these contents.
    fn new(
        node: &Node,
        inputs: Vec<RecordInput>,
        sources: Vec<RecordInput>,
        file_names: BTreeMap<String, String>,
    ) -> Result<Self, PlanError> {
        let kind = node.stage.kind();
        let numeric_class = node.stage.numeric_class();
        let settings = node.stage.settings();
        let key = canon::encode(settings)
            .and_then(|settings| {
                canon::encode(&Keyed {
                    kind: kind.name,
                    revision: kind.revision,
                    settings: Bytes(&settings),
                    inputs: &inputs,
                    sources: &sources,
                    file_names: &file_names,
                    numeric_class,
                })
            })
            .map(|bytes| key(CONTEXT, &bytes))
            .map_err(|source| PlanError::Settings { stage: node.name.clone(), source })?;
        Ok(Self {
            key,
            kind: kind.name.to_owned(),
            revision: kind.revision,
            settings: canon::display(settings),
            inputs,
            sources,
            file_names,
            numeric_class: numeric_class.map(str::to_owned),
        })
    }

    /// The action of which the store has a record.
    pub fn of_record(record: &Record) -> Self {
        Self {
            key: record.key,
            kind: record.kind.clone(),
            revision: record.revision,
            settings: record.settings.clone(),
            inputs: record.inputs.clone(),
            sources: record.sources.clone(),
            file_names: record.file_names.clone(),
            numeric_class: record.numeric_class.clone(),
        }
    }

    /// What stands in the settings at the place of an input: which stage is read, and what of its result.
    pub fn reference(&self, role: &str) -> Option<Reference> {
        changes::at(&self.settings, role)?.as_str().map(Reference::from)
    }

    /// The action of a part of this one, which is that of `node`.
    pub fn part(&self, node: &Node, part: &Part) -> Result<Self, PlanError> {
        let lost = |what: &str| PlanError::Bug(format!("part `{}` of stage `{}` {what}", part.name, node.name));
        let inputs = part.inputs.iter().map(|reference| {
            let input = node.inputs.iter().find(|input| input.reference == *reference);
            let role = &input.ok_or_else(|| lost("reads what the stage does not read"))?.role;
            let known = self.inputs.iter().find(|input| input.role == *role);
            known.cloned().ok_or_else(|| lost("reads what has no digest"))
        });
        let inputs = inputs.collect::<Result<Vec<_>, PlanError>>()?;
        let digests: Vec<Digest> = inputs.iter().map(|input| input.digest).collect();
        let bytes = canon::encode(&KeyedPart {
            kind: &self.kind,
            revision: self.revision,
            settings: &part.settings,
            inputs: &digests,
            numeric_class: self.numeric_class.as_deref(),
        });
        let bytes = bytes.map_err(|source| PlanError::Settings { stage: node.name.clone(), source })?;
        Ok(Self {
            key: key(PART_CONTEXT, &bytes),
            settings: serde_json::from_str(&part.settings).map_err(|_| lost("has settings that are no JSON"))?,
            inputs,
            sources: Vec::new(),
            file_names: BTreeMap::new(),
            ..self.clone()
        })
    }

    /// Names the action by everything that determines its result.
    pub fn key(&self) -> Key {
        self.key
    }
}

/// All that a key covers.
#[derive(Serialize)]
struct Keyed<'a> {
    kind: &'a str,
    revision: u32,
    settings: Bytes<'a>,
    inputs: &'a [RecordInput],
    sources: &'a [RecordInput],
    file_names: &'a BTreeMap<String, String>,
    numeric_class: Option<&'a str>,
}

/// All that the key of a part covers.
#[derive(Serialize)]
struct KeyedPart<'a> {
    kind: &'a str,
    revision: u32,
    /// As the kind wrote them: only it knows which of its settings matter to a part.
    settings: &'a str,
    inputs: &'a [Digest],
    numeric_class: Option<&'a str>,
}

fn key(context: &str, bytes: &[u8]) -> Key {
    Digest::from(blake3::Hash::from_bytes(blake3::derive_key(context, bytes))).into()
}

struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// The action of a stage whose inputs are all there. `artifact` tells the result of a node of the graph, if it has one.
pub fn resolve(
    graph: &Graph,
    node: usize,
    artifact: impl Fn(usize) -> Option<ArtifactId>,
    tiers: &Tiers<'_>,
) -> Result<Action, PlanError> {
    let store = tiers.store;
    let node = graph.nodes().get(node).ok_or_else(|| PlanError::Bug(format!("the graph has no node {node}")))?;
    let inputs = node.inputs.iter().map(|input| {
        let artifact = artifact(input.node).ok_or_else(|| {
            PlanError::Bug(format!("stage `{}` was resolved before its input `{}`", node.name, input.reference))
        })?;
        let digest = tiers.digest_inside(&artifact, input.reference.path()).map_err(|source| PlanError::Input {
            stage: node.name.clone(),
            role: input.role.clone(),
            reference: input.reference.clone(),
            source: Box::new(source),
        })?;
        Ok(RecordInput { role: input.role.clone(), digest })
    });
    let (mut sources, mut file_names) = (Vec::new(), BTreeMap::new());
    for source in node.stage.sources() {
        let path = graph.workspace.join(source.path.as_str());
        let digest =
            store.digest_source(&path, &source.files).map_err(|error| unreadable(graph, node, &source, error))?;
        if !path.is_dir()
            && let Some(name) = path.file_name()
        {
            file_names.insert(source.role.clone(), name.to_string_lossy().into_owned());
        }
        sources.push(RecordInput { role: source.role, digest });
    }
    Action::new(node, inputs.collect::<Result<_, PlanError>>()?, sources, file_names)
}

fn unreadable(graph: &Graph, node: &Node, source: &Source, error: StoreError) -> PlanError {
    PlanError::Source {
        stage: node.name.clone(),
        role: source.role.clone(),
        given: source.path.clone(),
        workspace: graph.workspace.clone(),
        source: Box::new(error),
    }
}

/// The sources of a stage as `stat` sees them now, in the order of its settings.
pub fn source_states(graph: &Graph, node: usize, store: &Store) -> Result<Vec<SourceState>, PlanError> {
    let node = graph.nodes().get(node).ok_or_else(|| PlanError::Bug(format!("the graph has no node {node}")))?;
    let sources = node.stage.sources().into_iter();
    let states = sources.map(|source| {
        let path = graph.workspace.join(source.path.as_str());
        store.source_state(&path, &source.files).map_err(|error| unreadable(graph, node, &source, error))
    });
    states.collect()
}

/// [`source_states`], to be compared with what they are later: if one was written to just now, once another change of it would show.
/// Waits for that; not for long, as one that is written to all the time is changed later too.
pub fn settled_source_states(graph: &Graph, node: usize, store: &Store) -> Result<Vec<SourceState>, PlanError> {
    for _ in 0..LOOKS {
        let states = source_states(graph, node, store)?;
        let now = SystemTime::now();
        let Some(rest) = states.iter().filter_map(|state| state.unsettled(now)).max() else { return Ok(states) };
        thread::sleep(rest);
    }
    source_states(graph, node, store)
}

#[cfg(test)]
mod tests;
