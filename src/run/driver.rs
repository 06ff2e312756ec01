//! Carries out what the scheduler asks for: starts attempts, passes their answers on, tells the world.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, unbounded_channel},
        watch,
    },
    time::Instant,
};

use super::{
    attempt::{self, Answer, Attempt, Message, Shared},
    error::{RunError, Trouble},
    event::{Announced, AnnouncedStatus, NotReproducible, RunEvent, RunOutcome, StageOutcome, StageSummary},
    journal::Journal,
    process::{Lease, Wish},
    resources::{Budget, Totals},
    signals::Signals,
    state::{Effect, Happened, Rules, Scheduler, Task},
    strays::Strays,
};
use crate::{
    blame::Blame,
    digest::{ArtifactId, Key},
    graph::Graph,
    plan::{Action, Plan, PlannedStage, Status},
    store::{Damage, Store, TwoResults},
};

/// After an interrupt, how long until the user is told what the run still waits for.
const GRACE: Duration = Duration::from_secs(30);

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
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How it went.
    pub outcome: RunOutcome,
    /// Every stage, in the order of the plan.
    pub stages: Vec<StageSummary>,
    /// Whether a stage failed because it gave another result than before for the same key.
    pub not_reproducible: bool,
}

/// Carries a plan out. Every event goes to `tell` and into the run folder. Workers end with this thread: call it
/// from the main one.
pub fn run(
    graph: Graph,
    plan: Plan,
    store: Store,
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { action: "set up the event loop", source })?;
    let summary = runtime.block_on(async {
        let mut driver = Driver::new(graph, plan, store, (options, budget), folder.clone(), journal, tell);
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
    artifacts: Vec<Option<ArtifactId>>,
    wishes: Vec<watch::Sender<Wish>>,
    busy: Vec<Option<Key>>,
    seconds: Vec<f64>,
    not_reproducible: bool,
    options: Options,
    budget: Budget,
    journal: Journal,
    tell: &'a mut dyn FnMut(&RunEvent),
}

impl<'a> Driver<'a> {
    fn new(
        graph: Graph,
        plan: Plan,
        store: Store,
        (options, budget): (Options, Budget),
        folder: PathBuf,
        journal: Journal,
        tell: &'a mut dyn FnMut(&RunEvent),
    ) -> Self {
        let (messages, inbox) = unbounded_channel();
        let count = plan.stages.len();
        let mut places = vec![None; graph.nodes().len()];
        for (place, stage) in plan.stages.iter().enumerate() {
            places[stage.node] = Some(place);
        }
        let weights = weights(&graph, &plan, &store);
        let tasks = plan.stages.iter().zip(weights).zip(&budget.asks).map(|((stage, weight), asks)| Task {
            needs: needs(&graph, stage, &places),
            place: stage.node,
            weight,
            asks: asks.clone(),
            retries: graph.nodes()[stage.node].policy.retries,
        });
        let rules = Rules { jobs: budget.jobs, keep_going: options.keep_going };
        let owner = format!(
            "the run of {} in process {} on {}",
            graph.path.display(),
            std::process::id(),
            rustix::system::uname().nodename().to_string_lossy()
        );
        Self {
            scheduler: Scheduler::new(tasks.collect(), &budget.capacity, rules),
            artifacts: vec![None; graph.nodes().len()],
            wishes: (0..count).map(|_| watch::Sender::new(Wish::Run)).collect(),
            busy: vec![None; count],
            seconds: vec![0.0; count],
            not_reproducible: false,
            shared: Arc::new(Shared {
                graph: Arc::new(graph),
                store: Arc::new(store),
                plan,
                folder,
                owner,
                strays: Strays::adopt(),
                guard: Mutex::new(None),
                messages,
            }),
            inbox,
            options,
            budget,
            journal,
            tell,
        }
    }

    async fn drive(&mut self) -> Result<Summary, RunError> {
        let mut signals =
            Signals::listen().map_err(|source| RunError::System { action: "listen to signals", source })?;
        self.announce();
        self.tell_damage();
        for place in 0..self.shared.plan.stages.len() {
            let stage = &self.shared.plan.stages[place];
            if let Some(artifact) = stage.artifact {
                let complaint = stage.action.as_ref().and_then(|action| self.shared.remember(&stage.name, action));
                if let Some(message) = complaint {
                    self.event(RunEvent::RunWarning { message });
                }
                self.have(place, artifact);
                // Before the beginning this has no effects.
                self.scheduler.on(Happened::Cached(place));
            }
        }
        let mut effects = self.scheduler.on(Happened::Begin);
        let mut patience: Option<Instant> = None;
        loop {
            if let Some(outcome) = self.carry_out(std::mem::take(&mut effects)) {
                return Ok(self.finish(outcome));
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
                () = out_of_patience => {
                    patience = None;
                    self.still_waiting();
                    Vec::new()
                }
            };
        }
    }

    /// Does what the scheduler asks for; the outcome if the run is over.
    fn carry_out(&mut self, effects: Vec<Effect>) -> Option<RunOutcome> {
        for effect in effects {
            match effect {
                Effect::Start(stage) => {
                    let attempt = Attempt {
                        shared: Arc::clone(&self.shared),
                        stage,
                        artifacts: Arc::new(self.artifacts.clone()),
                        wish: self.wishes[stage].subscribe(),
                        lease: self.lease(stage),
                        failures: self.scheduler.failures(stage),
                    };
                    // On this thread: a worker lives no longer than the thread that started it.
                    tokio::spawn(attempt.carry_out());
                }
                Effect::Watch(stage) => {
                    if let Some(key) = self.busy[stage] {
                        tokio::spawn(attempt::watch_for(Arc::clone(&self.shared), stage, key));
                    }
                }
                Effect::Rest(stage) => {
                    let (pause, messages) = (self.pause(stage), self.shared.messages.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(pause).await;
                        // Without a driver there is nobody to answer.
                        let _ = messages.send(Message::Rested(stage));
                    });
                }
                Effect::Stop(stage) => self.wish(stage, Wish::Stop),
                Effect::Kill(stage) => self.wish(stage, Wish::Kill),
                Effect::Finish(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn wish(&self, stage: usize, wish: Wish) {
        self.wishes[stage].send_replace(wish);
    }

    /// What a stage that starts now may use.
    fn lease(&self, stage: usize) -> Lease {
        let named = |all: &[String]| {
            self.scheduler.devices(stage).iter().filter_map(|&device| all.get(device).cloned()).collect()
        };
        Lease { threads: self.budget.threads[stage], devices: self.options.totals.devices().map(named) }
    }

    /// How long a stage that has failed waits for its next attempt.
    fn pause(&self, stage: usize) -> Duration {
        let policy = &self.shared.graph.nodes()[self.shared.plan.stages[stage].node].policy;
        let doublings = self.scheduler.failures(stage).saturating_sub(1).min(31);
        policy.back_off.saturating_mul(1 << doublings).min(LONGEST_PAUSE.max(policy.back_off))
    }

    fn hear(&mut self, message: Message) -> Vec<Effect> {
        self.tell_damage();
        let (stage, answer) = match message {
            Message::Event(event) => {
                self.event(event);
                return Vec::new();
            }
            Message::Freed(stage) => return self.scheduler.on(Happened::Freed(stage)),
            Message::Rested(stage) => return self.scheduler.on(Happened::Rested(stage)),
            Message::Answer(stage, answer) => (stage, answer),
        };
        let name = self.name(stage);
        let happened = match answer {
            Answer::Cached(artifact) => {
                self.have(stage, artifact);
                Happened::Cached(stage)
            }
            Answer::Busy { key, owner } => {
                // Told once, however often the stage turns out to be busy again.
                if self.busy[stage].replace(key).is_none() {
                    self.event(RunEvent::StageWaiting { stage: name, owner });
                }
                Happened::Busy(stage)
            }
            Answer::Ran { artifact, seconds } => {
                self.seconds[stage] = seconds;
                self.artifacts[self.shared.plan.stages[stage].node] = Some(artifact);
                let outcome = StageOutcome::Ran;
                self.event(RunEvent::StageFinished { stage: name, outcome, artifact: Some(artifact), seconds });
                Happened::Ran(stage)
            }
            Answer::Canceled { seconds } => {
                self.seconds[stage] = seconds;
                let outcome = StageOutcome::Canceled;
                self.event(RunEvent::StageFinished { stage: name, outcome, artifact: None, seconds });
                Happened::Canceled(stage)
            }
            Answer::Failed { trouble, log, seconds } => {
                self.seconds[stage] = seconds;
                return self.failed(stage, trouble, log);
            }
        };
        self.scheduler.on(happened)
    }

    fn failed(&mut self, stage: usize, trouble: Trouble, log: Option<PathBuf>) -> Vec<Effect> {
        let Trouble { message, blame, two_results } = trouble;
        let not_reproducible = two_results.map(|results| not_reproducible(*results));
        self.not_reproducible |= not_reproducible.is_some();
        // What is wrong with the graph, the input or the program would be wrong again, and another attempt must not
        // hide that two results differ.
        let effects = self.scheduler.on(match blame {
            Blame::Environment | Blame::Stage if not_reproducible.is_none() => Happened::Faltered(stage),
            _ => Happened::Failed(stage),
        });
        let name = self.name(stage);
        self.event(if effects.contains(&Effect::Rest(stage)) {
            let retries = self.shared.graph.nodes()[self.shared.plan.stages[stage].node].policy.retries;
            let attempt = self.scheduler.failures(stage);
            let pause = self.pause(stage).as_secs_f64();
            let retries_left = (retries + 1).saturating_sub(attempt);
            RunEvent::StageRetrying { stage: name, message, blame, log, attempt, retries_left, pause }
        } else {
            RunEvent::StageFailed { stage: name, message, blame, log, not_reproducible }
        });
        effects
    }

    /// A stage's result was in the store.
    fn have(&mut self, stage: usize, artifact: ArtifactId) {
        self.artifacts[self.shared.plan.stages[stage].node] = Some(artifact);
        self.event(RunEvent::StageCached { stage: self.name(stage), artifact });
    }

    fn interrupt(&mut self, signal: String) -> Vec<Effect> {
        let waiting_for = self.running();
        let effects = self.scheduler.on(Happened::Interrupt);
        let kill = effects.iter().any(|effect| matches!(effect, Effect::Kill(_)));
        self.event(RunEvent::RunStopping { signal, waiting_for, kill });
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

    fn running(&self) -> Vec<String> {
        self.scheduler.running().map(|stage| self.name(stage)).collect()
    }

    fn name(&self, stage: usize) -> String {
        self.shared.plan.stages[stage].name.clone()
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
        });
    }

    fn tell_damage(&mut self) {
        for Damage { path, problem, quarantine } in self.shared.store.take_damage() {
            self.event(RunEvent::StoreDamaged { path, problem, quarantine });
        }
    }

    fn finish(&mut self, outcome: RunOutcome) -> Summary {
        let stages: Vec<StageSummary> = (0..self.shared.plan.stages.len())
            .map(|stage| StageSummary {
                name: self.name(stage),
                // At the end of a run every stage has an outcome.
                outcome: self.scheduler.outcome(stage).unwrap_or(StageOutcome::Canceled),
                artifact: self.artifacts[self.shared.plan.stages[stage].node],
                seconds: self.seconds[stage],
            })
            .collect();
        if let Some(guard) = self.shared.guard.lock().unwrap_or_else(PoisonError::into_inner).take() {
            guard.dismiss();
        }
        self.event(RunEvent::RunFinished { outcome, stages: stages.clone() });
        Summary { outcome, stages, not_reproducible: self.not_reproducible }
    }

    fn event(&mut self, event: RunEvent) {
        // The warning first, so that the last event stays the last.
        if let Some(message) = self.journal.keep(&event) {
            (self.tell)(&RunEvent::RunWarning { message });
        }
        (self.tell)(&event);
    }
}

/// The places in the plan of the stages that a stage reads.
fn needs(graph: &Graph, stage: &PlannedStage, places: &[Option<usize>]) -> Vec<usize> {
    let mut needs: Vec<usize> =
        graph.nodes()[stage.node].inputs.iter().filter_map(|input| places[input.node]).collect();
    needs.sort_unstable();
    needs.dedup();
    needs
}

/// Two results as events tell of them.
fn not_reproducible(results: TwoResults) -> NotReproducible {
    let TwoResults { key, existing, new, file, lost, .. } = results;
    NotReproducible { key, existing, new, file, recorded: if lost.is_some() { new } else { existing } }
}

/// How long each stage of the plan took when it was last computed, in milliseconds; a stage that never was is thought
/// to take as long as the others do on average.
fn weights(graph: &Graph, plan: &Plan, store: &Store) -> Vec<u64> {
    let open = plan.stages.iter().filter(|stage| stage.status != Status::Cached).count();
    let known = |stage: &PlannedStage| {
        // The order of two stages does not need to be known, nor that of none.
        if open < 3 || stage.status == Status::Cached {
            return None;
        }
        // Only the order in which stages start depends on this, so that whatever cannot be read is unknown.
        let last = store.last_action::<Action>(&graph.name, &stage.name).ok()??;
        let record = store.record(&last.key()).ok()??;
        Some(((record.provenance.seconds * 1000.0) as u64).max(1))
    };
    let known: Vec<Option<u64>> = plan.stages.iter().map(known).collect();
    let count = known.iter().flatten().count() as u64;
    let average = known.iter().flatten().sum::<u64>().checked_div(count).unwrap_or(1).max(1);
    known.into_iter().map(|weight| weight.unwrap_or(average)).collect()
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
