//! `twdag plan`: what a run would do, and why.

use clap::Args;
use serde::Serialize;

use super::{
    arguments::{GraphArguments, LockArguments, stage_name, targets, tell_damage},
    failure::Failure,
    forecast::{self, Host, NamedDevice},
    output::{self, BAD, FAINT, GOOD, NOTE, STRONG, paint, table},
    remote::{RemoteOptions, plan_with, warn},
    settled::{look, settle},
    why::explain,
    words::stages as count_stages,
};
use crate::{
    blame::exit,
    graph::{Graph, amount::bytes},
    lock::{Deviation, Lock},
    plan::{Document, Plan, Status, settled::Settled},
};

/// Tell for each stage whether it is cached, will run (and why), or waits for others
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag plan graphs/quickstart.ron
  twdag plan graphs/quickstart.ron report --set lambda=0.5
  twdag plan graphs/quickstart.ron --why report
  twdag plan graphs/quickstart.ron --locked
  twdag plan graphs/llama3-frozen.ron --device h100 --host-memory 192GB
  twdag plan graphs/quickstart.ron --json | jq '.stages[] | select(.status == \"run\").name'")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// Only these stages and what they need
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stages: Vec<String>,
    /// Explain one stage: all that differs from what it was last keyed by, or what it waits for
    #[arg(long, value_name = "STAGE", value_parser = stage_name(), conflicts_with_all = ["stages", "locked", "device"])]
    why: Option<String>,
    /// Tell instead what the stages will cost on this device: operations, memory, time, disk, and what does not fit
    #[arg(long, value_name = "DEVICE", conflicts_with = "locked")]
    device: Option<NamedDevice>,
    /// The memory of the host that the device is in, such as 192GB: what does not fit there is told, too
    #[arg(long, value_name = "SIZE", requires = "device", value_parser = size)]
    host_memory: Option<u64>,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    remote: RemoteOptions,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    bytes(text).ok_or_else(|| "expected a size with its unit, such as 192GB or 64GiB".to_owned())
}

/// Plans and tells.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    if let Some(stage) = &arguments.why {
        return explain(&arguments.graph, stage, arguments.json);
    }
    if let Some(device) = arguments.device {
        let graph = arguments.graph.load()?;
        let host = Host { device, memory: arguments.host_memory };
        forecast::run(&graph, &targets(&graph, &arguments.stages)?, host, arguments.json);
        return Ok(exit::SUCCESS);
    }
    let looked = look(&arguments.graph, &arguments.stages)?;
    let lock = arguments.lock.read(&arguments.graph.graph)?;
    if let Some((settled, _)) = &looked.settled
        && lock.is_none()
        && tell_settled(settled, arguments.json)
    {
        return Ok(exit::SUCCESS);
    }
    let graph = arguments.graph.load()?;
    let targets = targets(&graph, &arguments.stages)?;
    let store = arguments.graph.open(&graph)?;
    let remote = arguments.remote.find(&graph.workspace)?;
    let (plan, error) = plan_with(&graph, &targets, &store, remote.as_ref())?;
    if let Some(error) = error {
        warn(format!("{error}; the plan knows nothing of it"));
    }
    tell_damage(&store);
    if let Some(problem) = lock.as_ref().and_then(|lock| lock.outdated(&graph, &plan)) {
        return Err(Failure::not_reproducible(problem));
    }
    let code = tell(&graph, &plan, lock.as_ref(), arguments.json);
    settle(looked.asked.as_ref(), &graph, &plan, &store);
    Ok(code)
}

/// Whether a settled plan is all that the lock asks for, if there is one.
pub(super) fn agrees(lock: Option<&Lock>, settled: &Settled, stages: &[String]) -> bool {
    let Some(lock) = lock else { return true };
    let document = settled.json().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    document.is_some_and(|document| lock.agrees(&document, stages.is_empty()))
}

/// Prints a plan in which everything is cached. Whether it could be read.
pub(super) fn tell_settled(settled: &Settled, json: bool) -> bool {
    let text = if json { settled.json() } else { settled.text() };
    text.map(|text| output::out(String::from_utf8_lossy(&text))).is_some()
}

/// Prints a plan, as JSON or as a table, and in what it is not what the lock says; the exit code.
pub(super) fn tell(graph: &Graph, plan: &Plan, lock: Option<&Lock>, json: bool) -> u8 {
    let deviations = lock.map(|lock| lock.deviations(graph, plan));
    let code =
        if deviations.as_ref().is_some_and(|found| !found.is_empty()) { exit::NOT_REPRODUCIBLE } else { exit::SUCCESS };
    if json {
        let document = Document::of(graph, plan);
        // Two documents in one: the plan, and what is known of the lock.
        match deviations {
            Some(deviations) => output::out(line(&Locked { plan: document, deviations })),
            None => output::out(document.line()),
        }
        return code;
    }
    output::out(text(graph, plan));
    for deviation in deviations.iter().flatten() {
        output::err(format!("{}: stage `{}`: {deviation}\n", paint(BAD, "not as locked"), deviation.stage));
    }
    if let (Some(lock), true) = (lock, code == exit::SUCCESS) {
        let open = plan.stages.iter().filter(|stage| stage.status != Status::Cached).count();
        let known = if open == 0 {
            "all of it".to_owned()
        } else {
            format!("as far as is known before {} ran", count_stages(open))
        };
        output::out(format!("as {} says, {known}\n", lock.path.display()));
    }
    code
}

/// A plan that is held to a lock.
#[derive(Serialize)]
struct Locked {
    #[serde(flatten)]
    plan: Document,
    deviations: Vec<Deviation>,
}

fn line(document: &impl Serialize) -> String {
    // Strings and digests always have a JSON form.
    serde_json::to_string(document).unwrap_or_default() + "\n"
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
