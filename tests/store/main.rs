//! The store through its public surface: nothing half-written is trusted, nothing damaged blocks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod artifacts;
mod claims;
mod clones;
mod damage;
mod downloads;
mod last;
mod place;
mod processes;
mod records;
mod sources;
