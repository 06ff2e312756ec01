//! Claims and ingestion between real processes, and what is left of them after `kill -9`.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use twdag::{
    digest::Digest,
    store::{Claim, ClaimAttempt, Store},
};

use crate::{
    place::{Place, key, listed, read_files, write_files},
    processes::{hear, start},
};

fn held(place: &Place) -> Claim {
    match place.store.claim(&key("x"), "this test").unwrap() {
        ClaimAttempt::Held(claim) => claim,
        ClaimAttempt::Busy(owner) => panic!("busy: {owner}"),
    }
}

fn owner(place: &Place) -> String {
    match place.store.claim(&key("x"), "this test").unwrap() {
        ClaimAttempt::Held(_) => panic!("nobody holds the claim"),
        ClaimAttempt::Busy(owner) => owner,
    }
}

#[test]
fn a_claim_ends_with_its_process_however_that_ends() {
    let place = Place::new();
    let mut other = start("claims_and_waits", place.store.root(), place.store.root());
    hear(&mut other, "claimed");
    assert_eq!(owner(&place), "process A on this host");
    assert!(matches!(place.store.claim(&key("y"), "this test").unwrap(), ClaimAttempt::Held(_)));
    other.kill().unwrap();
    other.wait().unwrap();
    drop(held(&place));
    let claim = held(&place);
    assert_eq!(owner(&place), "this test");
    drop(claim);
}

#[test]
fn a_claim_holds_as_long_as_a_worker_has_a_duplicate() {
    let place = Place::new();
    let claim = held(&place);
    let duplicate = claim.file().try_clone().unwrap();
    let mut worker = Command::new("sleep").arg("600").stdin(duplicate).spawn().unwrap();
    drop(claim);
    assert_eq!(owner(&place), "this test");
    worker.kill().unwrap();
    worker.wait().unwrap();
    drop(held(&place));
    // A worker that reads its input finds nothing there.
    let duplicate = held(&place).file().try_clone().unwrap();
    let read = Command::new("cat").stdin(duplicate).output().unwrap();
    assert_eq!(read.stdout, b"");
}

fn many() -> Vec<(String, String)> {
    (0..300).map(|number| (format!("{number:03}"), format!("content {number}\n").repeat(number))).collect()
}

#[test]
fn processes_that_store_the_same_content_agree() {
    let place = Place::new();
    let files = many();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    let (one, two) = (place.output(&files), place.output(&files));
    let children = [&one, &two].map(|output| start("ingests", place.store.root(), output));
    let artifact = Place::new().ingest(&files);
    for mut child in children {
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
        assert!(said.contains(&artifact.to_string()), "{said}");
    }
    assert_eq!(read_files(&place.store.view(&artifact).unwrap()), listed(&files));
}

#[test]
fn a_process_that_is_killed_while_it_stores_leaves_nothing_half_written() {
    let place = Place::new();
    let files = many();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    let output = place.path("output");
    write_files(&output, &files);
    let mut child = start("ingests", place.store.root(), &output);
    let objects = place.store.root().join("objects");
    while fs::read_dir(&objects).unwrap().count() < 20 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for (name, content) in read_files(&objects) {
        assert_eq!(name.replace('/', ""), Digest::of(content.as_bytes()).to_string());
    }
    let artifact = place.store.ingest(&output).unwrap();
    assert_eq!(artifact, Place::new().ingest(&files));
    assert_eq!(read_files(&place.store.view(&artifact).unwrap()), listed(&files));
}

#[test]
fn stale_words_of_an_owner_do_no_harm() {
    let place = Place::new();
    let claims = place.store.root().join("local/claims");
    fs::create_dir_all(&claims).unwrap();
    fs::write(claims.join(format!("{}.lock", key("x"))), "somebody who left long ago, at great length").unwrap();
    let claim = held(&place);
    assert_eq!(owner(&place), "this test");
    drop(claim);
}

