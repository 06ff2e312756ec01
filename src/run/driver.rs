//! Carries out what the scheduler asks for: starts attempts, passes their answers on, tells the world.

mod ending;
mod in_parts;
mod tasks;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, unbounded_channel},
        watch,
    },
    time::Instant,
};
use twdag_stages::stage::Isolation;

use self::{
    in_parts::{InParts, PartFailure},
    telling::Telling,
};
use super::{
    attempt::{self, Answer, Assignment, Attempt, Given, Message, Shared, Started},
    error::{RunError, Trouble},
    event::{
        Announced, AnnouncedStatus, NotReproducible, PartCounts, RunEvent, RunOutcome, StageOutcome, StageSummary,
    },
    event_loop::event_loop,
    journal::Journal,
    owner,
    process::{Lease, Wish},
    resources::{Budget, Totals},
    securing::{Last, Securing},
    sharing::Sharing,
    signals::Signals,
    state::{Effect, Happened, Rules, Scheduler},
    strays::Strays,
};
use crate::{
    blame::Blame,
    digest::{Digest, Key},
    graph::{Graph, Policy},
    lock::Lock,
    plan::{Plan, PlannedStage, Status},
    store::{Damage, Store, TwoResults},
};

/// After an interrupt, how long until the user is told what the run still waits for.
const GRACE: Duration = Duration::from_secs(30);

/// At most so many stages are looked up before there is room for them.
const AHEAD: usize = 2;

/// The longest pause between two attempts, however many have failed.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// How to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Stages that may run at the same time; without a number, as many as the resources allow.
    pub jobs: Option<usize>,
    /// Whether stages that do not depend on a failed one still start.
    pub keep_going: bool,
    /// What there is for stages to use.
    pub totals: Totals,
    /// What the stages are held to, if anything.
    pub lock: Option<Lock>,
    /// How far programs that stages start are kept from what those do not declare.
    pub isolation: Isolation,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How it went.
    pub outcome: RunOutcome,
    /// Every stage, in the order of the plan.
    pub stages: Vec<StageSummary>,
    /// Whether a stage failed because it gave another result than before for the same key, or is not what the lock says.
    pub not_reproducible: bool,
}

/// Carries a plan out. Every event goes to `tell` and into the run folder. Workers end with this thread: call it
/// from the main one.
pub fn run(
    graph: Graph,
    plan: Plan,
    store: Store,
    sharing: Option<Sharing>,
    options: Options,
    tell: &mut dyn FnMut(&RunEvent),
) -> Result<Summary, RunError> {
    let budget = Budget::new(&graph, &plan, &options.totals, options.jobs)?;
    let folder = store.run_folder()?;
    // What is cached is relied on until the end, unless nothing runs: then the end is now.
    if plan.stages.iter().any(|stage| stage.artifact.is_none()) {
        store.need(plan.stages.iter().filter_map(|stage| stage.artifact))?;
        store.release();
    }
    let in_folder = |source| RunError::Folder { path: folder.clone(), source };
    fs::create_dir(folder.join("logs")).map_err(in_folder)?;
    let journal = Journal::create(&folder).map_err(in_folder)?;
    let runtime = event_loop()?;
    let summary = runtime.block_on(async {
        let mut driver = Driver::new(graph, plan, (store, sharing), (options, budget), folder.clone(), journal, tell);
        driver.drive().await
    });
    // Nothing is left to do for tasks that still wait for others.
    runtime.shutdown_background();
    summary
}

struct Driver<'a> {
    shared: Arc<Shared>,
    scheduler: Scheduler,
    inbox: UnboundedReceiver<Message>,
    given: Vec<Option<Given>>,
    /// For each task: the stages of the plan, then parts of them.
    wishes: Vec<watch::Sender<Wish>>,
    busy: Vec<Option<Key>>,
    /// The parts among the tasks: of which stage, and which.
    part_tasks: Vec<(usize, usize)>,
    /// Every task that was looked up before there was room for it, once.
    looked_ahead: BTreeSet<usize>,
    /// The stages whose parts are at work.
    split: BTreeMap<usize, InParts>,
    part_counts: Vec<Option<PartCounts>>,
    seconds: Vec<f64>,
    not_reproducible: bool,
    interrupts: usize,
    options: Options,
    budget: Budget,
    telling: Telling<'a>,
}

/// Where other machines use the store, one that was taken for dead may come back while another one computes its stage: they shall not
/// write to the same folder.
fn output_name(store: &Store, folder: &Path) -> String {
    if store.is_on_this_machine() {
        return "output".to_owned();
    }
    // No two runs of a store have one folder.
    format!("output-{}", Digest::of(folder.as_os_str().as_encoded_bytes()))
}

