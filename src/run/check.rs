//! Computes stages again, each from the recorded results that it reads, in surroundings that are as different as they can be, and
//! compares what comes out with what is on record. Nothing of it enters the store but the verdict.
//!
//! What reruns read is there, so none waits for another stage: all that fit into what there is go on side by side, by the scheduler of
//! runs, those of one stage one after another. What is told comes in the order of the stages all the same.

mod inputs;
mod rerun;
mod surroundings;
mod tasks;
mod verdict;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    watch,
};
use twdag_stages::stage::Isolation;

pub(super) use self::surroundings::{HOST_NAME, Surroundings, USUAL_NAMESPACE, UTS_NAMESPACE};
pub use self::verdict::{Kept, Outcome, Rerun, Verdict};
use self::{
    inputs::Room,
    rerun::{Attempt, End, Printed, Repeated, Shared, Subject},
    surroundings::Host,
    tasks::{Tasks, Threads},
};
use super::{
    error::RunError,
    event::RunOutcome,
    event_loop::event_loop,
    process::{Lease, Wish},
    resources::Totals,
    signals::Signals,
    state::{Effect, Happened, Scheduler},
    strays::Strays,
};
use crate::{
    blame::Blame,
    digest::{ArtifactId, Key},
    graph::{Graph, amount::CPU},
    plan::PlannedStage,
    store::{Record, Store},
};

/// A clock that is read to the second must have moved on since the result was computed.
const APART: Duration = Duration::from_millis(1100);

/// Something that happens while stages are checked.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckEvent<'a> {
    /// The host name cannot be another one; says why.
    HostStays(&'a str),
    /// A stage was computed again.
    Ran {
        /// The stage.
        stage: &'a str,
        /// Counts from 1.
        run: usize,
        /// What came of it.
        rerun: &'a Rerun,
    },
    /// A stage, or its program, warned of something; once, however many runs do.
    Warned {
        /// The stage.
        stage: &'a str,
        /// One sentence.
        message: &'a str,
    },
    /// All runs of a stage are over.
    Judged(&'a Checked),
}

/// What came of checking a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The stage.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: Key,
    /// The result on record.
    pub artifact: ArtifactId,
    /// What it warned of, such as what its program did that the stage does not declare.
    pub warnings: Vec<String>,
    /// The verdict, or why there is none.
    pub verdict: Result<Verdict, Failed>,
}

/// Why a stage could not be computed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What went wrong.
    pub message: String,
    /// Whose fault it is.
    pub blame: Blame,
    /// What the stage's worker and its program printed, if they printed anything.
    pub log: Option<PathBuf>,
}

/// How to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each stage is computed again.
    pub runs: usize,
    /// Reruns that may go on at the same time; without a number, as many as the resources allow.
    pub jobs: Option<usize>,
    /// What there is for stages to use.
    pub totals: Totals,
    /// How far programs that stages start are kept from what those do not declare.
    pub isolation: Isolation,
}

/// Checks stages whose results are there. What came of each; `None` if a signal stopped it. Workers end with this thread: call it
/// from the main one.
pub fn check(
    graph: &Arc<Graph>,
    stages: &[PlannedStage],
    results: BTreeMap<usize, ArtifactId>,
    store: &Arc<Store>,
    options: &Options,
    tell: &mut dyn FnMut(CheckEvent<'_>),
) -> Result<Option<Vec<Checked>>, RunError> {
    store.need(results.values().copied())?;
    store.release();
    let runtime = event_loop()?;
    let checked = runtime.block_on(async {
        // Before the first program is started.
        let signals = Signals::listen().map_err(|source| RunError::System { action: "listen to signals", source })?;
        let host = Host::find();
        if let Host::Stays(why) = &host {
            tell(CheckEvent::HostStays(why));
        }
        let shared = Shared {
            graph: Arc::clone(graph),
            store: Arc::clone(store),
            results,
            isolation: options.isolation,
            host,
            strays: Strays::adopt(),
        };
        Checker::new(shared, stages, options, tell)?.all(signals).await
    });
    runtime.shutdown_background();
    checked
}

/// What attempts tell the checker, by the number of the task.
enum Message {
    /// A clock has moved on far enough for the rerun to begin.
    Due(usize),
    /// A rerun is over.
    Over(usize, Repeated),
}

struct Checker<'a> {
    shared: Arc<Shared>,
    options: &'a Options,
    stages: Vec<Stage>,
    /// Its tasks are the reruns: those of the first stage, those of the next one, and so on.
    scheduler: Scheduler,
    wishes: Vec<watch::Sender<Wish>>,
    messages: UnboundedSender<Message>,
    inbox: UnboundedReceiver<Message>,
    /// So many stages are told of whole.
    told: usize,
    tell: &'a mut dyn FnMut(CheckEvent<'_>),
}

