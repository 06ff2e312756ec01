//! Looking a stage up before there is room for it, so that no processor waits for that when another stage has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Attempt, Looked, desk::Start};
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

    /// Looks the stage up, and carries the attempt out if that comes soon after; else nothing has happened.
    pub(in crate::run) async fn carry_out_ahead(self, mut started: oneshot::Receiver<Start>) {
        let (task, shared) = (self.task, Arc::clone(&self.shared));
        let attempt = Arc::new(self);
        // Whatever else came of it may be out of date by then, and is looked up again.
        let mine = match caught(attempt.look_up()).await {
            Ok(Looked::Mine(mine)) => shared.prepare(task, mine),
            _ => None,
        };
        let start = if let Ok(start) = tokio::time::timeout(PATIENCE, &mut started).await {
            start
        } else {
            shared.give_up(task);
            // Something comes if it was too late for that.
            started.await
        };
        let mine = match start {
            Ok(Start::Engage(prepared)) => prepared.or(mine),
            Ok(Start::Begun(mut begun, worker)) => {
                begun.worker = Some(worker);
                Some(begun)
            }
            // It was given up.
            Err(_) => return,
        };
        match mine {
            Some(mine) => attempt.go_on(Ok(Looked::Mine(mine)), Instant::now()).await,
            None => attempt.carry_out().await,
        }
    }
}
