//! Lock files: what each stage of a graph was keyed by and what it gave, written down beside the graph, so that another
//! checkout, machine or day can be held to it.

mod deviation;
mod file;

pub use deviation::{Deviation, Keyed};
pub use file::{Lock, LockError, LockedStage};
