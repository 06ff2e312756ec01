//! What a running stage may use: folders, progress, and the wish of others that it stops.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::{Allowed, Isolation, Reference, SourcePath, StageError};

/// What a running stage tells the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum StageEvent {
    /// How far the work is.
    Progress {
        /// Units done, those of an earlier interrupted attempt included.
        done: u64,
        /// Units in all; zero when unknown.
        total: u64,
        /// What is counted, in the plural: `tokens`, `steps`, `bytes`.
        unit: String,
        /// A few words on the state, such as `loss 2.314`; may be empty.
        detail: String,
    },
    /// Something that the user should know although the stage goes on.
    Warning {
        /// One sentence.
        message: String,
    },
}

/// Folders and channels of one running stage.
pub struct Context {
    inputs: BTreeMap<String, PathBuf>,
    workspace: PathBuf,
    output: PathBuf,
    scratch: PathBuf,
    logs: Option<PathBuf>,
    log: Option<PathBuf>,
    threads: usize,
    part_size: Option<u64>,
    isolation: Isolation,
    guarded: bool,
    allowed: Allowed,
    line: Line,
}

/// The line between a stage and whoever has started it. It may go to other threads of the stage, and last longer than they do.
#[derive(Clone)]
pub(crate) struct Line {
    cancel: Arc<AtomicBool>,
    events: Arc<dyn Fn(StageEvent) + Send + Sync>,
}

impl Line {
    /// Whether the stage should keep its state and stop.
    pub(crate) fn is_canceled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Tells how far the work is.
    pub(crate) fn progress(&self, done: u64, total: u64, unit: &str, detail: impl Into<String>) {
        (self.events)(StageEvent::Progress { done, total, unit: unit.to_owned(), detail: detail.into() });
    }
}

impl Context {
    /// Starts building a context; `output` must exist and be empty, `scratch` must exist.
    pub fn builder(output: impl Into<PathBuf>, scratch: impl Into<PathBuf>) -> ContextBuilder {
        ContextBuilder {
            context: Self {
                inputs: BTreeMap::new(),
                workspace: PathBuf::from("."),
                output: output.into(),
                scratch: scratch.into(),
                logs: None,
                log: None,
                threads: 1,
                part_size: None,
                isolation: Isolation::Off,
                guarded: false,
                allowed: Allowed::default(),
                line: Line { cancel: Arc::new(AtomicBool::new(false)), events: Arc::new(|_| {}) },
            },
        }
    }

    /// The read-only folder (or file, if the reference names a file inside an artifact) of an input.
    pub fn input(&self, reference: &Reference) -> Result<&Path, StageError> {
        self.inputs
            .get(reference.as_str())
            .map(PathBuf::as_path)
            .ok_or_else(|| StageError::Bug(format!("input `{reference}` was not given to the stage")))
    }

    /// Where a source outside the graph lies.
    pub fn source(&self, path: &SourcePath) -> PathBuf {
        self.workspace.join(path.as_str())
    }

    /// The folder that relative source paths start from.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The folder to write the result into; empty at the start of every attempt.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// A folder that survives interruption and belongs to exactly this action: what a resumed attempt needs.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A folder, perhaps not there yet, for logs that people read while the stage runs or after it. It is no part of the
    /// result, so this is the place for times. `None` if nobody wants them.
    pub fn logs(&self) -> Option<&Path> {
        self.logs.as_deref()
    }

    /// The file, perhaps not there yet, that what the programs of the stage print is added to. `None` if nobody wants it.
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// How many threads the stage may use. Results must not depend on it.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// About how large a part should be, in the unit of its kind: what the kind thinks right, unless whoever runs it
    /// says otherwise. Results must not depend on it.
    pub fn part_size(&self, usual: u64) -> u64 {
        self.part_size.unwrap_or(usual).max(1)
    }

    /// How far programs that the stage starts are kept from what it does not declare.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// What its program may do beyond what the stage declares.
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// Whether somebody ends the programs of the stage, should this process be killed together with the one that waits for it.
    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// Does parallel work (rayon) on as many threads as the stage may use.
    pub fn in_pool<R: Send>(&self, work: impl FnOnce() -> Result<R, StageError> + Send) -> Result<R, StageError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build().map_err(|error| {
            StageError::Environment { action: "start threads".to_owned(), source: std::io::Error::other(error) }
        })?;
        pool.install(work)
    }

    /// Whether the stage should keep its state and stop.
    pub fn is_canceled(&self) -> bool {
        self.line.is_canceled()
    }

    /// The line to whoever has started the stage.
    pub(crate) fn line(&self) -> Line {
        self.line.clone()
    }

    /// [`StageError::Canceled`] if the stage should stop.
    pub fn check_canceled(&self) -> Result<(), StageError> {
        if self.is_canceled() { Err(StageError::Canceled) } else { Ok(()) }
    }

    /// Tells how far the work is. Call it as often as is natural; whoever shows it thins it out.
    pub fn progress(&self, done: u64, total: u64, unit: &str, detail: impl Into<String>) {
        self.line.progress(done, total, unit, detail);
    }

    /// Tells the user something that does not stop the stage.
    pub fn warn(&self, message: impl Into<String>) {
        (self.line.events)(StageEvent::Warning { message: message.into() });
    }
}

/// Builds a [`Context`].
#[must_use]
pub struct ContextBuilder {
    context: Context,
}

impl ContextBuilder {
    /// Where the artifact behind a reference lies.
    pub fn input(mut self, reference: impl Into<Reference>, folder: impl Into<PathBuf>) -> Self {
        self.context.inputs.insert(reference.into().as_str().to_owned(), folder.into());
        self
    }

    /// The folder that relative source paths start from.
    pub fn workspace(mut self, folder: impl Into<PathBuf>) -> Self {
        self.context.workspace = folder.into();
        self
    }

    /// Where logs for people go.
    pub fn logs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.context.logs = Some(folder.into());
        self
    }

    /// Where what programs print goes.
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.context.log = Some(file.into());
        self
    }

    /// How many threads the stage may use.
    pub fn threads(mut self, threads: usize) -> Self {
        self.context.threads = threads.max(1);
        self
    }

    /// About how large a part should be; without it, kinds choose.
    pub fn part_size(mut self, size: u64) -> Self {
        self.context.part_size = Some(size);
        self
    }

    /// Whether somebody ends the programs of the stage if nobody else can; nobody unless it is said.
    pub fn guarded(mut self, guarded: bool) -> Self {
        self.context.guarded = guarded;
        self
    }

    /// How far programs that the stage starts are kept from what it does not declare.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.context.isolation = isolation;
        self
    }

    /// What its program may do beyond what the stage declares.
    pub fn allowed(mut self, allowed: Allowed) -> Self {
        self.context.allowed = allowed;
        self
    }

    /// The flag that asks the stage to stop.
    pub fn cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.context.line.cancel = flag;
        self
    }

    /// Who hears of progress and warnings.
    pub fn events(mut self, sink: impl Fn(StageEvent) + Send + Sync + 'static) -> Self {
        self.context.line.events = Arc::new(sink);
        self
    }

    /// The finished context.
    pub fn build(self) -> Context {
        self.context
    }
}
