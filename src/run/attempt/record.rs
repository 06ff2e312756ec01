//! The last step of an attempt: takes the output into the store and records it under the action's key.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;

use super::{Assignment, Attempt, Message, Mine, Trouble, blocking};
use crate::{
    blame::Blame,
    digest::{ArtifactId, Key},
    plan::Action,
    run::recordings::Recording,
    store::{Hold, Lookup, Provenance, Record, StoreError, Unpublished},
};

/// A result that is in the store and not recorded.
struct TakenIn {
    action: Action,
    key: Key,
    artifact: ArtifactId,
    unpublished: Unpublished,
    /// Until the record is there and leased, nothing points to the files.
    _hold: Hold,
}

impl Attempt {
    /// What reads the result need not wait until it is on the disk, and gets it before.
    pub(super) async fn record(
        self: Arc<Self>,
        mine: Mine,
        clock: Instant,
        began: Timestamp,
        notices: Vec<String>,
    ) -> Result<ArtifactId, Trouble> {
        let mut recording = self.shared.recordings.begin().await;
        // The programs of the stage have ended, so that what they had is free.
        let _ = self.shared.messages.send(Message::Worked(self.task));
        // Until the record is there, the action is claimed.
        let claim = Arc::clone(&mine.claim);
        let taking = Arc::clone(&self);
        let (taken, is_sure) = blocking(move || {
            let taken = taking.take_in(mine, clock, began, notices)?;
            let is_sure = taking.is_sure(&taken)?;
            Ok((taken, is_sure))
        })
        .await?;
        if let Some(recording) = recording.as_mut().filter(|_| is_sure) {
            recording.make_known(self.node());
            let _ = self.shared.messages.send(Message::Known(self.task, taken.artifact));
        }
        let artifact = taken.artifact;
        blocking(move || {
            let recorded = self.keep(taken, recording);
            drop(claim);
            recorded.map(|()| artifact)
        })
        .await
    }

    /// Whether the result is the one that others will read, if only the disk keeps it: no other was recorded before, and the
    /// lock does not say otherwise.
    fn is_sure(&self, taken: &TakenIn) -> Result<bool, Trouble> {
        let is_whole = !matches!(self.assignment, Assignment::Part(..));
        let is_first = || Ok::<_, Trouble>(self.shared.store.lookup(&taken.key)? == Lookup::Absent);
        Ok(is_whole && self.agree_on_result(&taken.action, taken.artifact).is_ok() && is_first()?)
    }

    fn take_in(
        &self,
        mine: Mine,
        clock: Instant,
        began: Timestamp,
        mut notices: Vec<String>,
    ) -> Result<TakenIn, Trouble> {
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
        let hold = store.hold()?;
        let artifact = store.ingest(&mine.job.output)?;
        store.need([artifact])?;
        let provenance = Provenance::here(began, Timestamp::now(), clock.elapsed().as_secs_f64());
        let Mine { action, key, .. } = mine;
        let record = Record {
            key,
            artifact,
            kind: action.kind.clone(),
            revision: action.revision,
            graph: self.shared.graph.name.clone(),
            stage: self.name().to_owned(),
            settings: action.settings.clone(),
            inputs: action.inputs.clone(),
            sources: action.sources.clone(),
            numeric_class: action.numeric_class.clone(),
            provenance,
            notices,
            part,
            parts,
        };
        let unpublished = store.draft(record)?;
        Ok(TakenIn { action, key, artifact, unpublished, _hold: hold })
    }

    /// Records what was taken in.
    fn keep(&self, taken: TakenIn, recording: Option<Recording>) -> Result<(), Trouble> {
        let store = &self.shared.store;
        let TakenIn { action, key, artifact, unpublished, _hold } = taken;
        store.secure(&unpublished)?;
        self.wait_for_what_was_read()?;
        let published = store.put(unpublished);
        // A result that differs from an earlier one is a whole result too: nothing will go on from its scratch folder.
        if !matches!(published, Ok(()) | Err(StoreError::Nondeterministic(_))) {
            return published.map_err(Trouble::from);
        }
        if published.is_ok() {
            recording.into_iter().for_each(Recording::end);
        }
        self.remember(&action);
        if let Err(error) = store.discard_scratch(&key) {
            self.warn(format!("the stage is done, but its work folder stays: {error}"));
        }
        published?;
        self.agree_on_result(&action, artifact)?;
        if let Some(sharing) = &self.shared.sharing
            && let Err(error) = sharing.offer(store, key)
        {
            self.warn_of_run(error.to_string());
        }
        Ok(())
    }

    /// No result is recorded before those that it was computed from.
    fn wait_for_what_was_read(&self) -> Result<(), Trouble> {
        let nodes: Vec<usize> = self.artifacts.keys().copied().collect();
        self.shared.recordings.wait_for(&nodes).map_err(|node| {
            let name = &self.shared.graph.nodes()[node].name;
            let message = format!("the result of `{name}`, which it has read, could not be recorded; run again");
            Trouble::new(message, Blame::Environment)
        })
    }
}
