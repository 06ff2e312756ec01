//! A plan as scripts see it; `docs/machine-readable.md` is the contract.

use serde::{Deserialize, Serialize};

use super::{Plan, PlannedStage, Status};
use crate::{
    digest::{ArtifactId, Key},
    graph::Graph,
};

/// What `twdag plan --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The graph file as the user named it.
    pub graph: String,
    /// The stages of the plan, each behind those it reads.
    pub stages: Vec<DocumentStage>,
}

/// A stage of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentStage {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What is to be done.
    pub status: Status,
    /// Why, in plain words.
    pub reason: String,
    /// What its result is recorded under; nothing while it waits.
    pub key: Option<Key>,
    /// Its result, if it is cached.
    pub artifact: Option<ArtifactId>,
}

impl Document {
    /// Tells of a plan.
    pub fn of(graph: &Graph, plan: &Plan) -> Self {
        let stages = plan.stages.iter().map(DocumentStage::of).collect();
        Self { graph: graph.path.display().to_string(), stages }
    }

    /// The document as one line.
    pub fn line(&self) -> String {
        // A document of strings and digests always has a JSON form.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

impl DocumentStage {
    /// Tells of a stage of a plan.
    pub(super) fn of(stage: &PlannedStage) -> Self {
        Self {
            name: stage.name.clone(),
            kind: stage.kind.to_owned(),
            status: stage.status,
            reason: stage.reason.clone(),
            key: stage.key,
            artifact: stage.artifact,
        }
    }
}
