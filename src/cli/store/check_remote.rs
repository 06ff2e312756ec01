//! `twdag store check --remote`: every byte of the store that a team shares looked at.

use serde::Serialize;

use super::check::{Arguments, bar, line};
use crate::{
    blame::exit,
    cli::{
        arguments::StoreArguments,
        failure::Failure,
        output::{self, BAD, GOOD, paint},
        words::{bytes, quantity},
    },
    remote::{RemoteChecked, RemoteFinding},
};

#[derive(Serialize)]
struct Document {
    remote_store: String,
    dry_run: bool,
    whole: bool,
    requests: u64,
    #[serde(flatten)]
    checked: RemoteChecked,
}

/// Checks.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let remote = arguments.shared.place.need(&StoreArguments::workspace()?)?;
    let store = arguments.store.open_or_create()?;
    let bar = bar();
    let dry_run = arguments.shared.dry_run;
    let checked = remote.check(&store, dry_run, &|hashing| {
        bar.set_length(hashing.total);
        bar.set_position(hashing.done);
    })?;
    bar.finish_and_clear();
    let whole = checked.is_whole();
    let remote_store = remote.address().to_string();
    if arguments.json {
        let requests = remote.requests();
        output::json(&Document { remote_store, dry_run, whole, requests, checked });
    } else {
        output::out(told(&checked, &remote_store));
    }
    Ok(if whole { exit::SUCCESS } else { exit::STAGE_FAILED })
}

fn told(checked: &RemoteChecked, address: &str) -> String {
    let told = |RemoteFinding { sort, object, problem, repair }: &RemoteFinding| line(*sort, object, problem, repair);
    let lines: String = checked.findings.iter().map(told).collect();
    let verdict = if checked.is_whole() {
        paint(GOOD, "whole")
    } else {
        paint(BAD, format!("{} lost", quantity(checked.lost, "results")))
    };
    let untrusted = match checked.untrusted {
        0 => String::new(),
        count => format!(" ({count} of nobody who is trusted here)"),
    };
    let unneeded = match checked.unneeded {
        0 => String::new(),
        count => format!("{} that no result names: twdag store gc --remote\n", quantity(count, "objects")),
    };
    format!(
        "{lines}{address}: {verdict}; {}{untrusted}, {}, {} are as they should be\n{unneeded}",
        quantity(checked.results, "results"),
        quantity(checked.contents, "contents"),
        bytes(checked.bytes as f64),
    )
}
