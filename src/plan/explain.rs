//! Why one stage is cached, must run or waits, in full: all in which it differs from what it was last keyed by, and
//! which stages keep it waiting. `docs/machine-readable.md` is the contract.

use serde::{Deserialize, Serialize};

use super::{Action, Change, Document, DocumentStage, Plan, PlanError, Status, changes, planning::last_action};
use crate::{
    digest::{Digest, Key},
    graph::{Graph, Node},
    store::{RecordInput, Store},
};

/// What `twdag plan --why STAGE --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The graph file as the user named it.
    pub graph: String,
    /// The stage as in the plan.
    #[serde(flatten)]
    pub stage: DocumentStage,
    /// What the stage was last keyed by here; nothing if it never was.
    pub last_key: Option<Key>,
    /// All in which it differs from that, if it must run.
    pub differences: Vec<Differing>,
    /// The stages that must run before it is known whether this one must, if it waits; each behind those it reads.
    pub waits_for: Vec<DocumentStage>,
}

/// Something in which a stage differs from what it was last keyed by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// What sort of thing differs.
    pub what: Sort,
    /// Its place in the settings; empty where it concerns the whole stage.
    pub place: String,
    /// For an input the reference, for a source the path, as they stand in the graph now.
    pub reads: Option<String>,
    /// What it was: of an input or source the digest of its content.
    pub from: Option<String>,
    /// What it is.
    pub to: Option<String>,
    /// The difference in plain words.
    #[serde(skip)]
    pub words: String,
}

/// What sort of thing two actions differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sort {
    /// The kind of the stage.
    Kind,
    /// The revision of the kind.
    Revision,
    /// A setting.
    Setting,
    /// What it reads from another stage.
    Input,
    /// What it reads from outside the graph.
    Source,
    /// The name of a source that is one file.
    FileName,
    /// Device kind and dtype.
    NumericClass,
}

/// All in which a stage differs from what it was once keyed by; `node` is the stage in its graph now, if there is one.
pub fn differences(node: Option<&Node>, last: &Action, now: &Action) -> Vec<Differing> {
    changes(last, now).into_iter().map(|change| Differing::of(change, node, last, now)).collect()
}

impl Explanation {
    /// Explains a stage of a plan; `None` if the plan does not have it.
    pub fn of(graph: &Graph, plan: &Plan, node: usize, store: &Store) -> Result<Option<Self>, PlanError> {
        let Some(planned) = plan.stages.iter().find(|planned| planned.node == node) else { return Ok(None) };
        let node = graph.nodes().get(node).ok_or_else(|| PlanError::Bug(format!("the graph has no node {node}")))?;
        let (last_key, last) = last_action(store, &store.last_keys(&graph.name), &node.name).unzip();
        let differences = match (last.flatten(), &planned.action) {
            (Some(last), Some(now)) if planned.status == Status::Run => differences(Some(node), &last, now),
            _ => Vec::new(),
        };
        // Whatever must run in the plan of one stage is something that it waits for.
        let waits = planned.status == Status::Waits;
        let blocking = plan.stages.iter().filter(|other| waits && other.status == Status::Run);
        Ok(Some(Self {
            graph: graph.path.display().to_string(),
            stage: DocumentStage::of(planned),
            last_key,
            differences,
            waits_for: blocking.map(DocumentStage::of).collect(),
        }))
    }

    /// Explains a stage of a plan in which everything is cached; `None` if the plan does not have it.
    pub fn of_cached(plan: Document, stage: &str) -> Option<Self> {
        let stage = plan.stages.into_iter().find(|planned| planned.name == stage)?;
        let last_key = stage.key;
        Some(Self { graph: plan.graph, stage, last_key, differences: Vec::new(), waits_for: Vec::new() })
    }
}

impl Differing {
    fn of(change: Change, node: Option<&Node>, last: &Action, now: &Action) -> Self {
        let words = change.to_string();
        let reference =
            |role: &str| node?.inputs.iter().find(|input| input.role == role).map(|input| input.reference.to_string());
        let source = |role: &str| {
            node?.stage.sources().into_iter().find(|source| source.role == role).map(|source| source.path.to_string())
        };
        let (what, place, reads, from, to) = match change {
            Change::Kind { from, to } => (Sort::Kind, String::new(), None, Some(from), Some(to)),
            Change::Revision { from, to } => {
                (Sort::Revision, String::new(), None, Some(from.to_string()), Some(to.to_string()))
            }
            Change::Setting { path, from, to } => (Sort::Setting, path, None, from, to),
            Change::Input { role, .. } => {
                let (from, to) = (digest(&last.inputs, &role), digest(&now.inputs, &role));
                (Sort::Input, role.clone(), reference(&role), from, to)
            }
            Change::Source { role, .. } => {
                let (from, to) = (digest(&last.sources, &role), digest(&now.sources, &role));
                (Sort::Source, role.clone(), source(&role), from, to)
            }
            Change::FileName { role, from, to } => (Sort::FileName, role.clone(), source(&role), Some(from), Some(to)),
            Change::NumericClass { from, to } => (Sort::NumericClass, String::new(), None, from, to),
        };
        Self { what, place, reads, from, to, words }
    }
}

fn digest(inputs: &[RecordInput], role: &str) -> Option<String> {
    inputs.iter().find(|input| input.role == role).map(|input| Digest::to_string(&input.digest))
}
