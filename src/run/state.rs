//! The scheduler: which stage starts when. A pure state machine; the driver feeds it what happened and does what
//! it asks for. It knows no clock, no process and no disk.
//!
//! Whatever could start and fits into what is free does start, those first that lie on the longest way to the end. A
//! large stage thus may have to wait for small ones that were ready earlier, but never does anything lie idle that a
//! ready stage could use.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    event::{RunOutcome, StageOutcome},
    pool::{Capacity, Pool},
};

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
    /// The stage's work has fallen into so many parts that have no result yet. Each becomes a task of its own, numbered
    /// on from the last one; when all are over, the stage is started again.
    Split(usize, usize),
    /// A stage that was ready has been begun by the worker of another one, of whose end the scheduler has not heard. Nothing is to be done.
    Taken(usize),
    /// The stage has done its work, and its result is being recorded: what it had is free. `Ran`, `Failed` or `Faltered`
    /// follows.
    Worked(usize),
    /// The stage was computed.
    Ran(usize),
    /// The stage failed, and would fail again.
    Failed(usize),
    /// The stage failed, and may do better in another attempt.
    Faltered(usize),
    /// The pause before the stage's next attempt is over.
    Rested(usize),
    /// The stage stopped because it was asked to.
    Canceled(usize),
    /// The user wants the run to stop; a second time means at once.
    Interrupt,
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Look the stage up and run it if need be; answer with `Cached`, `Busy`, `Worked`, `Ran`, `Failed`, `Faltered`
    /// or `Canceled`.
    Start(usize),
    /// Tell when nobody else computes the stage any more: answer with `Freed`.
    Watch(usize),
    /// Wait before the next attempt: answer with `Rested`.
    Rest(usize),
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
    Resting,
    /// Its parts are at work.
    Split,
    /// Its result is being recorded.
    Recording,
    Over(StageOutcome),
}

/// What the scheduler knows of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// The stages whose results it reads, each once, all before it.
    pub needs: Vec<usize>,
    /// Its position in the file, which settles ties.
    pub place: usize,
    /// How long it is thought to take, in any unit.
    pub weight: u64,
    /// How much it takes of each resource while it runs.
    pub asks: Vec<u64>,
    /// How much a part of it takes; the same if empty.
    pub part_asks: Vec<u64>,
    /// How many attempts may follow a first one that failed.
    pub retries: u32,
}

/// How many stages run at once and what a failure means for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Stages that may run at the same time.
    pub jobs: usize,
    /// Whether stages that do not depend on a failed one still start.
    pub keep_going: bool,
}

/// The parts of a stage.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    open: usize,
    failed: bool,
    missing: bool,
}

/// Of two stages that could start, the lesser one goes first.
type Rank = (Reverse<u64>, usize, usize);

/// The state of all stages of a run.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each says whether something has happened, in any combination")]
pub struct Scheduler {
    tasks: Vec<Task>,
    below: Vec<Vec<usize>>,
    ranks: Vec<Rank>,
    states: Vec<State>,
    /// How many results each stage still waits for.
    missing: Vec<usize>,
    failures: Vec<u32>,
    devices: Vec<Vec<usize>>,
    /// The stage that a task is a part of.
    wholes: Vec<Option<usize>>,
    /// What became of the parts of stages that have any.
    parts: BTreeMap<usize, Parts>,
    ready: BTreeSet<Rank>,
    running: BTreeSet<usize>,
    open: usize,
    pool: Pool,
    /// What every stage asks for at least: when that is not free, nothing is.
    least: Vec<u64>,
    rules: Rules,
    begun: bool,
    interrupts: usize,
    failed: bool,
    canceled: bool,
    finished: bool,
}

