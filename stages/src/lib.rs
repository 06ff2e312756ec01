//! What the stages of a graph compute. This package knows nothing of graphs, plans and stores:
//! a stage is a pure function from settings and input folders to an output folder.
//!
//! Start at [`stage::Kind`] (what a stage kind is) and [`registry`] (the list of all kinds); each kind has a
//! room of its own, and the rooms stand on two shared floors, [`data`] and [`model`].

pub mod bucket;
pub mod command;
pub mod data;
pub mod download;
pub mod evaluate;
pub mod extend_rope;
pub mod init_model;
pub mod merge_adapter;
pub mod model;
pub mod postprocess;
pub mod registry;
pub mod report;
pub mod score;
pub mod stage;
pub mod synthesize;
pub mod time_slice;
pub mod tokenize;
pub mod train;
pub mod train_tokenizer;
pub mod weighting;
