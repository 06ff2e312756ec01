//! `twdag check`: computes results again in other surroundings, and says whether the same comes out.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use clap::Args;
use serde::Serialize;

use super::{
    arguments::{GraphArguments, ResourceOptions, stage_name, targets, tell_damage},
    diff::words::comparison,
    failure::Failure,
    isolation::IsolationOptions,
    output::{self, BAD, FAINT, GOOD, NOTE, STRONG, paint},
    remote::tell_unasked,
    words::{duration, harmless, path, short, stages as count_stages},
};
use crate::{
    blame::{Blame, exit},
    digest::{ArtifactId, Key},
    graph::Workspace,
    plan,
    run::check::{self, CheckEvent, Checked, Failed, Options, Outcome, Rerun, Verdict},
};

/// Compute results again in other surroundings and compare them with those on record
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag check graphs/quickstart.ron                        every stage, twice
  twdag check graphs/quickstart.ron tokens random --runs 3
  twdag check graphs/quickstart.ron tokens --json | jq '.stages[].verdict.outcome'

Each stage is computed from the recorded results of those it reads, in folders of its own, with another number of threads, host
name, time, locale, time zone and order of files, and in one piece if it has parts. What could not be another one is said. Reruns of
different stages go on side by side as far as the resources allow, like the stages of a run, those of one stage one after another. The
verdict is kept beside the record (`twdag show`); neither results nor records change.
Without STAGE every stage is, so a Download fetches from its hub or address again, and a branch that has moved since differs.
Exit codes: 0 all reproducible, 3 a result differs, 1 a stage failed or was never computed.")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// Only these stages; what they need is not computed again
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stages: Vec<String>,
    /// How often each is computed again
    #[arg(long, value_name = "K", default_value = "2")]
    runs: NonZeroUsize,
    /// Reruns that may go on at the same time, which share the cores [default: as many as the resources allow]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    resources: ResourceOptions,
    #[command(flatten)]
    isolation: IsolationOptions,
    /// Print one JSON object at the end (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
}

/// What `twdag check --json` prints.
#[derive(Debug, Serialize)]
struct Document {
    graph: String,
    stages: Vec<Stage>,
}

#[derive(Debug, Serialize)]
struct Stage {
    name: String,
    kind: String,
    key: Key,
    artifact: ArtifactId,
    warnings: Vec<String>,
    verdict: Option<Verdict>,
    /// Why there is no verdict.
    failure: Option<WithoutVerdict>,
}

#[derive(Debug, Serialize)]
struct WithoutVerdict {
    message: String,
    blame: Blame,
    /// What the stage's worker and its program printed.
    log: Option<PathBuf>,
}

/// Checks.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let graph = arguments.graph.load()?;
    let wanted = targets(&graph, &arguments.stages)?;
    let store = arguments.graph.open(&graph)?;
    let plan = plan::plan(&graph, &wanted, &store)?;
    tell_damage(&store);
    let results = plan.stages.iter().filter_map(|stage| Some((stage.node, stage.artifact?))).collect();
    let stages: Vec<_> = plan.stages.into_iter().filter(|stage| wanted.contains(&stage.node)).collect();
    if let Some(stage) = stages.iter().find(|stage| stage.artifact.is_none()) {
        tell_unasked(&graph.workspace);
        return Err(Failure::missing(format!(
            "stage `{}` has not been computed ({}), so there is nothing to check; compute it with: twdag run {}",
            stage.name,
            stage.reason,
            graph.path.display()
        )));
    }
    let file = Workspace::load(&graph.workspace)?;
    let options = Options {
        runs: arguments.runs.get(),
        jobs: arguments.jobs.map(NonZeroUsize::get),
        totals: arguments.resources.totals(&file),
        isolation: arguments.isolation.of(&file),
    };
    if !arguments.json {
        let (graph_path, count) = (graph.path.display(), count_stages(stages.len()));
        let often = if options.runs == 1 { "once".to_owned() } else { format!("{} times each", options.runs) };
        output::out(format!("{}: checking {count}, {often}\n", paint(STRONG, graph_path)));
    }
    let mut tell = |event: CheckEvent<'_>| told(&event, options.runs, arguments.json);
    let (graph, store) = (Arc::new(graph), Arc::new(store));
    let Some(checked) = check::check(&graph, &stages, results, &store, &options, &mut tell)? else {
        output::err(format!("{}: verdicts up to here are kept\n", paint(NOTE, "stopped")));
        return Ok(exit::INTERRUPTED);
    };
    let code = code(&checked);
    if arguments.json {
        let stages = checked.into_iter().map(stage).collect();
        output::json(&Document { graph: graph.path.display().to_string(), stages });
    } else {
        output::out(account(&checked));
    }
    Ok(code)
}

fn code(checked: &[Checked]) -> u8 {
    let outcomes = || checked.iter().map(|stage| stage.verdict.as_ref().map(|verdict| verdict.outcome));
    if outcomes().any(|outcome| outcome == Ok(Outcome::Differs)) {
        exit::NOT_REPRODUCIBLE
    } else if outcomes().any(|outcome| outcome.is_err()) {
        exit::STAGE_FAILED
    } else {
        exit::SUCCESS
    }
}

