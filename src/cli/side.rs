//! What the user names when results are asked for: a graph, a lock file, a run or an artifact, whole or one stage of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use twdag_stages::stage::Reference;

use super::{
    arguments::{target, tell_damage},
    failure::Failure,
    remote,
    words::short,
};
use crate::{
    digest::{ArtifactId, Digest},
    graph::{Graph, Node, Overrides, workspace},
    lock::Lock,
    plan::{self, Action},
    run::{event::StageSummary, history},
    store::{Record, Store, StoreError},
};

/// Fewer digits name no artifact.
const FEWEST_DIGITS: usize = 6;
const TOKENS: &str = "tokens.json";
const SCORES: &str = "scores.json";

/// What `twdag diff` compares with another one, and `twdag provenance` tells the origin of.
pub(super) struct Side {
    /// What to call it.
    pub(super) label: String,
    /// Where its store lies.
    root: PathBuf,
    /// A lock file tells much without one.
    store: Option<Store>,
    /// Where its workspace file lies.
    workspace: PathBuf,
    /// The graph, if it is one.
    graph: Option<Graph>,
    /// Its stages, in order.
    pub(super) stages: Vec<SideStage>,
    /// All its results, also of stages that are not asked for.
    results: Vec<ArtifactId>,
    is_artifact: bool,
}

/// A stage as one side knows it.
#[derive(Clone, Debug)]
pub(super) struct SideStage {
    pub(super) name: String,
    pub(super) action: Option<Action>,
    pub(super) artifact: Option<ArtifactId>,
}

impl SideStage {
    /// Whether nothing differs; nothing if neither keys nor results are known of both.
    pub(super) fn is_same(&self, other: &Self) -> Option<bool> {
        let key = |stage: &Self| stage.action.as_ref().map(|action| action.key);
        let same_key = key(self).zip(key(other)).map(|(one, other)| one == other);
        let same_result = self.artifact.zip(other.artifact).map(|(one, other)| one == other);
        // Who knows only results compares results. A key says what the result is; that one side has not computed it yet is no
        // difference.
        match (same_key, same_result) {
            (None, None) => None,
            (key, result) => Some(key.unwrap_or(true) && result.unwrap_or(true)),
        }
    }

    /// What it reads of other stages, by the place in its settings.
    pub(super) fn reads(&self, side: &Side) -> BTreeMap<String, Reference> {
        if let Some(node) = self.node(side) {
            return node.inputs.iter().map(|input| (input.role.clone(), input.reference.clone())).collect();
        }
        let Some(action) = &self.action else { return BTreeMap::new() };
        let inputs = action.inputs.iter();
        inputs.filter_map(|input| Some((input.role.clone(), action.reference(&input.role)?))).collect()
    }

    /// The stage in the graph, if the side is one.
    pub(super) fn node<'a>(&self, side: &'a Side) -> Option<&'a Node> {
        let graph = side.graph.as_ref()?;
        graph.nodes().get(graph.find(&self.name)?)
    }
}

impl Side {
    /// Whether it is a graph, whose parameters can be given values.
    pub(super) fn is_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// Whether it is an artifact alone, of which nobody has said which stage gave it.
    pub(super) fn is_artifact(&self) -> bool {
        self.is_artifact
    }

    /// See [`remote::tell_unasked`].
    pub(super) fn tell_unasked(&self) {
        remote::tell_unasked(&self.workspace);
    }

    /// Its store, if there is one.
    pub(super) fn store(&self) -> Result<&Store, StoreError> {
        self.store.as_ref().ok_or_else(|| StoreError::NoStore { path: self.root.clone() })
    }

    /// Finds what `text` names.
    pub(super) fn find(text: &str, overrides: &Overrides, store: Option<&Path>) -> Result<Self, Failure> {
        // Neither the name of a stage nor that of a run or artifact holds a colon.
        let (head, stage) = match text.rsplit_once(':') {
            Some((head, stage)) if !head.is_empty() && !stage.is_empty() && !stage.contains('/') => (head, Some(stage)),
            _ => (text, None),
        };
        let mut side = if Path::new(head).is_file() {
            let path = Path::new(head);
            let folder = workspace(path)?;
            let root = store.map_or_else(|| folder.join("artifacts"), Path::to_owned);
            // Who cannot read it as a graph either tells why.
            if Lock::is_at(path).unwrap_or(false) {
                Self::of_lock(path, &root, folder)?
            } else {
                Self::of_graph(path, overrides, &root, stage)?
            }
        } else {
            let folder = workspace(Path::new("graph.ron"))?;
            let root = store.map_or_else(|| folder.join("artifacts"), Path::to_owned);
            let store = Store::existing(&root)?;
            Self::of_stored(head, store, folder)?
        };
        text.clone_into(&mut side.label);
        side.results = side.stages.iter().filter_map(|stage| stage.artifact).collect();
        if let Some(stage) = stage {
            side.stages.retain(|known| known.name == stage);
            if side.stages.is_empty() {
                return Err(Failure::usage(format!("there is no stage `{stage}` in {head}")));
            }
        }
        Ok(side)
    }

