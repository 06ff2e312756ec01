//! `twdag diff`: in what two results differ, and where first.

pub(super) mod words;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use twdag_stages::stage::Reference;

use super::{
    arguments::{ParameterOptions, assignment},
    failure::Failure,
    output,
    side::{Side, SideStage},
};
use crate::{
    blame::exit,
    compare::{self, Comparison, FileDifference, Folder, ValueDifference},
    digest::{ArtifactId, Digest, Key},
    plan::{Differing, Sort, differences},
    store::Entry,
};

/// Where measured values lie in a result.
const METRICS: &str = "metrics.json";

/// Tell in what two results differ: settings, inputs, files, tensors, metrics
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag diff graphs/quickstart.ron:dense graphs/quickstart.ron:dense --other-set lambda=0.5
  twdag diff graphs/quickstart.ron graphs/quickstart.ron --other-store /mnt/colleague/artifacts
  twdag diff graphs/quickstart.lock.ron graphs/quickstart.ron
  twdag diff 659333aabfa8 8c41d07e2b55            two artifacts, by the first digits of their names
  twdag diff 20260301T100000.000Z-4711 20260302T090000.000Z-812

A and B are each a graph, a lock file or a run, whole or one stage of it (`A:STAGE`), or an artifact. Of whole ones the first
stage that differs is looked into: one that differs although all it reads is the same, if there is one. Other stages that differ of
themselves are named with what they differ in, and at last all metrics that differ.
--set and --profile are for graphs, --other-set and --other-profile for a graph B.
Exit codes: 0 if they are the same, 3 if they differ. Stages that wait for others to be computed are named, and count as neither.")]
pub(super) struct Arguments {
    /// A graph, lock file, run or artifact; `:STAGE` behind it names one stage
    #[arg(value_name = "A")]
    one: String,
    /// What to compare it with
    #[arg(value_name = "B")]
    other: String,
    #[command(flatten)]
    parameters: ParameterOptions,
    /// Give a parameter another value for B alone; outweighs all others
    #[arg(long = "other-set", value_name = "NAME=VALUE", value_parser = assignment)]
    other_set: Vec<(String, String)>,
    /// The profile of B, if it is another one
    #[arg(long, value_name = "NAME")]
    other_profile: Option<String>,
    /// The store [default: the folder `artifacts` of the workspace]
    #[arg(long, value_name = "DIR", env = "TWDAG_STORE", hide_env_values = true)]
    store: Option<PathBuf>,
    /// The store of B, if it is another one
    #[arg(long, value_name = "DIR")]
    other_store: Option<PathBuf>,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
}

/// What `twdag diff --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    one: String,
    other: String,
    /// Stages that are the same in both.
    same: Vec<String>,
    /// Stages that are not, in order.
    differ: Vec<String>,
    /// Stages of which too little is known to tell: they wait for others.
    unknown: Vec<String>,
    only_in_one: Vec<String>,
    only_in_other: Vec<String>,
    /// The stage that is looked into.
    stage: Option<Detail>,
    /// The other stages that differ of themselves, and not only because of what they read.
    also: Vec<Cause>,
    /// What it comes to: the metrics of stages that are not looked into.
    metrics: Vec<Metrics>,
    /// Stages whose metrics, if they have any, cannot be compared.
    metrics_unknown: Vec<UnknownMetrics>,
}

/// A stage that differs of itself.
#[derive(Debug, Serialize)]
struct Cause {
    name: String,
    /// In what it is keyed otherwise, but for what it reads of other stages; nothing if only the result differs.
    differences: Vec<Differing>,
}

/// Metrics of a stage that differ.
#[derive(Debug, Serialize)]
struct Metrics {
    name: String,
    /// The first of them.
    values: Vec<ValueDifference>,
    /// How many there are.
    differing_values: usize,
}

/// Metrics of a stage that cannot be compared.
#[derive(Debug, Serialize)]
struct UnknownMetrics {
    name: String,
    /// Why not.
    problem: String,
}

/// How one stage differs.
#[derive(Debug, Serialize)]
struct Detail {
    name: String,
    other_name: String,
    one: Known,
    other: Known,
    /// In what it is keyed otherwise.
    differences: Vec<Differing>,
    /// In what the results differ; nothing if they cannot be compared.
    files: Option<Comparison>,
    /// Why the results cannot be compared.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Known {
    key: Option<Key>,
    artifact: Option<ArtifactId>,
}

impl Known {
    fn of(stage: &SideStage) -> Self {
        Self { key: stage.action.as_ref().map(|action| action.key), artifact: stage.artifact }
    }
}

