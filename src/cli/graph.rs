//! `twdag graph`: the graph as a picture.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{arguments::ParameterOptions, failure::Failure, output};
use crate::{
    blame::exit,
    graph::{Graph, draw},
};

/// Draw the stages of a graph and what they read
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag graph graphs/quickstart.ron
  twdag graph graphs/quickstart.ron --format svg > quickstart.svg")]
pub(super) struct Arguments {
    /// The graph file
    #[arg(value_name = "GRAPH")]
    graph: PathBuf,
    #[command(flatten)]
    parameters: ParameterOptions,
    /// How to draw it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Lines and names for a terminal
    Text,
    /// The language of Graphviz
    Dot,
    /// The language of Mermaid
    Mermaid,
    /// A picture that stands alone
    Svg,
}

impl From<Format> for draw::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Dot => Self::Dot,
            Format::Mermaid => Self::Mermaid,
            Format::Svg => Self::Svg,
        }
    }
}

/// Prints the picture.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let graph = Graph::load(&arguments.graph, &arguments.parameters.overrides())?;
    output::out(draw::draw(&graph, arguments.format.into()));
    Ok(exit::SUCCESS)
}
