//! Computes stages again, each alone, from the recorded results that it reads, in surroundings that are as different as they can
//! be, and compares what comes out with what is on record. Nothing of it enters the store but the verdict.

mod inputs;
mod surroundings;
mod verdict;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;
use twdag_stages::stage::{Isolation, StageEvent};

pub(super) use self::surroundings::{HOST_NAME, Surroundings, USUAL_NAMESPACE, UTS_NAMESPACE};
pub use self::verdict::{Kept, Outcome, Rerun, Verdict};
use self::{inputs::Inputs, surroundings::Host};
use super::{
    error::RunError,
    job::{self, Job, Work},
    process::{self, Lease, Wish, Worker},
    resources::Totals,
    signals::Signals,
    strays::Strays,
};
use crate::{
    blame::Blame,
    compare::{self, Comparison, Folder},
    digest::{ArtifactId, Key},
    graph::{Comparator, Graph, Node, amount::CPU},
    plan::{self, PlannedStage},
    store::{Manifest, SourceState, Store},
};

/// A clock that is read to the second must have moved on since the result was computed.
const APART: Duration = Duration::from_millis(1100);
const TOKENS: &str = "tokens.json";

/// Something that happens while stages are checked.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckEvent<'a> {
    /// The host name cannot be another one; says why.
    HostStays(&'a str),
    /// A stage is computed again, for the `run`-th of so many times.
    Begins {
        /// The stage.
        stage: &'a str,
        /// Counts from 1.
        run: usize,
    },
    /// It was computed.
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
    /// What there is for stages to use.
    pub totals: Totals,
    /// How far programs that stages start are kept from what those do not declare.
    pub isolation: Isolation,
}

/// Checks stages whose results are there. What came of each; `None` if a signal stopped it. Call it from the main thread.
pub fn check(
    graph: &Graph,
    stages: &[PlannedStage],
    results: &BTreeMap<usize, ArtifactId>,
    store: &Store,
    options: &Options,
    tell: &mut dyn FnMut(CheckEvent<'_>),
) -> Result<Option<Vec<Checked>>, RunError> {
    store.need(results.values().copied())?;
    store.release();
    let host = Host::find();
    if let Host::Stays(why) = &host {
        tell(CheckEvent::HostStays(why));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { action: "set up the event loop", source })?;
    let checked = runtime.block_on(async {
        let mut signals =
            Signals::listen().map_err(|source| RunError::System { action: "listen to signals", source })?;
        let (stop, wish) = watch::channel(Wish::Run);
        let strays = Strays::adopt();
        let mut checker = Checker { graph, results, store, options, host, wish, strays, warnings: Vec::new(), tell };
        let mut work = Box::pin(checker.all(stages));
        loop {
            tokio::select! {
                checked = &mut work => break checked,
                _ = signals.next() => {
                    let next = if *stop.borrow() == Wish::Run { Wish::Stop } else { Wish::Kill };
                    stop.send_replace(next);
                }
            }
        }
    });
    runtime.shutdown_background();
    checked
}

struct Checker<'a> {
    graph: &'a Graph,
    results: &'a BTreeMap<usize, ArtifactId>,
    store: &'a Store,
    options: &'a Options,
    host: Host,
    wish: watch::Receiver<Wish>,
    strays: Strays,
    /// Of the stage that is checked.
    warnings: Vec<String>,
    tell: &'a mut dyn FnMut(CheckEvent<'_>),
}

/// The stage that is checked.
struct Subject<'a> {
    stage: &'a PlannedStage,
    node: &'a Node,
    key: Key,
    artifact: ArtifactId,
    manifest: Manifest,
    view: PathBuf,
    tokens: Option<PathBuf>,
}

/// Why a rerun has no result.
enum End {
    Stopped,
    Failed(Failed),
}

impl<E: Into<RunError>> From<E> for End {
    fn from(error: E) -> Self {
        let error = error.into();
        Self::Failed(Failed { message: error.to_string(), blame: error.blame(), log: None })
    }
}

