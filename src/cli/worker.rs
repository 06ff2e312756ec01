//! `twdag worker`: the process in which stages run. Hidden: the driver of a run starts it.

use std::os::{fd::AsFd, unix::net::UnixStream};

use super::failure::Failure;
use crate::{
    blame::{Blame, exit},
    run::{job::Verdict, worker},
};

/// Does the jobs that come through standard input, which is a socket; verdicts go to standard output.
pub(super) fn run() -> Result<u8, Failure> {
    let by_hand = |error| {
        Failure::new(format!("a worker takes its jobs from a run, which starts it: {error}"), Blame::Environment)
    };
    let channel = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from).map_err(by_hand)?;
    Ok(match worker::serve(channel, std::io::stdout()).map_err(by_hand)? {
        None | Some(Verdict::Succeeded | Verdict::Split) => exit::SUCCESS,
        Some(Verdict::Canceled) => exit::INTERRUPTED,
        Some(Verdict::Failed { .. }) => exit::STAGE_FAILED,
    })
}
