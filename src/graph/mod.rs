//! Text to checked graph: reads a RON file, puts the parameters in, types the stages, checks everything that needs
//! no data, and tells all problems of a file at once, each where it stands.

pub mod amount;
mod check;
mod comparator;
pub mod draw;
mod load;
mod model;
mod names;
mod outline;
mod parameters;
mod policy;
mod problem;
mod profiles;
mod substitute;
mod suggest;
pub mod syntax;
mod translate;
mod typing;
mod workspace;

pub use comparator::Comparator;
pub use load::workspace;
pub use model::{Graph, Input, Node, Overrides, Parameter};
pub use policy::{Policy, Request};
pub use problem::{GraphError, Problem, Remark};
pub use workspace::{Available, WORKSPACE_FILE, Workspace};

/// The name among `names` that a misspelt one may mean.
pub fn similar_name<'a>(wrong: &str, names: &[&'a str]) -> Option<&'a str> {
    suggest::similar(wrong, names.iter().copied())
}
