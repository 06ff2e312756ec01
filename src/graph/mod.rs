//! Text to checked graph: reads a RON file, puts the parameters in, types the stages, checks everything that needs
//! no data, and tells all problems of a file at once, each where it stands.

mod check;
pub mod draw;
mod load;
mod model;
mod names;
mod outline;
mod parameters;
mod problem;
mod substitute;
mod suggest;
pub mod syntax;
mod translate;
mod typing;

pub use load::workspace;
pub use model::{Graph, Input, Node, Parameter};
pub use problem::{GraphError, Problem, Remark};