/// Compares.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let overrides = arguments.parameters.overrides();
    let mut other_overrides = overrides.clone();
    other_overrides.set.extend(arguments.other_set.iter().cloned());
    other_overrides.profile = arguments.other_profile.clone().or(other_overrides.profile);
    let other_store = arguments.other_store.as_ref().or(arguments.store.as_ref());
    let one = Side::find(&arguments.one, &overrides, arguments.store.as_deref())?;
    let mut other = Side::find(&arguments.other, &other_overrides, other_store.map(PathBuf::as_path))?;
    refuse_idle(arguments, &one, &other)?;
    // Both may be named alike.
    let sets = arguments.other_set.iter().map(|(name, value)| format!(" --set {name}={value}"));
    let profile = arguments.other_profile.iter().map(|profile| format!(" --profile {profile}"));
    let store = arguments.other_store.iter().map(|store| format!(" --store {}", store.display()));
    other.label.extend(profile.chain(sets).chain(store));
    let document = compare(&one, &other);
    let is_same = [&document.differ, &document.only_in_one, &document.only_in_other].into_iter().all(Vec::is_empty);
    if arguments.json {
        output::json(&document);
    } else {
        output::out(words::page(&document));
    }
    let lacks = document.stage.as_ref().is_some_and(|stage| stage.problem.is_some());
    if lacks || !document.unknown.is_empty() || !document.metrics_unknown.is_empty() {
        one.tell_unasked();
    }
    Ok(if is_same { exit::SUCCESS } else { exit::NOT_REPRODUCIBLE })
}

/// Refuses values of parameters that no graph would take.
fn refuse_idle(arguments: &Arguments, one: &Side, other: &Side) -> Result<(), Failure> {
    let overrides = arguments.parameters.overrides();
    let of_b = !other.is_graph();
    let of_both = of_b && !one.is_graph();
    let idle = [
        (of_both && !overrides.set.is_empty(), "--set"),
        (of_both && overrides.profile.is_some(), "--profile"),
        (of_b && !arguments.other_set.is_empty(), "--other-set"),
        (of_b && arguments.other_profile.is_some(), "--other-profile"),
    ];
    let Some((_, option)) = idle.into_iter().find(|(is_idle, _)| *is_idle) else { return Ok(()) };
    let what = if option.starts_with("--other") {
        format!("{} is none", arguments.other)
    } else {
        format!("neither {} nor {} is one", arguments.one, arguments.other)
    };
    Err(Failure::usage(format!(
        "{option} gives parameters of a graph their values, and {what}: results that were locked or computed stay what they are"
    )))
}