impl Scheduler {
    /// A stage that asks for more than there is gets all there is, so that every run ends; refuse it before.
    pub fn new(mut tasks: Vec<Task>, capacity: &Capacity, rules: Rules) -> Self {
        let count = tasks.len();
        let mut below = vec![Vec::new(); count];
        for (stage, task) in tasks.iter_mut().enumerate() {
            if task.part_asks.is_empty() {
                task.part_asks.clone_from(&task.asks);
            }
            for asks in [&mut task.asks, &mut task.part_asks] {
                asks.resize(capacity.amounts.len(), 0);
                for (ask, total) in asks.iter_mut().zip(&capacity.amounts) {
                    *ask = (*ask).min(*total);
                }
            }
            for &input in &task.needs {
                below[input].push(stage);
            }
        }
        // Stages on the longest way to the end go first: they decide when the run ends.
        let mut way = vec![0_u64; count];
        for stage in (0..count).rev() {
            let rest = below[stage].iter().map(|&next| way[next]).max().unwrap_or(0);
            way[stage] = rest.saturating_add(tasks[stage].weight);
        }
        let ranks: Vec<Rank> = (0..count).map(|stage| (Reverse(way[stage]), tasks[stage].place, stage)).collect();
        let missing: Vec<usize> = tasks.iter().map(|task| task.needs.len()).collect();
        let ready = (0..count).filter(|&stage| missing[stage] == 0).map(|stage| ranks[stage]).collect();
        let least = (0..capacity.amounts.len())
            .map(|resource| {
                tasks.iter().map(|task| task.asks[resource].min(task.part_asks[resource])).min().unwrap_or(0)
            })
            .collect();
        Self {
            tasks,
            below,
            ranks,
            states: vec![State::Pending; count],
            missing,
            failures: vec![0; count],
            devices: vec![Vec::new(); count],
            wholes: vec![None; count],
            parts: BTreeMap::new(),
            ready,
            running: BTreeSet::new(),
            open: count,
            pool: Pool::new(capacity),
            least,
            rules,
            begun: false,
            interrupts: 0,
            failed: false,
            canceled: false,
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
        self.running.iter().copied()
    }

    /// Those, and the stages whose result is being recorded.
    pub fn at_work(&self) -> impl Iterator<Item = usize> {
        let is_at_work = |state: &State| matches!(state, State::Running | State::Recording);
        self.states.iter().enumerate().filter(move |(_, state)| is_at_work(state)).map(|(stage, _)| stage)
    }

    /// How many attempts of the stage have failed.
    pub fn failures(&self, stage: usize) -> u32 {
        self.failures.get(stage).copied().unwrap_or(0)
    }

    /// Whether the stage is lent devices when it starts.
    pub fn asks_for_devices(&self, stage: usize) -> bool {
        self.tasks.get(stage).is_some_and(|task| self.pool.has_devices_among(&task.asks))
    }

    /// How much the stage takes of each resource.
    pub fn asks(&self, stage: usize) -> &[u64] {
        self.tasks.get(stage).map_or(&[], |task| &task.asks)
    }

    /// The devices that are lent to a running stage.
    pub fn devices(&self, stage: usize) -> &[usize] {
        self.devices.get(stage).map_or(&[], Vec::as_slice)
    }

    /// The stages that start next as soon as there is room for them, in the order in which they will.
    pub fn next(&self) -> impl Iterator<Item = usize> {
        self.ready.iter().map(|&(_, _, stage)| stage).filter(|&stage| self.begun && self.may_start(stage))
    }

    /// Takes in what happened and says what to do, in this order.
    pub fn on(&mut self, happened: Happened) -> Vec<Effect> {
        let mut effects = Vec::new();
        match happened {
            Happened::Begin => self.begun = true,
            Happened::Cached(stage) => self.end(stage, StageOutcome::Cached),
            Happened::Taken(stage) if self.ready.contains(&self.ranks[stage]) => self.run(stage),
            Happened::Worked(stage) if self.states[stage] == State::Running => self.leave(stage, State::Recording),
            Happened::Ran(stage) => self.end(stage, StageOutcome::Ran),
            Happened::Split(stage, parts) if self.states[stage] == State::Running => self.split(stage, parts),
            Happened::Failed(stage) => self.fail(stage),
            Happened::Faltered(stage) if matches!(self.states[stage], State::Running | State::Recording) => {
                self.failures[stage] += 1;
                if self.failures[stage] <= self.tasks[stage].retries && self.interrupts == 0 {
                    self.leave(stage, State::Resting);
                    effects.push(Effect::Rest(stage));
                } else {
                    self.fail(stage);
                }
            }
            Happened::Canceled(stage) => {
                self.end(stage, StageOutcome::Canceled);
                // A worker that somebody else stopped: what needs it cannot run.
                if self.interrupts == 0 {
                    self.skip_below(stage);
                }
            }
            // A claim may turn out to be lost when the work is done.
            Happened::Busy(stage) if matches!(self.states[stage], State::Running | State::Recording) => {
                if self.may_start(stage) {
                    self.leave(stage, State::Watched);
                    effects.push(Effect::Watch(stage));
                } else {
                    self.end(stage, self.unstarted_outcome());
                }
            }
            Happened::Freed(stage) if self.states[stage] == State::Watched => self.make_ready(stage),
            Happened::Rested(stage) if self.states[stage] == State::Resting => self.make_ready(stage),
            // Answers that come too late.
            Happened::Split(..)
            | Happened::Taken(_)
            | Happened::Worked(_)
            | Happened::Busy(_)
            | Happened::Freed(_)
            | Happened::Faltered(_)
            | Happened::Rested(_) => {}
            Happened::Interrupt => {
                self.interrupts += 1;
                self.end_unstarted();
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

    /// Parts lie on the stage's own way to the end, and keep their order.
    fn split(&mut self, stage: usize, count: usize) {
        self.leave(stage, State::Split);
        self.parts.insert(stage, Parts { open: count, ..Parts::default() });
        for task in self.tasks.len()..self.tasks.len() + count {
            let (way, place, _) = self.ranks[stage];
            let whole = &self.tasks[stage];
            let part = Task { needs: Vec::new(), asks: whole.part_asks.clone(), ..whole.clone() };
            self.tasks.push(part);
            self.below.push(Vec::new());
            self.ranks.push((way, place, task));
            self.states.push(State::Pending);
            self.missing.push(0);
            self.failures.push(0);
            self.devices.push(Vec::new());
            self.wholes.push(Some(stage));
            self.ready.insert(self.ranks[task]);
        }
        self.open += count;
        if count == 0 {
            self.unite(stage);
        } else if self.interrupts > 0 {
            self.end_unstarted();
        }
    }

    /// All parts of a stage are over.
    fn unite(&mut self, stage: usize) {
        let Some(Parts { failed, missing, .. }) = self.parts.get(&stage).copied() else { return };
        if self.states[stage] != State::Split {
            return;
        }
        if failed {
            self.fail(stage);
        } else if missing || !self.may_start(stage) {
            self.end(stage, StageOutcome::Canceled);
            if self.interrupts == 0 {
                self.skip_below(stage);
            }
        } else {
            self.make_ready(stage);
        }
    }

    fn fail(&mut self, stage: usize) {
        self.end(stage, StageOutcome::Failed);
        self.skip_below(stage);
        if !self.rules.keep_going {
            self.end_unstarted();
        }
    }

    /// A stage that is over stays as it is: a late or doubled answer changes nothing.
    fn end(&mut self, stage: usize, outcome: StageOutcome) {
        if matches!(self.states[stage], State::Over(_)) {
            return;
        }
        self.leave(stage, State::Over(outcome));
        self.open -= 1;
        self.failed |= outcome == StageOutcome::Failed;
        self.canceled |= outcome == StageOutcome::Canceled;
        if matches!(outcome, StageOutcome::Cached | StageOutcome::Ran) {
            for next in 0..self.below[stage].len() {
                let next = self.below[stage][next];
                self.missing[next] -= 1;
                if self.missing[next] == 0 && self.states[next] == State::Pending {
                    self.ready.insert(self.ranks[next]);
                }
            }
        }
        if let Some(whole) = self.wholes[stage]
            && let Some(parts) = self.parts.get_mut(&whole)
        {
            parts.open -= 1;
            parts.failed |= outcome == StageOutcome::Failed;
            parts.missing |= !matches!(outcome, StageOutcome::Cached | StageOutcome::Ran);
            if parts.open == 0 {
                self.unite(whole);
            }
        }
    }

    /// Puts the stage into another state, and gives back what it held in the one before.
    fn leave(&mut self, stage: usize, state: State) {
        if self.running.remove(&stage) {
            let devices = std::mem::take(&mut self.devices[stage]);
            self.pool.give_back(&self.tasks[stage].asks, &devices);
        }
        self.ready.remove(&self.ranks[stage]);
        self.states[stage] = state;
    }

    fn make_ready(&mut self, stage: usize) {
        self.states[stage] = State::Pending;
        self.ready.insert(self.ranks[stage]);
    }

    fn skip_below(&mut self, stage: usize) {
        let mut next: Vec<usize> = self.below[stage].clone();
        while let Some(stage) = next.pop() {
            if !matches!(self.states[stage], State::Over(_)) {
                self.end(stage, StageOutcome::Skipped);
                next.extend(&self.below[stage]);
            }
        }
    }

    /// Ends all stages that will not start any more.
    fn end_unstarted(&mut self) {
        let outcome = self.unstarted_outcome();
        for stage in 0..self.states.len() {
            let waits = matches!(self.states[stage], State::Pending | State::Watched | State::Resting);
            if waits && !self.may_start(stage) {
                self.end(stage, outcome);
            }
        }
    }

    /// After a failure nothing new starts, but a stage between two attempts has started already, and so has one whose
    /// parts are at work, unless it is a part of it that has failed.
    fn may_start(&self, stage: usize) -> bool {
        let whole = self.wholes[stage].unwrap_or(stage);
        let started = self.failures[stage] > 0 || self.parts.get(&whole).is_some_and(|parts| !parts.failed);
        self.interrupts == 0 && (self.rules.keep_going || !self.failed || started)
    }

    fn unstarted_outcome(&self) -> StageOutcome {
        if self.interrupts > 0 { StageOutcome::Canceled } else { StageOutcome::Skipped }
    }

    fn start_ready(&mut self, effects: &mut Vec<Effect>) {
        let mut after = None;
        while self.running.len() < self.rules.jobs.max(1) && self.pool.has(&self.least) {
            let mut candidates = match after {
                None => self.ready.range(..),
                Some(rank) => self.ready.range((std::ops::Bound::Excluded(rank), std::ops::Bound::Unbounded)),
            };
            let fits = |stage: usize| self.may_start(stage) && self.pool.has(&self.tasks[stage].asks);
            let Some(&rank) = candidates.find(|(_, _, stage)| fits(*stage)) else { break };
            let (_, _, stage) = rank;
            self.run(stage);
            effects.push(Effect::Start(stage));
            after = Some(rank);
        }
    }

    fn run(&mut self, stage: usize) {
        self.leave(stage, State::Running);
        self.running.insert(stage);
        self.devices[stage] = self.pool.take(&self.tasks[stage].asks);
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        if self.finished || self.open > 0 {
            return;
        }
        self.finished = true;
        let outcome = if self.canceled {
            RunOutcome::Interrupted
        } else if self.failed {
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
