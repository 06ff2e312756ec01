//! The last step of an attempt: takes the output into the store and records it under the action's key.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{Assignment, Attempt, Given, Message, Mine, Trouble, aside::is_little, blocking, shared::LeftOver};
use crate::{
    blame::Blame,
    digest::ArtifactId,
    graph::Input,
    plan::Action,
    run::securing::Recorded,
    store::{Provenance, Record, RecordedReference, StoreError},
};

/// What took longer keeps its work folder until the disk has the result.
const WORTH_KEEPING: Duration = Duration::from_secs(10);

impl Attempt {
    /// Which results the inputs of an action are, or lie in.
    fn references(&self, action: &Action) -> Vec<RecordedReference> {
        // A part reads some of its stage's inputs only.
        let read =
            self.graph_node().inputs.iter().filter(|input| action.inputs.iter().any(|read| read.role == input.role));
        let reference = |input: &Input| {
            let Given { key, artifact, .. } = *self.given.get(&input.node)?;
            let (role, reference) = (input.role.clone(), input.reference.to_string());
            Some(RecordedReference { role, reference, artifact, key: Some(key) })
        };
        read.filter_map(reference).collect()
    }

    pub(super) async fn record(
        self: Arc<Self>,
        mine: Mine,
        (clock, began): (Instant, Timestamp),
        notices: Vec<String>,
    ) -> Result<Given, Trouble> {
        // Without a driver there is nobody who waits.
        let shared = Arc::clone(&self.shared);
        let _turn = shared.recording.acquire().await;
        // The programs of the stage have ended, so that what they had is free.
        let _ = self.shared.messages.send(Message::Worked(self.task));
        // First a stage that has waited for them goes to the worker, which has nothing to do.
        tokio::task::yield_now().await;
        let (key, is_little) = (mine.key, is_little(&mine.job.output));
        let artifact = self.record_now(mine, is_little, (clock, began), notices).await?;
        Ok(Given { key, artifact, is_little })
    }

    async fn record_now(
        self: Arc<Self>,
        mine: Mine,
        is_little: bool,
        (clock, began): (Instant, Timestamp),
        notices: Vec<String>,
    ) -> Result<ArtifactId, Trouble> {
        let mut left_over = None;
        // What it has read is looked at again.
        if let Some(_hold) = self.is_done_here(is_little && self.reads_little() && self.is_at_hand(&mine.job.output)) {
            let artifact = self.take_in(mine, clock, began, notices, &mut left_over);
            // That can wait until the next stage is at work.
            self.shared.left_over().extend(left_over);
            return artifact;
        }
        let attempt = Arc::clone(&self);
        blocking(move || {
            let artifact = attempt.take_in(mine, clock, began, notices, &mut left_over);
            if let Some(left_over) = left_over {
                attempt.shared.discard(left_over);
            }
            artifact
        })
        .await
    }

    fn take_in(
        &self,
        mine: Mine,
        clock: Instant,
        began: Timestamp,
        mut notices: Vec<String>,
        left_over: &mut Option<LeftOver>,
    ) -> Result<ArtifactId, Trouble> {
        let store = &self.shared.store;
        let (part, parts) = match &self.assignment {
            Assignment::Stage => (None, Vec::new()),
            Assignment::Part(parts, number) => (Some(parts.all[*number].part.name.clone()), Vec::new()),
            Assignment::Join(parts) => {
                notices.splice(0..0, parts.notices.iter().cloned());
                (None, parts.recorded()?)
            }
        };
        // What the stage has read must be what it is keyed by. Content alone would not tell of a change that was taken
        // back before the end.
        let sources = if mine.sources.is_empty() { Vec::new() } else { self.source_states()? };
        let changed = mine.sources.iter().zip(&sources).find_map(|(before, after)| before.first_change(after));
        if let Some(path) = changed {
            let message = format!(
                "{} was written to while the stage read it, so the result was thrown away; run again",
                path.display()
            );
            return Err(Trouble::new(message, Blame::Input));
        }
        self.still_shown(&mine.views)?;
        // Until the record is there and leased, nothing points to the files.
        let _hold = store.hold()?;
        if let Some(owner) = store.taken_over(mine.claim.here(), &mine.key, &self.shared.owner)? {
            let message = format!(
                "{owner} took this stage for its own, as this machine had not been heard of, and may have written to its folders; \
                 the result was thrown away; run again"
            );
            return Err(Trouble::new(message, Blame::Environment));
        }
        let artifact = store.ingest(&mine.job.output)?;
        store.need([artifact]).inspect_err(|_| store.abandon())?;
        let starts_programs = self.graph_node().stage.kind().starts_programs;
        let provenance = Provenance {
            isolation: starts_programs.then_some(self.shared.isolation),
            allowed: Some(self.policy().allowed.clone()).filter(|allowed| starts_programs && !allowed.is_nothing()),
            ..Provenance::here(began, Timestamp::now(), clock.elapsed().as_secs_f64())
        };
        let record = Record {
            key: mine.key,
            artifact,
            kind: mine.action.kind.clone(),
            revision: mine.action.revision,
            graph: self.shared.graph.name.clone(),
            stage: self.name().to_owned(),
            settings: mine.action.settings.clone(),
            inputs: mine.action.inputs.clone(),
            references: self.references(&mine.action),
            sources: mine.action.sources.clone(),
            file_names: mine.action.file_names.clone(),
            numeric_class: mine.action.numeric_class.clone(),
            provenance,
            notices,
            part,
            parts,
        };
        let is_early = store.can_publish_early();
        let published = if is_early { store.publish_early(&record) } else { store.publish(&record) };
        // A result that differs from an earlier one is a whole result too: nothing will go on from its scratch folder.
        if !matches!(published, Ok(()) | Err(StoreError::Nondeterministic(_))) {
            return published.map(|()| artifact).map_err(Trouble::from);
        }
        let kept = (is_early && clock.elapsed() > WORTH_KEEPING).then_some(mine.key);
        if kept.is_none() {
            let (stage, key, turn) = (self.name().to_owned(), mine.key, mine.claim);
            *left_over = Some(LeftOver { stage, key, turn });
        }
        let agreed = self.agree_on_result(&mine.action, artifact);
        if is_early {
            let recorded = Recorded { stage: self.stage, artifact, kept };
            self.shared.securing.begin(store, recorded)?;
        }
        self.remember(mine.key);
        published?;
        agreed?;
        if let Some(sharing) = &self.shared.sharing
            && let Err(error) = sharing.offer(store, mine.key)
        {
            self.warn_of_run(error.to_string());
        }
        Ok(artifact)
    }
}
