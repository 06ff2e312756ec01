//! `twdag guard`: waits for the end of a run and ends what it left behind. Hidden: the driver of a run starts it.

use crate::{blame::exit, run::guard};

/// Stands guard; the driver talks on standard input.
pub(super) fn run() -> u8 {
    guard::stand(std::io::stdin());
    exit::SUCCESS
}
