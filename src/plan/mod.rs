//! Graph and store to plan: for every stage whether it is cached, must run and why, or waits for others. And, without a
//! store, what it will cost.

mod action;
mod changes;
mod document;
mod error;
mod explain;
mod forecast;
mod planning;
pub mod settled;

pub use action::{Action, resolve, settled_source_states, source_states};
pub use changes::{Change, Difference, changes};
pub use document::{Document, DocumentStage};
pub use error::PlanError;
pub use explain::{Differing, Explanation, Sort, differences};
pub use forecast::{Forecast, forecast};
pub use planning::{Plan, PlannedStage, Status, plan, reason};
