//! Plans in which everything is cached, kept with what they rest on: the graph file, the sources, the program, and the
//! records, lists of files and objects in the store. While `stat` sees all of them as they were, the plan is the same
//! again, and nothing has to be read, parsed or hashed to know it.

use std::{
    env,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{Plan, PlanError, Status};
use crate::{
    digest::{ArtifactId, Digest},
    graph::{Graph, Overrides},
    store::{Answer, Store, Witnesses, may_have_answer},
};

/// What `twdag plan` tells people.
const TEXT: &str = "plan.txt";
/// What `twdag plan --json` tells scripts.
pub const JSON: &str = "plan.json";

/// What is asked for.
#[derive(Debug)]
pub struct Question<'a> {
    /// The graph file as the user named it.
    pub graph: &'a Path,
    /// The folder that relative source paths start from.
    pub workspace: &'a Path,
    /// The values of parameters given on the command line.
    pub overrides: &'a Overrides,
    /// The stages asked for; all if none.
    pub stages: &'a [String],
}

/// A question, and when somebody began to look for the answer.
#[derive(Debug)]
pub struct Asked {
    question: Digest,
    program: PathBuf,
    began: SystemTime,
}

/// What is known of a settled plan at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The name of the graph.
    pub graph: String,
    /// How many stages the plan has.
    pub stages: usize,
    /// Stages that write a page to look at, with their results.
    pub reports: Vec<(String, ArtifactId)>,
}

/// A plan in which everything is cached.
pub type Settled = Answer<Facts>;

impl Settled {
    /// The plan for people.
    pub fn text(&self) -> Option<Vec<u8>> {
        self.file(TEXT)
    }

    /// The plan for scripts.
    pub fn json(&self) -> Option<Vec<u8>> {
        self.file(JSON)
    }
}

impl Question<'_> {
    /// Begins to look for the answer: call it before the first file is read. `None` where the program or the current
    /// folder cannot be found, without which the question has no meaning.
    pub fn ask(&self) -> Option<Asked> {
        let program = env::current_exe().ok()?;
        let folder = env::current_dir().ok()?;
        let mut hasher = blake3::Hasher::new_derive_key("twdag settled 2");
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for path in [&program, &folder, self.graph, self.workspace] {
            part(path.as_os_str().as_encoded_bytes());
        }
        // No profile has an empty name.
        part(self.overrides.profile.as_deref().unwrap_or_default().as_bytes());
        for (name, value) in &self.overrides.set {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        // An empty name stands between the parameters and the stages.
        part(b"");
        for stage in self.stages {
            part(stage.as_bytes());
        }
        Some(Asked { question: hasher.finalize().into(), program, began: SystemTime::now() })
    }
}

impl Asked {
    /// Whether it is worth opening the store at `root` to look for the answer.
    pub fn may_be_settled(&self, root: &Path) -> bool {
        may_have_answer(root, &self.question)
    }

    /// The plan, if it is known that everything is cached.
    pub fn settled(&self, store: &Store) -> Option<Settled> {
        store.answer(&self.question)
    }

    /// Keeps a plan in which everything is cached, and which was made since the question was asked. `Ok(None)` if
    /// something that it rests on was changed so shortly before that a further change might not show.
    pub fn settle(
        &self,
        graph: &Graph,
        plan: &Plan,
        store: &Store,
        facts: &Facts,
        (text, json): (&str, &str),
    ) -> Result<bool, PlanError> {
        let mut witnesses = Witnesses::since(self.began);
        if !self.rests_on(graph, plan, store, &mut witnesses)? {
            return Ok(false);
        }
        store.keep_answer(&self.question, facts, &[(TEXT, text.as_bytes()), (JSON, json.as_bytes())], &witnesses)?;
        Ok(true)
    }

    fn rests_on(
        &self,
        graph: &Graph,
        plan: &Plan,
        store: &Store,
        witnesses: &mut Witnesses,
    ) -> Result<bool, PlanError> {
        let Ok(file) = std::path::absolute(&graph.path) else { return Ok(false) };
        if !witnesses.add(&file) || !witnesses.add(&self.program) {
            return Ok(false);
        }
        for stage in &plan.stages {
            let (Status::Cached, Some(action), Some(artifact)) = (stage.status, &stage.action, &stage.artifact) else {
                return Ok(false);
            };
            if !store.witness_result(witnesses, &action.key(), artifact) {
                return Ok(false);
            }
            let Some(node) = graph.nodes().get(stage.node) else { return Ok(false) };
            for (source, read) in node.stage.sources().iter().zip(&action.sources) {
                let path = graph.workspace.join(source.path.as_str());
                if !store.witness_source(witnesses, &path, &source.files, &read.digest)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
