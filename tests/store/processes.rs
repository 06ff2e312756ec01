//! Helpers that this test program becomes when a test starts it again as another process.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use twdag::store::{ClaimAttempt, Store};

use crate::place::key;

const STORE: &str = "TWDAG_TEST_STORE";
const FOLDER: &str = "TWDAG_TEST_FOLDER";

/// Starts this program again as the helper of that name.
pub(crate) fn start(helper: &str, store: &Path, folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("processes::{helper}"), "--ignored", "--nocapture"])
        .env(STORE, store)
        .env(FOLDER, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the helper says a word.
pub(crate) fn hear(child: &mut Child, word: &str) {
    let said = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    assert!(said.into_iter().any(|line| line.ends_with(word)), "the helper never said `{word}`");
}

fn given() -> Option<(Store, PathBuf)> {
    let store = Store::open(Path::new(&env::var_os(STORE)?)).unwrap();
    Some((store, PathBuf::from(env::var_os(FOLDER)?)))
}

#[test]
#[ignore = "a helper of other tests"]
fn claims_and_waits() {
    let Some((store, _)) = given() else { return };
    let ClaimAttempt::Held(_claim) = store.claim(&key("x"), "process A on this host").unwrap() else { panic!("busy") };
    println!("\nclaimed");
    // Until it is killed, or the test is over.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
#[ignore = "a helper of other tests"]
fn ingests() {
    let Some((store, folder)) = given() else { return };
    println!("\n{}", store.ingest(&folder).unwrap());
}
