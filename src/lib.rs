//! The orchestrator: **text → Graph → Plan → Run → Record**. It computes with no tensors; what a stage computes
//! lives in the package `twdag-stages`, and runs in a worker process.
//!
//! Arrows between the rooms, which a test enforces: `digest`, `canon`, `blame`, `failpoint` ← `store`, `graph` ← `remote` ← `provenance`, `compare`, `plan` ← `lock` ← `run` ← `cli`.

#![forbid(unsafe_code)]

pub mod blame;
pub mod canon;
pub mod cli;
pub mod compare;
pub mod digest;
pub mod failpoint;
pub mod graph;
pub mod lock;
pub mod plan;
pub mod provenance;
pub mod remote;
pub mod run;
pub mod store;
