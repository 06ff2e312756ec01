//! Whose fault an error is, and the exit code that follows.

pub use twdag_stages::stage::Blame;

/// Exit codes: a contract that scripts rely on.
pub mod exit {
    /// Everything succeeded or was cached.
    pub const SUCCESS: u8 = 0;
    /// A stage failed, or the machine did not let a stage run.
    pub const STAGE_FAILED: u8 = 1;
    /// Wrong usage, a wrong graph, a missing source file.
    pub const USAGE: u8 = 2;
    /// A result could not be reproduced.
    pub const NOT_REPRODUCIBLE: u8 = 3;
    /// Stopped by Ctrl-C or a termination signal.
    pub const INTERRUPTED: u8 = 130;
}
