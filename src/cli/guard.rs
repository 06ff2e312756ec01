//! `twdag guard`: waits for the end of a run and ends what it left behind. Hidden: the driver of a run starts it.

use std::fs::File;

use crate::{blame::exit, run::guard};

/// Stands guard; the driver talks on standard input, and has opened a list for it in the place of standard output.
pub(super) fn run() -> u8 {
    if let Ok(list) = rustix::io::dup(rustix::stdio::stdout()) {
        guard::stand(std::io::stdin(), &File::from(list));
    }
    exit::SUCCESS
}
