//! The one stream of events, in an order that people can follow: a stage that has done its work ends before what starts in
//! its place begins, although its result is still being recorded then.

use std::{collections::VecDeque, future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::run::{event::RunEvent, journal::Journal};

/// How long others wait for the end of a stage: who records a large result shall not hide what goes on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who hears of events: the run folder, and whoever has started the run.
pub(super) struct Telling<'a> {
    journal: Journal,
    tell: &'a mut dyn FnMut(&RunEvent),
    /// What is told when everything before it was told.
    waiting: VecDeque<Waiting>,
}

pub(super) enum Waiting {
    /// The end of this task of this stage, from then on.
    End(usize, String, Instant),
    /// The beginning of this stage, or of a part of it, from then on.
    Start(String, Option<usize>, Instant),
    Event(Box<RunEvent>),
}

impl<'a> Telling<'a> {
    pub(super) fn new(journal: Journal, tell: &'a mut dyn FnMut(&RunEvent)) -> Self {
        Self { journal, tell, waiting: VecDeque::new() }
    }

    /// Tells an event, or has it wait for its turn.
    pub(super) fn tell(&mut self, event: RunEvent) {
        let place = match &event {
            // What a stage warns of comes before its end.
            RunEvent::StageWarning { stage, .. } => {
                self.waiting.iter().position(|waiting| matches!(waiting, Waiting::End(_, name, _) if name == stage))
            }
            _ => self.take_start(&event),
        };
        self.waiting.insert(place.unwrap_or(self.waiting.len()), Waiting::Event(Box::new(event)));
        self.go_on(VecDeque::new());
    }

    /// The place that was kept for the beginning of what an event tells of, which waits no longer.
    fn take_start(&mut self, event: &RunEvent) -> Option<usize> {
        let of = match event {
            RunEvent::StageStarted { stage, .. }
            | RunEvent::StageJoining { stage, .. }
            | RunEvent::StageFinished { stage, .. }
            | RunEvent::StageFailed { stage, .. } => (stage, None),
            RunEvent::StageRetrying { stage, part, .. } => (stage, *part),
            RunEvent::PartStarted { stage, part, .. }
            | RunEvent::PartFinished { stage, part, .. }
            | RunEvent::PartFailed { stage, part, .. } => (stage, Some(*part)),
            _ => return None,
        };
        let is_it = |waiting: &Waiting| matches!(waiting, Waiting::Start(stage, part, _) if (stage, *part) == of);
        let place = self.waiting.iter().position(is_it)?;
        self.waiting.remove(place);
        Some(place)
    }

    /// Tells all that waits.
    pub(super) fn tell_all(&mut self) {
        self.waiting.retain(|waiting| matches!(waiting, Waiting::Event(_)));
        self.go_on(VecDeque::new());
    }

    /// What is told from now on waits for the end of this task.
    pub(super) fn keep_place(&mut self, task: usize, stage: String) {
        self.waiting.push_back(Waiting::End(task, stage, Instant::now()));
    }

    /// What is told from now on waits for the beginning of this stage, or of this part of it.
    pub(super) fn keep_start(&mut self, stage: String, part: Option<usize>) {
        self.waiting.push_back(Waiting::Start(stage, part, Instant::now()));
    }

    /// What is told now is the end of this task, in the place that was kept for it, if one was. Hand what comes after it to
    /// [`Telling::go_on`].
    pub(super) fn take_place(&mut self, task: usize) -> VecDeque<Waiting> {
        let is_it = |waiting: &Waiting| matches!(waiting, Waiting::End(kept, ..) if *kept == task);
        let Some(place) = self.waiting.iter().position(is_it) else { return VecDeque::new() };
        let later = self.waiting.split_off(place + 1);
        self.waiting.pop_back();
        later
    }

    /// Tells all that waits no longer.
    pub(super) fn go_on(&mut self, mut later: VecDeque<Waiting>) {
        self.waiting.append(&mut later);
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting {
                Waiting::Event(event) => self.tell_now(&event),
                Waiting::End(..) | Waiting::Start(..) => {
                    self.waiting.push_front(waiting);
                    break;
                }
            }
        }
    }

    /// Waits until others have waited long enough for the end of a stage, or for its beginning.
    pub(super) async fn out_of_patience(&self) {
        match self.waiting.front() {
            Some(Waiting::End(.., since) | Waiting::Start(.., since)) => sleep_until(*since + PATIENCE).await,
            _ => pending().await,
        }
    }

    /// The first that others wait for is told whenever it comes.
    pub(super) fn pass_by(&mut self) {
        self.waiting.pop_front();
        self.go_on(VecDeque::new());
    }

    fn tell_now(&mut self, event: &RunEvent) {
        // The warning first, so that the last event stays the last.
        if let Some(message) = self.journal.keep(event) {
            (self.tell)(&RunEvent::RunWarning { message });
        }
        (self.tell)(event);
    }
}
