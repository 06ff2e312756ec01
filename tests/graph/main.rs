//! The graph reader seen from outside: what it says about bad files, and what it makes of good ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod drawing;
mod files;
mod meaning;
mod messages;
mod mutations;
mod parameters;
mod policy;
mod spelling;

use std::path::{Path, PathBuf};

use twdag::graph::{Graph, GraphError};

/// Reads a graph from text.
fn read(source: &str, set: &[(&str, &str)]) -> Result<Graph, GraphError> {
    let set: Vec<(String, String)> = set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Graph::from_text(Path::new("graphs/example.ron"), source, PathBuf::from("/workspace"), &set)
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
