//! `twdag worker`: the process in which a stage runs. Hidden: the driver of a run starts it.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use crate::{
    blame::exit,
    run::{job::Verdict, worker},
};

/// Run the stage of a job file
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job file
    #[arg(value_name = "JOBFILE")]
    job: PathBuf,
}

/// Runs the stage; its verdict goes to standard output.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    Ok(match worker::work(&arguments.job, std::io::stdout())? {
        Verdict::Succeeded | Verdict::Split => exit::SUCCESS,
        Verdict::Canceled => exit::INTERRUPTED,
        Verdict::Failed { .. } => exit::STAGE_FAILED,
    })
}
