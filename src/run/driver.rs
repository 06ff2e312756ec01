//! Carries out what the scheduler asks for: starts attempts, passes their answers on, tells the world.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, unbounded_channel},
        watch,
    },
    time::Instant,
};

use super::{
    attempt::{self, Answer, Attempt, Message, Shared},
    error::RunError,
    event::{Announced, AnnouncedStatus, NotReproducible, RunEvent, RunOutcome, StageOutcome, StageSummary},
    journal::Journal,
    process::Wish,
    signals::Signals,
    state::{Effect, Happened, Policy, Scheduler},
    strays::Strays,
};
use crate::{
    digest::{ArtifactId, Key},
    graph::Graph,
    plan::{Plan, PlannedStage, Status},
    store::{Damage, Store, TwoResults},
};

/// After an interrupt, how long until the user is told what the run still waits for.
const GRACE: Duration = Duration::from_secs(30);

/// How to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Stages that may run at the same time.
    pub jobs: usize,
    /// Threads of each stage.
    pub threads: usize,
    /// Whether stages that do not depend on a failed one still start.
    pub keep_going: bool,
}

impl Options {
    /// `jobs` stages at a time, which share the cores of this machine. Stages are parallel inside, so one at a
    /// time with all cores is the default.
    pub fn new(jobs: usize, keep_going: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = jobs.max(1);
        Self { jobs, threads: (cores / jobs).max(1), keep_going }
    }
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
        let mut driver = Driver::new(graph, plan, store, options, folder.clone(), journal, tell);
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
    journal: Journal,
    tell: &'a mut dyn FnMut(&RunEvent),
}

impl<'a> Driver<'a> {
    fn new(
        graph: Graph,
        plan: Plan,
        store: Store,
        options: Options,
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
        let needs = plan.stages.iter().map(|stage| needs(&graph, stage, &places)).collect();
        let in_file: Vec<usize> = plan.stages.iter().map(|stage| stage.node).collect();
        let policy = Policy { jobs: options.jobs, keep_going: options.keep_going };
        let owner = format!(
            "the run of {} in process {} on {}",
            graph.path.display(),
            std::process::id(),
            rustix::system::uname().nodename().to_string_lossy()
        );
        Self {
            scheduler: Scheduler::new(needs, &in_file, policy),
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
                threads: options.threads,
                owner,
                strays: Strays::adopt(),
                messages,
            }),
            inbox,
            options,
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
                    };
                    // On this thread: a worker lives no longer than the thread that started it.
                    tokio::spawn(attempt.carry_out());
                }
                Effect::Watch(stage) => {
                    if let Some(key) = self.busy[stage] {
                        tokio::spawn(attempt::watch_for(Arc::clone(&self.shared), stage, key));
                    }
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

    fn hear(&mut self, message: Message) -> Vec<Effect> {
        self.tell_damage();
        let (stage, answer) = match message {
            Message::Event(event) => {
                self.event(event);
                return Vec::new();
            }
            Message::Freed(stage) => return self.scheduler.on(Happened::Freed(stage)),
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
                let not_reproducible = trouble.two_results.map(|results| not_reproducible(*results));
                self.not_reproducible |= not_reproducible.is_some();
                self.event(RunEvent::StageFailed {
                    stage: name,
                    message: trouble.message,
                    blame: trouble.blame,
                    log,
                    not_reproducible,
                });
                Happened::Failed(stage)
            }
        };
        self.scheduler.on(happened)
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
            jobs: self.options.jobs,
            threads: self.options.threads,
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
