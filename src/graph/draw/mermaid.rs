//! The graph in the language of Mermaid.

use super::{Graph, escape, heading, inputs};

pub(super) fn draw(graph: &Graph) -> String {
    // JSON strings are YAML strings.
    let title = serde_json::Value::from(heading(graph));
    let mut lines = vec!["---".to_owned(), format!("title: {title}"), "---".to_owned(), "flowchart TD".to_owned()];
    for (index, node) in graph.nodes().iter().enumerate() {
        // Names may hold what Mermaid reads as syntax, so its own names are numbers.
        let label = format!("{}<br><small>{}</small>", escape(&node.name), node.stage.kind().name);
        lines.push(format!("    n{index}[\"{label}\"]"));
    }
    for reader in 0..graph.nodes().len() {
        lines.extend(inputs(graph, reader).into_iter().map(|input| format!("    n{input} --> n{reader}")));
    }
    lines.join("\n") + "\n"
}
