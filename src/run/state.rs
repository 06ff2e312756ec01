//! The scheduler: which stage starts when. A pure state machine; the driver feeds it what happened and does what
//! it asks for. It knows no clock, no process and no disk.

use std::{cmp::Reverse, collections::BTreeSet};

use super::event::{RunOutcome, StageOutcome};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Everything is set up: start what can be started.
    Begin,
    /// The stage's result was in the store.
    Cached(usize),
    /// Another process is computing the stage; its place among the running ones is free.
    Busy(usize),
    /// That other process is done with the stage: it can be tried again.
    Freed(usize),
    /// The stage was computed.
    Ran(usize),
    /// The stage failed.
    Failed(usize),
    /// The stage stopped because it was asked to.
    Canceled(usize),
    /// The user wants the run to stop; a second time means at once.
    Interrupt,
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Look the stage up and run it if need be; answer with `Cached`, `Busy`, `Ran`, `Failed` or `Canceled`.
    Start(usize),
    /// Tell when nobody else computes the stage any more: answer with `Freed`.
    Watch(usize),
    /// Ask the running stage to keep its state and stop.
    Stop(usize),
    /// End the running stage at once.
    Kill(usize),
    /// The run is over.
    Finish(RunOutcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Running,
    Watched,
    Over(StageOutcome),
}

/// How many stages run at once and what a failure means for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Stages that may run at the same time.
    pub jobs: usize,
    /// Whether stages that do not depend on a failed one still start.
    pub keep_going: bool,
}

/// The state of all stages of a run.
#[derive(Debug)]
pub struct Scheduler {
    needs: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    rank: Vec<(Reverse<usize>, usize)>,
    states: Vec<State>,
    policy: Policy,
    begun: bool,
    interrupts: usize,
    finished: bool,
}

impl Scheduler {
    /// `needs[i]` are the stages whose results stage `i` reads, all smaller than `i`; `place[i]` is the stage's
    /// position in the file, which settles ties.
    pub fn new(needs: Vec<Vec<usize>>, place: &[usize], policy: Policy) -> Self {
        let count = needs.len();
        let mut below = vec![Vec::new(); count];
        for (stage, inputs) in needs.iter().enumerate() {
            for &input in inputs {
                below[input].push(stage);
            }
        }
        // Stages on the longest chain go first: they decide when the run ends.
        let mut chain = vec![0_usize; count];
        for stage in (0..count).rev() {
            chain[stage] = below[stage].iter().map(|&next| chain[next] + 1).max().unwrap_or(0);
        }
        let rank =
            (0..count).map(|stage| (Reverse(chain[stage]), place.get(stage).copied().unwrap_or(stage))).collect();
        Self {
            needs,
            below,
            rank,
            states: vec![State::Pending; count],
            policy,
            begun: false,
            interrupts: 0,
            finished: false,
        }
    }

    /// What became of a stage, once it is known.
    pub fn outcome(&self, stage: usize) -> Option<StageOutcome> {
        match self.states.get(stage) {
            Some(State::Over(outcome)) => Some(*outcome),
            _ => None,
        }
    }

    /// The stages that run now.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        self.states.iter().enumerate().filter(|(_, state)| **state == State::Running).map(|(stage, _)| stage)
    }

    /// Takes in what happened and says what to do, in this order.
    pub fn on(&mut self, happened: Happened) -> Vec<Effect> {
        let mut effects = Vec::new();
        match happened {
            Happened::Begin => self.begun = true,
            Happened::Cached(stage) => self.end(stage, StageOutcome::Cached),
            Happened::Ran(stage) => self.end(stage, StageOutcome::Ran),
            Happened::Failed(stage) => {
                self.end(stage, StageOutcome::Failed);
                self.skip_below(stage);
                if !self.policy.keep_going {
                    self.end_unstarted(StageOutcome::Skipped);
                }
            }
            Happened::Canceled(stage) => {
                self.end(stage, StageOutcome::Canceled);
                // A worker that somebody else stopped: what needs it cannot run.
                if self.interrupts == 0 {
                    self.skip_below(stage);
                }
            }
            Happened::Busy(stage) if self.states[stage] == State::Running => {
                if self.stopped() {
                    self.states[stage] = State::Over(self.unstarted_outcome());
                } else {
                    self.states[stage] = State::Watched;
                    effects.push(Effect::Watch(stage));
                }
            }
            Happened::Freed(stage) if self.states[stage] == State::Watched => self.states[stage] = State::Pending,
            Happened::Busy(_) | Happened::Freed(_) => {}
            Happened::Interrupt => {
                self.interrupts += 1;
                self.end_unstarted(StageOutcome::Canceled);
                let effect = if self.interrupts == 1 { Effect::Stop } else { Effect::Kill };
                effects.extend(self.running().map(effect));
            }
        }
        if self.begun {
            self.start_ready(&mut effects);
            self.finish(&mut effects);
        }
        effects
    }

    /// A stage that is over stays as it is: a late or doubled answer changes nothing.
    fn end(&mut self, stage: usize, outcome: StageOutcome) {
        if !matches!(self.states[stage], State::Over(_)) {
            self.states[stage] = State::Over(outcome);
        }
    }

    fn skip_below(&mut self, stage: usize) {
        let mut next: Vec<usize> = self.below[stage].clone();
        while let Some(stage) = next.pop() {
            if !matches!(self.states[stage], State::Over(_)) {
                self.states[stage] = State::Over(StageOutcome::Skipped);
                next.extend(&self.below[stage]);
            }
        }
    }

    fn end_unstarted(&mut self, outcome: StageOutcome) {
        for state in &mut self.states {
            if matches!(state, State::Pending | State::Watched) {
                *state = State::Over(outcome);
            }
        }
    }

    fn stopped(&self) -> bool {
        self.interrupts > 0 || (!self.policy.keep_going && self.any(StageOutcome::Failed))
    }

    fn unstarted_outcome(&self) -> StageOutcome {
        if self.interrupts > 0 { StageOutcome::Canceled } else { StageOutcome::Skipped }
    }

    fn any(&self, outcome: StageOutcome) -> bool {
        self.states.contains(&State::Over(outcome))
    }

    fn start_ready(&mut self, effects: &mut Vec<Effect>) {
        let mut free = self.policy.jobs.max(1).saturating_sub(self.running().count());
        if free == 0 || self.stopped() {
            return;
        }
        let has_result =
            |stage: &usize| matches!(self.states[*stage], State::Over(StageOutcome::Cached | StageOutcome::Ran));
        let ready: BTreeSet<_> = (0..self.states.len())
            .filter(|&stage| self.states[stage] == State::Pending && self.needs[stage].iter().all(has_result))
            .map(|stage| (self.rank[stage], stage))
            .collect();
        for (_, stage) in ready {
            if free == 0 {
                break;
            }
            free -= 1;
            self.states[stage] = State::Running;
            effects.push(Effect::Start(stage));
        }
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        if self.finished || !self.states.iter().all(|state| matches!(state, State::Over(_))) {
            return;
        }
        self.finished = true;
        let outcome = if self.any(StageOutcome::Canceled) {
            RunOutcome::Interrupted
        } else if self.any(StageOutcome::Failed) {
            RunOutcome::Failed
        } else {
            RunOutcome::Succeeded
        };
        effects.push(Effect::Finish(outcome));
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