impl<'a> Driver<'a> {
    fn new(
        graph: Graph,
        plan: Plan,
        (store, sharing): (Store, Option<Sharing>),
        (mut options, budget): (Options, Budget),
        folder: PathBuf,
        journal: Journal,
        tell: &'a mut dyn FnMut(&RunEvent),
    ) -> Self {
        let (messages, inbox) = unbounded_channel();
        let count = plan.stages.len();
        let tasks = tasks::of_plan(&graph, &plan, &store, &budget);
        let rules = Rules { jobs: budget.jobs, keep_going: options.keep_going };
        let owner = owner::of_run(&graph.path);
        let output = output_name(&store, &folder);
        Self {
            scheduler: Scheduler::new(tasks, &budget.capacity, rules),
            given: vec![None; graph.nodes().len()],
            wishes: (0..count).map(|_| watch::Sender::new(Wish::Run)).collect(),
            busy: vec![None; count],
            part_tasks: Vec::new(),
            looked_ahead: BTreeSet::new(),
            split: BTreeMap::new(),
            part_counts: vec![None; count],
            seconds: vec![0.0; count],
            not_reproducible: false,
            interrupts: 0,
            shared: Arc::new(Shared {
                graph: Arc::new(graph),
                store: Arc::new(store),
                sharing,
                plan,
                folder,
                owner,
                output,
                lock: options.lock.take(),
                isolation: options.isolation,
                strays: Strays::adopt(),
                guard: Mutex::new(None),
                idle: Mutex::default(),
                desk: Mutex::default(),
                recording: Semaphore::new(budget.jobs.clamp(1, Semaphore::MAX_PERMITS)),
                securing: Securing::default(),
                views: Mutex::default(),
                left_over: Mutex::default(),
                last_keys: OnceLock::new(),
                messages,
            }),
            inbox,
            options,
            budget,
            telling: Telling::new(journal, tell),
        }
    }

    async fn drive(&mut self) -> Result<Summary, RunError> {
        let mut signals =
            Signals::listen().map_err(|source| RunError::System { action: "listen to signals", source })?;
        self.announce();
        self.tell_damage();
        self.tell_of_sharing();
        if let Some(message) = self.shared.store.doubt_of_locks() {
            self.event(RunEvent::RunWarning { message });
        }
        let deviating = self.deviating();
        let mut cached = Vec::new();
        for place in 0..self.shared.plan.stages.len() {
            let stage = &self.shared.plan.stages[place];
            if let Some((artifact, action)) = stage.artifact.zip(stage.action.as_ref())
                && deviating.as_ref().is_none_or(|(deviating, _)| *deviating != place)
            {
                let given = Given { key: action.key(), artifact, is_little: false };
                cached.push(place);
                self.have(place, given);
                // Before the beginning this has no effects.
                self.scheduler.on(Happened::Cached(place));
            }
        }
        let cached = cached.into_iter().map(|place| &self.shared.plan.stages[place]);
        let last = cached.filter_map(|stage| {
            let (stage, key, action) = stage.last()?;
            Some(Last { stage: stage.to_owned(), key, action: action.cloned() })
        });
        self.shared.remember(last.collect());
        if let Some((place, trouble)) = deviating {
            self.failed(place, trouble, None, 0.0);
        }
        let mut effects = self.scheduler.on(Happened::Begin);
        let mut patience: Option<Instant> = None;
        loop {
            if let Some(outcome) = self.carry_out(std::mem::take(&mut effects)) {
                self.tidy();
                let (secured, is_stopped) = self.secure_all(&mut signals).await;
                self.share_all(&mut signals, is_stopped).await;
                return Ok(self.finish(outcome, secured));
            }
            let out_of_patience = async {
                match patience {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            effects = tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.hear(message),
                    None => return Err(RunError::Bug("the stages of a run fell silent")),
                },
                signal = signals.next() => {
                    patience = Some(Instant::now() + GRACE);
                    self.interrupt(signal)
                }
                () = self.telling.out_of_patience() => {
                    self.telling.pass_by();
                    Vec::new()
                }
                () = out_of_patience => {
                    patience = None;
                    self.still_waiting();
                    Vec::new()
                }
            };
        }
    }

    /// The first stage that is known not to be what the lock says before anything runs.
    fn deviating(&self) -> Option<(usize, Trouble)> {
        let (lock, graph) = (self.shared.lock.as_ref()?, &self.shared.graph);
        let mut stages = self.shared.plan.stages.iter().enumerate();
        stages.find_map(|(place, stage)| Some((place, lock.deviation_of_planned(graph, stage)?.into())))
    }

