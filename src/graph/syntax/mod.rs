//! A tree over RON text in which everything has a place. It is wider than RON in what it takes for a number or a
//! name: whoever gives a value its type also judges its spelling.

mod lexer;
mod parser;
mod text;
mod tree;

pub use parser::{Parsed, parse};
pub use tree::{Field, Span, Value, ValueKind};
