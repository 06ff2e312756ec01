//! What a stage kind is, in the typed form that a kind implements and the erased form that others hold.

use serde::{Serialize, de::DeserializeOwned};

use super::{Context, Estimate, FinishedPart, Outlooks, Part, Reference, SettingError, SourcePath, Split, StageError};

/// Whether a stage's result depends on the numeric class (device kind and dtype) it is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerics {
    /// Bytes in, bytes out: the same everywhere.
    Exact,
    /// Floating-point tensor work: the class enters the key.
    Floating,
}

/// The numeric class of stages that compute on the CPU in f32.
pub const CPU_F32: &str = "cpu-f32";

/// A stage kind: its settings are the type itself, its result is a pure function of them and of the input folders.
///
/// The settings use `#[serde(deny_unknown_fields)]` and defaults for everything that has a sensible one. A field
/// that is added later is an `Option` whose `None` means the old behaviour: it then leaves old keys unchanged.
pub trait Kind: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name in the graph file.
    const NAME: &'static str;
    /// Raised whenever the same settings and inputs give another result.
    const REVISION: u32;
    /// One sentence for help texts.
    const SUMMARY: &'static str;
    /// Whether the numeric class enters the key.
    const NUMERICS: Numerics;
    /// Whether [`Kind::split`] ever gives parts. A kind that says so reads nothing from outside the graph.
    const SPLITS: bool = false;
    /// Whether it starts programs that somebody else wrote: how far those are isolated is recorded.
    const STARTS_PROGRAMS: bool = false;
    /// Threads that a part can use at most, if that is less than a stage may have: parts then run beside each other.
    const PART_THREADS: Option<usize> = None;

    /// Refuses values that can be seen to be wrong without any data.
    fn check(&self) -> Result<(), SettingError> {
        Ok(())
    }

    /// Files and folders outside the graph that this stage reads.
    fn sources(&self) -> Vec<Source> {
        Vec::new()
    }

    /// Device kind and dtype of what it computes, if its result depends on them.
    fn numeric_class(&self) -> Option<&'static str> {
        match Self::NUMERICS {
            Numerics::Exact => None,
            Numerics::Floating => Some(CPU_F32),
        }
    }

    /// What can be told of result and work before anything that the stage reads is there. It reads nothing, and is quick.
    fn estimate(&self, _inputs: &Outlooks<'_>) -> Estimate {
        Estimate::default()
    }

    /// Writes the output folder. Long work reports progress, keeps resumable state in the scratch folder, and
    /// returns [`StageError::Canceled`] soon after [`Context::is_canceled`] turns true.
    fn run(&self, context: &Context) -> Result<(), StageError>;

    /// How the work falls into parts that are cached, retried and run at once one by one; `None` if that does not pay,
    /// and [`Kind::run`] is to do it all. Reads the inputs, and writes nothing. Parts must depend on content alone, and
    /// so that new input leaves those parts what they are that do not read it.
    fn split(&self, _context: &Context) -> Result<Option<Split>, StageError> {
        Ok(None)
    }

    /// Writes the result of one part into the output folder.
    fn run_part(&self, part: &Part, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug(format!("kind {} has no parts, but was given `{}`", Self::NAME, part.name)))
    }

    /// Writes the output folder from the results of all parts, in the order of the split: byte for byte what
    /// [`Kind::run`] would have written.
    fn join(&self, parts: &[FinishedPart], _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug(format!("kind {} has no parts, but was given {}", Self::NAME, parts.len())))
    }
}

/// A file or folder that a stage reads from outside the graph; its content enters the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The place in the settings, such as `from.path`.
    pub role: String,
    /// A file, or a folder whose files below it count.
    pub path: SourcePath,
    /// Globs relative to the folder that choose files; empty means all. Ignored for a file.
    pub files: Vec<String>,
}

/// What is known of a kind without any settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// See [`Kind::NAME`].
    pub name: &'static str,
    /// See [`Kind::REVISION`].
    pub revision: u32,
    /// See [`Kind::SUMMARY`].
    pub summary: &'static str,
    /// See [`Kind::SPLITS`].
    pub splits: bool,
    /// See [`Kind::STARTS_PROGRAMS`].
    pub starts_programs: bool,
    /// See [`Kind::PART_THREADS`].
    pub part_threads: Option<usize>,
}

impl KindInfo {
    pub(crate) const fn of<K: Kind>() -> Self {
        Self {
            name: K::NAME,
            revision: K::REVISION,
            summary: K::SUMMARY,
            splits: K::SPLITS,
            starts_programs: K::STARTS_PROGRAMS,
            part_threads: K::PART_THREADS,
        }
    }
}

/// A stage of any kind.
pub trait Stage: Send + Sync {
    /// What is known of its kind.
    fn kind(&self) -> KindInfo;
    /// Its settings, for keys, job files and display.
    fn settings(&self) -> &dyn erased_serde::Serialize;
    /// See [`Kind::check`].
    fn check(&self) -> Result<(), SettingError>;
    /// See [`Kind::sources`].
    fn sources(&self) -> Vec<Source>;
    /// See [`Kind::numeric_class`].
    fn numeric_class(&self) -> Option<&'static str>;
    /// The stages it reads, in a fixed order, each with its place in the settings (such as `tasks.0.tokens`).
    fn references(&self) -> Vec<(String, Reference)>;
    /// See [`Kind::estimate`].
    fn estimate(&self, inputs: &Outlooks<'_>) -> Estimate;
    /// See [`Kind::run`].
    fn run(&self, context: &Context) -> Result<(), StageError>;
    /// See [`Kind::split`].
    fn split(&self, context: &Context) -> Result<Option<Split>, StageError>;
    /// See [`Kind::run_part`].
    fn run_part(&self, part: &Part, context: &Context) -> Result<(), StageError>;
    /// See [`Kind::join`].
    fn join(&self, parts: &[FinishedPart], context: &Context) -> Result<(), StageError>;
}

impl<K: Kind> Stage for K {
    fn kind(&self) -> KindInfo {
        KindInfo::of::<K>()
    }

    fn settings(&self) -> &dyn erased_serde::Serialize {
        self
    }

    fn check(&self) -> Result<(), SettingError> {
        Kind::check(self)
    }

    fn sources(&self) -> Vec<Source> {
        Kind::sources(self)
    }

    fn numeric_class(&self) -> Option<&'static str> {
        Kind::numeric_class(self)
    }

    fn references(&self) -> Vec<(String, Reference)> {
        super::collect::references(self)
    }

    fn estimate(&self, inputs: &Outlooks<'_>) -> Estimate {
        Kind::estimate(self, inputs)
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        Kind::run(self, context)
    }

    fn split(&self, context: &Context) -> Result<Option<Split>, StageError> {
        Kind::split(self, context)
    }

    fn run_part(&self, part: &Part, context: &Context) -> Result<(), StageError> {
        Kind::run_part(self, part, context)
    }

    fn join(&self, parts: &[FinishedPart], context: &Context) -> Result<(), StageError> {
        Kind::join(self, parts, context)
    }
}
