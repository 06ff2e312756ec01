//! `twdag lock`: writes down what a graph gives, to hold others to it.

use std::path::PathBuf;

use clap::Args;

use super::{
    arguments::{GraphArguments, targets, tell_damage},
    failure::Failure,
    output::{self, STRONG, paint},
    remote::tell_unasked,
    words::{path, stages as count_stages},
};
use crate::{blame::exit, lock::Lock, plan};

/// Write down the key and result of every stage, beside the graph
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag lock graphs/quickstart.ron                 writes graphs/quickstart.lock.ron
  twdag run graphs/quickstart.ron --locked         on any machine: exit code 3 if anything differs
  twdag lock graphs/quickstart.ron --set lambda=0.5 --lock-file graphs/half.lock.ron

The file has one line a stage, sorted, so that git merges it; commit it with the graph. Everything must be computed: a lock
names results. Another file than a lock is not replaced.

Settings stand in the lock as they are, also values from --set and `env` of a Command: put no secrets there.")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// Where to write it, if not to NAME.lock.ron beside the graph
    #[arg(long, value_name = "FILE")]
    lock_file: Option<PathBuf>,
}

/// Locks.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let graph = arguments.graph.load()?;
    let file = arguments.lock_file.clone().unwrap_or_else(|| Lock::path_of(&graph.path));
    Lock::need_place(&file)?;
    let store = arguments.graph.open(&graph)?;
    let plan = plan::plan(&graph, &targets(&graph, &[])?, &store)?;
    tell_damage(&store);
    if plan.stages.iter().any(|stage| stage.artifact.is_none()) {
        tell_unasked(&graph.workspace);
    }
    let lock = Lock::of(file, &graph, &plan, &store)?;
    // One that cannot be read, such as one with a merge conflict, is replaced like any other.
    let before = Lock::read(&lock.path).ok();
    let what = match &before {
        Some(before) if *before == lock => "nothing changed".to_owned(),
        Some(before) => changed(before, &lock),
        None => "new".to_owned(),
    };
    lock.write()?;
    output::out(format!("{}: {}, {what}\n", paint(STRONG, path(&lock.path)), count_stages(lock.stages.len())));
    Ok(exit::SUCCESS)
}

/// Which stages are locked otherwise than before.
fn changed(before: &Lock, now: &Lock) -> String {
    let quoted = |names: Vec<&String>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let other = now.stages.iter().filter(|(name, stage)| before.stages.get(*name) != Some(stage));
    let other: Vec<&String> = other.map(|(name, _)| name).collect();
    let gone: Vec<&String> = before.stages.keys().filter(|name| !now.stages.contains_key(*name)).collect();
    match (other.is_empty(), gone.is_empty()) {
        (true, true) => "other parameters".to_owned(),
        (false, true) => format!("changed: {}", quoted(other)),
        (true, false) => format!("gone: {}", quoted(gone)),
        (false, false) => format!("changed: {}; gone: {}", quoted(other), quoted(gone)),
    }
}
