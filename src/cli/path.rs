//! `twdag path`: where a stage's output lies.

use clap::Args;

use super::{
    arguments::{GraphArguments, stage_name},
    failure::Failure,
    output,
    remote::{RemoteOptions, plan_with},
};
use crate::{blame::exit, digest::ArtifactId, graph::Graph, plan::PlannedStage, remote::Remote, store::Store};

/// Print the read-only folder that holds a stage's output; one that the remote store alone has is fetched
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
    #[command(flatten)]
    remote: RemoteOptions,
}

/// Prints the path; exit code 1 if there is nothing yet.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let (graph, store, planned) = arguments.graph.plan_stage(&arguments.stage)?;
    let artifact = match (planned.artifact, arguments.remote.find(&graph.workspace)?) {
        (None, Some(remote)) => fetched(&graph, &planned, &store, &remote)?,
        (artifact, _) => artifact,
    };
    let artifact = artifact.ok_or_else(|| not_computed(&graph, &planned))?;
    output::out(format!("{}\n", store.view(&artifact)?.display()));
    Ok(exit::SUCCESS)
}

/// The result, from the remote store.
fn fetched(
    graph: &Graph,
    planned: &PlannedStage,
    store: &Store,
    remote: &Remote,
) -> Result<Option<ArtifactId>, Failure> {
    let (plan, error) = plan_with(graph, &[planned.node], store, Some(remote))?;
    if let Some(error) = error {
        return Err(error.into());
    }
    let Some(found) = plan.stages.into_iter().find(|stage| stage.node == planned.node) else { return Ok(None) };
    let Some(key) = found.key.filter(|_| found.elsewhere) else { return Ok(found.artifact) };
    let pulled = remote.pull(store, &[key])?;
    match pulled.missing.into_iter().next() {
        Some((_, problem)) => Err(Failure::missing(problem)),
        None => Ok(found.artifact),
    }
}

fn not_computed(graph: &Graph, planned: &PlannedStage) -> Failure {
    Failure::missing(format!(
        "stage `{name}` has not been computed with these settings and inputs ({}); compute it with: twdag run {} {name}",
        planned.reason,
        graph.path.display(),
        name = planned.name,
    ))
}
