//! The checked graph.

use std::{cmp::Reverse, collections::BinaryHeap, fmt, path::PathBuf};

use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
    visit::{Dfs, Reversed},
};
use twdag_stages::stage::{Reference, Stage};

use super::Policy;

/// A graph whose stages are typed, whose references exist, and which has no cycle.
#[derive(Debug)]
pub struct Graph {
    /// The file's name without its extension.
    pub name: String,
    /// The file as the user named it.
    pub path: PathBuf,
    /// The folder that relative source paths start from; absolute.
    pub workspace: PathBuf,
    /// What the graph is about, if it says so.
    pub title: Option<String>,
    /// The parameters in the order of the file.
    pub parameters: Vec<Parameter>,
    nodes: Vec<Node>,
    order: Vec<usize>,
    edges: DiGraph<(), ()>,
}

/// A parameter and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name in `params`.
    pub name: String,
    /// The value that counts, as RON text.
    pub value: String,
    /// Whether it comes from a profile or from `--set`, and not from `params`.
    pub is_set: bool,
}

/// Values of parameters for one call, in the place of the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The profile of the graph whose values count.
    pub profile: Option<String>,
    /// Values by name, as RON text; they outweigh the profile, and of two equal names the last counts.
    pub set: Vec<(String, String)>,
}

/// A stage and what it reads.
pub struct Node {
    /// The stage's name.
    pub name: String,
    /// Its kind and settings.
    pub stage: Box<dyn Stage>,
    /// What it reads, in the order of [`Stage::references`].
    pub inputs: Vec<Input>,
    /// How it is run; no part of its key.
    pub policy: Policy,
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Node")
            .field("name", &self.name)
            .field("kind", &self.stage.kind().name)
            .field("inputs", &self.inputs)
            .field("policy", &self.policy)
            .finish()
    }
}

/// One reference of a stage to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The place in the settings, such as `tasks.needles.tokens`.
    pub role: String,
    /// What is read.
    pub reference: Reference,
    /// The stage that makes it: an index into [`Graph::nodes`].
    pub node: usize,
}

/// What a graph is made of, checked but for its order.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) workspace: PathBuf,
    pub(super) title: Option<String>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) nodes: Vec<Node>,
}

impl Graph {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { name, path, workspace, title, parameters, nodes } = parts;
        let inputs: Vec<Vec<usize>> =
            nodes.iter().map(|node| node.inputs.iter().map(|input| input.node).collect()).collect();
        let edges = edges(&inputs);
        let order = order(&edges);
        Self { name, path, workspace, title, parameters, nodes, order, edges }
    }

    /// The stages in the order of the file.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The index of the stage with that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// The name of a stage that is like a name that does not exist.
    pub fn similar(&self, name: &str) -> Option<&str> {
        super::suggest::similar(name, self.nodes.iter().map(|node| node.name.as_str()))
    }

    /// All stages, each behind those it reads; otherwise in the order of the file.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The targets and all that they need, in the order of [`Graph::order`].
    pub fn closure(&self, targets: &[usize]) -> Vec<usize> {
        let mut search = Dfs::empty(Reversed(&self.edges));
        let mut needed = vec![false; self.nodes.len()];
        for &target in targets.iter().filter(|&&target| target < self.nodes.len()) {
            search.move_to(NodeIndex::new(target));
            while let Some(node) = search.next(Reversed(&self.edges)) {
                if let Some(needed) = needed.get_mut(node.index()) {
                    *needed = true;
                }
            }
        }
        self.order.iter().copied().filter(|&node| needed.get(node) == Some(&true)).collect()
    }

    /// The stages that read this one, in the order of the file.
    pub fn readers(&self, node: usize) -> Vec<usize> {
        let mut readers: Vec<usize> =
            self.edges.neighbors_directed(NodeIndex::new(node), Direction::Outgoing).map(NodeIndex::index).collect();
        readers.sort_unstable();
        readers.dedup();
        readers
    }
}

/// Edges from each stage to those that read it, each once; `inputs` holds for each stage the stages that it reads.
pub(super) fn edges(inputs: &[Vec<usize>]) -> DiGraph<(), ()> {
    let mut edges = DiGraph::with_capacity(inputs.len(), inputs.len());
    for _ in inputs {
        edges.add_node(());
    }
    for (reader, read) in inputs.iter().enumerate() {
        let mut read = read.clone();
        read.sort_unstable();
        read.dedup();
        for node in read {
            edges.add_edge(NodeIndex::new(node), NodeIndex::new(reader), ());
        }
    }
    edges
}

/// Topological order; of those that could come next, the first in the file. What lies on a cycle is left out.
fn order(edges: &DiGraph<(), ()>) -> Vec<usize> {
    let mut waits: Vec<usize> =
        edges.node_indices().map(|node| edges.neighbors_directed(node, Direction::Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        waits.iter().enumerate().filter(|(_, waits)| **waits == 0).map(|(node, _)| Reverse(node)).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for reader in edges.neighbors_directed(NodeIndex::new(node), Direction::Outgoing) {
            if let Some(waits) = waits.get_mut(reader.index()) {
                *waits -= 1;
                if *waits == 0 {
                    ready.push(Reverse(reader.index()));
                }
            }
        }
    }
    order
}
