//! The end of a run: results come to the disk and to the remote store, and all is told.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use super::{Driver, Summary};
use crate::{
    blame::Blame,
    run::{
        attempt::Message,
        event::{RunEvent, RunOutcome, StageOutcome, StageSummary},
        securing::Secured,
        sharing::Sharing,
        signals::Signals,
    },
};

impl Driver<'_> {
    /// Removes what the last stages have left over.
    pub(super) fn tidy(&mut self) {
        self.shared.tidy();
        while let Ok(message) = self.inbox.try_recv() {
            if let Message::Event(event) = message {
                self.event(event);
            }
        }
    }

    /// Waits until the disk has all results, or a signal arrives; says whether one has.
    pub(super) async fn secure_all(&mut self, signals: &mut Signals) -> (Secured, bool) {
        let shared = Arc::clone(&self.shared);
        let all = tokio::task::spawn_blocking(move || shared.securing.finish());
        tokio::select! {
            secured = all => {
                let unknown = |error| format!("whether the disk has all that was recorded is not known: {error}");
                (secured.unwrap_or_else(|error| Secured { failed: None, warnings: vec![unknown(error)] }), false)
            }
            signal = signals.next() => {
                self.event(RunEvent::RunStopping { signal, waiting_for: Vec::new(), kill: true });
                let warning = "the run was stopped before the disk had all that it has recorded; a power cut now could lose some of it";
                let mut secured = self.shared.securing.so_far();
                secured.warnings.push(warning.to_owned());
                (secured, true)
            }
        }
    }

    /// Waits until the remote store has what it should get, or a signal arrives; not at all if one has arrived.
    pub(super) async fn share_all(&mut self, signals: &mut Signals, is_stopped: bool) {
        let shared = Arc::clone(&self.shared);
        let Some(sharing) = &shared.sharing else { return };
        let (mut is_done, mut signal) = (false, None);
        let (keeping, artifacts) =
            (Arc::clone(&shared), self.given.iter().flatten().map(|given| given.artifact).collect::<BTreeSet<_>>());
        let keep = move || {
            let graph = keeping.graph.path.display().to_string();
            keeping.sharing.iter().for_each(|sharing| sharing.keep(&keeping.store, &graph, &artifacts));
        };
        let all = async {
            sharing.finish().await;
            // What fell over has told so.
            let _ = tokio::task::spawn_blocking(keep).await;
        };
        tokio::select! {
            // In this order: what is begun to be given is counted, and what is done is done.
            biased;
            () = all => is_done = true,
            () = std::future::ready(()), if is_stopped => {}
            arrived = signals.next() => signal = Some(arrived),
        }
        sharing.count();
        if !is_done {
            sharing.leave().await;
        }
        if let Some(signal) = signal {
            self.event(RunEvent::RunStopping { signal, waiting_for: Vec::new(), kill: false });
        }
        self.tell_of_sharing();
    }

    pub(super) fn tell_of_sharing(&mut self) {
        let warnings = self.shared.sharing.as_ref().map(Sharing::take_warnings).unwrap_or_default();
        for message in warnings {
            self.event(RunEvent::RunWarning { message });
        }
    }

    pub(super) fn finish(&mut self, outcome: RunOutcome, secured: Secured) -> Summary {
        self.telling.tell_all();
        // What could not be flushed was looked at.
        self.tell_damage();
        for message in secured.warnings {
            self.event(RunEvent::RunWarning { message });
        }
        let (unsecured, outcome) = match secured.failed {
            None => (BTreeSet::new(), outcome),
            Some((stages, error)) => (
                self.tell_unsecured(stages, &error),
                if outcome == RunOutcome::Succeeded { RunOutcome::Failed } else { outcome },
            ),
        };
        let summary = |stage: usize| {
            let given = self.given[self.shared.plan.stages[stage].node];
            StageSummary {
                name: self.name(stage),
                // At the end of a run every stage has an outcome.
                outcome: match self.scheduler.outcome(stage) {
                    Some(StageOutcome::Ran) if unsecured.contains(&stage) => StageOutcome::Failed,
                    outcome => outcome.unwrap_or(StageOutcome::Canceled),
                },
                key: given.map(|given| given.key),
                artifact: given.map(|given| given.artifact),
                seconds: self.seconds[stage],
                parts: self.part_counts[stage],
            }
        };
        let stages: Vec<StageSummary> = (0..self.shared.plan.stages.len()).map(summary).collect();
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(guard) = self.shared.guard.lock().unwrap_or_else(PoisonError::into_inner).take() {
            guard.dismiss();
        }
        if let Err(error) = self.shared.store.flush_names() {
            let message = format!("a power cut now could lose what this run has recorded last: {error}");
            self.event(RunEvent::RunWarning { message });
        }
        if let Some(summary) = self.shared.sharing.as_ref().map(Sharing::summary) {
            self.not_reproducible |= !summary.conflicts.is_empty();
            self.event(RunEvent::RemoteSummary(summary));
        }
        self.event(RunEvent::RunFinished { outcome, stages: stages.clone() });
        Summary { outcome, stages, not_reproducible: self.not_reproducible }
    }

    /// Stages are told to have failed that had ended well, as the disk did not take their results.
    fn tell_unsecured(&mut self, stages: Vec<usize>, error: &str) -> BTreeSet<usize> {
        let stages: BTreeSet<usize> = stages.into_iter().collect();
        for &stage in &stages {
            self.event(RunEvent::StageFailed {
                stage: self.name(stage),
                message: format!("its result was recorded, but may not be on the disk: {error}"),
                blame: Blame::Environment,
                log: None,
                not_reproducible: None,
                differs_from_lock: None,
            });
        }
        if stages.is_empty() {
            self.event(RunEvent::RunWarning { message: error.to_owned() });
        }
        stages
    }
}
