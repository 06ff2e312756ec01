//! The graph as a picture. The same graph gives the same bytes.

mod dot;
mod mermaid;
mod svg;
mod text;

use super::Graph;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines and names for a terminal, one stage a line.
    Text,
    /// The language of Graphviz.
    Dot,
    /// The language of Mermaid, which forges show in Markdown.
    Mermaid,
    /// A picture that stands alone.
    Svg,
}

/// Draws all stages and what they read.
pub fn draw(graph: &Graph, format: Format) -> String {
    match format {
        Format::Text => text::draw(graph),
        Format::Dot => dot::draw(graph),
        Format::Mermaid => mermaid::draw(graph),
        Format::Svg => svg::draw(graph),
    }
}

/// The stages that a stage reads, each once, in the order of its settings.
fn inputs(graph: &Graph, node: usize) -> Vec<usize> {
    let mut inputs = Vec::new();
    for input in graph.nodes().get(node).map(|node| node.inputs.as_slice()).unwrap_or_default() {
        if !inputs.contains(&input.node) {
            inputs.push(input.node);
        }
    }
    inputs
}

/// The graph's title, or its name.
fn heading(graph: &Graph) -> &str {
    graph.title.as_deref().unwrap_or(&graph.name)
}

/// Text for XML and HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for next in text.chars() {
        match next {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            next if next.is_control() => escaped.push(' '),
            next => escaped.push(next),
        }
    }
    escaped
}
