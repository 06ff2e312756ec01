//! `twdag path`: where a stage's output lies.

use clap::Args;

use super::{
    arguments::{GraphArguments, stage_name},
    failure::Failure,
    output,
};
use crate::{blame::exit, graph::Graph, plan::PlannedStage};

/// Print the read-only folder that holds a stage's output
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag path graphs/quickstart.ron report
  ls -l \"$(twdag path graphs/quickstart.ron tokens)\"")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// The stage
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stage: String,
}

/// Prints the path; exit code 1 if there is nothing yet.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let (graph, store, planned) = arguments.graph.plan_stage(&arguments.stage)?;
    let artifact = planned.artifact.ok_or_else(|| not_computed(&graph, &planned))?;
    output::out(format!("{}\n", store.view(&artifact)?.display()));
    Ok(exit::SUCCESS)
}

fn not_computed(graph: &Graph, planned: &PlannedStage) -> Failure {
    Failure::missing(format!(
        "stage `{name}` has not been computed with these settings and inputs ({}); compute it with: twdag run {} {name}",
        planned.reason,
        graph.path.display(),
        name = planned.name,
    ))
}