/// A stage that is checked.
struct Stage {
    subject: Arc<Subject>,
    name: String,
    kind: &'static str,
    /// When its reruns may begin.
    due: Instant,
    threads: Threads,
    /// What came of its reruns so far.
    reruns: Vec<Repeated>,
    /// So many of them are told of.
    told: usize,
    /// Once that is known.
    checked: Option<Checked>,
}

impl<'a> Checker<'a> {
    fn new(
        shared: Shared,
        planned: &[PlannedStage],
        options: &'a Options,
        tell: &'a mut dyn FnMut(CheckEvent<'_>),
    ) -> Result<Self, RunError> {
        let (graph, totals) = (&shared.graph, &options.totals);
        let nodes: Vec<usize> = planned.iter().map(|stage| stage.node).collect();
        let mut tasks = Tasks::new(graph, &nodes, totals, options.jobs);
        let (room, mut stages) = (Room::find(), Vec::new());
        for planned in planned {
            let missing = RunError::Bug("a stage without a result was to be checked");
            let (Some(key), Some(artifact)) = (planned.key, planned.artifact) else { return Err(missing) };
            let Some(Record { provenance, .. }) = shared.store.record(&key)? else { return Err(missing) };
            let read = graph.nodes()[planned.node].inputs.iter().filter_map(|input| shared.results.get(&input.node));
            let in_memory = room.place(&shared.store, read);
            let threads = tasks.add(planned.node, options.runs, provenance.seconds, &in_memory);
            let mut stage = Stage {
                subject: Arc::new(Subject { node: planned.node, key, artifact, in_memory }),
                name: planned.name.clone(),
                kind: planned.kind,
                due: Instant::now() + rest(provenance.finished),
                threads,
                reruns: Vec::new(),
                told: 0,
                checked: None,
            };
            // Of threads it gets what there is: their number is another one each time anyway.
            if let Some(excess) = totals.excesses(graph, planned).into_iter().find(|excess| excess.resource != CPU) {
                let failed = Failed { message: excess.to_string(), blame: Blame::Environment, log: None };
                stage.checked = Some(stage.with(Vec::new(), Err(failed)));
            }
            stages.push(stage);
        }
        let wishes = (0..tasks.len()).map(|_| watch::channel(Wish::Run).0).collect();
        let scheduler = tasks.schedule(&room);
        let (messages, inbox) = unbounded_channel();
        Ok(Self { shared: Arc::new(shared), options, stages, scheduler, wishes, messages, inbox, told: 0, tell })
    }

    async fn all(mut self, mut signals: Signals) -> Result<Option<Vec<Checked>>, RunError> {
        self.tell_in_order();
        let mut effects = self.scheduler.on(Happened::Begin);
        loop {
            if let Some(outcome) = self.carry_out(effects) {
                if outcome == RunOutcome::Interrupted {
                    self.tell_the_rest();
                    return Ok(None);
                }
                return Ok(Some(self.stages.into_iter().filter_map(|stage| stage.checked).collect()));
            }
            effects = tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(Message::Due(task)) => self.scheduler.on(Happened::Freed(task)),
                    Some(Message::Over(task, repeated)) => self.over(task, repeated)?,
                    None => return Err(RunError::Bug("the reruns of a check fell silent")),
                },
                _ = signals.next() => self.scheduler.on(Happened::Interrupt),
            };
        }
    }

    /// Does what the scheduler asks for; the outcome if all is over.
    fn carry_out(&mut self, mut effects: Vec<Effect>) -> Option<RunOutcome> {
        while !effects.is_empty() {
            let mut next = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Start(task) => next.extend(self.start(task)),
                    Effect::Watch(task) => {
                        let (pause, messages) = (self.pause(task), self.messages.clone());
                        tokio::spawn(async move {
                            tokio::time::sleep(pause).await;
                            // Without a checker there is nobody to answer.
                            let _ = messages.send(Message::Due(task));
                        });
                    }
                    // No rerun has a second attempt.
                    Effect::Rest(_) => {}
                    Effect::Stop(task) => self.wish(task, Wish::Stop),
                    Effect::Kill(task) => self.wish(task, Wish::Kill),
                    Effect::Finish(outcome) => return Some(outcome),
                }
            }
            effects = next;
        }
        None
    }

    fn wish(&self, task: usize, wish: Wish) {
        self.wishes[task].send_replace(wish);
    }

    /// The place of the stage that a task computes again, and the place of the rerun among all of that stage.
    fn place(&self, task: usize) -> (usize, usize) {
        (task / self.options.runs, task % self.options.runs)
    }

    /// How long until a rerun may begin.
    fn pause(&self, task: usize) -> Duration {
        self.stages[self.place(task).0].due.saturating_duration_since(Instant::now())
    }

    fn start(&mut self, task: usize) -> Vec<Effect> {
        let (place, rerun) = self.place(task);
        let stage = &self.stages[place];
        if stage.checked.is_some() {
            return self.scheduler.on(Happened::Cached(task));
        }
        if !self.pause(task).is_zero() {
            return self.scheduler.on(Happened::Busy(task));
        }
        let (run, usual_threads) = (rerun + 1, stage.threads.usual);
        let attempt = Attempt {
            shared: Arc::clone(&self.shared),
            subject: Arc::clone(&stage.subject),
            run,
            usual_threads,
            lease: Lease {
                threads: stage.threads.of(run),
                devices: self.options.totals.named_devices(self.scheduler.devices(task)),
            },
            wish: self.wishes[task].subscribe(),
        };
        let messages = self.messages.clone();
        // On this thread: a worker lives no longer than the thread that started it.
        tokio::spawn(async move {
            let repeated = attempt.carry_out().await;
            let _ = messages.send(Message::Over(task, repeated));
        });
        Vec::new()
    }

    /// Takes in what came of a rerun.
    fn over(&mut self, task: usize, repeated: Repeated) -> Result<Vec<Effect>, RunError> {
        let (place, _) = self.place(task);
        let happened = match &repeated.end {
            Ok(_) => Happened::Ran(task),
            Err(End::Failed { .. }) => Happened::Failed(task),
            Err(End::Stopped) => return Ok(self.scheduler.on(Happened::Canceled(task))),
        };
        self.stages[place].reruns.push(repeated);
        self.settle(place)?;
        Ok(self.scheduler.on(happened))
    }

    /// Comes to a verdict on a stage if all is known that counts for it, keeps it, and tells what can be told.
    fn settle(&mut self, place: usize) -> Result<(), RunError> {
        let Shared { graph, store, .. } = &*self.shared;
        let stage = &mut self.stages[place];
        if stage.checked.is_none()
            && let Some(verdict) = stage.verdict(self.options.runs, graph, store)
        {
            let warnings = (0..stage.reruns.len()).flat_map(|rerun| stage.new_warnings(rerun)).cloned().collect();
            if let Ok(verdict) = &verdict {
                store.keep_verdict(&stage.subject.key, verdict)?;
            }
            stage.checked = Some(stage.with(warnings, verdict));
        }
        self.tell_in_order();
        Ok(())
    }

    fn tell_in_order(&mut self) {
        while let Some(stage) = self.stages.get_mut(self.told) {
            stage.tell(self.tell);
            if stage.checked.is_none() {
                break;
            }
            self.told += 1;
        }
    }

    /// Tells also of what was reached beyond a stage that has no verdict.
    fn tell_the_rest(&mut self) {
        let rest = self.stages.iter_mut().skip(self.told).filter(|stage| stage.checked.is_some());
        rest.for_each(|stage| stage.tell(self.tell));
    }
}

