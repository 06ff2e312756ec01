//! `twdag runs`: what was run here.

use std::path::PathBuf;

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{
    arguments::StoreArguments,
    failure::Failure,
    output::{self, BAD, FAINT, GOOD, NOTE, paint, table},
    words::{duration, path},
};
use crate::{
    blame::exit,
    run::{
        event::{RunOutcome, StageOutcome, StageSummary},
        history::{self, PastRun},
    },
};

/// List past runs with their outcome and time
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag runs
  twdag runs --graph graphs/quickstart.ron --last 3
  twdag runs --json | jq -r '.runs[] | select(.outcome == \"failed\") | .folder'")]
pub(super) struct Arguments {
    /// Only runs of this graph, named as it was when it was run
    #[arg(long, value_name = "GRAPH")]
    graph: Option<String>,
    /// Only the last N runs
    #[arg(long, value_name = "N", default_value = "20")]
    last: usize,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArguments,
}

#[derive(Serialize)]
struct Document {
    runs: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    folder: PathBuf,
    graph: String,
    started: Timestamp,
    seconds: f64,
    outcome: &'static str,
    stages: Vec<StageSummary>,
}

/// Lists them.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let store = arguments.store.open()?;
    let mut runs = history::runs(&store)?;
    runs.retain(|run| arguments.graph.as_ref().is_none_or(|graph| run.graph == *graph));
    runs.truncate(arguments.last);
    if arguments.json {
        let runs = runs.into_iter().map(line).collect();
        output::json(&Document { runs });
    } else if runs.is_empty() {
        output::out("no run yet\n");
    } else {
        output::out(table(&runs.iter().map(row).collect::<Vec<_>>()));
    }
    Ok(exit::SUCCESS)
}

/// One word for how a run ended.
pub(super) fn outcome(run: &PastRun) -> &'static str {
    match run.outcome {
        Some(RunOutcome::Succeeded) => "succeeded",
        Some(RunOutcome::Failed) => "failed",
        Some(RunOutcome::Interrupted) => "interrupted",
        None if run.is_running => "running",
        None => "killed",
    }
}

fn seconds(run: &PastRun) -> f64 {
    let end = if run.is_running { Timestamp::now() } else { run.last };
    end.duration_since(run.started).as_secs_f64()
}

fn line(run: PastRun) -> Line {
    Line {
        outcome: outcome(&run),
        seconds: seconds(&run),
        name: run.name,
        folder: run.folder,
        graph: run.graph,
        started: run.started,
        stages: run.stages,
    }
}

fn row(run: &PastRun) -> Vec<String> {
    let word = outcome(run);
    let style = match word {
        "succeeded" => GOOD,
        "failed" | "killed" => BAD,
        _ => NOTE,
    };
    let count = |outcome| run.stages.iter().filter(|stage| stage.outcome == outcome).count();
    let counts: Vec<String> = [
        (StageOutcome::Cached, "cached"),
        (StageOutcome::Ran, "ran"),
        (StageOutcome::Failed, "failed"),
        (StageOutcome::Skipped, "skipped"),
        (StageOutcome::Canceled, "canceled"),
    ]
    .into_iter()
    .filter(|(outcome, _)| count(*outcome) > 0)
    .map(|(outcome, word)| format!("{} {word}", count(outcome)))
    .collect();
    vec![
        time(run.started),
        run.graph.clone(),
        paint(style, word),
        duration(seconds(run)),
        counts.join(", "),
        paint(FAINT, path(&run.folder)),
    ]
}

/// A time where the user is.
pub(super) fn time(time: Timestamp) -> String {
    time.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
