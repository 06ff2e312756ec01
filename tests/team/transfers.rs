//! Large files in pieces that are checked as they come: those that came stay through a kill, and wrong ones come again.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::channel,
    },
};

use serde_json::{Value, json};
use twdag::failpoint;

use crate::{
    attacks::rewrite,
    bucket_server::{Request, Treat},
    place::{Machine, Team},
    run_support::Said,
};

/// A stage with a file of 78,888,897 bytes, which are ten pieces.
const LARGE: &str = r#""large": Command(run: ["sh", "-c", "seq 10000000 > $0/numbers", "{out}"])"#;
const PIECES: usize = 10;

/// Whether a piece of a large object is asked for.
fn is_piece(request: &Request) -> bool {
    request.method == "GET" && request.target.contains("/objects/")
}

fn pieces(team: &Team) -> usize {
    team.proxy.as_ref().unwrap().take().iter().filter(|request| is_piece(request)).count()
}

/// The downloads that were begun and not ended.
fn begun(machine: &Machine<'_>) -> Vec<PathBuf> {
    let scratch = fs::read_dir(machine.place.path("artifacts/local/scratch")).unwrap();
    scratch.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[test]
fn a_killed_download_goes_on_with_what_it_has() {
    const WHOLE: usize = 4;
    let ((come, comes), is_slow) = (channel(), Arc::new(AtomicBool::new(true)));
    let (come, slow, count) = (Mutex::new(come), Arc::clone(&is_slow), Mutex::new(0));
    let (go, goes) = channel::<()>();
    let goes = Mutex::new(goes);
    let team = Team::behind(move |request| {
        if is_piece(request) && slow.load(Ordering::SeqCst) {
            let number = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            let _ = come.lock().unwrap().send(());
            if number > WHOLE {
                // Until the test says so, or is over.
                let _ = goes.lock().unwrap().recv();
            }
        }
        Treat::Well
    });
    let Some(team) = team else { return };
    let (first, second) = (team.machine(&[LARGE]), team.machine(&[LARGE]));
    first.run_alone();
    assert_eq!(first.store("push").0, Some(0));
    let mut command = second.command(&["store", "pull", "graph.ron"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Whoever has got a piece asks for the next one, so that these have been written when all are asked for.
    for _ in 0..PIECES {
        comes.recv().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    is_slow.store(false, Ordering::SeqCst);
    drop(go);
    assert_eq!(second.here().len(), 0);
    team.requests();
    let (code, pulled) = second.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
    assert_eq!(pieces(&team), PIECES - WHOLE);
    assert_eq!(first.place.result("large", "numbers"), second.place.result("large", "numbers"));
    assert_eq!(second.place.output(&["store", "check"]).code, Some(0));
    assert_eq!(begun(&second), Vec::<PathBuf>::new());
}

#[test]
fn a_wrong_byte_costs_its_piece_again() {
    let count = AtomicUsize::new(0);
    let team = Team::behind(move |request| {
        if is_piece(request) && count.fetch_add(1, Ordering::SeqCst) == 2 { Treat::Flip } else { Treat::Well }
    });
    let Some(team) = team else { return };
    let (first, second) = (team.machine(&[LARGE]), team.machine(&[LARGE]));
    first.run_alone();
    first.store("push");
    team.requests();
    let (code, pulled) = second.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
    assert_eq!(pieces(&team), PIECES + 1);
    assert_eq!(first.place.result("large", "numbers"), second.place.result("large", "numbers"));
}

#[test]
fn a_piece_that_is_always_wrong_is_refused_and_its_stage_runs() {
    let team = Team::in_a_folder();
    let (first, second) = (team.machine(&[LARGE]), team.machine(&[LARGE]));
    first.run_alone();
    first.store("push");
    let object = &team.files("objects")[0];
    let mut bytes = fs::read(object).unwrap();
    bytes[50_000_000] ^= 1;
    fs::write(object, bytes).unwrap();
    let (code, pulled) = second.store("pull");
    let message = pulled["failed"][0]["message"].as_str().unwrap();
    assert!(code == Some(1) && message.ends_with("are others, and were refused"), "{pulled}");
    let ran = second.run(&[]);
    assert_eq!((ran.code, ran.with_outcome("ran")), (Some(0), vec!["large".to_owned()]), "{ran:#?}");
    assert_eq!(second.place.output(&["store", "check"]).code, Some(0));
}

#[test]
fn what_the_disk_does_not_take_fails_the_download_and_does_not_stay() {
    // Enough pieces for the disk to be asked once in between.
    const VAST: &str = r#""large": Command(run: ["sh", "-c", "truncate -s 150M $0/zeros", "{out}"])"#;
    let team = Team::in_a_folder();
    let first = team.machine(&[VAST]);
    first.run_alone();
    assert_eq!(first.store("push").0, Some(0));
    for point in ["partial.write 3", "partial.flush 1"] {
        let second = team.machine(&[VAST]);
        let mut command = second.command(&["store", "pull", "graph.ron"]);
        let said = Said::from(command.env(failpoint::VARIABLE, format!("refuse {point}")).output().unwrap());
        let is_told = said.stdout.contains("free some space") || said.stderr.contains("free some space");
        assert!(said.code == Some(1) && is_told, "{point}: {said:#?}");
        assert_eq!(begun(&second), Vec::<PathBuf>::new(), "{point}");
        let (code, pulled) = second.store("pull");
        assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{point}: {pulled}");
    }
}

#[test]
fn a_list_of_subtrees_that_is_wrong_or_missing_costs_nothing_but_the_pieces() {
    // Of other values, of none, and as earlier versions have published it.
    let changes: [fn(&mut Value); 3] = [
        |subtrees| subtrees.as_object_mut().unwrap().values_mut().for_each(|text| *text = "A".repeat(427).into()),
        |subtrees| subtrees.as_object_mut().unwrap().values_mut().for_each(|text| *text = "".into()),
        |subtrees| *subtrees = json!({}),
    ];
    for change in changes {
        let team = Team::in_a_folder();
        let (first, second) = (team.machine(&[LARGE]), team.machine(&[LARGE]));
        first.run_alone();
        first.store("push");
        rewrite(&team.files("segments")[0], |text| {
            let (heading, operation) = text.split_once('\n').unwrap();
            let mut operation: Value = serde_json::from_str(operation).unwrap();
            change(&mut operation["publish"]["subtrees"]);
            format!("{heading}\n{operation}")
        });
        let (code, pulled) = second.store("pull");
        assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
        assert_eq!(first.place.result("large", "numbers"), second.place.result("large", "numbers"));
    }
}
