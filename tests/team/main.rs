//! One cache for a team, through the program: two machines are two workspaces, the shared store is a folder or a bucket
//! of a real S3 server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../bucket_server/mod.rs"]
mod bucket_server;
#[path = "../run_support/mod.rs"]
mod run_support;

mod attacks;
mod checking;
mod checkpoints;
mod ci;
mod claims;
mod collecting;
mod copies;
mod credentials;
mod damage;
mod example;
mod faults;
mod keeping;
mod losses;
mod notes;
mod place;
mod reviving;
mod runs;
mod sharing;
mod signatures;
mod transfers;
mod unasked;