    fn of_graph(path: &Path, overrides: &Overrides, root: &Path, stage: Option<&str>) -> Result<Self, Failure> {
        let graph = Graph::load(path, overrides)?;
        let targets = match stage {
            Some(stage) => vec![target(&graph, stage)?],
            None => (0..graph.nodes().len()).collect(),
        };
        let store = Store::open(root)?;
        let plan = plan::plan(&graph, &targets, &store)?;
        tell_damage(&store);
        let stages = plan.stages.into_iter();
        let stages = stages.map(|stage| SideStage { name: stage.name, action: stage.action, artifact: stage.artifact });
        Ok(Self {
            label: String::new(),
            root: store.root().to_owned(),
            store: Some(store),
            workspace: graph.workspace.clone(),
            stages: stages.collect(),
            graph: Some(graph),
            results: Vec::new(),
            is_artifact: false,
        })
    }

    fn of_lock(path: &Path, root: &Path, workspace: PathBuf) -> Result<Self, Failure> {
        let lock = Lock::read(path)?;
        let stages = lock.stages.iter().map(|(name, stage)| SideStage {
            name: name.clone(),
            action: Some(stage.action()),
            artifact: Some(stage.artifact),
        });
        let stages = stages.collect();
        let store = match Store::existing(root) {
            Err(StoreError::NoStore { .. }) => None,
            store => Some(store?),
        };
        Ok(Self {
            label: String::new(),
            root: root.to_owned(),
            store,
            workspace,
            graph: None,
            stages,
            results: Vec::new(),
            is_artifact: false,
        })
    }

    /// A run or an artifact of a store.
    fn of_stored(text: &str, store: Store, workspace: PathBuf) -> Result<Self, Failure> {
        let is_digits = text.len() >= FEWEST_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let stages = if is_digits {
            let artifact = artifact(text, &store)?;
            let makers = makers(&store)?;
            let record = only_maker(makers.get(&artifact), None);
            let name = record.map_or_else(|| short(artifact), |record| record.stage.clone());
            vec![SideStage { name, action: record.map(Action::of_record), artifact: Some(artifact) }]
        } else {
            let runs = history::runs(&store)?;
            let run = runs.into_iter().find(|run| run.name == text).ok_or_else(|| {
                Failure::usage(format!(
                    "`{text}` is neither a file, nor a run (see: twdag runs), nor at least {FEWEST_DIGITS} digits of an artifact"
                ))
            })?;
            let makers = makers(&store)?;
            let stage = |stage: StageSummary| {
                let records = stage.artifact.and_then(|artifact| makers.get(&artifact));
                let record = match stage.key {
                    // The record may have been made under another name of the stage.
                    Some(key) => records.and_then(|records| records.iter().find(|record| record.key == key)),
                    None => only_maker(records, Some(&stage.name)),
                };
                SideStage { name: stage.name, action: record.map(Action::of_record), artifact: stage.artifact }
            };
            run.stages.into_iter().map(stage).collect()
        };
        Ok(Self {
            label: String::new(),
            root: store.root().to_owned(),
            store: Some(store),
            workspace,
            graph: None,
            stages,
            results: Vec::new(),
            is_artifact: is_digits,
        })
    }

    /// The stage of that name.
    pub(super) fn stage(&self, name: &str) -> Option<&SideStage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The token set that a stage's per-token arrays belong to: what it reads as one, or the one of the other results whose
    /// tokens the scores name.
    pub(super) fn tokens_of(&self, stage: &SideStage) -> Option<PathBuf> {
        let store = self.store().ok()?;
        let is_tokens = |artifact: &ArtifactId| {
            let manifest = store.manifest(artifact).ok()?;
            manifest.files().iter().any(|file| file.path == TOKENS).then_some(())
        };
        let view = store.view(&stage.artifact?).ok()?;
        let scores = fs::read(view.join(SCORES)).ok();
        let scores: Option<serde_json::Value> = scores.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let wanted = scores.as_ref().and_then(|scores| scores.get("tokens")?.as_str());
        let inputs = stage.action.iter().flat_map(|action| &action.inputs);
        let read = inputs.map(|input| ArtifactId::from(input.digest));
        let mut candidates = read.chain(self.results.iter().copied()).filter(|artifact| is_tokens(artifact).is_some());
        candidates.find_map(|artifact| {
            let folder = store.view(&artifact).ok()?;
            let digest = twdag_stages::data::TokenSet::open(&folder).ok()?.digest();
            wanted.is_none_or(|wanted| wanted == digest).then_some(folder)
        })
    }
}

/// The artifact that digits name.
fn artifact(digits: &str, store: &Store) -> Result<ArtifactId, Failure> {
    if let Ok(digest) = digits.parse::<Digest>() {
        return Ok(digest.into());
    }
    let found = store.artifacts_named(digits)?;
    match found.as_slice() {
        [artifact] => Ok(*artifact),
        [] => Err(Failure::usage(format!("no artifact in {} starts with {digits}", store.root().display()))),
        several => {
            let names: Vec<String> = several.iter().map(short).collect();
            Err(Failure::usage(format!("several artifacts start with {digits}: {}", names.join(", "))))
        }
    }
}

/// The record that tells how a result was made, by a stage of that name if one is given; nothing if several do.
fn only_maker<'a>(records: Option<&'a Vec<Record>>, stage: Option<&str>) -> Option<&'a Record> {
    let mut fitting = records?.iter().filter(|record| stage.is_none_or(|stage| record.stage == stage));
    fitting.next().filter(|_| fitting.next().is_none())
}

/// The records of each result.
fn makers(store: &Store) -> Result<BTreeMap<ArtifactId, Vec<Record>>, Failure> {
    let mut makers: BTreeMap<ArtifactId, Vec<Record>> = BTreeMap::new();
    for record in store.all_records()? {
        makers.entry(record.artifact).or_default().push(record);
    }
    Ok(makers)
}
