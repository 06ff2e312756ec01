//! Looking a stage up before there is room for it, so that no processor waits for that when another stage has ended.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Attempt, Looked};
use crate::run::caught::caught;

/// How long a claim is held for a stage that has not started: others may have room for it.
const PATIENCE: Duration = Duration::from_millis(100);

impl Attempt {
    /// Whether it may be looked up before there is room for it: nothing large is read, and no other machine is asked.
    pub(in crate::run) fn may_look_ahead(&self) -> bool {
        self.shared.sharing.is_none()
            && self.shared.store.can_publish_early()
            && self.graph_node().stage.sources().is_empty()
    }

    /// Looks the stage up, and carries the attempt out if `start` comes soon after; else nothing has happened.
    pub(in crate::run) async fn carry_out_ahead(self, mut start: oneshot::Receiver<()>) {
        let attempt = Arc::new(self);
        // Whatever else came of it may be out of date by then, and is looked up again.
        let mine = match caught(attempt.look_up()).await {
            Ok(looked @ Looked::Mine(_)) => Some(looked),
            _ => None,
        };
        let has_come = tokio::time::timeout(PATIENCE, &mut start).await.is_ok_and(|came| came.is_ok());
        // From here on whoever starts the stage is told that it was not looked up.
        start.close();
        let is_started = has_come || start.try_recv().is_ok();
        match (mine, is_started) {
            (Some(mine), true) => attempt.go_on(Ok(mine), Instant::now()).await,
            (None, true) => attempt.carry_out().await,
            (Some(Looked::Mine(mine)), false) => {
                // What stays of it does no harm.
                let _ = fs::remove_file(&mine.job.log);
                attempt.shared.store.leave_scratch(&mine.key);
            }
            _ => {}
        }
    }
}
