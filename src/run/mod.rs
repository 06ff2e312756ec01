//! Plan to outcome: a scheduler that is a pure state machine ([`state`]), a driver that carries out what it asks
//! for ([`driver`]), a process for each stage or part of one ([`worker`]), and one stream of events that tells of it all ([`event`]).

pub mod cached;
pub mod check;
pub mod driver;
pub mod error;
pub mod event;
pub mod guard;
pub mod history;
pub mod job;
pub mod journal;
pub mod pool;
pub mod resources;
pub mod sharing;
pub mod state;
pub mod worker;

mod attempt;
mod caught;
mod channel;
mod event_loop;
mod open_files;
mod owner;
mod parts;
mod process;
mod securing;
mod signals;
mod strays;
mod turn;