fn stage(checked: Checked) -> Stage {
    let Checked { stage: name, kind, key, artifact, warnings, verdict } = checked;
    let (verdict, failure) = match verdict {
        Ok(verdict) => (Some(verdict), None),
        Err(Failed { message, blame, log }) => (None, Some(WithoutVerdict { message, blame, log })),
    };
    Stage { name, kind, key, artifact, warnings, verdict, failure }
}

/// Tells of an event: to people all, to scripts only what they should see besides.
fn told(event: &CheckEvent<'_>, runs: usize, json: bool) {
    match event {
        CheckEvent::HostStays(why) => {
            output::err(format!(
                "{}: the host name stays as it is: {why}; only HOSTNAME is set\n",
                paint(NOTE, "warning")
            ));
        }
        CheckEvent::Warned { stage, message } => {
            output::err(format!("{}: stage `{stage}`: {}\n", paint(NOTE, "warning"), harmless(message)));
        }
        CheckEvent::Judged(Checked { stage, verdict: Err(failed), .. }) => {
            let log = failed.log.as_ref().map(|log| format!("\n  log: {}", path(log))).unwrap_or_default();
            output::err(format!("{}: stage `{stage}` failed: {}{log}\n", paint(BAD, "error"), failed.message));
        }
        _ if json => {}
        CheckEvent::Ran { stage, run, rerun } => {
            let Rerun { outcome, seconds, threads, .. } = rerun;
            let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
            let facts = paint(FAINT, format!("run {run} of {runs}, {}, {threads}", duration(*seconds)));
            output::out(format!("  {} {stage}  {facts}\n", word(*outcome)));
        }
        CheckEvent::Judged(Checked { stage, verdict: Ok(verdict), .. }) => {
            if verdict.outcome > Outcome::Same {
                output::out(difference(stage, verdict));
            }
        }
    }
}

fn word(outcome: Outcome) -> String {
    match outcome {
        Outcome::Same => paint(GOOD, "same   "),
        Outcome::WithinTolerance => paint(GOOD, "near   "),
        Outcome::Differs => paint(BAD, "differs"),
    }
}

/// In what the first of the worst runs differs.
fn difference(stage: &str, verdict: &Verdict) -> String {
    let Verdict { outcome, artifact, comparator, runs, difference, .. } = verdict;
    let worst = runs.iter().position(|run| run.outcome == *outcome);
    let Some((number, run)) = worst.and_then(|number| Some((number + 1, runs.get(number)?))) else {
        return String::new();
    };
    let mut lines = vec![format!(
        "{} `{stage}`: {} on record, {} in run {number}, compared by {comparator}",
        word(*outcome).trim_end(),
        short(artifact),
        short(run.artifact)
    )];
    lines.extend(difference.iter().flat_map(comparison));
    lines.push(format!("  {}", paint(FAINT, format!("varied: {}", run.varied.join(", ")))));
    lines.join("\n") + "\n"
}

/// What came of all stages.
fn account(checked: &[Checked]) -> String {
    let count = |wanted: Option<Outcome>| {
        checked.iter().filter(|stage| stage.verdict.as_ref().ok().map(|verdict| verdict.outcome) == wanted).count()
    };
    let counts = [
        (count(Some(Outcome::Same)), GOOD, "reproducible"),
        (count(Some(Outcome::WithinTolerance)), GOOD, "within tolerance"),
        (count(Some(Outcome::Differs)), BAD, "not reproducible"),
        (count(None), BAD, "failed"),
    ];
    let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, style, word)| paint(style, format!("{count} {word}"))).collect();
    let mut kept: Vec<&check::Kept> = Vec::new();
    for run in checked.iter().filter_map(|stage| stage.verdict.as_ref().ok()).flat_map(|verdict| &verdict.runs) {
        kept.extend(run.kept.iter().filter(|found| !kept.contains(found)).collect::<Vec<_>>());
    }
    let kept: Vec<String> = kept
        .into_iter()
        .map(|kept| format!("{}: not varied: {}: {}\n", paint(NOTE, "note"), kept.what, kept.why))
        .collect();
    format!("{}: {}\n{}", count_stages(checked.len()), counts.join(", "), kept.concat())
}

/// A verdict as rows of a table.
pub(super) fn verdict_rows(verdict: &Verdict) -> Vec<Vec<String>> {
    let Verdict { outcome, comparator, time, host, runs, .. } = verdict;
    let what = match outcome {
        Outcome::Same => paint(GOOD, "reproducible"),
        Outcome::WithinTolerance => paint(GOOD, "within tolerance"),
        Outcome::Differs => paint(BAD, "not reproducible"),
    };
    let time = time.strftime("%Y-%m-%d %H:%M:%S UTC");
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let list = |all: Vec<String>| all.join(", ");
    let varied = runs.first().map(|run| run.varied.clone()).unwrap_or_default();
    let kept = runs.first().map(|run| run.kept.iter().map(|kept| kept.what.clone()).collect()).unwrap_or_default();
    let mut rows = vec![
        row("verdict", what),
        row("by", format!("{} on {host}, {time}, compared by {comparator}", computed(runs.len()))),
        row("varied", list(varied)),
        row("not varied", list(kept)),
    ];
    rows.retain(|row| row.iter().all(|cell| !cell.is_empty()));
    rows
}

fn computed(times: usize) -> String {
    match times {
        1 => "computed again once".to_owned(),
        times => format!("computed again {times} times"),
    }
}
