//! Runs any program: an argument list, declared inputs, files, outputs and environment.

mod arguments;
mod glance;
mod isolation;
mod log;
mod process;
mod program;
mod run;

use serde::{Deserialize, Serialize};

use crate::stage::{Context, Kind, Numerics, Reference, SettingError, Source, SourcePath, StageError};

/// The folders in the scratch folder that a program works in and has its temporary files in.
pub const FOLDERS: [&str; 2] = ["work", "tmp"];

/// Settings of a `Command` stage.
///
/// The program is started without a shell, in a folder of its own that survives interruption, with nothing to read on
/// standard input. What enters the key is what stands here and the contents of inputs and files: a program that is
/// found through PATH counts by its name, so pin its version where that matters.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments; `{in.NAME}` is an input folder, `{file.N}` the N-th declared file (from 0),
    /// `{out}` the output folder, `{threads}` the number of threads. Other braces stand for themselves.
    pub run: Vec<String>,
    /// Stages whose artifacts the program reads, by the name used in `run`.
    #[serde(default)]
    pub inputs: std::collections::BTreeMap<String, Reference>,
    /// Workspace files that the program reads, its script above all.
    #[serde(default)]
    pub files: Vec<SourcePath>,
    /// Environment variables to set, with the same placeholders as `run`; the program sees no others but PATH, HOME,
    /// LANG (C.UTF-8), TMPDIR, and CUDA_VISIBLE_DEVICES where devices are lent to stages.
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
    const STARTS_PROGRAMS: bool = true;

    fn check(&self) -> Result<(), SettingError> {
        arguments::check(self)
    }

    fn sources(&self) -> Vec<Source> {
        let source = |(index, path): (usize, &SourcePath)| Source {
            role: format!("files.{index}"),
            path: path.clone(),
            files: Vec::new(),
        };
        self.files.iter().enumerate().map(source).collect()
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        run::run(self, context)
    }
}