    /// Does what the scheduler asks for; the outcome if the run is over.
    fn carry_out(&mut self, effects: Vec<Effect>) -> Option<RunOutcome> {
        for effect in effects {
            match effect {
                Effect::Start(task) => {
                    match self.shared.start_ahead(task) {
                        // One that was looked up lately goes on at once.
                        Started::Ahead => {}
                        Started::Begun => self.keep_start(task),
                        Started::Not => {
                            // On this thread: a worker lives no longer than the thread that started it.
                            tokio::spawn(Arc::new(self.attempt(task)).carry_out());
                        }
                    }
                }
                Effect::Watch(task) => {
                    if let Some(key) = self.busy[task] {
                        tokio::spawn(attempt::watch_for(Arc::clone(&self.shared), task, key));
                    }
                }
                Effect::Rest(task) => {
                    let (pause, messages) = (self.pause(task), self.shared.messages.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(pause).await;
                        // Without a driver there is nobody to answer.
                        let _ = messages.send(Message::Rested(task));
                    });
                }
                Effect::Stop(stage) => self.wish(stage, Wish::Stop),
                Effect::Kill(stage) => self.wish(stage, Wish::Kill),
                Effect::Finish(outcome) => return Some(outcome),
            }
        }
        self.look_ahead();
        None
    }

    fn attempt(&self, task: usize) -> Attempt {
        Attempt {
            shared: Arc::clone(&self.shared),
            task,
            assignment: self.assignment(task),
            stage: self.stage(task),
            given: self.read_by(task),
            wish: self.wishes[task].subscribe(),
            lease: self.lease(task),
            asks: self.scheduler.asks(task).to_vec(),
            failures: self.scheduler.failures(task),
        }
    }

    /// Has the stages looked up that start next, each once, and the first one laid ready for the worker that is done next.
    fn look_ahead(&mut self) {
        // Which devices it will be lent is not known yet.
        let is_known = |task: &usize| !self.scheduler.asks_for_devices(*task);
        let next: Vec<usize> = self.scheduler.next().take(AHEAD).filter(is_known).collect();
        let first = self.scheduler.next().next().filter(is_known);
        for task in next {
            if self.shared.count_ahead() < AHEAD && self.looked_ahead.insert(task) {
                let attempt = self.attempt(task);
                if attempt.may_look_ahead() {
                    let started = self.shared.expect(task, attempt.lease.clone(), attempt.asks.clone());
                    tokio::spawn(attempt.carry_out_ahead(started));
                }
            }
        }
        // Workers that go on while results wait to be recorded would leave more of them behind than may be lost, and what such a stage asked for
        // would be given to the next one without anybody else's turn.
        let may_go_on = self.scheduler.running().count() <= self.budget.jobs.max(1)
            && self.shared.recording.available_permits() > 0;
        self.shared.lay_ready(first.filter(|_| may_go_on));
    }

    /// Counts among those that run what workers have begun by themselves.
    fn take_in_begun(&mut self) -> Vec<Effect> {
        let begun = self.shared.begun();
        begun.into_iter().flat_map(|task| self.scheduler.on(Happened::Taken(task))).collect()
    }

    /// The same before anything is decided about stages that have not started, also of a worker that has not been heard yet.
    fn settle(&mut self) -> Vec<Effect> {
        let mut begun = self.shared.begun();
        begun.extend(self.shared.settle());
        for task in &begun {
            self.keep_start(*task);
        }
        begun.into_iter().flat_map(|task| self.scheduler.on(Happened::Taken(task))).collect()
    }

    /// A task has been begun, which is about to be told: what is told from now on comes after that.
    fn keep_start(&mut self, task: usize) {
        let part = self.part(task).map(|(_, number)| number);
        self.telling.keep_start(self.name(task), part);
    }

    fn wish(&self, task: usize, wish: Wish) {
        self.wishes[task].send_replace(wish);
    }

    /// The stage and the number of a part.
    fn part(&self, task: usize) -> Option<(usize, usize)> {
        let stages = self.shared.plan.stages.len();
        task.checked_sub(stages).and_then(|part| self.part_tasks.get(part)).copied()
    }

    /// The stage that a task is, or is a part of.
    fn stage(&self, task: usize) -> usize {
        self.part(task).map_or(task, |(stage, _)| stage)
    }

    fn assignment(&self, task: usize) -> Assignment {
        let (stage, number) = self.part(task).map_or((task, None), |(stage, number)| (stage, Some(number)));
        match (self.split.get(&stage), number) {
            (Some(split), Some(number)) => Assignment::Part(Arc::clone(&split.parts), number),
            (Some(split), None) => Assignment::Join(Arc::clone(&split.parts)),
            (None, _) => Assignment::Stage,
        }
    }

    /// What a task that starts now may use.
    fn lease(&self, task: usize) -> Lease {
        let threads = match self.part(task) {
            Some((stage, _)) => self.budget.part_threads[stage],
            None => self.budget.threads[task],
        };
        Lease { threads, devices: self.options.totals.named_devices(self.scheduler.devices(task)) }
    }

    /// The results that a task reads.
    fn read_by(&self, task: usize) -> BTreeMap<usize, Given> {
        let node = &self.shared.graph.nodes()[self.shared.plan.stages[self.stage(task)].node];
        node.inputs.iter().filter_map(|input| Some((input.node, self.given[input.node]?))).collect()
    }

    fn policy(&self, task: usize) -> &Policy {
        &self.shared.graph.nodes()[self.shared.plan.stages[self.stage(task)].node].policy
    }

    /// How long a task that has failed waits for its next attempt.
    fn pause(&self, task: usize) -> Duration {
        let policy = self.policy(task);
        let doublings = self.scheduler.failures(task).saturating_sub(1).min(31);
        policy.back_off.saturating_mul(1 << doublings).min(LONGEST_PAUSE.max(policy.back_off))
    }

    fn hear(&mut self, message: Message) -> Vec<Effect> {
        self.tell_damage();
        // Those end by settling what was begun.
        let settles = matches!(message, Message::Answer(_, Answer::Failed { .. } | Answer::Canceled { .. }));
        let mut effects = if settles { Vec::new() } else { self.take_in_begun() };
        effects.extend(match message {
            Message::Event(event) => {
                self.event(event);
                Vec::new()
            }
            Message::Part(task, share) => {
                self.part_progress(task, share);
                Vec::new()
            }
            Message::Worked(task) => {
                self.telling.keep_place(task, self.shared.plan.stages[self.stage(task)].name.clone());
                self.scheduler.on(Happened::Worked(task))
            }
            Message::Prepared => Vec::new(),
            Message::Freed(task) => self.scheduler.on(Happened::Freed(task)),
            Message::Rested(task) => self.scheduler.on(Happened::Rested(task)),
            Message::Answer(task, answer) => {
                let later = self.telling.take_place(task);
                let effects = self.answered(task, answer);
                self.telling.go_on(later);
                effects
            }
        });
        effects
    }

    fn answered(&mut self, task: usize, answer: Answer) -> Vec<Effect> {
        let name = self.name(task);
        let part = self.part(task).map(|(_, number)| number);
        let happened = match answer {
            Answer::Failed { trouble, log, seconds } => return self.failed(task, trouble, log, seconds),
            Answer::Busy { key, owner } => {
                // Told once, however often the stage turns out to be busy again.
                if self.busy[task].replace(key).is_none() {
                    self.event(RunEvent::StageWaiting { stage: name, owner, part });
                }
                Happened::Busy(task)
            }
            Answer::Split(parts) => self.in_parts(task, parts),
            answer if part.is_some() => self.part_over(task, &answer),
            Answer::Cached(given) => {
                // Another machine may have joined the parts.
                self.part_counts[task] = self.split.remove(&task).map(|split| split.parts.counts());
                self.have(task, given);
                Happened::Cached(task)
            }
            Answer::Ran { given, seconds } => {
                self.seconds[task] = seconds;
                self.given[self.shared.plan.stages[task].node] = Some(given);
                let parts = self.split.remove(&task).map(|split| split.parts.counts());
                self.part_counts[task] = parts;
                let (outcome, artifact) = (StageOutcome::Ran, Some(given.artifact));
                self.event(RunEvent::StageFinished { stage: name, outcome, artifact, seconds, parts });
                Happened::Ran(task)
            }
            Answer::Canceled { seconds } => {
                self.canceled(task, seconds);
                Happened::Canceled(task)
            }
        };
        let mut effects = if matches!(happened, Happened::Canceled(_)) { self.settle() } else { Vec::new() };
        effects.extend(self.scheduler.on(happened));
        self.wind_up();
        effects
    }

    fn failed(&mut self, task: usize, trouble: Trouble, log: Option<PathBuf>, seconds: f64) -> Vec<Effect> {
        let Trouble { message, blame, two_results, deviation } = trouble;
        let not_reproducible = two_results.map(|results| not_reproducible(*results));
        self.not_reproducible |= not_reproducible.is_some() || deviation.is_some();
        let mut effects = self.settle();
        // What is wrong with the graph, the input or the program would be wrong again, and another attempt must not
        // hide that two results differ, or that one differs from the lock.
        effects.extend(self.scheduler.on(match blame {
            Blame::Environment | Blame::Stage if not_reproducible.is_none() && deviation.is_none() => {
                Happened::Faltered(task)
            }
            _ => Happened::Failed(task),
        }));
        let name = self.name(task);
        let part = self.part(task);
        if part.is_none() {
            self.seconds[task] = seconds;
        }
        if effects.contains(&Effect::Rest(task)) {
            let retries = self.policy(task).retries;
            let attempt = self.scheduler.failures(task);
            let pause = self.pause(task).as_secs_f64();
            let retries_left = (retries + 1).saturating_sub(attempt);
            let part = part.map(|(_, number)| number);
            self.event(RunEvent::StageRetrying {
                stage: name,
                message,
                blame,
                log,
                attempt,
                retries_left,
                pause,
                part,
            });
        } else if let Some((stage, part)) = part {
            self.part_failed(stage, part, PartFailure { message, blame, log, not_reproducible });
        } else {
            self.part_counts[task] = self.split.remove(&task).map(|split| split.parts.counts());
            self.event(RunEvent::StageFailed {
                stage: name,
                message,
                blame,
                log,
                not_reproducible,
                differs_from_lock: deviation,
            });
        }
        self.wind_up();
        effects
    }

    /// A stage's result was in the store.
    fn have(&mut self, stage: usize, given: Given) {
        self.given[self.shared.plan.stages[stage].node] = Some(given);
        self.event(RunEvent::StageCached { stage: self.name(stage), artifact: given.artifact });
    }

    fn interrupt(&mut self, signal: String) -> Vec<Effect> {
        let mut effects = self.settle();
        let waiting_for = self.running();
        effects.extend(self.scheduler.on(Happened::Interrupt));
        self.interrupts += 1;
        let kill = self.interrupts > 1;
        self.event(RunEvent::RunStopping { signal, waiting_for, kill });
        self.wind_up();
        effects
    }

    fn still_waiting(&mut self) {
        let names: Vec<String> = self.running().iter().map(|name| format!("`{name}`")).collect();
        if !names.is_empty() {
            let message = format!(
                "still waiting for {} to keep what is done; Ctrl-C once more ends it at once, and what it kept before stays",
                names.join(", ")
            );
            self.event(RunEvent::RunWarning { message });
        }
    }

    /// The stages that run or whose result is being recorded, each once.
    fn running(&self) -> Vec<String> {
        let stages: BTreeSet<usize> = self.scheduler.at_work().map(|task| self.stage(task)).collect();
        stages.into_iter().map(|stage| self.name(stage)).collect()
    }

    /// The name of the stage that a task is, or is a part of.
    fn name(&self, task: usize) -> String {
        self.shared.plan.stages[self.stage(task)].name.clone()
    }

    fn announce(&mut self) {
        let stages = self.shared.plan.stages.iter().map(announced).collect();
        self.event(RunEvent::RunStarted {
            graph: self.shared.graph.path.display().to_string(),
            folder: self.shared.folder.clone(),
            jobs: self.budget.jobs,
            threads: self.budget.default_threads,
            resources: self.options.totals.amounts().clone(),
            stages,
            plan: None,
        });
    }

    fn tell_damage(&mut self) {
        for Damage { path, problem, quarantine } in self.shared.store.take_damage() {
            self.event(RunEvent::StoreDamaged { path, problem, quarantine });
        }
    }

    fn event(&mut self, event: RunEvent) {
        self.telling.tell(event);
    }
}

/// Two results as events tell of them.
fn not_reproducible(results: TwoResults) -> NotReproducible {
    let TwoResults { key, existing, new, file, lost, .. } = results;
    NotReproducible { key, existing, new, file, recorded: if lost.is_some() { new } else { existing } }
}

/// A planned stage as events tell of it.
pub fn announced(stage: &PlannedStage) -> Announced {
    Announced {
        name: stage.name.clone(),
        kind: stage.kind.to_owned(),
        status: match stage.status {
            Status::Cached => AnnouncedStatus::Cached,
            Status::Run => AnnouncedStatus::Run,
            Status::Waits => AnnouncedStatus::Waits,
        },
        reason: stage.reason.clone(),
    }
}