#[test]
fn the_guard_of_a_dead_run_ends_its_programs_although_another_machine_has_taken_the_action_up() {
    let place = Place::new();
    let scratch = place.store.scratch(&key("x")).unwrap();
    let other = "the run of graph.ron in process 1 on a-machine-of-another-name";
    let ClaimAttempt::Held(_claim) = place.store.claim(&key("x"), other).unwrap() else { panic!("busy") };
    let mut program = Command::new("sleep").arg("600").env("TMPDIR", scratch.join("kept")).spawn().unwrap();
    // What a run says before it is killed, and the list of what is at work.
    let list = place.path("list");
    fs::write(&list, format!("{:64}\n{}\n", "", key("x"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twdag"));
    command.arg("guard").stdin(Stdio::piped()).stdout(fs::File::open(&list).unwrap());
    let mut guard = command.spawn().unwrap();
    let mut pipe = guard.stdin.take().unwrap();
    pipe.write_all(format!("{}\n", place.store.root().display()).as_bytes()).unwrap();
    drop(pipe);
    assert!(guard.wait().unwrap().success());
    kill_process(Pid::from_child(&program), Signal::TERM).unwrap();
    assert_eq!(program.wait().unwrap().signal(), Some(Signal::KILL.as_raw()), "the guard was first");
}

#[test]
fn whoever_may_write_to_a_store_can_see_that_a_lease_is_held() {
    let place = Place::new();
    let artifact = place.ingest(&[("file", "content")]);
    place.store.need([artifact]).unwrap();
    let usual = place.path("usual");
    fs::write(&usual, "").unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode();
    let leases = fs::read_dir(place.store.root().join("local/leases")).unwrap();
    let modes: Vec<u32> = leases.map(|lease| mode(&lease.unwrap().path())).collect();
    assert_eq!(modes, [mode(&usual)]);
}

#[test]
fn a_lease_that_ends_while_somebody_looks_at_it_is_of_nobody() {
    let place = Place::new();
    let artifact = place.ingest(&[("file", "content")]);
    let root = place.store.root();
    let at_work = AtomicUsize::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    Store::open(root).unwrap().need([artifact]).unwrap();
                }
                at_work.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while at_work.load(Ordering::Relaxed) > 0 {
            place.store.in_use().unwrap();
        }
    });
}

#[test]
fn the_file_of_an_ended_claim_serves_for_the_next_one() {
    let place = Place::new();
    let names = || fs::read_dir(place.store.root().join("local/claims")).unwrap().count();
    let held = |store: &Store, name: &str| match store.claim(&key(name), "this test").unwrap() {
        ClaimAttempt::Held(claim) => claim,
        ClaimAttempt::Busy(owner) => panic!("{owner} has {name}"),
    };
    let other = Store::open(place.store.root()).unwrap();
    let is_busy = |name: &str| matches!(other.claim(&key(name), "another").unwrap(), ClaimAttempt::Busy(owner) if owner == "this test");
    for name in ["a", "b", "c"] {
        let claim = held(&place.store, name);
        assert!(is_busy(name));
        place.store.end_claim(claim, &key(name));
        assert_eq!(names(), 1);
    }
    // Somebody else has the former action by now.
    let former = held(&other, "c");
    let next = held(&place.store, "d");
    assert!(is_busy("d") && matches!(place.store.claim(&key("c"), "x").unwrap(), ClaimAttempt::Busy(_)));
    drop((former, next));
    // Somebody else has or had the next one.
    let end = |name: &str| place.store.end_claim(held(&place.store, name), &key(name));
    end("e");
    let next = held(&other, "f");
    assert!(matches!(place.store.claim(&key("f"), "x").unwrap(), ClaimAttempt::Busy(_)));
    drop(next);
    end("g");
    assert!(matches!(place.store.claim(&key("f"), "this test").unwrap(), ClaimAttempt::Held(_)));
    // Somebody else has claimed the former action meanwhile, and left words.
    end("j");
    drop(other.claim(&key("j"), "another").unwrap());
    let next = held(&place.store, "k");
    assert!(is_busy("k"));
    drop(next);
    // Somebody has removed it.
    end("h");
    fs::remove_dir_all(place.store.root().join("local/claims")).unwrap();
    let _claim = held(&place.store, "i");
    assert!(is_busy("i"));
}

#[test]
fn a_claim_whose_file_is_a_link_is_a_claim() {
    let place = Place::new();
    let claims = place.store.root().join("local/claims");
    fs::create_dir_all(&claims).unwrap();
    fs::write(place.path("elsewhere"), "").unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), claims.join(format!("{}.lock", key("x")))).unwrap();
    let claim = held(&place);
    assert_eq!(owner(&place), "this test");
    place.store.end_claim(claim, &key("x"));
    let _claim = held(&place);
    assert_eq!(owner(&place), "this test");
}

/// Whatever files are renamed to meanwhile, an action is one's alone.
#[test]
fn an_action_is_never_claimed_twice() {
    const OWNERS: usize = 4;
    const ROUNDS: usize = 3_000;
    let place = Place::new();
    let keys = ["a", "b", "c"].map(key);
    let owned = [const { AtomicBool::new(false) }; 3];
    let (root, counts) = (place.store.root(), [const { AtomicUsize::new(0) }; 3]);
    thread::scope(|scope| {
        for owner in 0..OWNERS {
            let (owned, counts) = (&owned, &counts);
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                for round in 0..ROUNDS {
                    let place = (round * (owner + 1) + owner) % keys.len();
                    let ClaimAttempt::Held(claim) = store.claim(&keys[place], "one of them").unwrap() else { continue };
                    assert!(!owned[place].swap(true, Ordering::SeqCst), "two have it");
                    counts[place].fetch_add(1, Ordering::Relaxed);
                    owned[place].store(false, Ordering::SeqCst);
                    if round % 3 == 0 { drop(claim) } else { store.end_claim(claim, &keys[place]) }
                }
            });
        }
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) > ROUNDS / 10), "{counts:?}");
}
