//! The graph reader seen from outside: what it says about bad files, and what it makes of good ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod drawing;
mod files;
mod meaning;
mod messages;
mod mutations;
mod parameters;
mod policy;
mod profiles;
mod spelling;

use std::path::{Path, PathBuf};

use twdag::graph::{Graph, GraphError, Overrides};

/// Reads a graph from text.
fn read(source: &str, set: &[(&str, &str)]) -> Result<Graph, GraphError> {
    read_with(source, None, set)
}

/// Reads a graph from text, with a profile of it.
fn read_with(source: &str, profile: Option<&str>, set: &[(&str, &str)]) -> Result<Graph, GraphError> {
    let set = set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let overrides = Overrides { profile: profile.map(str::to_owned), set };
    Graph::from_text(Path::new("graphs/example.ron"), source, PathBuf::from("/workspace"), &overrides)
}

/// What is said about a bad graph.
fn told(source: &str) -> String {
    read(source, &[]).expect_err("a bad graph").render(false)
}

/// Settings of a stage, for comparison.
fn settings(graph: &Graph, stage: &str) -> serde_json::Value {
    let node = &graph.nodes()[graph.find(stage).expect("a stage of that name")];
    serde_json::to_value(node.stage.settings()).expect("settings are JSON")
}
