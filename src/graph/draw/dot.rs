//! The graph in the language of Graphviz.

use super::{Graph, heading, inputs};

pub(super) fn draw(graph: &Graph) -> String {
    let mut lines = vec![
        format!("digraph {} {{", quote(&graph.name)),
        format!("    label={};", quote(heading(graph))),
        "    labelloc=t;".to_owned(),
        "    node [shape=box, style=rounded, fontname=\"sans-serif\"];".to_owned(),
    ];
    for node in graph.nodes() {
        let label = format!("{}\n{}", node.name, node.stage.kind().name);
        lines.push(format!("    {} [label={}];", quote(&node.name), quote(&label)));
    }
    for (reader, node) in graph.nodes().iter().enumerate() {
        for input in inputs(graph, reader).into_iter().filter_map(|input| graph.nodes().get(input)) {
            lines.push(format!("    {} -> {};", quote(&input.name), quote(&node.name)));
        }
    }
    lines.push("}\n".to_owned());
    lines.join("\n")
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
