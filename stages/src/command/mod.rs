//! Runs any program: an argument list, declared inputs, files, outputs and environment.

use serde::{Deserialize, Serialize};

#[allow(unused_imports)]
use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// Settings of a `Command` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments; `{in.NAME}` is an input folder, `{file.N}` the N-th declared file (from 0), `{out}` the output folder, `{threads}` the number of threads.
    pub run: Vec<String>,
    /// Stages whose artifacts the program reads, by the name used in `run`.
    #[serde(default)]
    pub inputs: std::collections::BTreeMap<String, Reference>,
    /// Workspace files that the program reads, its script above all.
    #[serde(default)]
    pub files: Vec<SourcePath>,
    /// Environment variables to set; the program sees no others but PATH, HOME, LANG, TMPDIR and those needed to start.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
    /// Files that must exist in the output folder when the program ends; empty means at least one.
    #[serde(default)]
    pub outputs: Vec<String>,
}

impl Kind for Command {
    const NAME: &'static str = "Command";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str =
        "Runs any program: an argument list, declared inputs, files, outputs and environment.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn run(&self, _context: &Context) -> Result<(), StageError> {
        Err(StageError::Bug("not built yet".to_owned()))
    }
}
