//! `twdag store gc`: what nobody needs goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::Serialize;

use super::{
    collect_remote,
    quantity::{age, size},
};
use crate::{
    blame::exit,
    cli::{
        arguments::StoreArguments,
        failure::Failure,
        output::{self, FAINT, NOTE, STRONG, paint, table},
        remote::{RemotePlace, warn},
        words::{bytes, duration, quantity},
    },
    digest::ArtifactId,
    run::history,
    store::{Collected, Kept, Retention, Root, RootSort},
};

/// Remove results that no pin, no recent run and no running process needs
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store gc --dry-run                      what would go, and what keeps how much
  twdag store gc --keep-runs 3 --older-than 2d
  twdag store gc --max-size 20GiB               let the oldest runs go until the rest fits

A result stays if a pin keeps it (twdag pin), if one of the last runs of a graph gave or used it, if it
was recorded a short time ago, or if a process that runs now relies on it.

With --remote, results of the store that a team shares go instead of those of this machine: a result
stays there if a member pinned it, if one of the last runs of a member that asked the store anything gave
or used it, or if it was published a short time ago. Who only reads (--remote read) keeps nothing. Members
that go on meanwhile find that what went is not there. What nobody is told of any more keeps its bytes for
--grace, by the server's clock, so that a second gc takes them away. If anything there cannot be read,
nothing is removed.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) shared: Shared,
    /// Keep the results of the last N runs of each graph that tell of any
    #[arg(long, value_name = "N", default_value = "10")]
    pub(super) keep_runs: usize,
    /// Keep whatever was run or recorded later than this long ago (s, min, h, d, w)
    #[arg(long, value_name = "AGE", default_value = "7d", value_parser = age)]
    pub(super) older_than: Duration,
    /// Let the oldest runs go until what stays is no larger than this (B, kB, MB, GB, TB, KiB … TiB); pins stay
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) max_size: Option<u64>,
    /// Remove nothing, and tell what would go and what keeps how much
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) store: StoreArguments,
}

/// What concerns the store that a team shares.
#[derive(Debug, Args)]
pub(super) struct Shared {
    /// Collect in the remote store (docs/team-cache.md)
    #[arg(long)]
    pub(super) remote: bool,
    /// With --remote, leave the bytes for so long after nobody is told of them any more: longer than any push takes (s, min, h, d, w)
    #[arg(long, value_name = "AGE", default_value = "1d", value_parser = age)]
    pub(super) grace: Duration,
    /// With --remote, runs of members that have said nothing for so long keep nothing, such as of CI machines that are made anew for
    /// each run; pins stay (s, min, h, d, w)
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = age)]
    pub(super) forget_after: Duration,
    /// With --remote, go on although something there cannot be read, as if that were not there
    #[arg(long)]
    pub(super) give_up_unreadable: bool,
    #[command(flatten)]
    pub(super) place: RemotePlace,
}

#[derive(Serialize)]
struct Document {
    store: String,
    dry_run: bool,
    #[serde(flatten)]
    collected: Collected,
}

/// Collects.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    if arguments.shared.remote {
        return collect_remote::run(arguments);
    }
    let store = arguments.store.open()?;
    let since = SystemTime::now().checked_sub(arguments.older_than).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut roots: Vec<Root> = store
        .pins()?
        .into_iter()
        .map(|pin| Root {
            sort: RootSort::Pin,
            name: pin.name,
            artifacts: pin.stages.iter().map(|stage| stage.artifact).collect(),
            time: pin.time,
        })
        .collect();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    // The latest come first.
    for past in history::runs(&store)? {
        let number = seen.entry(past.graph).or_default();
        let artifacts: BTreeSet<ArtifactId> = past.stages.iter().filter_map(|stage| stage.artifact).collect();
        let is_kept = *number < arguments.keep_runs;
        // One that has no result, or none that can be read, takes the place of no run that has.
        *number += usize::from(!artifacts.is_empty());
        if is_kept || SystemTime::try_from(past.last).is_ok_and(|last| last >= since) {
            roots.push(Root { sort: RootSort::Run, name: past.name, artifacts, time: past.last });
        }
    }
    let (max_size, dry_run) = (arguments.max_size, arguments.dry_run);
    store.doubt_of_locks().iter().for_each(warn);
    let collected = store.collect(Retention { roots, since, max_size, dry_run })?;
    if arguments.json {
        output::json(&Document { store: store.root().display().to_string(), dry_run, collected });
    } else {
        output::out(told(&collected, arguments));
        if collected.over_size {
            let problem = "pins, and what runs now, keep more than that; unpin something to get below it";
            output::err(format!("{}: {problem}\n", paint(NOTE, "warning")));
        }
    }
    Ok(exit::SUCCESS)
}

fn told(collected: &Collected, arguments: &Arguments) -> String {
    let removed = &collected.removed;
    let gone = counts(&[
        (removed.records, "records"),
        (removed.artifacts, "artifacts"),
        (removed.objects, "objects"),
        (removed.views, "views"),
        (removed.scratch, "unfinished"),
        (removed.runs, "run folders"),
        (removed.quarantined, "quarantined"),
        (removed.check_logs, "logs of checks"),
    ]);
    let kept = kept_by(&collected.roots, collected.kept_bytes, &collected.let_go, arguments);
    format!("{kept}{}: {} ({gone})\n", goes(arguments), paint(STRONG, bytes(removed.bytes as f64)))
}

pub(super) fn goes(arguments: &Arguments) -> &'static str {
    if arguments.dry_run { "would go" } else { "gone" }
}

/// How many of what, without those that are none.
pub(super) fn counts(counts: &[(u64, &str)]) -> String {
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| quantity(*count, word));
    let counts: Vec<String> = counts.collect();
    if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") }
}

/// What keeps how much, and what does no longer.
pub(super) fn kept_by(roots: &[Kept], kept_bytes: u64, let_go: &[String], arguments: &Arguments) -> String {
    let mut rows: Vec<Vec<String>> = roots.iter().map(|kept| row(kept, arguments)).collect();
    rows.push(vec![paint(STRONG, "together"), String::new(), String::new(), bytes(kept_bytes as f64)]);
    let let_go = let_go.iter().map(|name| format!("  {} run {name}, to stay below the size\n", paint(NOTE, "let go")));
    format!("kept by\n{}{}", table(&rows), let_go.collect::<String>())
}

fn row(kept: &Kept, arguments: &Arguments) -> Vec<String> {
    let name = match kept.sort {
        RootSort::Running => kept.name.clone(),
        RootSort::Pin => format!("pin {}", kept.name),
        RootSort::Run => format!("run {}", kept.name),
        RootSort::Recent => format!("recorded in the last {}", duration(arguments.older_than.as_secs_f64())),
    };
    vec![
        name,
        quantity(kept.artifacts, "artifacts"),
        bytes(kept.bytes as f64),
        paint(FAINT, format!("{} of it by nothing else", bytes(kept.alone_bytes as f64))),
    ]
}
