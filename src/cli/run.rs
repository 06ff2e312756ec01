//! `twdag run`: computes what is not computed yet.

use std::num::NonZeroUsize;

use clap::Args;

use super::{
    arguments::{GraphArguments, LockArguments, ResourceOptions, stage_name, targets, tell_damage},
    failure::Failure,
    isolation::IsolationOptions,
    live::{Live, words},
    output, plan as plan_command,
    remote::{RemoteOptions, plan_with, warn},
    settled::{facts, look, settle},
    store::quantity::age,
    words::path,
};
use crate::{
    blame::exit,
    digest::{ArtifactId, Digest},
    graph::{Graph, Workspace, workspace},
    plan::{
        self, Document, Plan, PlannedStage, Status,
        settled::{Facts, JSON, Settled},
    },
    remote::{Heartbeat, Tiers},
    run::{
        cached::{CachedRun, KeptPlan},
        driver::{self, Options, Summary},
        event::{RunEvent, RunOutcome},
        resources::{Budget, Totals},
        sharing::{RemoteSummary, Sharing, needed},
    },
    store::Store,
};

/// Compute whatever the graph asks for and the store does not have yet
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag run graphs/quickstart.ron
  twdag run graphs/quickstart.ron report --set lambda=0.5
  twdag run graphs/quickstart.ron --locked
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
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    remote: RemoteOptions,
    #[command(flatten)]
    isolation: IsolationOptions,
    /// How often a run tells other machines that it is still at the stages that it has claimed in the remote store; one that was silent
    /// for four times as long counts as dead. From 0.01s to 150s; below 1s it costs many requests
    #[arg(long, value_name = "TIME", env = "TWDAG_REMOTE_HEARTBEAT", hide_env_values = true, default_value = "15s", value_parser = heartbeat)]
    remote_heartbeat: Heartbeat,
    #[command(flatten)]
    resources: ResourceOptions,
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

fn heartbeat(text: &str) -> Result<Heartbeat, String> {
    let expected =
        || "expected 0.01s to 150s: other machines wait for four times as long before they count this one as dead";
    Heartbeat::new(age(text)?).ok_or_else(|| expected().to_owned())
}

/// Runs and shows.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let looked = look(&arguments.graph, &arguments.stages)?;
    let lock = arguments.lock.read(&arguments.graph.graph)?;
    if let Some((settled, store)) = looked.settled
        && plan_command::agrees(lock.as_ref(), &settled, &arguments.stages)
        && run_settled(arguments, &settled, &store)?
    {
        return Ok(exit::SUCCESS);
    }
    let graph = arguments.graph.load()?;
    let targets = targets(&graph, &arguments.stages)?;
    let store = arguments.graph.open(&graph)?;
    let remote = arguments.remote.find(&graph.workspace)?;
    let (mut plan, error) = plan_with(&graph, &targets, &store, remote.as_ref())?;
    if let Some(error) = &error {
        warn(format!("{error}; the run goes on without it"));
    }
    if let Some(problem) = lock.as_ref().and_then(|lock| lock.outdated(&graph, &plan)) {
        return Err(Failure::not_reproducible(problem));
    }
    let file = Workspace::load(&graph.workspace)?;
    let totals = arguments.resources.totals(&file);
    let jobs = arguments.jobs.map(NonZeroUsize::get);
    if arguments.dry_run {
        tell_damage(&store);
        Budget::new(&graph, &plan, &totals, jobs)?;
        return Ok(plan_command::tell(&graph, &plan, lock.as_ref(), arguments.json));
    }
    let sharing = remote.map(|remote| Sharing::new(remote, error.as_ref(), arguments.remote_heartbeat));
    if let Some(sharing) = &sharing {
        let asked = if arguments.stages.is_empty() { &[][..] } else { &targets };
        fetch_needed(&graph, &targets, asked, &store, sharing, &mut plan)?;
    }
    let as_locked = lock.as_ref().is_none_or(|lock| lock.deviations(&graph, &plan).is_empty());
    if plan.stages.iter().all(|stage| stage.status == Status::Cached) && as_locked && !store.is_damaged() {
        settle(looked.asked.as_ref(), &graph, &plan, &store);
        if let Some(sharing) = &sharing {
            let artifacts = plan.stages.iter().filter_map(|stage| stage.artifact).collect();
            sharing.keep(&store, &graph.path.display().to_string(), &artifacts);
        }
        run_cached(arguments, &totals, &graph, &plan, &store, sharing.as_ref())?;
        return Ok(exit::SUCCESS);
    }
    let reports = reports(&graph, &targets);
    let options =
        Options { jobs, keep_going: arguments.keep_going, totals, lock, isolation: arguments.isolation.of(&file) };
    let root = store.root().to_owned();
    let summary = if arguments.json {
        driver::run(graph, plan, store, sharing, options, &mut |event| json_line(event))?
    } else {
        let mut live = Live::new();
        let summary = driver::run(graph, plan, store, sharing, options, &mut |event| live.on(event))?;
        tell_reports(&Store::open(&root)?, &summary, &reports)?;
        summary
    };
    Ok(match summary.outcome {
        RunOutcome::Succeeded | RunOutcome::Failed if summary.not_reproducible => exit::NOT_REPRODUCIBLE,
        RunOutcome::Succeeded => exit::SUCCESS,
        RunOutcome::Failed => exit::STAGE_FAILED,
        RunOutcome::Interrupted => exit::INTERRUPTED,
    })
}

