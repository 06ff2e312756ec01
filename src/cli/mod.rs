//! The command line; the only rooms that print.

use std::process::ExitCode;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    ExitCode::from(crate::blame::exit::USAGE)
}
