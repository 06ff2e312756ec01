//! One stage computed again, once: from the results that it reads, in other surroundings, to what its result is beside the one on record.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use tokio::sync::watch;
use twdag_stages::stage::{Isolation, StageEvent};

use super::{
    inputs::{InMemory, Inputs},
    surroundings::{Host, Surroundings},
    verdict::{Outcome, Rerun},
};
use crate::{
    blame::Blame,
    compare::{self, Comparison, Folder},
    digest::{ArtifactId, Key},
    graph::{Graph, Node},
    plan,
    run::{
        attempt::blocking,
        caught::caught,
        error::{RunError, Trouble},
        job::{self, Job, Work},
        process::{self, Lease, Wish, Worker},
        strays::Strays,
    },
    store::{CheckFolder, Manifest, SourceState, Store},
};

const TOKENS: &str = "tokens.json";

/// What all reruns of a check have in common.
pub(super) struct Shared {
    pub(super) graph: Arc<Graph>,
    pub(super) store: Arc<Store>,
    /// The results on record, by the node of the graph.
    pub(super) results: BTreeMap<usize, ArtifactId>,
    pub(super) isolation: Isolation,
    pub(super) host: Host,
    pub(super) strays: Strays,
}

/// A result on record that is computed again.
pub(super) struct Subject {
    /// The node of the graph.
    pub(super) node: usize,
    pub(super) key: Key,
    pub(super) artifact: ArtifactId,
    /// Which of its inputs are copied into memory.
    pub(super) in_memory: InMemory,
}

/// One attempt to compute it again.
pub(super) struct Attempt {
    pub(super) shared: Arc<Shared>,
    pub(super) subject: Arc<Subject>,
    /// Counts from 1.
    pub(super) run: usize,
    /// The threads that a run would give the stage.
    pub(super) usual_threads: usize,
    /// What it may use.
    pub(super) lease: Lease,
    pub(super) wish: watch::Receiver<Wish>,
}

/// What came of an attempt.
pub(super) struct Repeated {
    /// What the stage warned of, each once.
    pub(super) warnings: Vec<String>,
    /// The rerun, and in what its result differs, if it does.
    pub(super) end: Result<(Rerun, Option<Comparison>), End>,
}

/// Why an attempt has no result.
pub(super) enum End {
    /// It was asked to stop.
    Stopped,
    /// Something went wrong.
    Failed {
        /// What.
        message: String,
        /// Whose fault it is.
        blame: Blame,
        /// What was printed before.
        printed: Option<Printed>,
    },
}

/// What a worker and its program printed.
pub(super) struct Printed {
    pub(super) log: PathBuf,
    /// Holds it.
    _folder: CheckFolder,
}

impl<E: Into<RunError>> From<E> for End {
    fn from(error: E) -> Self {
        let error = error.into();
        Self::Failed { message: error.to_string(), blame: error.blame(), printed: None }
    }
}

impl From<Trouble> for End {
    fn from(Trouble { message, blame, .. }: Trouble) -> Self {
        Self::Failed { message, blame, printed: None }
    }
}

/// All that a worker needs, and what it is judged by.
struct Prepared {
    began: Instant,
    /// The sources before the stage reads them.
    sources: Vec<SourceState>,
    folder: CheckFolder,
    surroundings: Surroundings,
    job: Job,
    /// Holds the inputs that the job reads.
    _inputs: Inputs,
}

impl Prepared {
    fn failed(self, message: String, blame: Blame) -> End {
        let printed = Some(Printed { log: self.job.log, _folder: self.folder });
        End::Failed { message, blame, printed }
    }
}

impl Attempt {
    pub(super) async fn carry_out(self) -> Repeated {
        let mut warnings = Vec::new();
        let end = caught(Arc::new(self).compute(&mut warnings)).await;
        Repeated { warnings, end }
    }

    async fn compute(self: Arc<Self>, warnings: &mut Vec<String>) -> Result<(Rerun, Option<Comparison>), End> {
        let preparing = Arc::clone(&self);
        let prepared = blocking(move || preparing.prepare()).await?;
        if *self.wish.borrow() > Wish::Run {
            return Err(End::Stopped);
        }
        let worker = self.worker(&prepared)?;
        let warned = |event: StageEvent| {
            if let StageEvent::Warning { message } = event
                && !warnings.contains(&message)
            {
                warnings.push(message);
            }
        };
        let timeout = self.node().policy.timeout;
        let (ended, worker) = process::attend(worker, self.wish.clone(), timeout, &self.shared.strays, warned)
            .await
            .map_err(system("attend to the worker"))?;
        // What it was started in is of no use to another rerun.
        drop(worker);
        match ended.verdict {
            Some(job::Verdict::Succeeded) => blocking(move || self.judge(&prepared)).await,
            _ if *self.wish.borrow() > Wish::Run => Err(End::Stopped),
            Some(job::Verdict::Failed { message, blame }) => Err(prepared.failed(message, blame)),
            _ if ended.timed_out => {
                Err(prepared.failed("it did not end within its timeout".to_owned(), Blame::Environment))
            }
            _ => {
                let message = ended.status.map(process::describe).unwrap_or_default();
                Err(prepared.failed(message, Blame::Environment))
            }
        }
    }

    fn node(&self) -> &Node {
        &self.shared.graph.nodes()[self.subject.node]
    }

