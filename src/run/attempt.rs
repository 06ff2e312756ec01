//! One stage, or a part of one, from its inputs to its record: look up, claim, run a worker, take its output into the
//! store.

mod ahead;
mod aside;
mod desk;
mod inputs;
mod overtaken;
mod record;
mod shared;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use twdag_stages::stage::{Split, StageEvent};

pub(super) use self::aside::blocking;
pub(super) use self::{
    desk::{Desk, Started},
    shared::Shared,
};
use super::{
    caught::caught,
    error::Trouble,
    event::RunEvent,
    guard,
    job::{self, Job, Verdict, Work},
    parts::{Parts, Whole},
    process::{self, Ended, Lease, Wish, Worker},
    securing::Last,
    sharing::{Sharing, Turns},
    turn::Turn,
};
use crate::{
    blame::Blame,
    digest::{ArtifactId, Key},
    graph::{Input, Node, Policy},
    lock::{Deviation, Lock},
    plan::{self, Action},
    store::{ClaimAttempt, Lookup, SourceState, View},
};

/// How often a run that waits for another one looks whether that one is done.
const POLL: Duration = Duration::from_millis(100);

/// What attempts tell the driver.
pub(super) enum Message {
    /// Something for the stream of events.
    Event(RunEvent),
    /// How far a part of a stage is: the task, and the share that is done.
    Part(usize, f64),
    /// It is known what to do for a task that was looked up ahead.
    Prepared,
    /// A task has done its work, and its result is being recorded.
    Worked(usize),
    /// A started task is over, or busy elsewhere.
    Answer(usize, Answer),
    /// Nobody else computes the task any more.
    Freed(usize),
    /// The pause before a task's next attempt is over.
    Rested(usize),
}

/// A result, and the action that gave it.
#[derive(Clone, Copy)]
pub(super) struct Given {
    pub(super) key: Key,
    pub(super) artifact: ArtifactId,
    /// Whether it is known to be a few small files.
    pub(super) is_little: bool,
}

/// How an attempt ended.
pub(super) enum Answer {
    /// The result is in the store.
    Cached(Given),
    /// Another process computes the action.
    Busy { key: Key, owner: String },
    /// The work has fallen into parts.
    Split(Arc<Parts>),
    /// The result was computed and recorded.
    Ran { given: Given, seconds: f64 },
    /// The worker stopped on request.
    Canceled { seconds: f64 },
    /// There is no result.
    Failed { trouble: Trouble, log: Option<PathBuf>, seconds: f64 },
}

/// What of a stage an attempt is at.
#[derive(Clone)]
pub(super) enum Assignment {
    /// All of it; that it has parts may turn out.
    Stage,
    /// One part, by its number.
    Part(Arc<Parts>, usize),
    /// The results of its parts.
    Join(Arc<Parts>),
}

/// One attempt at one stage, or at a part of one.
pub(super) struct Attempt {
    pub(super) shared: Arc<Shared>,
    /// The number by which the scheduler knows it.
    pub(super) task: usize,
    pub(super) assignment: Assignment,
    /// The stage's place in the plan.
    pub(super) stage: usize,
    /// The results of the nodes of the graph that it reads.
    pub(super) given: BTreeMap<usize, Given>,
    pub(super) wish: watch::Receiver<Wish>,
    /// What it may use.
    pub(super) lease: Lease,
    /// How much it takes of each resource.
    pub(super) asks: Vec<u64>,
    /// Counts the attempts that failed before this one.
    pub(super) failures: u32,
}

/// Whose turn it is after looking into the store.
enum Looked {
    Cached(Given),
    Busy { key: Key, owner: String },
    Mine(Box<Mine>),
}

/// A claimed action, ready to run.
pub(super) struct Mine {
    action: Action,
    /// The sources before the stage reads them.
    sources: Vec<SourceState>,
    /// The folders in which it finds its inputs, in their order.
    views: Vec<Arc<View>>,
    key: Key,
    claim: Arc<Turn>,
    job: Job,
    /// What the job prints goes to its end, since programs of the stage write to the same file.
    log: File,
    reason: String,
    /// The worker, if one has begun it already.
    worker: Option<Box<Worker>>,
}

