//! `twdag store gc --remote`: what no member of a team needs goes from the store that they share.

use serde::Serialize;

use super::collect::{Arguments, Shared, counts, goes, kept_by};
use crate::{
    blame::exit,
    cli::{
        arguments::StoreArguments,
        failure::Failure,
        output::{self, STRONG, paint},
        remote::warn,
        words::{bytes, quantity},
    },
    remote::{RemoteCollected, RemoteRetention},
};

#[derive(Serialize)]
struct Document {
    remote_store: String,
    dry_run: bool,
    requests: u64,
    #[serde(flatten)]
    collected: RemoteCollected,
}

/// Collects.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let remote = arguments.shared.place.need(&StoreArguments::workspace()?)?;
    let store = arguments.store.open_or_create()?;
    let &Arguments { keep_runs, older_than, max_size, dry_run, .. } = arguments;
    let &Shared { forget_after, grace, give_up_unreadable, .. } = &arguments.shared;
    let retention =
        RemoteRetention { keep_runs, older_than, forget_after, grace, max_size, give_up_unreadable, dry_run };
    let (collected, problems) = remote.collect(&store, &retention)?;
    problems.iter().for_each(warn);
    if arguments.json {
        let remote_store = remote.address().to_string();
        output::json(&Document { remote_store, dry_run, requests: remote.requests(), collected });
        return Ok(exit::SUCCESS);
    }
    output::out(told(&collected, arguments));
    if collected.over_size {
        warn(
            "pins keep more than that; unpin something, and run or push on the machine that pinned it, to get below it",
        );
    }
    Ok(exit::SUCCESS)
}

fn told(collected: &RemoteCollected, arguments: &Arguments) -> String {
    let removed = &collected.removed;
    let gone = counts(&[
        (removed.results, "results"),
        (removed.objects, "objects"),
        (removed.packs, "packs"),
        (removed.roots, "old runs"),
        (removed.leftovers, "leftovers"),
    ]);
    let kept = kept_by(&collected.roots, collected.kept_bytes, &collected.let_go, arguments);
    let waiting = if collected.waiting == 0 {
        String::new()
    } else {
        let (objects, length) = (quantity(collected.waiting, "objects"), bytes(collected.waiting_bytes as f64));
        format!("{length} more ({objects}) that nobody is told of can go later\n")
    };
    let revived = match collected.revived {
        0 => String::new(),
        count => {
            let are = if arguments.dry_run { "would be there again" } else { "there again" };
            format!("{are}, as somebody keeps them: {}\n", quantity(count, "results"))
        }
    };
    format!("{kept}{revived}{}: {} ({gone})\n{waiting}", goes(arguments), paint(STRONG, bytes(removed.bytes as f64)))
}
