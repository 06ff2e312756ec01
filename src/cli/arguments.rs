//! What most commands take: a graph, parameters, a store.

use std::path::{Path, PathBuf};

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{failure::Failure, output, words::damage};
use crate::{
    graph::{Available, Graph, Overrides, Workspace, workspace},
    lock::Lock,
    plan::{self, Plan, PlannedStage},
    run::resources::Totals,
    store::{Store, ask_for_name},
};

/// The graph, its parameters and the store.
#[derive(Debug, Args)]
pub(super) struct GraphArguments {
    /// The graph file
    #[arg(value_name = "GRAPH")]
    pub(super) graph: PathBuf,
    #[command(flatten)]
    pub(super) options: GraphOptions,
}

/// Whether a command is held to a lock, and to which.
#[derive(Debug, Args)]
pub(super) struct LockArguments {
    /// Hold every stage to the lock file beside the graph (`twdag lock` makes it): exit with 3 at the first stage that is keyed
    /// otherwise or has another result
    #[arg(long)]
    locked: bool,
    /// The lock file, if it is another one than GRAPH's NAME.lock.ron
    #[arg(long, value_name = "FILE", requires = "locked")]
    lock_file: Option<PathBuf>,
}

impl LockArguments {
    /// The lock, if the command is held to one.
    pub(super) fn read(&self, graph: &Path) -> Result<Option<Lock>, Failure> {
        if !self.locked {
            return Ok(None);
        }
        let path = self.lock_file.clone().unwrap_or_else(|| Lock::path_of(graph));
        Ok(Some(Lock::read(&path)?))
    }
}

/// A store that is there already.
#[derive(Debug, Args)]
pub(super) struct StoreArguments {
    /// The store [default: the folder `artifacts` of the workspace that the current folder lies in]
    #[arg(long, value_name = "DIR", env = "TWDAG_STORE", hide_env_values = true)]
    store: Option<PathBuf>,
}

impl StoreArguments {
    /// The workspace that the current folder lies in.
    pub(super) fn workspace() -> Result<PathBuf, Failure> {
        // As for a graph in the current folder.
        Ok(workspace(Path::new("graph.ron"))?)
    }

    fn root(&self) -> Result<PathBuf, Failure> {
        match &self.store {
            Some(root) => Ok(root.clone()),
            None => Ok(Self::workspace()?.join("artifacts")),
        }
    }

    /// Opens it.
    pub(super) fn open(&self) -> Result<Store, Failure> {
        Ok(Store::existing(&self.root()?)?)
    }

    /// Opens it, or makes one, for what a machine notes of a remote store.
    pub(super) fn open_or_create(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.root()?)?)
    }
}

/// Which values the parameters of a graph have.
#[derive(Debug, Args)]
pub(super) struct ParameterOptions {
    /// Give a parameter of the graph another value; outweighs --profile
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Give parameters the values that the graph lists under this name in `profiles`
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    profile: Option<String>,
}

impl ParameterOptions {
    /// The values in the place of the defaults.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides { profile: self.profile.clone(), set: self.set.clone() }
    }
}

/// What there is for stages to use.
#[derive(Debug, Args)]
pub(super) struct ResourceOptions {
    /// How much there is of a resource: cpu=4, memory=16GiB, the devices gpu=0,1, or any other name
    #[arg(long = "resource", value_name = "NAME=AMOUNT", value_parser = resource)]
    resources: Vec<(String, Available)>,
}

impl ResourceOptions {
    /// All that there is.
    pub(super) fn totals(&self, workspace: &Workspace) -> Totals {
        Totals::find(&self.resources, workspace)
    }
}

/// How the graph is read and where results live.
#[derive(Debug, Args)]
pub(super) struct GraphOptions {
    #[command(flatten)]
    parameters: ParameterOptions,
    /// Where artifacts and records live [default: the folder `artifacts` of the workspace]
    #[arg(long, value_name = "DIR", env = "TWDAG_STORE", hide_env_values = true)]
    store: Option<PathBuf>,
}

