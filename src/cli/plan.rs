//! `twdag plan`: what a run would do, and why.

use clap::Args;
use serde::Serialize;

use super::{
    arguments::{GraphArguments, stage_name, targets, tell_damage},
    failure::Failure,
    output::{self, FAINT, GOOD, NOTE, STRONG, paint, table},
    words::stages as count_stages,
};
use crate::{
    blame::exit,
    digest::{ArtifactId, Key},
    graph::Graph,
    plan::{self, Plan, Status},
    run::{driver::announced, event::AnnouncedStatus},
};

/// Tell for each stage whether it is cached, will run (and why), or waits for others
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag plan graphs/quickstart.ron
  twdag plan graphs/quickstart.ron report --set lambda=0.5
  twdag plan graphs/quickstart.ron --json | jq '.stages[] | select(.status == \"run\").name'")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// Only these stages and what they need
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stages: Vec<String>,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
}

/// Plans and tells.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let graph = arguments.graph.load()?;
    let targets = targets(&graph, &arguments.stages)?;
    let store = arguments.graph.open(&graph)?;
    let plan = plan::plan(&graph, &targets, &store)?;
    tell_damage(&store);
    tell(&graph, &plan, arguments.json);
    Ok(exit::SUCCESS)
}

#[derive(Serialize)]
struct Document<'a> {
    graph: String,
    stages: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    kind: &'a str,
    status: AnnouncedStatus,
    reason: &'a str,
    key: Option<Key>,
    artifact: Option<ArtifactId>,
}

/// Prints a plan, as JSON or as a table.
pub(super) fn tell(graph: &Graph, plan: &Plan, json: bool) {
    let name = graph.path.display().to_string();
    if json {
        let stages = plan.stages.iter().map(|stage| Line {
            name: &stage.name,
            kind: stage.kind,
            status: announced(stage).status,
            reason: &stage.reason,
            key: stage.key,
            artifact: stage.artifact,
        });
        let document = Document { graph: name, stages: stages.collect() };
        // A document of strings and digests always has a JSON form.
        output::out(serde_json::to_string(&document).unwrap_or_default() + "\n");
        return;
    }
    let rows: Vec<Vec<String>> = plan
        .stages
        .iter()
        .map(|stage| {
            let status = match stage.status {
                Status::Cached => paint(GOOD, "cached"),
                Status::Run => paint(NOTE, "run"),
                Status::Waits => paint(FAINT, "waits"),
            };
            vec![status, stage.name.clone(), stage.kind.to_owned(), paint(FAINT, &stage.reason)]
        })
        .collect();
    let count = |status| plan.stages.iter().filter(|stage| stage.status == status).count();
    output::out(format!(
        "{}: {}\n{}{}\n",
        paint(STRONG, name),
        count_stages(plan.stages.len()),
        table(&rows),
        tally(count(Status::Cached), count(Status::Run), count(Status::Waits))
    ));
}

/// `4 cached, 5 run, 3 wait`.
pub(super) fn tally(cached: usize, run: usize, wait: usize) -> String {
    let parts = [(cached, "cached"), (run, "run"), (wait, "wait")];
    let parts: Vec<String> =
        parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    parts.join(", ")
}
