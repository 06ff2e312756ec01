//! `twdag store`: looking after a store.

mod check;
mod check_remote;
mod collect;
mod collect_remote;
pub(super) mod quantity;
mod remote;
mod size;

use clap::{Args, Subcommand};

use super::failure::Failure;

/// Look after the store: check it, see its size, remove what nobody needs, share it with a team
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag store size
  twdag store check
  twdag store check --remote --remote-store s3://team/cache
  twdag store gc --keep-runs 3 --dry-run
  twdag store gc --remote --remote-store s3://team/cache --dry-run
  twdag store push graphs/quickstart.ron --remote-store s3://team/cache")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Arguments),
    Gc(collect::Arguments),
    Size(size::Arguments),
    Push(remote::PushArguments),
    Pull(remote::PullArguments),
    Status(remote::StatusArguments),
    Keygen(remote::KeygenArguments),
}

/// Does what is asked for.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    match &arguments.command {
        Command::Check(arguments) => check::run(arguments),
        Command::Gc(arguments) => collect::run(arguments),
        Command::Size(arguments) => size::run(arguments),
        Command::Push(arguments) => remote::push(arguments),
        Command::Pull(arguments) => remote::pull(arguments),
        Command::Status(arguments) => remote::status(arguments),
        Command::Keygen(arguments) => remote::keygen(arguments),
    }
}