impl Stage {
    fn with(&self, warnings: Vec<String>, verdict: Result<Verdict, Failed>) -> Checked {
        let Subject { key, artifact, .. } = *self.subject;
        Checked { stage: self.name.clone(), kind: self.kind.to_owned(), key, artifact, warnings, verdict }
    }

    /// What its reruns come to: the first failure, or what all of them say.
    fn verdict(&mut self, runs: usize, graph: &Graph, store: &Store) -> Option<Result<Verdict, Failed>> {
        if let Some(Repeated { end: Err(End::Failed { message, blame, printed }), .. }) = self.reruns.last_mut() {
            return Some(Err(failed(store.check_log(&self.subject.key), message, *blame, printed.take())));
        }
        if self.reruns.len() < runs {
            return None;
        }
        let comparator = &graph.nodes()[self.subject.node].policy.comparator;
        let (mut reruns, mut difference) = (Vec::<Rerun>::new(), None);
        for (rerun, found) in self.reruns.iter_mut().filter_map(|repeated| repeated.end.as_mut().ok()) {
            // The first that differs is kept, rather than one within the tolerance.
            if found.is_some() && reruns.iter().all(|before| before.outcome < rerun.outcome) {
                difference = found.take();
            }
            reruns.push(rerun.clone());
        }
        Some(Ok(Verdict::new(self.subject.artifact, comparator, reruns, difference)))
    }

