//! The loop in which one thread starts stages, hears of their ends, and records what they made.

use tokio::runtime::{Builder, Runtime};
use twdag_stages::time_slice;

use super::error::RunError;

/// A loop for the calling thread. Stages wait for what is done there, so that it shall have its turn before the programs that run;
/// where it cannot have that, everything takes a little longer.
pub(super) fn event_loop() -> Result<Runtime, RunError> {
    let built = Builder::new_current_thread().enable_all().build();
    time_slice::shorten();
    built.map_err(|source| RunError::System { action: "set up the event loop", source })
}
