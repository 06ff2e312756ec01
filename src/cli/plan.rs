//! `twdag plan`: what a run would do, and why.

use clap::Args;

use super::{
    arguments::{GraphArguments, stage_name, targets, tell_damage},
    failure::Failure,
    output::{self, FAINT, GOOD, NOTE, STRONG, paint, table},
    settled::{look, settle},
    why::explain,
    words::stages as count_stages,
};
use crate::{
    blame::exit,
    graph::Graph,
    plan::{self, Document, Plan, Status, settled::Settled},
};

/// Tell for each stage whether it is cached, will run (and why), or waits for others
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag plan graphs/quickstart.ron
  twdag plan graphs/quickstart.ron report --set lambda=0.5
  twdag plan graphs/quickstart.ron --why report
  twdag plan graphs/quickstart.ron --json | jq '.stages[] | select(.status == \"run\").name'")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// Only these stages and what they need
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stages: Vec<String>,
    /// Explain one stage: all that differs from what it was last keyed by, or what it waits for
    #[arg(long, value_name = "STAGE", value_parser = stage_name(), conflicts_with = "stages")]
    why: Option<String>,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
}

/// Plans and tells.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    if let Some(stage) = &arguments.why {
        return explain(&arguments.graph, stage, arguments.json);
    }
    let looked = look(&arguments.graph, &arguments.stages)?;
    if looked.settled.is_some_and(|(settled, _)| tell_settled(&settled, arguments.json)) {
        return Ok(exit::SUCCESS);
    }
    let graph = arguments.graph.load()?;
    let targets = targets(&graph, &arguments.stages)?;
    let store = arguments.graph.open(&graph)?;
    let plan = plan::plan(&graph, &targets, &store)?;
    tell_damage(&store);
    tell(&graph, &plan, arguments.json);
    settle(looked.asked.as_ref(), &graph, &plan, &store);
    Ok(exit::SUCCESS)
}

/// Prints a plan in which everything is cached. Whether it could be read.
pub(super) fn tell_settled(settled: &Settled, json: bool) -> bool {
    let text = if json { settled.json() } else { settled.text() };
    text.map(|text| output::out(String::from_utf8_lossy(&text))).is_some()
}

/// Prints a plan, as JSON or as a table.
pub(super) fn tell(graph: &Graph, plan: &Plan, json: bool) {
    output::out(if json { Document::of(graph, plan).line() } else { text(graph, plan) });
}

/// A plan as a table.
pub(super) fn text(graph: &Graph, plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan
        .stages
        .iter()
        .map(|stage| vec![status(stage.status), stage.name.clone(), stage.kind.to_owned(), paint(FAINT, &stage.reason)])
        .collect();
    let count = |status| plan.stages.iter().filter(|stage| stage.status == status).count();
    format!(
        "{}: {}\n{}{}\n",
        paint(STRONG, graph.path.display()),
        count_stages(plan.stages.len()),
        table(&rows),
        tally(count(Status::Cached), count(Status::Run), count(Status::Waits))
    )
}

/// A status as a word.
pub(super) fn status(status: Status) -> String {
    match status {
        Status::Cached => paint(GOOD, "cached"),
        Status::Run => paint(NOTE, "run"),
        Status::Waits => paint(FAINT, "waits"),
    }
}

/// `4 cached, 5 run, 3 wait`.
pub(super) fn tally(cached: usize, run: usize, wait: usize) -> String {
    let parts = [(cached, "cached"), (run, "run"), (wait, "wait")];
    let parts: Vec<String> =
        parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    parts.join(", ")
}
