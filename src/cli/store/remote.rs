//! `twdag store push`, `pull` and `status`: the results of a graph here and in a remote store.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::{
    blame::exit,
    cli::{
        arguments::{GraphArguments, stage_name, targets, tell_damage},
        failure::Failure,
        output::{self, BAD, FAINT, GOOD, NOTE, STRONG, paint, table},
        remote::{RemoteOptions, plan_with, warn},
        words::{bytes, replacement, stages as count_stages},
    },
    digest::{ArtifactId, Key},
    graph::Graph,
    plan::{self, Plan},
    remote::{Conflict, Mode, Remote, SigningKey},
    store::Store,
};

/// Give the results of a graph that this machine has to the remote store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store push graphs/quickstart.ron --remote-store s3://team/cache
  twdag store push graphs/quickstart.ron train_dense --json

What is there already is not sent again. A result that differs from the published one is not sent: the exit code is 3
then, and 1 if something could not be stored. Where the log says that the bytes of the published one are lost, the new
one takes its place, which is told. A signing key signs what this machine has computed; what it has fetched from
elsewhere keeps the signature that it came with, and is withheld if nobody who is trusted has signed it.")]
pub(super) struct PushArguments {
    #[command(flatten)]
    common: Common,
}

/// Fetch the results of a graph that the remote store has and this machine lacks, intermediate ones too
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store pull graphs/quickstart.ron --remote-store s3://team/cache
  twdag store pull graphs/quickstart.ron report

Every byte is checked against its digest. The exit code is 1 if something that is published could not be fetched.
`twdag run` fetches what it needs by itself.")]
pub(super) struct PullArguments {
    #[command(flatten)]
    common: Common,
}

/// Tell which results of a graph are here, in the remote store, or in both
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store status graphs/quickstart.ron --remote-store s3://team/cache
  twdag store status graphs/quickstart.ron --json | jq '.stages[] | select(.there | not).name'")]
pub(super) struct StatusArguments {
    #[command(flatten)]
    common: Common,
}

/// Make a key that signs results, and print its public half for `trusted_keys` in twdag.ron
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store keygen ~/.config/twdag/ci.key
  TWDAG_SIGNING_KEY=~/.config/twdag/ci.key twdag run graphs/quickstart.ron --remote-store s3://team/cache

Whoever has the file can vouch for results: keep it where secrets are kept, such as the secrets of a CI system.
A workspace that names keys in `trusted_keys` uses nobody else's results (docs/team-cache.md).")]
pub(super) struct KeygenArguments {
    /// A file that is not there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Makes a key.
pub(super) fn keygen(arguments: &KeygenArguments) -> Result<u8, Failure> {
    output::out(format!("{}\n", SigningKey::create(&arguments.file)?.public()));
    Ok(exit::SUCCESS)
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    graph: GraphArguments,
    /// Only these stages and what they need
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stages: Vec<String>,
    #[command(flatten)]
    remote: RemoteOptions,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
}

/// A graph, the stores, and what is asked for.
struct Scene {
    graph: Graph,
    targets: Vec<usize>,
    store: Store,
    remote: Remote,
}

impl Common {
    /// `is_for` says whether a way to use the remote store is that of the command, which does so much with it.
    fn scene(&self, is_for: fn(Mode) -> bool, does: &str) -> Result<Scene, Failure> {
        let graph = self.graph.load()?;
        let targets = targets(&graph, &self.stages)?;
        let remote = self.remote.need(&graph.workspace)?;
        if !is_for(remote.mode()) {
            return Err(Failure::usage(format!(
                "`--remote {}` (or TWDAG_REMOTE) does not let results be {does} the remote store, which this command is for; use \
                 `--remote readwrite`",
                remote.mode().name()
            )));
        }
        let store = self.graph.open(&graph)?;
        Ok(Scene { graph, targets, store, remote })
    }
}

impl Scene {
    /// The plan, with what the remote store has. That it cannot be reached is an error here.
    fn plan(&self) -> Result<Plan, Failure> {
        let (plan, error) = plan_with(&self.graph, &self.targets, &self.store, Some(&self.remote))?;
        tell_damage(&self.store);
        error.map_or(Ok(plan), |error| Err(error.into()))
    }
}

#[derive(Serialize)]
struct Moved {
    remote_store: String,
    stages: usize,
    stored: usize,
    fetched: usize,
    there: usize,
    bytes: u64,
    requests: u64,
    failed: Vec<Failed>,
    withheld: Vec<Failed>,
    conflicts: Vec<Conflict>,
    replaced: Vec<Conflict>,
}

#[derive(Serialize)]
struct Failed {
    key: Key,
    message: String,
}

impl Moved {
    fn failed(failed: Vec<(Key, String)>) -> Vec<Failed> {
        failed.into_iter().map(|(key, message)| Failed { key, message }).collect()
    }

