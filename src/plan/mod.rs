//! Graph and store to plan: for every stage whether it is cached, must run and why, or waits for others.

mod action;
mod changes;
mod error;
mod planning;

pub use action::{Action, resolve, source_states};
pub use changes::{Change, Difference, changes};
pub use error::PlanError;
pub use planning::{Plan, PlannedStage, Status, plan, reason};
