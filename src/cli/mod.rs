//! The command line; the only rooms that print.

mod arguments;
mod check;
mod diff;
mod failure;
mod forecast;
mod graph;
mod guard;
mod isolation;
mod live;
mod lock;
mod output;
mod path;
mod pin;
mod plan;
mod provenance;
mod remote;
mod run;
mod runs;
mod settled;
mod show;
mod side;
mod store;
mod why;
mod words;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::styling};

use self::failure::Failure;
use crate::{blame::exit, failpoint};

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default().bold())
    .placeholder(styling::AnsiColor::Cyan.on_default());

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("TWDAG_COMMIT"), ")");

/// Runs graphs of stages, and never computes the same thing twice.
#[derive(Debug, Parser)]
#[command(name = "twdag", version = VERSION, styles = STYLES, max_term_width = 110, after_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "Examples:
  twdag run graphs/quickstart.ron                     compute whatever is not computed yet
  twdag plan graphs/quickstart.ron --set lambda=0.5   what another value would recompute, and why

Exit codes: 0 success, 1 a stage failed, 2 wrong usage or graph, 3 not reproducible,
130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Plan(plan::Arguments),
    Lock(lock::Arguments),
    Check(check::Arguments),
    Diff(diff::Arguments),
    Provenance(provenance::Arguments),
    Show(show::Arguments),
    Path(path::Arguments),
    Graph(graph::Arguments),
    Runs(runs::Arguments),
    Pin(pin::PinArguments),
    Unpin(pin::UnpinArguments),
    Pins(pin::PinsArguments),
    Store(store::Arguments),
    /// Do the jobs that a run hands over
    #[command(hide = true)]
    Worker,
    /// Wait for the end of a run and end what it left behind
    #[command(hide = true)]
    Guard,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    match failpoint::arm() {
        Ok(false) => {}
        Ok(true) => output::err(format!("twdag: this process fails on purpose, as {} asks\n", failpoint::VARIABLE)),
        Err(problem) => return ExitCode::from(Failure::usage(problem).tell()),
    }
    let matches = match Arguments::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version come this way too.
            let text = error.render();
            if error.use_stderr() {
                output::err(text.ansi());
                return ExitCode::from(exit::USAGE);
            }
            output::out(text.ansi());
            return ExitCode::SUCCESS;
        }
    };
    let result = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => carry_out(arguments.command),
        Err(error) => Err(Failure::usage(error)),
    };
    let code = result.unwrap_or_else(Failure::tell);
    ExitCode::from(match output::lost() {
        Some(error) => Failure::unwritten(error).tell().max(code),
        None => code,
    })
}

fn carry_out(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Lock(arguments) => lock::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Provenance(arguments) => provenance::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Path(arguments) => path::run(&arguments),
        Command::Graph(arguments) => graph::run(&arguments),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::Pin(arguments) => pin::pin(&arguments),
        Command::Unpin(arguments) => pin::unpin(&arguments),
        Command::Pins(arguments) => pin::list(&arguments),
        Command::Store(arguments) => store::run(&arguments),
        Command::Worker => worker::run(),
        Command::Guard => Ok(guard::run()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("twdag {} ", command.get_name())), "{}", command.get_name());
        }
    }
}
