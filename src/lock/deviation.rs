//! Where a graph is not what its lock says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::Lock;
use crate::{
    digest::{ArtifactId, Key},
    graph::{Graph, Node},
    plan::{Action, Differing, Document, DocumentStage, Plan, PlannedStage, differences},
};

/// A stage that is not what the lock says; `docs/machine-readable.md` is the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// The stage.
    pub stage: String,
    /// The lock file as the user named it.
    pub lock: String,
    /// What the lock says.
    pub locked: Keyed,
    /// What is there now.
    pub found: Keyed,
    /// All in which what it is keyed by differs; nothing if the keys are the same, or the order of entries differs alone.
    pub differences: Vec<Differing>,
    /// How the parameters of the command line differ from those of the lock, in words.
    #[serde(skip)]
    pub parameters: Option<String>,
}

/// What a stage is keyed by, and its result if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyed {
    /// The key.
    pub key: Key,
    /// The result.
    pub artifact: Option<ArtifactId>,
}

impl fmt::Display for Deviation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lock, locked, found, differences, parameters, .. } = self;
        if locked.key == found.key {
            let artifact = |keyed: &Keyed| keyed.artifact.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return write!(
                formatter,
                "its result is not what {lock} locks, for the same key: artifact {} there, {} here; where \
                 both are in a store, `twdag diff` of the two tells in what they differ",
                artifact(locked),
                artifact(found)
            );
        }
        let words = |Differing { words, reads, .. }: &Differing| match reads {
            Some(reads) => format!("{words} ({reads})"),
            None => words.clone(),
        };
        let words: Vec<String> = differences.iter().map(words).collect();
        let words =
            if words.is_empty() { "the order of entries in its settings changed".to_owned() } else { words.join("; ") };
        write!(formatter, "it is not what {lock} locks: {words}")?;
        match parameters {
            Some(parameters) => write!(formatter, " ({parameters})"),
            None => formatter.write_str("; if that is meant, lock anew with `twdag run` and `twdag lock`"),
        }
    }
}

impl Lock {
    /// Names that the graph and the lock do not share, in words; then one of them is out of date. `plan` tells which
    /// stages are asked for.
    pub fn outdated(&self, graph: &Graph, plan: &Plan) -> Option<String> {
        let quoted = |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let new: Vec<&str> = plan
            .stages
            .iter()
            .map(|stage| stage.name.as_str())
            .filter(|name| !self.stages.contains_key(*name))
            .collect();
        let known: BTreeSet<&str> = graph.nodes().iter().map(|node| node.name.as_str()).collect();
        let gone: Vec<&str> = self.stages.keys().map(String::as_str).filter(|name| !known.contains(name)).collect();
        let mut words = Vec::new();
        if !new.is_empty() {
            words.push(format!("it does not lock {}", quoted(new)));
        }
        if !gone.is_empty() {
            words.push(format!("locks {}, not in the graph", quoted(gone)));
        }
        (!words.is_empty()).then(|| {
            format!(
                "{} is not of {} as it is now: {}; if the graph is right, lock anew with `twdag run` and `twdag lock`",
                self.path.display(),
                graph.path.display(),
                words.join(" and ")
            )
        })
    }

    /// Whether everything in a plan is cached and as the lock says, without the graph. `whole` says that the plan has all
    /// stages of the graph.
    pub fn agrees(&self, plan: &Document, whole: bool) -> bool {
        let is_same = |stage: &DocumentStage| {
            self.stages
                .get(&stage.name)
                .is_some_and(|locked| stage.key == Some(locked.key) && stage.artifact == Some(locked.artifact))
        };
        whole && plan.stages.len() == self.stages.len() && plan.stages.iter().all(is_same)
    }

    /// All stages of a plan that are known not to be what the lock says, in the order of the plan.
    pub fn deviations(&self, graph: &Graph, plan: &Plan) -> Vec<Deviation> {
        plan.stages.iter().filter_map(|stage| self.deviation_of_planned(graph, stage)).collect()
    }

    /// In what a planned stage is not what the lock says, as far as that is known before it runs.
    pub fn deviation_of_planned(&self, graph: &Graph, stage: &PlannedStage) -> Option<Deviation> {
        let (node, action) = (graph.nodes().get(stage.node)?, stage.action.as_ref()?);
        self.deviation_of_key(graph, node, action)
            .or_else(|| self.deviation_of_result(graph, node, action, stage.artifact?))
    }

    /// In what a stage is keyed otherwise than the lock says.
    pub fn deviation_of_key(&self, graph: &Graph, node: &Node, action: &Action) -> Option<Deviation> {
        let locked = self.stages.get(&node.name).filter(|locked| locked.key != action.key)?;
        let found = Keyed { key: action.key, artifact: None };
        let differences = differences(Some(node), &locked.action(), action);
        Some(Deviation { differences, ..self.deviation(graph, node, found)? })
    }

    /// In what the result of a stage is another one than the lock says, if the key is the same.
    pub fn deviation_of_result(
        &self,
        graph: &Graph,
        node: &Node,
        action: &Action,
        artifact: ArtifactId,
    ) -> Option<Deviation> {
        let locked = self.stages.get(&node.name)?;
        let found = Keyed { key: action.key, artifact: Some(artifact) };
        (locked.artifact != artifact).then(|| self.deviation(graph, node, found))?
    }

    fn deviation(&self, graph: &Graph, node: &Node, found: Keyed) -> Option<Deviation> {
        let locked = self.stages.get(&node.name)?;
        Some(Deviation {
            stage: node.name.clone(),
            lock: self.path.display().to_string(),
            locked: Keyed { key: locked.key, artifact: Some(locked.artifact) },
            found,
            differences: Vec::new(),
            parameters: self.other_parameters(graph),
        })
    }

    /// How the parameters that are set differ from those of the lock.
    fn other_parameters(&self, graph: &Graph) -> Option<String> {
        let set: BTreeMap<&str, &str> = graph
            .parameters
            .iter()
            .filter(|parameter| parameter.is_set)
            .map(|parameter| (parameter.name.as_str(), parameter.value.as_str()))
            .collect();
        let locked = self.set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if set == locked {
            return None;
        }
        let words = |set: &BTreeMap<&str, &str>| {
            let words: Vec<String> = set.iter().map(|(name, value)| format!("--set {name}={value}")).collect();
            if words.is_empty() { "no --set".to_owned() } else { words.join(" ") }
        };
        Some(format!("the lock was made with {}, this is with {}", words(&locked), words(&set)))
    }
}