    /// What a rerun warned of and none before it.
    fn new_warnings(&self, rerun: usize) -> impl Iterator<Item = &String> {
        let (before, from) = self.reruns.split_at(rerun);
        let is_new = move |warning: &&String| before.iter().all(|known| !known.warnings.contains(warning));
        from.first().into_iter().flat_map(|repeated| &repeated.warnings).filter(is_new)
    }

    /// Tells what was not told yet.
    fn tell(&mut self, tell: &mut dyn FnMut(CheckEvent<'_>)) {
        let stage = self.name.as_str();
        while let Some(repeated) = self.reruns.get(self.told) {
            self.new_warnings(self.told).for_each(|message| tell(CheckEvent::Warned { stage, message }));
            let Ok((rerun, _)) = &repeated.end else { break };
            self.told += 1;
            tell(CheckEvent::Ran { stage, run: self.told, rerun });
        }
        self.checked.iter().for_each(|checked| tell(CheckEvent::Judged(checked)));
    }
}

/// How much longer reruns have to wait for a result that was finished then. Seen once, by a clock that only goes forward from there on: the
/// clock of another machine may have been ahead of this one, and this one may be set back.
fn rest(finished: Timestamp) -> Duration {
    match Duration::try_from(Timestamp::now().duration_since(finished)) {
        Ok(since) => APART.saturating_sub(since),
        Err(_) => APART,
    }
}

/// A failure, with what was printed before it, which is kept at `place`. If that cannot be kept, the failure is told all the same.
fn failed(place: PathBuf, message: &str, blame: Blame, printed: Option<Printed>) -> Failed {
    let kept = printed.map_or(Ok(false), |printed| keep_log(&place, &printed.log));
    let (message, log) = match kept {
        Ok(true) => (message.to_owned(), Some(place)),
        Ok(false) => (message.to_owned(), None),
        Err(error) => (format!("{message}; what it printed could not be kept in {}: {error}", place.display()), None),
    };
    Failed { message, blame, log }
}

/// Keeps what a worker and its program printed, since the folder of the attempt goes. Whether they printed anything.
fn keep_log(place: &Path, printed: &Path) -> io::Result<bool> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    let is_any = fs::copy(printed, place)? > 0;
    if !is_any {
        fs::remove_file(place)?;
    }
    Ok(is_any)
}