/// Fetches what the remote store alone has and the run needs. What does not come has to be computed, for which more may be needed.
fn fetch_needed(
    graph: &Graph,
    targets: &[usize],
    asked: &[usize],
    store: &Store,
    sharing: &Sharing,
    plan: &mut Plan,
) -> Result<(), Failure> {
    loop {
        let keys = needed(graph, plan, asked);
        if keys.is_empty() {
            break;
        }
        sharing.fetch(store, &keys)?;
        *plan = plan::plan(graph, targets, Tiers::new(store, Some(sharing.remote())))?;
        sharing.remote().take_problems().iter().for_each(warn);
    }
    sharing.count_hits(plan);
    Ok(())
}

/// Carries out a run of a settled plan. Whether it was possible: the last actions of the stages must be those of this
/// very plan, which nothing is known of but its digest.
fn run_settled(arguments: &Arguments, settled: &Settled, store: &Store) -> Result<bool, Failure> {
    if arguments.dry_run {
        return Ok(plan_command::tell_settled(settled, arguments.json));
    }
    let facts = &settled.facts;
    if !settled.is_whole(JSON) || store.remembered_plan(&facts.graph).as_ref() != settled.digest(JSON) {
        return Ok(false);
    }
    let document = if arguments.json {
        let Some(document) = settled.json().and_then(|bytes| serde_json::from_slice(&bytes).ok()) else {
            return Ok(false);
        };
        Some(document)
    } else {
        None
    };
    let totals = arguments.resources.totals(&Workspace::load(&workspace(&arguments.graph.graph)?)?);
    finish_cached(arguments, &totals, facts, store, (KeptPlan::At(&settled.path(JSON)), document, None), None)?;
    Ok(true)
}

/// Carries out a run that turned out to have nothing to do.
fn run_cached(
    arguments: &Arguments,
    totals: &Totals,
    graph: &Graph,
    plan: &Plan,
    store: &Store,
    sharing: Option<&Sharing>,
) -> Result<(), Failure> {
    let warnings = sharing.map(Sharing::take_warnings).unwrap_or_default();
    warnings.iter().for_each(warn);
    let document = Document::of(graph, plan);
    let line = document.line();
    let keys = plan.stages.iter().filter_map(PlannedStage::last);
    let remembered = store.remember_keys(&graph.name, keys, Some(&Digest::of(line.as_bytes())));
    let complaint = remembered.err().map(|error| format!("later plans cannot tell what changed: {error}"));
    let summary = sharing.filter(|sharing| sharing.is_worth_a_word()).map(Sharing::summary);
    let facts = facts(graph, plan);
    let kept = (KeptPlan::Text(&line), Some(document), complaint);
    finish_cached(arguments, totals, &facts, store, kept, summary)
}

fn finish_cached(
    arguments: &Arguments,
    totals: &Totals,
    facts: &Facts,
    store: &Store,
    (plan, document, complaint): (KeptPlan<'_>, Option<Document>, Option<String>),
    summary: Option<RemoteSummary>,
) -> Result<(), Failure> {
    let path = &arguments.graph.graph;
    let run = CachedRun { graph: path, jobs: arguments.jobs.map(NonZeroUsize::get), totals };
    let folder = run.keep(store, plan)?;
    let complaint = complaint.map(|message| RunEvent::RunWarning { message });
    if arguments.json {
        complaint.iter().for_each(json_line);
        let events = document.into_iter().flat_map(|document| run.events(folder.clone(), document, summary.clone()));
        output::out(events.map(|event| line(&event)).collect::<String>());
        return Ok(());
    }
    output::out(words::all_cached(&path.display().to_string(), facts.stages));
    complaint.iter().filter_map(words::complaint).for_each(output::err);
    summary.iter().map(words::remote).for_each(output::out);
    for (_, artifact) in &facts.reports {
        tell_report(store, artifact)?;
    }
    Ok(())
}

fn json_line(event: &RunEvent) {
    output::out(line(event));
}

fn line(event: &RunEvent) -> String {
    // Events are strings, numbers and digests: they always have a JSON form.
    serde_json::to_string(event).unwrap_or_default() + "\n"
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
            tell_report(store, &artifact)?;
        }
    }
    Ok(())
}

fn tell_report(store: &Store, artifact: &ArtifactId) -> Result<(), Failure> {
    output::out(format!("report: {}\n", path(&store.view(artifact)?.join("report.html"))));
    Ok(())
}
