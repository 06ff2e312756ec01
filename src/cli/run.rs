//! `twdag run`: computes what is not computed yet.

use std::num::NonZeroUsize;

use clap::Args;

use super::{
    arguments::{GraphArguments, stage_name, targets, tell_damage},
    failure::Failure,
    live::Live,
    output, plan as plan_command,
    words::path,
};
use crate::{
    blame::exit,
    graph::{Available, Graph, Workspace},
    plan,
    run::{
        driver::{self, Options, Summary},
        event::{RunEvent, RunOutcome},
        resources::{Budget, Totals},
    },
    store::Store,
};

/// Compute whatever the graph asks for and the store does not have yet
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag run graphs/quickstart.ron
  twdag run graphs/quickstart.ron report --set lambda=0.5
  twdag run graphs/quickstart.ron --jobs 2 --resource memory=12GiB --resource gpu=0,1
  twdag run graphs/quickstart.ron --json | jq -c 'select(.event == \"stage-finished\")'

Ctrl-C asks the running stages to keep what is done and stop; a second Ctrl-C ends them at once.
The same command then goes on from there.")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// Only these stages and what they need
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stages: Vec<String>,
    /// Stages that may run at the same time, which share the cores [default: as many as the resources allow; a
    /// stage whose policy does not say how much `cpu` it wants takes all]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// How much there is of a resource: cpu=4, memory=16GiB, the devices gpu=0,1, or any other name
    #[arg(long = "resource", value_name = "NAME=AMOUNT", value_parser = resource)]
    resources: Vec<(String, Available)>,
    /// Print events as JSON Lines (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
    /// Tell what would run, and why, and stop there
    #[arg(long)]
    dry_run: bool,
    /// After a failure, go on with stages that do not depend on it
    #[arg(long)]
    keep_going: bool,
}

/// Runs and shows.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let graph = arguments.graph.load()?;
    let targets = targets(&graph, &arguments.stages)?;
    let store = arguments.graph.open(&graph)?;
    let plan = plan::plan(&graph, &targets, &store)?;
    let totals = Totals::find(&arguments.resources, &Workspace::load(&graph.workspace)?);
    let jobs = arguments.jobs.map(NonZeroUsize::get);
    if arguments.dry_run {
        tell_damage(&store);
        Budget::new(&graph, &plan, &totals, jobs)?;
        plan_command::tell(&graph, &plan, arguments.json);
        return Ok(exit::SUCCESS);
    }
    let reports = reports(&graph, &targets);
    let options = Options { jobs, keep_going: arguments.keep_going, totals };
    let root = store.root().to_owned();
    let summary = if arguments.json {
        driver::run(graph, plan, store, options, &mut |event| json_line(event))?
    } else {
        let mut live = Live::new();
        let summary = driver::run(graph, plan, store, options, &mut |event| live.on(event))?;
        tell_reports(&Store::open(&root)?, &summary, &reports)?;
        summary
    };
    Ok(match summary.outcome {
        RunOutcome::Succeeded => exit::SUCCESS,
        RunOutcome::Failed if summary.not_reproducible => exit::NOT_REPRODUCIBLE,
        RunOutcome::Failed => exit::STAGE_FAILED,
        RunOutcome::Interrupted => exit::INTERRUPTED,
    })
}

/// `--resource` needs a name, an equals sign and an amount.
fn resource(text: &str) -> Result<(String, Available), String> {
    let Some((name, amount)) = text.split_once('=') else {
        return Err("expected NAME=AMOUNT, such as cpu=4, memory=16GiB or gpu=0,1".to_owned());
    };
    Ok((name.trim().to_owned(), Available::from_argument(name.trim(), amount)?))
}

fn json_line(event: &RunEvent) {
    // Events are strings, numbers and digests: they always have a JSON form.
    output::out(serde_json::to_string(event).unwrap_or_default() + "\n");
}

/// The stages asked for, directly or through others, that write a page to look at.
fn reports(graph: &Graph, targets: &[usize]) -> Vec<String> {
    let is_report = |node: &usize| graph.nodes()[*node].stage.kind().name == "Report";
    graph.closure(targets).into_iter().filter(is_report).map(|node| graph.nodes()[node].name.clone()).collect()
}

/// Where to find the pages.
fn tell_reports(store: &Store, summary: &Summary, reports: &[String]) -> Result<(), Failure> {
    for stage in summary.stages.iter().filter(|stage| reports.contains(&stage.name)) {
        if let Some(artifact) = stage.artifact {
            output::out(format!("report: {}\n", path(&store.view(&artifact)?.join("report.html"))));
        }
    }
    Ok(())
}