impl Attempt {
    /// Carries the attempt out and answers.
    pub(super) async fn carry_out(self: Arc<Self>) {
        let started = Instant::now();
        let looked = caught(self.look_up()).await;
        self.go_on(looked, started).await;
    }

    /// Carries the attempt out from what looking the stage up came to, and answers.
    async fn go_on(self: Arc<Self>, looked: Result<Looked, Trouble>, started: Instant) {
        let (task, shared) = (self.task, Arc::clone(&self.shared));
        let answer = match caught(async { self.run_if_need_be(looked?).await }).await {
            Ok(answer) => answer,
            Err(trouble) => Answer::Failed { trouble, log: None, seconds: started.elapsed().as_secs_f64() },
        };
        // Without a driver there is nobody to answer.
        let _ = shared.messages.send(Message::Answer(task, answer));
        if !shared.left_over().is_empty() {
            // First the driver hears the answer, then begins whoever has waited for it: a worker is at that by now.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            shared.tidy();
        }
    }

    async fn run_if_need_be(self: Arc<Self>, looked: Looked) -> Result<Answer, Trouble> {
        let mine = match looked {
            Looked::Cached(given) => return Ok(Answer::Cached(given)),
            Looked::Busy { key, owner } => return Ok(Answer::Busy { key, owner }),
            Looked::Mine(mine) => mine,
        };
        // Who has begun is asked to stop.
        if *self.wish.borrow() > Wish::Run && mine.worker.is_none() {
            return Ok(Answer::Canceled { seconds: 0.0 });
        }
        // A stage in parts is at work since it was split.
        let (clock, began) = match &self.assignment {
            Assignment::Join(parts) => (parts.clock, parts.began),
            // Of what a worker has begun by itself, from when that is heard.
            Assignment::Stage | Assignment::Part(..) => (Instant::now(), Timestamp::now()),
        };
        let (log, action) = (mine.job.log.clone(), mine.action.clone());
        // Whoever waits for the claim gets it after it is known whether it was lost before.
        let turn = Arc::clone(&mine.claim);
        match Arc::clone(&self).run(*mine, clock, began).await {
            Ok(answer) => Ok(answer),
            Err(trouble) => {
                let is_about_result = trouble.two_results.is_some() || trouble.deviation.is_some();
                if !is_about_result {
                    match self.aside(false, move |attempt| attempt.overtaken_at(&action, &turn)).await {
                        Ok(Some(answer)) => return Ok(answer),
                        Err(other) if other.deviation.is_some() => return Err(other),
                        // Why the stage failed is worth more than that nothing can be found out about others.
                        Ok(None) | Err(_) => {}
                    }
                }
                Ok(Answer::Failed { trouble, log: Some(log), seconds: clock.elapsed().as_secs_f64() })
            }
        }
    }

    fn node(&self) -> usize {
        self.shared.plan.stages[self.stage].node
    }

    fn graph_node(&self) -> &Node {
        &self.shared.graph.nodes()[self.node()]
    }

    fn name(&self) -> &str {
        &self.shared.plan.stages[self.stage].name
    }

    fn policy(&self) -> &Policy {
        &self.graph_node().policy
    }

    fn source_states(&self) -> Result<Vec<SourceState>, Trouble> {
        Ok(plan::source_states(&self.shared.graph, self.node(), &self.shared.store)?)
    }

    fn resolve(&self) -> Result<Action, Trouble> {
        Ok(plan::resolve(
            &self.shared.graph,
            self.node(),
            |node| self.given.get(&node).map(|given| given.artifact),
            &(&*self.shared.store).into(),
        )?)
    }