    fn prepare(&self) -> Result<Prepared, End> {
        let began = Instant::now();
        let sources = self.sources()?;
        let folder = self.shared.store.check_folder(&self.subject.key)?;
        let (kind, threads) = (self.node().stage.kind().name, self.lease.threads);
        let mut surroundings =
            Surroundings::new(self.run, &self.shared.host, folder.path(), kind, (self.usual_threads, threads));
        fs::create_dir(&surroundings.folder).map_err(in_folder(&folder))?;
        let mut inputs = Inputs::new(folder.path(), self.subject.in_memory.clone());
        let job = self.job(&mut inputs, folder.path())?;
        if inputs.have_order() {
            surroundings.file_order(inputs.kept_order());
        }
        Ok(Prepared { began, sources, folder, surroundings, job, _inputs: inputs })
    }

    /// The sources of the stage as they are now, which must be those that the record was made of.
    fn sources(&self) -> Result<Vec<SourceState>, End> {
        let Shared { graph, store, results, .. } = &*self.shared;
        // Before they are hashed, so that every later change shows.
        let states = plan::settled_source_states(graph, self.subject.node, store)?;
        let result = |node| results.get(&node).copied();
        if plan::resolve(graph, self.subject.node, result, &(&**store).into())?.key() != self.subject.key {
            let message = "what it reads is not what it was when the check began; check again";
            return Err(Trouble::new(message, Blame::Input).into());
        }
        Ok(states)
    }

    fn job(&self, inputs: &mut Inputs, folder: &Path) -> Result<Job, RunError> {
        let Shared { graph, store, results, isolation, .. } = &*self.shared;
        let node = self.node();
        let mut places = BTreeMap::new();
        for input in &node.inputs {
            let artifact = results.get(&input.node).ok_or(RunError::Bug("an input has no result"))?;
            let fresh = inputs.place(store, artifact)?;
            let path = input.reference.path().map_or_else(|| fresh.clone(), |below| fresh.join(below));
            places.insert(input.reference.as_str().to_owned(), path);
        }
        let settings =
            serde_json::to_string(node.stage.settings()).map_err(|_| RunError::Bug("settings have no JSON"))?;
        Ok(Job {
            stage: node.name.clone(),
            work: Work::Whole,
            kind: node.stage.kind().name.to_owned(),
            settings,
            inputs: places,
            workspace: graph.workspace.clone(),
            output: folder.join("output"),
            scratch: folder.join("kept"),
            logs: folder.join("logs"),
            log: folder.join("log.txt"),
            split: folder.join("split.json"),
            threads: self.lease.threads,
            isolation: *isolation,
            allowed: node.policy.allowed.clone(),
            guarded: false,
            driver: std::process::id(),
        })
    }

    /// A worker that is at the job.
    fn worker(&self, prepared: &Prepared) -> Result<Worker, RunError> {
        let log = File::options().create(true).append(true).open(&prepared.job.log);
        let log = log.map_err(in_folder(&prepared.folder))?;
        let mut worker =
            Worker::start_in(&self.lease, Some(&prepared.surroundings)).map_err(system("start a worker process"))?;
        worker.hand(&prepared.job, &log, &log).map_err(system("hand a job to a worker"))?;
        Ok(worker)
    }

    /// What came out is beside the result on record.
    fn judge(&self, prepared: &Prepared) -> Result<(Rerun, Option<Comparison>), End> {
        let Prepared { began, sources, surroundings, job, .. } = prepared;
        let manifest = self.shared.store.list(&job.output)?;
        let (outcome, comparison) = self.compare(&manifest, &job.output)?;
        self.need_unchanged(sources)?;
        let rerun = Rerun {
            artifact: manifest.artifact(),
            outcome,
            seconds: began.elapsed().as_secs_f64(),
            threads: self.lease.threads,
            varied: surroundings.varied.clone(),
            kept: surroundings.kept.clone(),
        };
        Ok((rerun, comparison))
    }

    /// A result of other content says nothing of the one on record.
    fn need_unchanged(&self, before: &[SourceState]) -> Result<(), End> {
        let after = plan::source_states(&self.shared.graph, self.subject.node, &self.shared.store)?;
        let changed = before.iter().zip(&after).find_map(|(before, after)| before.first_change(after));
        changed.map_or(Ok(()), |path| {
            let message = format!("{} was written to while the stage read it; check again", path.display());
            Err(Trouble::new(message, Blame::Input).into())
        })
    }

    /// What a new result is beside the recorded one, and in what it differs.
    fn compare(&self, manifest: &Manifest, output: &Path) -> Result<(Outcome, Option<Comparison>), RunError> {
        let store = &self.shared.store;
        let recorded = &self.subject.artifact;
        if manifest.artifact() == *recorded {
            return Ok((Outcome::Same, None));
        }
        let has_tokens = |artifact: &ArtifactId| {
            store.manifest(artifact).is_ok_and(|list| list.files().iter().any(|file| file.path == TOKENS))
        };
        let read = self.node().inputs.iter().filter_map(|input| self.shared.results.get(&input.node));
        let tokens = read.copied().find(has_tokens).map(|artifact| store.view(&artifact)).transpose()?;
        let comparator = &self.node().policy.comparator;
        let bounds = |(absolute, relative)| compare::Bounds { absolute, relative };
        let comparison = compare::folders(
            Folder { path: &store.view(recorded)?, files: store.manifest(recorded)?.files() },
            Folder { path: output, files: manifest.files() },
            tokens.as_deref(),
            compare::Tolerances {
                tensor: &|name| comparator.of_tensor(name).map(bounds),
                value: &|place| comparator.of_value(place).map(bounds),
            },
        )?;
        let outcome = if comparison.is_within_bounds() { Outcome::WithinTolerance } else { Outcome::Differs };
        Ok((outcome, Some(comparison)))
    }
}

fn in_folder(folder: &CheckFolder) -> impl FnOnce(std::io::Error) -> RunError {
    let path = folder.path().to_owned();
    move |source| RunError::Folder { path, source }
}

fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> RunError {
    move |source| RunError::System { action, source }
}
