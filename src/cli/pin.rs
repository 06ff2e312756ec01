//! `twdag pin`, `twdag unpin`, `twdag pins`: results that stay whatever is collected.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    arguments::{GraphOptions, StoreArguments, load, stage_name, targets, tell_damage},
    failure::Failure,
    output::{self, FAINT, STRONG, paint, table},
    remote::tell_unasked,
    runs::time,
    words::{bytes, short, stages as count_stages},
};
use crate::{
    blame::exit,
    plan,
    run::history,
    store::{Pin, PinnedStage, Store},
};

/// Keep the results of a graph or of a past run from being collected
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag pin graphs/quickstart.ron                      the results of all its stages, under the name `quickstart`
  twdag pin graphs/quickstart.ron report --name paper  one stage and what it was made from
  twdag pin --run 20260301T100000.000Z-4711 --name submission")]
pub(super) struct PinArguments {
    /// The graph file
    #[arg(value_name = "GRAPH", required_unless_present = "run")]
    graph: Option<PathBuf>,
    /// Only these stages and what they need
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stages: Vec<String>,
    /// The results of this past run instead (`twdag runs` lists them)
    #[arg(long, value_name = "RUN", conflicts_with = "graph")]
    run: Option<String>,
    /// What to call the pin; an earlier one of that name is replaced [default: the name of the graph]
    #[arg(long, value_name = "NAME", value_parser = stage_name())]
    name: Option<String>,
    #[command(flatten)]
    options: GraphOptions,
}

/// Let pinned results go the next time something is collected
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag unpin quickstart")]
pub(super) struct UnpinArguments {
    /// The name of the pin
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    store: StoreArguments,
}

/// List what is pinned
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag pins
  twdag pins --json | jq -r '.pins[].name'")]
pub(super) struct PinsArguments {
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArguments,
}

/// Pins.
pub(super) fn pin(arguments: &PinArguments) -> Result<u8, Failure> {
    let (store, pin) = match (&arguments.graph, &arguments.run) {
        (Some(graph), _) => of_graph(arguments, graph)?,
        (None, Some(run)) => of_run(arguments, run)?,
        (None, None) => return Err(Failure::usage("name a graph, or a run with --run")),
    };
    // Whoever pins means results that are there.
    let mut size = 0;
    for stage in &pin.stages {
        size = store.manifest(&stage.artifact)?.size().saturating_add(size);
    }
    store.pin(&pin)?;
    output::out(format!(
        "pinned {}: the results of {}, {}\n",
        paint(STRONG, &pin.name),
        count_stages(pin.stages.len()),
        bytes(size as f64)
    ));
    Ok(exit::SUCCESS)
}

fn of_graph(arguments: &PinArguments, path: &std::path::Path) -> Result<(Store, Pin), Failure> {
    let graph = load(path, &arguments.options)?;
    let targets = targets(&graph, &arguments.stages)?;
    let store = arguments.options.open(&graph)?;
    let plan = plan::plan(&graph, &targets, &store)?;
    tell_damage(&store);
    if plan.stages.iter().any(|stage| stage.artifact.is_none()) {
        tell_unasked(&graph.workspace);
    }
    let mut stages = Vec::new();
    for stage in plan.stages {
        let artifact = stage.artifact.ok_or_else(|| {
            Failure::missing(format!(
                "stage `{}` has not been computed ({}); compute it with: twdag run {}",
                stage.name,
                stage.reason,
                graph.path.display()
            ))
        })?;
        stages.push(PinnedStage { name: stage.name, artifact });
    }
    let name = arguments.name.clone().unwrap_or_else(|| graph.name.clone());
    Ok((store, Pin { name, graph: graph.path.display().to_string(), time: Timestamp::now(), stages }))
}

fn of_run(arguments: &PinArguments, run: &str) -> Result<(Store, Pin), Failure> {
    let store = arguments.options.here()?;
    let found = history::runs(&store)?.into_iter().find(|past| past.name == run);
    let found = found.ok_or_else(|| Failure::usage(format!("there is no run `{run}`; see: twdag runs")))?;
    let stages: Vec<PinnedStage> = found
        .stages
        .into_iter()
        .filter_map(|stage| Some(PinnedStage { name: stage.name, artifact: stage.artifact? }))
        .collect();
    if stages.is_empty() {
        return Err(Failure::missing(format!("run `{run}` has no results to keep")));
    }
    let name = arguments.name.clone().unwrap_or_else(|| run.to_owned());
    Ok((store, Pin { name, graph: found.graph, time: Timestamp::now(), stages }))
}

/// Unpins.
pub(super) fn unpin(arguments: &UnpinArguments) -> Result<u8, Failure> {
    let store = arguments.store.open()?;
    if store.unpin(&arguments.name)? {
        output::out(format!("unpinned {}\n", paint(STRONG, &arguments.name)));
        return Ok(exit::SUCCESS);
    }
    let names: Vec<String> = store.pins()?.into_iter().map(|pin| format!("`{}`", pin.name)).collect();
    let there =
        if names.is_empty() { "nothing is pinned".to_owned() } else { format!("there is {}", names.join(", ")) };
    Err(Failure::usage(format!("there is no pin `{}`; {there}", arguments.name)))
}

#[derive(Serialize)]
struct Document {
    pins: Vec<Pin>,
}

/// Lists pins.
pub(super) fn list(arguments: &PinsArguments) -> Result<u8, Failure> {
    let pins = arguments.store.open()?.pins()?;
    if arguments.json {
        output::json(&Document { pins });
    } else if pins.is_empty() {
        output::out("nothing is pinned\n");
    } else {
        let row = |pin: &Pin| {
            let last = pin.stages.last().map(|stage| short(stage.artifact)).unwrap_or_default();
            vec![
                paint(STRONG, &pin.name),
                time(pin.time),
                pin.graph.clone(),
                count_stages(pin.stages.len()),
                paint(FAINT, last),
            ]
        };
        output::out(table(&pins.iter().map(row).collect::<Vec<_>>()));
    }
    Ok(exit::SUCCESS)
}
