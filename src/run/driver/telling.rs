//! The one stream of events, in an order that people can follow: a stage whose result is known ends before what reads it
//! begins, although it is still being recorded then.

use std::collections::VecDeque;

use crate::run::{event::RunEvent, journal::Journal};

/// Who hears of events: the run folder, and whoever has started the run.
pub(super) struct Telling<'a> {
    journal: Journal,
    tell: &'a mut dyn FnMut(&RunEvent),
    /// What is told when everything before it was told.
    waiting: VecDeque<Waiting>,
}

enum Waiting {
    /// The end of this task, not known as yet.
    End(usize),
    Event(Box<RunEvent>),
}

impl<'a> Telling<'a> {
    pub(super) fn new(journal: Journal, tell: &'a mut dyn FnMut(&RunEvent)) -> Self {
        Self { journal, tell, waiting: VecDeque::new() }
    }

    /// Tells an event, or has it wait for its turn.
    pub(super) fn tell(&mut self, event: RunEvent) {
        if self.waiting.is_empty() || self.is_progress(&event) {
            self.tell_now(&event);
        } else {
            self.waiting.push_back(Waiting::Event(Box::new(event)));
        }
    }

    /// What is told from now on waits for the end of this task.
    pub(super) fn keep_place(&mut self, task: usize) {
        self.waiting.push_back(Waiting::End(task));
    }

    /// Tells the end of a task, in the place that was kept for it, if one was.
    pub(super) fn end(&mut self, task: usize, event: RunEvent) {
        let place = self.waiting.iter_mut().find(|waiting| matches!(waiting, Waiting::End(kept) if *kept == task));
        match place {
            Some(place) => *place = Waiting::Event(Box::new(event)),
            None => self.tell(event),
        }
        while let Some(Waiting::Event(_)) = self.waiting.front() {
            if let Some(Waiting::Event(event)) = self.waiting.pop_front() {
                self.tell_now(&event);
            }
        }
    }

    /// Whether an event tells of the progress of a stage of which all is told: a large result may take long to record.
    fn is_progress(&self, event: &RunEvent) -> bool {
        let RunEvent::StageProgress { stage, .. } = event else { return false };
        let begins = |event: &RunEvent| match event {
            RunEvent::StageStarted { stage: begun, .. }
            | RunEvent::StageSplit { stage: begun, .. }
            | RunEvent::StageJoining { stage: begun, .. } => begun == stage,
            _ => false,
        };
        !self.waiting.iter().any(|waiting| matches!(waiting, Waiting::Event(event) if begins(event)))
    }

    fn tell_now(&mut self, event: &RunEvent) {
        // The warning first, so that the last event stays the last.
        if let Some(message) = self.journal.keep(event) {
            (self.tell)(&RunEvent::RunWarning { message });
        }
        (self.tell)(event);
    }
}
