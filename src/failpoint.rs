//! Places where a test lets the program die, tear a write or meet a full disk, to see that nothing half-done is ever
//! trusted. Without [`arm`] each place costs one look at a flag.
//!
//! The variable [`VARIABLE`] holds `DEED POINT COUNT`: `kill` (as `kill -9` does), `tear` (half of the bytes are
//! written, then as `kill`) or `refuse` (as a full disk does); a name of [`POINTS`], the beginning of one, or `any`;
//! and which passage through it counts, from 1. `refuse` goes on to refuse from there on, as a full disk does.

use std::{
    env,
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::process::{Signal, getpid, kill_process};

/// The environment variable that arms a failpoint. Workers inherit it.
pub const VARIABLE: &str = "TWDAG_TEST_FAILPOINT";

/// Every place, in about the order in which a run passes through them.
pub const POINTS: &[&str] = &[
    "run.folder",
    "run.lease",
    "run.journal",
    "claim.write",
    "view.link",
    "view.rename",
    "view.discard",
    "job.write",
    "job.rename",
    "worker.start",
    "worker.verdict",
    "ingest.own",
    "ingest.seal",
    "store.flush",
    "object.link",
    "object.copy",
    "object.rename",
    "folder.flush",
    "sealed.write",
    "sealed.flush",
    "sealed.rename",
    "ingest.discard",
    "seals.append",
    "derived.write",
    "derived.rename",
    "scratch.discard",
    "quarantine.rename",
    "partial.write",
    "partial.flush",
    "collect.remove",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Kill,
    Tear,
    Refuse,
}

struct Armed {
    deed: Deed,
    point: String,
    count: u64,
    passed: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// Reads the variable. `Ok(true)` if it armed a failpoint, an error if it says something else than it may.
pub fn arm() -> Result<bool, String> {
    let Some(text) = env::var_os(VARIABLE) else { return Ok(false) };
    let armed = parse(&text.to_string_lossy())
        .ok_or_else(|| format!("{VARIABLE} is for tests of twdag itself and cannot be read: expected `kill any 12`"))?;
    Ok(ARMED.set(armed).is_ok())
}

fn parse(text: &str) -> Option<Armed> {
    let mut words = text.split_whitespace();
    let deed = match words.next()? {
        "kill" => Deed::Kill,
        "tear" => Deed::Tear,
        "refuse" => Deed::Refuse,
        _ => return None,
    };
    let point = words.next().filter(|name| *name == "any" || POINTS.iter().any(|point| point.starts_with(name)))?;
    let count = words.next()?.parse().ok().filter(|count| *count > 0)?;
    let point = if point == "any" { String::new() } else { point.to_owned() };
    words.next().is_none().then_some(Armed { deed, point, count, passed: AtomicU64::new(0) })
}

fn deed(point: &'static str) -> Option<Deed> {
    let armed = ARMED.get()?;
    if !point.starts_with(&armed.point) {
        return None;
    }
    let passed = armed.passed.fetch_add(1, Ordering::Relaxed) + 1;
    let acts = if armed.deed == Deed::Refuse { passed >= armed.count } else { passed == armed.count };
    acts.then_some(armed.deed)
}

/// Passes through a point. It does not return if a test lets the program die here.
pub fn pass(point: &'static str) -> io::Result<()> {
    match deed(point) {
        None => Ok(()),
        Some(Deed::Refuse) => Err(io::ErrorKind::StorageFull.into()),
        Some(Deed::Kill | Deed::Tear) => die(),
    }
}

/// Writes bytes, passing through a point at which half of them may be all that is written.
pub fn write(point: &'static str, file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match deed(point) {
        None => file.write_all(bytes),
        Some(Deed::Kill) => die(),
        Some(deed) => {
            file.write_all(&bytes[..bytes.len() / 2])?;
            file.flush()?;
            if deed == Deed::Refuse { Err(io::ErrorKind::StorageFull.into()) } else { die() }
        }
    }
}

fn die() -> ! {
    loop {
        // A signal to oneself is delivered before the call returns.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_names_a_deed_a_point_and_a_count_arms() {
        let read = |text| parse(text).map(|armed| (armed.deed, armed.point, armed.count));
        assert_eq!(read("kill any 12"), Some((Deed::Kill, String::new(), 12)));
        assert_eq!(read("refuse sealed. 1"), Some((Deed::Refuse, "sealed.".to_owned(), 1)));
        for wrong in ["", "1", "kill", "kill any", "kill any 0", "kill nowhere 1", "harm any 1", "kill any 1 2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