    /// Looks for the result, and claims the action if there is none. `absent` is the action, if nothing is recorded for it.
    fn look(&self, absent: Option<Action>) -> Result<Looked, Trouble> {
        let store = &self.shared.store;
        let is_absent = absent.is_some();
        let (action, sources) = match &self.assignment {
            // It has no sources then.
            Assignment::Stage if let Some(action) = absent => (action, Vec::new()),
            Assignment::Stage => {
                // Before they are hashed, so that every later change shows.
                let sources = plan::settled_source_states(&self.shared.graph, self.node(), store)?;
                (self.resolve()?, sources)
            }
            Assignment::Part(parts, number) => (parts.all[*number].action.clone(), Vec::new()),
            Assignment::Join(parts) => {
                let work = Work::Join(parts.finished(store)?);
                let (sources, claim) = (parts.sources.clone(), Arc::clone(&parts.claim));
                return self.mine(parts.action.clone(), sources, claim, work, parts.reason.clone());
            }
        };
        let key = action.key();
        self.agree(|lock| lock.deviation_of_key(&self.shared.graph, self.graph_node(), &action))?;
        if let Some(sharing) = &self.shared.sharing {
            let looked = sharing.look_for(store, &key);
            sharing.take_warnings().into_iter().for_each(|warning| self.warn_of_run(warning));
            looked.map_err(|error| Trouble::new(error.to_string(), error.blame()))?;
        }
        // Nothing that is found here is collected before it is leased.
        let hold = store.hold()?;
        if !is_absent && let Some(found) = self.find(&action)? {
            return Ok(found);
        }
        let here = match store.claim(&key, &self.shared.owner)? {
            ClaimAttempt::Held(claim) => claim,
            ClaimAttempt::Busy(owner) => return Ok(Looked::Busy { key, owner }),
        };
        let (there, _hold) = match &self.shared.sharing {
            None => (None, hold),
            Some(sharing) => {
                // Asking others takes longer than a hold may.
                drop(hold);
                match self.claim_there(sharing, &key)? {
                    Turns::Ours(there) => (there, store.hold()?),
                    Turns::Theirs(owner) => return Ok(Looked::Busy { key, owner }),
                }
            }
        };
        let claim = Arc::new(Turn::new(here, there));
        // Whoever held the claim until now may have finished the work.
        let lookup = store.lookup(&key)?;
        if let Lookup::Hit(record) = &lookup {
            return self.found(&action, record.artifact);
        }
        match &self.assignment {
            Assignment::Part(parts, number) => {
                let work = Work::Part(parts.all[*number].part.clone());
                self.mine(action, sources, claim, work, String::new())
            }
            Assignment::Stage | Assignment::Join(_) => {
                let known = (&**store, self.shared.last_keys());
                let reason = plan::reason(&self.shared.graph, self.node(), &action, &lookup, known)?;
                self.mine(action, sources, claim, Work::Stage, reason)
            }
        }
    }

    /// Claims a stage among the machines that share a store. Its parts are computed by whoever has the whole.
    fn claim_there(&self, sharing: &Sharing, key: &Key) -> Result<Turns, Trouble> {
        if !matches!(self.assignment, Assignment::Stage) {
            return Ok(Turns::Ours(None));
        }
        let turns = sharing.claim(&self.shared.store, key, &self.shared.owner);
        sharing.take_warnings().into_iter().for_each(|warning| self.warn_of_run(warning));
        turns.map_err(|error| Trouble::new(error.to_string(), error.blame()))
    }

    /// The result of an action, if the store has it.
    fn find(&self, action: &Action) -> Result<Option<Looked>, Trouble> {
        let record = self.shared.store.record(&action.key())?;
        record.map(|record| self.found(action, record.artifact)).transpose()
    }

    fn found(&self, action: &Action, artifact: ArtifactId) -> Result<Looked, Trouble> {
        self.shared.store.need([artifact])?;
        self.agree_on_result(action, artifact)?;
        self.remember(action.key());
        Ok(Looked::Cached(Given { key: action.key(), artifact, is_little: false }))
    }