impl GraphOptions {
    /// The values of parameters in the place of the defaults.
    pub(super) fn overrides(&self) -> Overrides {
        self.parameters.overrides()
    }

    /// The store of graphs in this workspace.
    pub(super) fn root(&self, workspace: &Path) -> PathBuf {
        self.store.clone().unwrap_or_else(|| workspace.join("artifacts"))
    }

    /// Opens the store that belongs to the graph.
    pub(super) fn open(&self, graph: &Graph) -> Result<Store, Failure> {
        Ok(Store::open(&self.root(&graph.workspace))?)
    }

    /// Opens the store of the current folder's workspace, without a graph.
    pub(super) fn here(&self) -> Result<Store, Failure> {
        StoreArguments { store: self.store.clone() }.open()
    }
}

/// Reads and checks a graph.
pub(super) fn load(path: &Path, options: &GraphOptions) -> Result<Graph, Failure> {
    ask_for_name(path);
    Ok(Graph::load(path, &options.overrides())?)
}

impl GraphArguments {
    /// Reads and checks the graph.
    pub(super) fn load(&self) -> Result<Graph, Failure> {
        load(&self.graph, &self.options)
    }

    /// Opens the store that belongs to the graph.
    pub(super) fn open(&self, graph: &Graph) -> Result<Store, Failure> {
        self.options.open(graph)
    }

    /// Plans one stage and what it needs.
    pub(super) fn plan_stage(&self, stage: &str) -> Result<(Graph, Store, PlannedStage), Failure> {
        let graph = self.load()?;
        let target = target(&graph, stage)?;
        let store = self.open(&graph)?;
        let Plan { stages, .. } = plan::plan(&graph, &[target], &store)?;
        tell_damage(&store);
        let planned = stages.into_iter().find(|planned| planned.node == target);
        let planned = planned.ok_or_else(|| Failure::usage(format!("stage `{stage}` is not in its own plan")))?;
        Ok((graph, store, planned))
    }
}

/// Warns of what was found damaged while the store was looked into.
pub(super) fn tell_damage(store: &Store) {
    for found in store.take_damage() {
        output::err(damage(&found.path, &found.problem, found.quarantine.as_deref()));
    }
}

/// `--set` needs a name and an equals sign; the value may be empty.
pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as lambda=0.5".to_owned()),
    }
}

/// `--resource` needs a name, an equals sign and an amount.
fn resource(text: &str) -> Result<(String, Available), String> {
    let Some((name, amount)) = text.split_once('=') else {
        return Err("expected NAME=AMOUNT, such as cpu=4, memory=16GiB or gpu=0,1".to_owned());
    };
    Ok((name.trim().to_owned(), Available::from_argument(name.trim(), amount)?))
}

/// A parser for names of stages.
pub(super) fn stage_name() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

/// The stages named, or all.
pub(super) fn targets(graph: &Graph, names: &[String]) -> Result<Vec<usize>, Failure> {
    if names.is_empty() {
        return Ok((0..graph.nodes().len()).collect());
    }
    names.iter().map(|name| target(graph, name)).collect()
}

/// The stage of that name.
pub(super) fn target(graph: &Graph, name: &str) -> Result<usize, Failure> {
    graph.find(name).ok_or_else(|| {
        let help = if let Some(similar) = graph.similar(name) {
            format!("did you mean `{similar}`?")
        } else {
            let names: Vec<String> = graph.nodes().iter().map(|node| format!("`{}`", node.name)).collect();
            format!("it has {}", names.join(", "))
        };
        Failure::usage(format!("there is no stage `{name}` in {}; {help}", graph.path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_splits_at_its_first_equals_sign() {
        assert_eq!(assignment("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(assignment("a="), Ok(("a".to_owned(), String::new())));
        assert!(assignment("=1").is_err() && assignment("lambda").is_err());
    }
}
