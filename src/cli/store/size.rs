//! `twdag store size`: how much lies where.

use clap::Args;
use serde::Serialize;

use crate::{
    blame::exit,
    cli::{
        arguments::StoreArguments,
        failure::Failure,
        output::{self, FAINT, STRONG, paint, table},
        words::{bytes, path, quantity},
    },
    store::RoomSize,
};

/// Tell how much lies in each room of the store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store size
  twdag store size --json | jq .bytes")]
pub(super) struct Arguments {
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArguments,
}

#[derive(Serialize)]
struct Document {
    store: String,
    files: u64,
    bytes: u64,
    rooms: Vec<RoomSize>,
}

/// Tells it.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let store = arguments.store.open()?;
    let rooms = store.sizes();
    let (files, total) = rooms.iter().fold((0, 0), |(files, bytes), room| (files + room.files, bytes + room.bytes));
    if arguments.json {
        output::json(&Document { store: store.root().display().to_string(), files, bytes: total, rooms });
        return Ok(exit::SUCCESS);
    }
    let row = |room: &RoomSize| {
        let means = match &*room.room {
            "objects" => "contents of files",
            "trees" => "which files make an artifact",
            "actions" => "which action gave which artifact",
            "verdicts" => "what came of computing a result again",
            "origins" => "where fetched results came from",
            "pins" => "what stays whatever is collected",
            "local/scratch" => "unfinished work",
            "local/views" => "copies in folders to look at; most files there are objects",
            "local/quarantine" => "what was damaged",
            "local/runs" => "events and logs of past runs",
            _ => "indexes and locks",
        };
        vec![room.room.clone(), bytes(room.bytes as f64), quantity(room.files, "files"), paint(FAINT, means)]
    };
    let mut rows: Vec<Vec<String>> = rooms.iter().map(row).collect();
    rows.push(vec![paint(STRONG, "together"), paint(STRONG, bytes(total as f64)), quantity(files, "files")]);
    output::out(format!("{}\n{}", path(store.root()), table(&rows)));
    Ok(exit::SUCCESS)
}
