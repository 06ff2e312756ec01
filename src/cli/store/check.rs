//! `twdag store check`: every byte looked at, and repaired what can be repaired.

use std::{io::IsTerminal, time::Duration};

use anstyle::Style;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::check_remote;
use crate::{
    blame::exit,
    cli::{
        arguments::StoreArguments,
        failure::Failure,
        output::{self, BAD, FAINT, GOOD, NOTE, paint},
        remote::RemotePlace,
        words::{bytes, path, quantity},
    },
    store::{Checked, Finding, Sort},
};

/// Hash everything, set damage aside, and repair what can be repaired
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store check
  twdag store check --json | jq -r '.findings[] | select(.sort == \"lost\") | .problem'
  twdag store check --remote --dry-run --remote-store s3://team/cache

Damaged files are set aside in local/quarantine, records of lost results are removed, so that the
next run computes them again, and what interrupted processes left is removed. Runs may go on
meanwhile. The exit code is 1 if anything was damaged or lost; a second check then gives 0.

With --remote, the store that a team shares is read: signatures, lists of files, and every byte that a
result names. Results that lack bytes count as not there from then on, and who has one gives it again.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) shared: Shared,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) store: StoreArguments,
}

/// What concerns the store that a team shares.
#[derive(Debug, Args)]
pub(super) struct Shared {
    /// Check the remote store (docs/team-cache.md); every byte of it is read
    #[arg(long)]
    pub(super) remote: bool,
    /// With --remote, change nothing there, and tell what is wrong
    #[arg(long, requires = "remote")]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) place: RemotePlace,
}

#[derive(Serialize)]
struct Document {
    store: String,
    whole: bool,
    #[serde(flatten)]
    checked: Checked,
}

/// Checks.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    if arguments.shared.remote {
        return check_remote::run(arguments);
    }
    let store = arguments.store.open()?;
    let bar = bar();
    let checked = store.check(&|hashing| {
        bar.set_length(hashing.total);
        bar.set_position(hashing.done);
    })?;
    bar.finish_and_clear();
    let whole = checked.is_whole();
    let root = store.root().display().to_string();
    if arguments.json {
        output::json(&Document { store: root, whole, checked });
    } else {
        output::out(told(&checked, &path(store.root())));
    }
    Ok(if whole { exit::SUCCESS } else { exit::STAGE_FAILED })
}

pub(super) fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "  hashing {bar:20.cyan/dim} {percent:>3}%  {bytes} of {total_bytes}, {bytes_per_sec}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("━╸─");
    let bar = ProgressBar::new(0).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn told(checked: &Checked, root: &str) -> String {
    let told = |Finding { sort, path: place, problem, repair }: &Finding| line(*sort, &path(place), problem, repair);
    let lines: String = checked.findings.iter().map(told).collect();
    let count = |sort| checked.findings.iter().filter(|finding| finding.sort == sort).count();
    let verdict = if checked.is_whole() {
        paint(GOOD, "whole")
    } else {
        let counts = format!("{} damaged, {} lost", count(Sort::Damaged), count(Sort::Lost));
        paint(BAD, counts)
    };
    let again = if checked.is_whole() { "" } else { "runs compute again what they need of it\n" };
    format!(
        "{lines}{root}: {verdict}; {}, {}, {}, {} are as they should be\n{again}",
        quantity(checked.records, "records"),
        quantity(checked.artifacts, "artifacts"),
        quantity(checked.objects, "objects"),
        bytes(checked.bytes as f64),
    )
}

/// A finding, where it is, and what was done.
pub(super) fn line(sort: Sort, place: &str, problem: &str, repair: &str) -> String {
    let (style, word) = style(sort);
    format!("  {} {place}\n           {problem}; {}\n", paint(style, word), paint(FAINT, repair))
}

fn style(sort: Sort) -> (Style, &'static str) {
    match sort {
        Sort::Damaged => (BAD, "damaged "),
        Sort::Lost => (BAD, "lost    "),
        Sort::Foreign => (NOTE, "foreign "),
        Sort::Leftover => (FAINT, "leftover"),
    }
}