fn compare(one: &Side, other: &Side) -> Document {
    let mut document = Document {
        one: one.label.clone(),
        other: other.label.clone(),
        same: Vec::new(),
        differ: Vec::new(),
        unknown: Vec::new(),
        only_in_one: Vec::new(),
        only_in_other: Vec::new(),
        stage: None,
        also: Vec::new(),
        metrics: Vec::new(),
        metrics_unknown: Vec::new(),
    };
    let mut pairs = Vec::new();
    if let ([first], [second]) = (one.stages.as_slice(), other.stages.as_slice()) {
        // Two stages that are named are meant, whatever their names.
        pairs.push((first, second));
    } else {
        for stage in &one.stages {
            match other.stage(&stage.name) {
                Some(second) => pairs.push((stage, second)),
                None => document.only_in_one.push(stage.name.clone()),
            }
        }
        let new = other.stages.iter().filter(|stage| one.stage(&stage.name).is_none());
        document.only_in_other.extend(new.map(|stage| stage.name.clone()));
    }
    let (mut same, mut differ, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for (first, second) in pairs {
        let list = match first.is_same(second) {
            Some(true) => &mut same,
            Some(false) => &mut differ,
            None => &mut unknown,
        };
        list.push((first, second));
    }
    let names = |pairs: &[(&SideStage, &SideStage)]| pairs.iter().map(|(stage, _)| stage.name.clone()).collect();
    (document.same, document.differ, document.unknown) = (names(&same), names(&differ), names(&unknown));
    let looked_into = differ.iter().find(|(stage, _)| !reads_one_of(one, stage, &differ)).or(differ.first());
    if let Some((first, second)) = looked_into {
        document.stage = Some(detail((one, first), (other, second)));
        let others = || differ.iter().filter(|(stage, _)| stage.name != first.name);
        document.also = others().filter_map(|(first, second)| cause((one, first), (other, second), &differ)).collect();
        for (first, second) in others() {
            match metrics((one, first), (other, second)) {
                Ok(metrics) => document.metrics.extend(metrics),
                Err(problem) => {
                    document.metrics_unknown.push(UnknownMetrics { name: first.name.clone(), problem });
                }
            }
        }
    }
    document
}

/// In what a stage differs of itself, if it does.
fn cause(
    (one, first): (&Side, &SideStage),
    (other, second): (&Side, &SideStage),
    differ: &[(&SideStage, &SideStage)],
) -> Option<Cause> {
    let (before, now) = (first.action.as_ref()?, second.action.as_ref()?);
    let mut differences = differences(second.node(other), before, now);
    // What it reads in both differs because of another stage, if it is a result of that, and of that on both sides.
    let (read_before, read_now) = (first.reads(one), second.reads(other));
    differences.retain(|difference| {
        let reference = read_before.get(&difference.place).filter(|_| difference.what == Sort::Input);
        let kept = reference.filter(|reference| read_now.get(&difference.place) == Some(*reference));
        !kept.is_some_and(|reference| is_of_one(reference, differ))
    });
    // The same key and another result: it is not reproducible.
    let is_cause = before.key == now.key || !differences.is_empty();
    is_cause.then(|| Cause { name: first.name.clone(), differences })
}

/// The metrics of a stage, if it has any and they differ; the error says why that is not known.
fn metrics((one, first): (&Side, &SideStage), (other, second): (&Side, &SideStage)) -> Result<Option<Metrics>, String> {
    let both = first.artifact.zip(second.artifact).filter(|(artifact, with)| artifact != with);
    let Some((artifact, with)) = both else { return Ok(None) };
    let of = |side: &Side, artifact| -> Result<Option<Digest>, String> {
        let manifest = side.store().and_then(|store| store.manifest(artifact)).map_err(|error| error.to_string())?;
        Ok(manifest.files().iter().find(|file| file.path == METRICS).map(|file| file.digest))
    };
    // Most results have none: those need no view.
    match (of(one, &artifact)?, of(other, &with)?) {
        (None, None) => return Ok(None),
        (Some(one), Some(other)) if one == other => return Ok(None),
        (Some(_), Some(_)) => {}
        (Some(_), None) => return Err(format!("{METRICS} is only in the one")),
        (None, Some(_)) => return Err(format!("{METRICS} is only in the other")),
    }
    let comparison = files((one, first, artifact), (other, with), &|path| path == METRICS)?;
    let Some(file) = comparison.files.into_iter().next() else { return Ok(None) };
    let FileDifference { values, differing_values, problem, .. } = file;
    if let Some(problem) = problem {
        return Err(problem);
    }
    // The same values may be written otherwise.
    Ok((differing_values > 0).then(|| Metrics { name: first.name.clone(), values, differing_values }))
}

/// Whether a stage reads the result of one of those, so that it differs because of it.
fn reads_one_of(side: &Side, stage: &SideStage, differ: &[(&SideStage, &SideStage)]) -> bool {
    stage.reads(side).values().any(|reference| is_of_one(reference, differ))
}

/// Whether a reference leads to one of those.
fn is_of_one(reference: &Reference, differ: &[(&SideStage, &SideStage)]) -> bool {
    differ.iter().any(|(made, _)| made.name == reference.stage())
}

fn detail((one, first): (&Side, &SideStage), (other, second): (&Side, &SideStage)) -> Detail {
    let changes = match (&first.action, &second.action) {
        (Some(before), Some(now)) => differences(second.node(other), before, now),
        _ => Vec::new(),
    };
    let mut detail = Detail {
        name: first.name.clone(),
        other_name: second.name.clone(),
        one: Known::of(first),
        other: Known::of(second),
        differences: changes,
        files: None,
        problem: None,
    };
    match (first.artifact, second.artifact) {
        (Some(artifact), Some(with)) if artifact != with => {
            match files((one, first, artifact), (other, with), &|_| true) {
                Ok(comparison) => detail.files = Some(comparison),
                Err(problem) => detail.problem = Some(problem),
            }
        }
        (Some(_), Some(_)) => {}
        (None, _) => detail.problem = Some(format!("{} has no result of it yet", one.label)),
        (_, None) => detail.problem = Some(format!("{} has no result of it yet", other.label)),
    }
    detail
}

/// Compares the wanted files of two results; the error says in plain words why that is not possible.
fn files(
    (one, stage, artifact): (&Side, &SideStage, ArtifactId),
    (other, with): (&Side, ArtifactId),
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<Comparison, String> {
    let words = |error: crate::store::StoreError| error.to_string();
    let list = |side: &Side, artifact| -> Result<Vec<Entry>, String> {
        let manifest = side.store().and_then(|store| store.manifest(artifact)).map_err(words)?;
        Ok(manifest.files().iter().filter(|file| is_wanted(&file.path)).cloned().collect())
    };
    let lists = (list(one, &artifact)?, list(other, &with)?);
    let view = |side: &Side, artifact| side.store().and_then(|store| store.view(artifact)).map_err(words);
    let views = (view(one, &artifact)?, view(other, &with)?);
    let tokens = one.tokens_of(stage);
    compare::folders(
        Folder { path: &views.0, files: &lists.0 },
        Folder { path: &views.1, files: &lists.1 },
        tokens.as_deref(),
        compare::Tolerances::NONE,
    )
    .map_err(|error| error.to_string())
}