    /// Prepares the job of a claimed action.
    fn mine(
        &self,
        action: Action,
        sources: Vec<SourceState>,
        claim: Arc<Turn>,
        work: Work,
        reason: String,
    ) -> Result<Looked, Trouble> {
        let key = action.key();
        // An earlier attempt may have been killed together with all that watched over it.
        let scratch = self.shared.store.scratch_path(&key);
        if scratch.exists() && !guard::end_programs(&scratch) {
            let message =
                "programs that an earlier attempt of this stage had started cannot be ended; end them by hand";
            return Err(Trouble::new(message, Blame::Environment));
        }
        let name = log_name(self.stage, self.name(), &self.assignment, self.failures + 1);
        let logs = self.shared.folder.join("logs");
        let log_file = logs.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&log_file);
        let log = log.map_err(Trouble::system(&format!("create {}", log_file.display())))?;
        let views = self.views()?;
        let job = self.job(&key, work, &views, logs.join(name), log_file)?;
        Ok(Looked::Mine(Box::new(Mine { action, sources, views, key, claim, job, log, reason, worker: None })))
    }

    fn job(&self, key: &Key, work: Work, views: &[Arc<View>], logs: PathBuf, log: PathBuf) -> Result<Job, Trouble> {
        let (graph, store) = (&self.shared.graph, &self.shared.store);
        let node = self.graph_node();
        let input = |(input, view): (&Input, &Arc<View>)| {
            let view = view.path();
            let path = input.reference.path().map_or_else(|| view.to_owned(), |below| view.join(below));
            (input.reference.as_str().to_owned(), path)
        };
        let inputs = node.inputs.iter().zip(views).map(input).collect();
        let settings = serde_json::to_string(node.stage.settings())
            .map_err(|error| Trouble::new(format!("settings cannot be handed over: {error}"), Blame::Bug))?;
        let folder = store.scratch(key)?;
        self.empty_outputs_of_others(&folder)?;
        Ok(Job {
            stage: node.name.clone(),
            work,
            kind: node.stage.kind().name.to_owned(),
            settings,
            inputs,
            workspace: graph.workspace.clone(),
            output: folder.join(&self.shared.output),
            scratch: folder.join("kept"),
            logs,
            log,
            split: folder.join("split.json"),
            threads: self.lease.threads,
            isolation: self.shared.isolation,
            allowed: self.policy().allowed.clone(),
            guarded: true,
            driver: std::process::id(),
        })
    }

    /// Removes what earlier runs wrote, where each run has an output folder of its own. One of them that lives fails for that, and takes the
    /// result of this one.
    fn empty_outputs_of_others(&self, folder: &Path) -> Result<(), Trouble> {
        if self.shared.store.is_on_this_machine() {
            return Ok(());
        }
        let unread = || Trouble::system("look into a work folder");
        for entry in fs::read_dir(folder).map_err(unread())? {
            let entry = entry.map_err(unread())?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("output") && *name != *self.shared.output {
                // What cannot be removed takes room, and harms nothing else.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// A worker that is at the job.
    fn engage(&self, mine: &Mine) -> Result<Worker, Trouble> {
        let (claim, log) = (mine.claim.file(), &mine.log);
        if let Some(worker) = self.shared.engage_idle(&self.lease, &mine.job, claim, log) {
            return Ok(worker);
        }
        let mut worker = Worker::start(&self.lease, self.shared.has_few_busy())
            .map_err(Trouble::system("start a worker process"))?;
        worker.hand(&mine.job, claim, log).map_err(Trouble::system("hand a job to a worker"))?;
        Ok(worker)
    }

    /// Runs the worker. The claim is held until the result is recorded.
    async fn run(self: Arc<Self>, mut mine: Mine, clock: Instant, began: Timestamp) -> Result<Answer, Trouble> {
        let worker = if let Some(worker) = mine.worker.take() {
            *worker
        } else {
            self.shared.begin(&mine.key).map_err(Trouble::system("start the process that guards this run"))?;
            self.engage(&mine)?
        };
        let number = self.shared.busy(&worker, &self.asks);
        let messages = self.shared.messages.clone();
        let name = self.name().to_owned();
        let _ = messages.send(Message::Event(self.started(&mine, worker.id())));
        let part = matches!(self.assignment, Assignment::Part(..)).then_some(self.task);
        let notices = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&notices);
        let attended =
            process::attend(worker, self.wish.clone(), self.policy().timeout, &self.shared.strays, move |event| {
                if let StageEvent::Warning { message } = &event {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
                }
                let _ = messages.send(translate(&name, part, event));
            })
            .await
            .map_err(Trouble::system("attend to the worker"));
        let (ended, worker) = match attended {
            Ok((ended, worker)) => (Ok(ended), worker),
            Err(trouble) => (Err(trouble), None),
        };
        self.shared.done(number, worker, ended.as_ref().is_ok_and(|ended| ended.goes_on));
        let ended = ended?;
        self.shared.end(&mine.key);
        match self.judge(ended) {
            Verdict::Canceled => Ok(Answer::Canceled { seconds: clock.elapsed().as_secs_f64() }),
            Verdict::Split => {
                let notices = std::mem::take(&mut *notices.lock().unwrap_or_else(PoisonError::into_inner));
                blocking(move || self.split(mine, clock, began, notices)).await
            }
            Verdict::Failed { message, blame } => Err(Trouble::new(message, blame)),
            Verdict::Succeeded => {
                let notices = std::mem::take(&mut *notices.lock().unwrap_or_else(PoisonError::into_inner));
                let given = self.record(mine, (clock, began), notices).await?;
                Ok(Answer::Ran { given, seconds: clock.elapsed().as_secs_f64() })
            }
        }
    }

    /// What the world is told when the worker has started.
    fn started(&self, mine: &Mine, pid: u32) -> RunEvent {
        let (stage, attempt) = (self.name().to_owned(), self.failures + 1);
        let Lease { threads, devices } = self.lease.clone();
        match &self.assignment {
            Assignment::Stage => RunEvent::StageStarted {
                stage,
                kind: mine.job.kind.clone(),
                key: mine.key,
                pid,
                reason: mine.reason.clone(),
                attempt,
                threads,
                devices,
            },
            Assignment::Part(parts, number) => {
                let name = parts.all[*number].part.name.clone();
                RunEvent::PartStarted { stage, part: *number, name, key: mine.key, pid, attempt, threads, devices }
            }
            Assignment::Join(parts) => RunEvent::StageJoining { stage, pid, parts: parts.counts() },
        }
    }

    /// The parts that the worker has found. The claim stays held until the stage is over.
    fn split(&self, mine: Mine, clock: Instant, began: Timestamp, notices: Vec<String>) -> Result<Answer, Trouble> {
        let split: Split = job::read(&mine.job.split)?;
        let Mine { action, sources, claim, reason, .. } = mine;
        let whole = Whole { action, sources, claim, reason, began, clock, notices };
        Ok(Answer::Split(Arc::new(Parts::find(whole, split, self.graph_node(), &self.shared.store)?)))
    }

    /// What to make of a worker's end.
    fn judge(&self, ended: Ended) -> Verdict {
        let asked = *self.wish.borrow() > Wish::Run;
        let well = ended.status.is_none_or(|status| status.success());
        match ended.verdict {
            // Success counts only from a worker that lived to its regular end, or lives on.
            Some(Verdict::Succeeded) if well => Verdict::Succeeded,
            Some(Verdict::Split) if well => Verdict::Split,
            // Who is stopped may fail over it, such as a program that dies of the signal. What is not of that sort
            // is worth a word.
            Some(Verdict::Failed { message, blame }) if asked => {
                if blame != Blame::Stage {
                    self.warn(format!("while it was stopped: {message}"));
                }
                Verdict::Canceled
            }
            _ if asked => Verdict::Canceled,
            _ if ended.timed_out => Verdict::Failed { message: self.out_of_time(), blame: Blame::Stage },
            Some(failed @ Verdict::Failed { .. }) => failed,
            Some(Verdict::Canceled) => Verdict::Failed {
                message: "somebody else stopped the worker; run again, and it goes on from what it had kept".to_owned(),
                blame: Blame::Environment,
            },
            Some(Verdict::Succeeded | Verdict::Split) | None => {
                let message = ended.status.map(process::describe).unwrap_or_default();
                Verdict::Failed { message, blame: Blame::Environment }
            }
        }
    }

    fn out_of_time(&self) -> String {
        let timeout = self.policy().timeout.unwrap_or_default();
        let shown =
            SignedDuration::try_from(timeout).map_or_else(|_| format!("{timeout:?}"), |span| format!("{span:#}"));
        format!(
            "it did not end within its timeout of {shown} and was stopped; the next attempt goes on from what it had kept; \
             give it a longer `timeout` in the graph's `policy` if it needs one"
        )
    }

    /// Fails if a stage is not what the lock says. Locks know of stages alone.
    fn agree(&self, deviation: impl FnOnce(&Lock) -> Option<Deviation>) -> Result<(), Trouble> {
        let lock = self.shared.lock.as_ref().filter(|_| !matches!(self.assignment, Assignment::Part(..)));
        lock.and_then(deviation).map_or(Ok(()), |deviation| Err(deviation.into()))
    }

    fn agree_on_result(&self, action: &Action, artifact: ArtifactId) -> Result<(), Trouble> {
        self.agree(|lock| lock.deviation_of_result(&self.shared.graph, self.graph_node(), action, artifact))
    }

    /// Keeps what the stage is keyed by. Plans know of stages alone.
    fn remember(&self, key: Key) {
        if !matches!(self.assignment, Assignment::Part(..)) {
            self.shared.remember(vec![Last { stage: self.name().to_owned(), key, action: None }]);
        }
    }

    fn warn_of_run(&self, message: String) {
        let _ = self.shared.messages.send(Message::Event(RunEvent::RunWarning { message }));
    }

    fn warn(&self, message: String) {
        let event = RunEvent::StageWarning { stage: self.name().to_owned(), message };
        let _ = self.shared.messages.send(Message::Event(event));
    }
}

/// Stage names are letters, digits and a few signs; a long one is cut, and the number keeps it unlike others.
fn log_name(stage: usize, name: &str, assignment: &Assignment, attempt: u32) -> String {
    let name: String = name.chars().take(80).collect();
    let of = match assignment {
        Assignment::Stage => String::new(),
        Assignment::Part(_, number) => format!(".part{number:05}"),
        Assignment::Join(_) => ".join".to_owned(),
    };
    let attempt = if attempt == 1 { String::new() } else { format!(".attempt{attempt}") };
    format!("{stage:03}-{name}{of}{attempt}")
}

/// What a worker tells, as the driver hears it: `part` is the task of a part.
fn translate(stage: &str, part: Option<usize>, event: StageEvent) -> Message {
    let stage = stage.to_owned();
    match (event, part) {
        (StageEvent::Progress { done, total, .. }, Some(task)) => {
            Message::Part(task, done as f64 / (total.max(1)) as f64)
        }
        (StageEvent::Progress { done, total, unit, detail }, None) => {
            Message::Event(RunEvent::StageProgress { stage, done, total, unit, detail })
        }
        (StageEvent::Warning { message }, _) => Message::Event(RunEvent::StageWarning { stage, message }),
    }
}

/// Waits until nobody else computes an action, then says so. Being told too early does no harm: the stage is looked
/// up and claimed again.
pub(super) async fn watch_for(shared: Arc<Shared>, task: usize, key: Key) {
    loop {
        tokio::time::sleep(POLL).await;
        let looking = Arc::clone(&shared);
        let free = blocking(move || {
            let recorded = looking.store.record(&key)?.is_some();
            let is_free = |sharing: &Sharing| sharing.may_be_free(&looking.store, &key);
            Ok::<_, Trouble>(
                recorded
                    || matches!(looking.store.claim(&key, &looking.owner)?, ClaimAttempt::Held(_))
                        && looking.sharing.as_ref().is_none_or(is_free),
            )
        });
        // An error is told by the next attempt.
        if free.await.unwrap_or(true) {
            let _ = shared.messages.send(Message::Freed(task));
            return;
        }
    }
}
