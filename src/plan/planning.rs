//! Plans.

use std::cell::LazyCell;

use super::{Action, PlanError, changes, resolve};
use crate::{
    digest::{ArtifactId, Key},
    graph::{Graph, Node},
    remote::{Found, Tiers},
    store::{LastKeys, Lookup, Store},
};

/// What is to be done for some targets, and what is done already.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The targets and all they need, each stage behind those it reads.
    pub stages: Vec<PlannedStage>,
}

/// What is to be done for one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedStage {
    /// Index into [`Graph::nodes`].
    pub node: usize,
    /// The name of the stage.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// What is to be done.
    pub status: Status,
    /// Why, in plain words.
    pub reason: String,
    /// What the stage is keyed by; `None` while it waits.
    pub action: Option<Action>,
    /// The key of the action; `None` while the stage waits.
    pub key: Option<Key>,
    /// The result, if it is cached.
    pub artifact: Option<ArtifactId>,
    /// Whether the result is cached in the remote store alone, so that its bytes are not here yet.
    pub elsewhere: bool,
}

impl PlannedStage {
    /// What the store is to keep of what the stage is keyed by: all of it if its record is elsewhere.
    pub fn last(&self) -> Option<(&str, Key, Option<&Action>)> {
        Some((&self.name, self.key?, self.action.as_ref().filter(|_| self.elsewhere)))
    }
}

/// What is to be done for a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing: its result is in the store.
    Cached,
    /// It must run.
    Run,
    /// That is unknown until the stages it reads have run: if they give what they gave before, it may be cached.
    Waits,
}

/// Plans the targets and all they need. It looks into the store, at what is known of a remote one, and at the sources, and
/// writes nothing but the indexes that make the next look faster.
pub fn plan<'a>(graph: &Graph, targets: &[usize], tiers: impl Into<Tiers<'a>>) -> Result<Plan, PlanError> {
    let tiers = tiers.into();
    // Each time, there is one result less that counts as there.
    loop {
        if let Some(plan) = try_to_plan(graph, targets, &tiers)? {
            tiers.keep();
            return Ok(plan);
        }
    }
}

/// Plans; `None` if a result turned out on the way not to be there after all.
fn try_to_plan(graph: &Graph, targets: &[usize], tiers: &Tiers<'_>) -> Result<Option<Plan>, PlanError> {
    let mut artifacts = vec![None; graph.nodes().len()];
    let mut stages = Vec::new();
    let last = LazyCell::new(|| tiers.store.last_keys(&graph.name));
    for node in graph.closure(targets) {
        let Some(stage) = planned(graph, node, &artifacts, tiers, &last)? else { return Ok(None) };
        if let Some(slot) = artifacts.get_mut(node) {
            *slot = stage.artifact;
        }
        stages.push(stage);
    }
    Ok(Some(Plan { stages }))
}

fn planned(
    graph: &Graph,
    index: usize,
    artifacts: &[Option<ArtifactId>],
    tiers: &Tiers<'_>,
    last: &LazyCell<LastKeys, impl FnOnce() -> LastKeys>,
) -> Result<Option<PlannedStage>, PlanError> {
    let node = graph.nodes().get(index).ok_or_else(|| PlanError::Bug(format!("the graph has no node {index}")))?;
    let stage = PlannedStage {
        node: index,
        name: node.name.clone(),
        kind: node.stage.kind().name,
        status: Status::Waits,
        reason: String::new(),
        action: None,
        key: None,
        artifact: None,
        elsewhere: false,
    };
    let missing = missing(graph, node, artifacts);
    if !missing.is_empty() {
        return Ok(Some(PlannedStage { reason: format!("waits for {}", missing.join(", ")), ..stage }));
    }
    let mut pointed_into = node.inputs.iter().filter(|input| input.reference.path().is_some());
    if !pointed_into.all(|input| artifacts[input.node].is_none_or(|artifact| tiers.can_look_into(&artifact))) {
        return Ok(None);
    }
    let action = resolve(graph, index, |node| artifacts.get(node).copied().flatten(), tiers)?;
    let key = action.key();
    let (status, reason, artifact) = match tiers.lookup(&key)? {
        Found::Here(record) => (Status::Cached, "its result is in the store".to_owned(), Some(record.artifact)),
        Found::There(record) => {
            let found = PlannedStage {
                status: Status::Cached,
                reason: "its result is in the remote store".to_owned(),
                key: Some(key),
                action: Some(action),
                artifact: Some(record.artifact),
                elsewhere: true,
                ..stage
            };
            return Ok(Some(found));
        }
        Found::Nowhere(lookup) => (Status::Run, why(node, &action, &lookup, tiers.store, || last), None),
    };
    Ok(Some(PlannedStage { status, reason, key: Some(key), action: Some(action), artifact, ..stage }))
}

/// The stages that a stage reads and that have no result yet, in quotes, each once.
fn missing(graph: &Graph, node: &Node, artifacts: &[Option<ArtifactId>]) -> Vec<String> {
    let mut names = Vec::new();
    for input in &node.inputs {
        if artifacts.get(input.node).copied().flatten().is_none() {
            let name = graph.nodes().get(input.node).map_or(input.reference.stage(), |node| &node.name);
            let name = format!("`{name}`");
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Why a stage with this action must run, in plain words; for callers that find out as results arrive.
/// `lookup` is what the store says of its result, and `last` what the stages of the graph were last keyed by.
pub fn reason(
    graph: &Graph,
    node: usize,
    action: &Action,
    lookup: &Lookup,
    (store, last): (&Store, &LastKeys),
) -> Result<String, PlanError> {
    let node = graph.nodes().get(node).ok_or_else(|| PlanError::Bug(format!("the graph has no node {node}")))?;
    Ok(why(node, action, lookup, store, || last))
}

fn why<'a>(
    node: &Node,
    action: &Action,
    lookup: &Lookup,
    store: &Store,
    last: impl FnOnce() -> &'a LastKeys,
) -> String {
    if let Lookup::Lost(problem) = lookup {
        return problem.clone();
    }
    let Some((key, last)) = last_action(store, last(), &node.name) else { return "never computed here".to_owned() };
    if key == action.key() {
        return "its result is no longer in the store".to_owned();
    }
    let Some(last) = last else {
        return "something changed; what it was last keyed by is no longer recorded here".to_owned();
    };
    let changes: Vec<String> = changes(&last, action).iter().map(ToString::to_string).collect();
    if !changes.is_empty() {
        return changes.join("; ");
    }
    // The order of a map's entries is in the key, and JSON for people does not show it.
    let order = "the order of entries in its settings changed";
    // Earlier versions did not record the names.
    let is_named = last.file_names.len() == action.file_names.len();
    if is_named { order.to_owned() } else { format!("the name of a source, or {order}") }
}

/// What a stage was last keyed by, with all of it if that is still recorded.
pub(super) fn last_action(store: &Store, last: &LastKeys, stage: &str) -> Option<(Key, Option<Action>)> {
    let key = last.key(stage)?;
    let kept = || last.action::<Action>(stage).filter(|action| action.key() == key);
    Some((key, store.past_record(&key).map(|record| Action::of_record(&record)).or_else(kept)))
}