    /// Tells it; the exit code.
    fn tell(&self, json: bool, line: &str) -> u8 {
        if json {
            output::json(self);
        } else {
            output::out(format!("{}: {line}\n", paint(STRONG, &self.remote_store)));
            for Failed { key, message } in &self.failed {
                output::err(format!("{}: action {key}: {message}\n", paint(BAD, "failed")));
            }
            for Failed { key, message } in &self.withheld {
                output::err(format!("{}: action {key} is not given: {message}\n", paint(NOTE, "warning")));
            }
            for Conflict { key, published, found } in &self.conflicts {
                output::err(format!(
                    "{}: action {key} gave {found} here and {published} where it was published, which stays\n",
                    paint(BAD, "not reproducible")
                ));
            }
            for Conflict { key, published, found } in &self.replaced {
                warn(replacement(key, published, found, &self.remote_store));
            }
        }
        match (self.conflicts.is_empty(), self.failed.is_empty()) {
            (false, _) => exit::NOT_REPRODUCIBLE,
            (true, false) => exit::STAGE_FAILED,
            (true, true) => exit::SUCCESS,
        }
    }
}

/// Pushes.
pub(super) fn push(arguments: &PushArguments) -> Result<u8, Failure> {
    let Scene { graph, targets, store, remote } = arguments.common.scene(Mode::writes, "given to")?;
    let plan = plan::plan(&graph, &targets, &store)?;
    tell_damage(&store);
    let mut keys: Vec<Key> = Vec::new();
    for stage in plan.stages.iter().filter(|stage| stage.artifact.is_some()) {
        let Some(key) = stage.key else { continue };
        // A part that was collected is no loss.
        let parts = store.record(&key)?.map(|record| record.parts).unwrap_or_default();
        for part in parts {
            if store.record(&part.key)?.is_some() {
                keys.push(part.key);
            }
        }
        keys.push(key);
    }
    let pushed = remote.push(&store, &keys)?;
    pushed.problems.iter().for_each(warn);
    keep(&remote, &store, &graph, &plan);
    let moved = Moved {
        remote_store: remote.address().to_string(),
        stages: plan.stages.len(),
        stored: pushed.stored.len(),
        fetched: 0,
        there: pushed.there,
        bytes: pushed.bytes,
        requests: remote.requests(),
        failed: Moved::failed(pushed.failed),
        withheld: Moved::failed(pushed.withheld),
        conflicts: pushed.conflicts,
        replaced: pushed.replaced,
    };
    let absent = plan.stages.iter().filter(|stage| stage.artifact.is_none()).count();
    let absent =
        if absent == 0 { String::new() } else { format!(", {} not computed on this machine", count_stages(absent)) };
    let line = format!(
        "{} stored ({}), {} there before{absent}; {}",
        results(moved.stored),
        bytes(moved.bytes as f64),
        moved.there,
        requests(moved.requests)
    );
    Ok(moved.tell(arguments.common.json, &line))
}

/// Has the remote store know what this machine keeps.
fn keep(remote: &Remote, store: &Store, graph: &Graph, plan: &Plan) {
    let artifacts = plan.stages.iter().filter_map(|stage| stage.artifact).collect();
    if let Err(error) = remote.keep_run(store, &graph.path.display().to_string(), &artifacts) {
        warn(format!("{error}; what is pinned or used here may be collected there"));
    }
}

/// Pulls.
pub(super) fn pull(arguments: &PullArguments) -> Result<u8, Failure> {
    let scene = arguments.common.scene(Mode::reads, "taken from")?;
    let plan = scene.plan()?;
    let keys: Vec<Key> = plan.stages.iter().filter(|stage| stage.elsewhere).filter_map(|stage| stage.key).collect();
    let here = plan.stages.iter().filter(|stage| stage.artifact.is_some() && !stage.elsewhere).count();
    let pulled = scene.remote.pull(&scene.store, &keys)?;
    keep(&scene.remote, &scene.store, &scene.graph, &plan);
    let moved = Moved {
        remote_store: scene.remote.address().to_string(),
        stages: plan.stages.len(),
        stored: 0,
        fetched: pulled.fetched.len(),
        there: 0,
        bytes: pulled.bytes,
        requests: scene.remote.requests(),
        failed: Moved::failed(pulled.missing),
        withheld: Vec::new(),
        conflicts: Vec::new(),
        replaced: Vec::new(),
    };
    let absent = plan.stages.len() - here - keys.len();
    let absent = if absent == 0 { String::new() } else { format!(", {} in neither store", count_stages(absent)) };
    let line = format!(
        "{} fetched ({}), {here} here before{absent}; {}",
        results(moved.fetched),
        bytes(moved.bytes as f64),
        requests(moved.requests)
    );
    Ok(moved.tell(arguments.common.json, &line))
}

#[derive(Serialize)]
struct Status {
    remote_store: String,
    graph: String,
    stages: Vec<StageStatus>,
    requests: u64,
}

#[derive(Serialize)]
struct StageStatus {
    name: String,
    key: Option<Key>,
    here: Option<ArtifactId>,
    there: Option<ArtifactId>,
    differs: bool,
    untrusted: bool,
}

/// Tells where results are.
pub(super) fn status(arguments: &StatusArguments) -> Result<u8, Failure> {
    let Scene { graph, targets, store, remote } = arguments.common.scene(|_| true, "looked up in")?;
    remote.refresh(&store)?.iter().for_each(warn);
    let (plan, _) = plan_with(&graph, &targets, &store, Some(&remote))?;
    tell_damage(&store);
    let differing = remote.differing();
    let stages = plan.stages.iter().map(|stage| {
        let there = stage.key.and_then(|key| remote.known(&store, &key)).map(|known| known.record.artifact);
        let here = stage.artifact.filter(|_| !stage.elsewhere);
        let differs = stage.key.is_some_and(|key| differing.iter().any(|(other, _)| *other == key))
            || (here.is_some() && there.is_some() && here != there);
        let untrusted = stage.key.is_some_and(|key| remote.is_untrusted(&key));
        StageStatus { name: stage.name.clone(), key: stage.key, here, there, differs, untrusted }
    });
    let status = Status {
        remote_store: remote.address().to_string(),
        graph: graph.path.display().to_string(),
        stages: stages.collect(),
        requests: remote.requests(),
    };
    if arguments.common.json {
        output::json(&status);
        return Ok(exit::SUCCESS);
    }
    let rows: Vec<Vec<String>> = status.stages.iter().map(row).collect();
    let (published, segments) = remote.size();
    output::out(format!(
        "{} and {}: {}\n{}{} published in {segments} segments; {}\n",
        paint(STRONG, &status.graph),
        paint(STRONG, &status.remote_store),
        count_stages(rows.len()),
        table(&rows),
        results(published),
        requests(status.requests)
    ));
    Ok(exit::SUCCESS)
}

fn row(stage: &StageStatus) -> Vec<String> {
    let place = match (stage.here, stage.there) {
        (Some(_), Some(_)) => paint(GOOD, "both"),
        (Some(_), None) => paint(NOTE, "here"),
        (None, Some(_)) => paint(GOOD, "there"),
        (None, None) => paint(FAINT, "neither"),
    };
    let mut words = Vec::new();
    if stage.differs {
        words.push(paint(BAD, "gave different results: not reproducible"));
    }
    if stage.untrusted {
        words.push(paint(NOTE, "published, but by nobody whose key is trusted here"));
    }
    vec![place, stage.name.clone(), words.join("; ")]
}

fn results(count: usize) -> String {
    if count == 1 { "1 result".to_owned() } else { format!("{count} results") }
}

fn requests(count: u64) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}