impl Checker<'_> {
    async fn all(&mut self, stages: &[PlannedStage]) -> Result<Option<Vec<Checked>>, RunError> {
        let mut all = Vec::new();
        for stage in stages {
            let subject = self.subject(stage)?;
            let verdict = match self.judge(&subject).await {
                Ok(verdict) => {
                    self.store.keep_verdict(&subject.key, &verdict)?;
                    Ok(verdict)
                }
                Err(End::Stopped) => return Ok(None),
                Err(End::Failed(failed)) => Err(failed),
            };
            let Subject { key, artifact, .. } = subject;
            let (name, kind) = (stage.name.clone(), stage.kind.to_owned());
            let warnings = std::mem::take(&mut self.warnings);
            let checked = Checked { stage: name, kind, key, artifact, warnings, verdict };
            (self.tell)(CheckEvent::Judged(&checked));
            all.push(checked);
        }
        Ok(Some(all))
    }

    fn subject<'s>(&self, stage: &'s PlannedStage) -> Result<Subject<'s>, RunError>
    where
        Self: 's,
    {
        let node = &self.graph.nodes()[stage.node];
        let missing = RunError::Bug("a stage without a result was to be checked");
        let (Some(key), Some(artifact)) = (stage.key, stage.artifact) else { return Err(missing) };
        let has_tokens = |artifact: &ArtifactId| {
            self.store.manifest(artifact).is_ok_and(|list| list.files().iter().any(|file| file.path == TOKENS))
        };
        let read = node.inputs.iter().filter_map(|input| self.results.get(&input.node));
        let tokens = read.copied().find(|artifact| has_tokens(artifact));
        let tokens = tokens.map(|artifact| self.store.view(&artifact)).transpose()?;
        let (manifest, view) = (self.store.manifest(&artifact)?, self.store.view(&artifact)?);
        Ok(Subject { stage, node, key, artifact, manifest, view, tokens })
    }

    async fn judge(&mut self, subject: &Subject<'_>) -> Result<Verdict, End> {
        let comparator = &subject.node.policy.comparator;
        self.wait_for_another_second(&subject.key).await?;
        let sources = self.sources(subject)?;
        let (mut reruns, mut difference) = (Vec::new(), None);
        for run in 1..=self.options.runs {
            (self.tell)(CheckEvent::Begins { stage: &subject.stage.name, run });
            let (rerun, found) = self.rerun(subject, comparator, run).await?;
            self.need_unchanged(subject, &sources)?;
            (self.tell)(CheckEvent::Ran { stage: &subject.stage.name, run, rerun: &rerun });
            // The first that differs is kept, rather than one within the tolerance.
            let worse = reruns.iter().all(|before: &Rerun| before.outcome < rerun.outcome);
            if let Some(found) = found.filter(|_| worse) {
                difference = Some(found);
            }
            reruns.push(rerun);
        }
        Ok(Verdict::new(subject.artifact, comparator, reruns, difference))
    }

    /// The sources of a stage as they are now, which must be those that the record was made of.
    fn sources(&self, subject: &Subject<'_>) -> Result<Vec<SourceState>, End> {
        // Before they are hashed, so that every later change shows.
        let states = plan::source_states(self.graph, subject.stage.node, self.store)?;
        let result = |node| self.results.get(&node).copied();
        if plan::resolve(self.graph, subject.stage.node, result, &self.store.into())?.key != subject.key {
            let message = "what it reads is not what it was when the check began; check again";
            return Err(End::Failed(Failed { message: message.to_owned(), blame: Blame::Input, log: None }));
        }
        Ok(states)
    }

    /// A result of other content says nothing of the one on record.
    fn need_unchanged(&self, subject: &Subject<'_>, before: &[SourceState]) -> Result<(), End> {
        let after = plan::source_states(self.graph, subject.stage.node, self.store)?;
        let changed = before.iter().zip(&after).find_map(|(before, after)| before.first_change(after));
        changed.map_or(Ok(()), |path| {
            let message = format!("{} was written to while the stage read it; check again", path.display());
            Err(End::Failed(Failed { message, blame: Blame::Input, log: None }))
        })
    }

    async fn wait_for_another_second(&self, key: &Key) -> Result<(), End> {
        let finished = self.store.record(key)?.map(|record| record.provenance.finished);
        let since = finished.map(|finished| Timestamp::now().duration_since(finished));
        if let Some(rest) = since.and_then(|since| APART.checked_sub(since.try_into().unwrap_or_default())) {
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    async fn rerun(
        &mut self,
        subject: &Subject<'_>,
        comparator: &Comparator,
        run: usize,
    ) -> Result<(Rerun, Option<Comparison>), End> {
        let clock = std::time::Instant::now();
        let folder = self.store.check_folder(&subject.key)?;
        let in_folder = |source| RunError::Folder { path: folder.path().to_owned(), source };
        let mut surroundings =
            Surroundings::new(run, &self.host, folder.path(), subject.stage.kind, self.usual_threads(subject.node));
        fs::create_dir(&surroundings.folder).map_err(in_folder)?;
        let mut inputs = Inputs::new(folder.path());
        let job = self.job(subject, &surroundings, &mut inputs, folder.path())?;
        if inputs.have_order() {
            surroundings.file_order(inputs.kept_order());
        }
        let log = File::options().create(true).append(true).open(&job.log).map_err(in_folder)?;
        let lease = Lease { threads: surroundings.threads, devices: self.options.totals.devices().map(<[_]>::to_vec) };
        let system = |action| move |source| RunError::System { action, source };
        let mut worker = Worker::start_in(&lease, Some(&surroundings)).map_err(system("start a worker process"))?;
        worker.hand(&job, &log, &log).map_err(system("hand a job to a worker"))?;
        let timeout = subject.node.policy.timeout;
        let warned = |event: StageEvent| {
            if let StageEvent::Warning { message } = event
                && !self.warnings.contains(&message)
            {
                (self.tell)(CheckEvent::Warned { stage: &subject.stage.name, message: &message });
                self.warnings.push(message);
            }
        };
        let (ended, worker) = process::attend(worker, self.wish.clone(), timeout, &self.strays, warned)
            .await
            .map_err(system("attend to the worker"))?;
        drop(worker);
        match ended.verdict {
            Some(job::Verdict::Succeeded) => {}
            _ if *self.wish.borrow() > Wish::Run => return Err(End::Stopped),
            Some(job::Verdict::Failed { message, blame }) => {
                return Err(self.failed(&subject.key, message, blame, &job.log));
            }
            _ => {
                let message = if ended.timed_out {
                    "it did not end within its timeout".to_owned()
                } else {
                    ended.status.map(process::describe).unwrap_or_default()
                };
                return Err(self.failed(&subject.key, message, Blame::Environment, &job.log));
            }
        }
        let manifest = self.store.list(&job.output)?;
        let (outcome, comparison) = compare_with(subject, comparator, &manifest, &job.output)?;
        let Surroundings { threads, varied, kept, .. } = surroundings;
        let seconds = clock.elapsed().as_secs_f64();
        Ok((Rerun { artifact: manifest.artifact(), outcome, seconds, threads, varied, kept }, comparison))
    }

    /// A failure, with what was printed before it. If that cannot be kept, the failure is told all the same.
    fn failed(&self, key: &Key, message: String, blame: Blame, printed: &Path) -> End {
        let place = self.store.check_log(key);
        let (message, log) = match keep_log(&place, printed) {
            Ok(true) => (message, Some(place)),
            Ok(false) => (message, None),
            Err(error) => {
                (format!("{message}; what it printed could not be kept in {}: {error}", place.display()), None)
            }
        };
        End::Failed(Failed { message, blame, log })
    }

    /// The threads that a run would give the stage.
    fn usual_threads(&self, node: &Node) -> usize {
        let asked = node.policy.resources.get(CPU).and_then(|request| usize::try_from(request.amount).ok());
        let all = self.options.totals.default_threads(None);
        asked.map_or(all, |asked| asked.min(all)).max(1)
    }

    fn job(
        &self,
        subject: &Subject<'_>,
        surroundings: &Surroundings,
        inputs: &mut Inputs,
        folder: &Path,
    ) -> Result<Job, RunError> {
        let mut places = BTreeMap::new();
        for input in &subject.node.inputs {
            let artifact = self.results.get(&input.node).ok_or(RunError::Bug("an input has no result"))?;
            let fresh = inputs.place(self.store, artifact)?;
            let path = input.reference.path().map_or_else(|| fresh.clone(), |below| fresh.join(below));
            places.insert(input.reference.as_str().to_owned(), path);
        }
        let stage = &subject.node.stage;
        let settings = serde_json::to_string(stage.settings()).map_err(|_| RunError::Bug("settings have no JSON"))?;
        Ok(Job {
            stage: subject.node.name.clone(),
            work: Work::Whole,
            kind: stage.kind().name.to_owned(),
            settings,
            inputs: places,
            workspace: self.graph.workspace.clone(),
            output: folder.join("output"),
            scratch: folder.join("kept"),
            logs: folder.join("logs"),
            log: folder.join("log.txt"),
            split: folder.join("split.json"),
            threads: surroundings.threads,
            isolation: self.options.isolation,
            allowed: subject.node.policy.allowed.clone(),
            guarded: false,
            driver: std::process::id(),
        })
    }
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

/// What a new result is beside the recorded one, and in what it differs.
fn compare_with(
    subject: &Subject<'_>,
    comparator: &Comparator,
    manifest: &Manifest,
    output: &Path,
) -> Result<(Outcome, Option<Comparison>), RunError> {
    if manifest.artifact() == subject.artifact {
        return Ok((Outcome::Same, None));
    }
    let bounds = |(absolute, relative)| compare::Bounds { absolute, relative };
    let comparison = compare::folders(
        Folder { path: &subject.view, files: subject.manifest.files() },
        Folder { path: output, files: manifest.files() },
        subject.tokens.as_deref(),
        compare::Tolerances {
            tensor: &|name| comparator.of_tensor(name).map(bounds),
            value: &|place| comparator.of_value(place).map(bounds),
        },
    )?;
    let outcome = if comparison.is_within_bounds() { Outcome::WithinTolerance } else { Outcome::Differs };
    Ok((outcome, Some(comparison)))
}
