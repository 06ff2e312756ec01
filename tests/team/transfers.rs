//! Large files in pieces that are checked as they come: those that came stay through a kill, and wrong ones come again.

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
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
const PIECE: u64 = 8 << 20;

/// Whether a piece of a large object is asked for.
fn is_piece(request: &Request) -> bool {
    request.method == "GET" && request.target.contains("/objects/")
}

/// Which one.
fn number(request: &Request) -> u64 {
    request.range.as_ref().unwrap().start / PIECE
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Those that were asked for, sorted.
fn pieces(team: &Team) -> Vec<u64> {
    let requests = team.proxy.as_ref().unwrap().take();
    let mut pieces: Vec<u64> = requests.iter().filter(|request| is_piece(request)).map(number).collect();
    pieces.sort_unstable();
    pieces
}

/// The downloads that were begun and not ended.
fn begun(machine: &Machine<'_>) -> Vec<PathBuf> {
    let scratch = fs::read_dir(machine.place.path("artifacts/local/scratch")).unwrap();
    scratch.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[test]
fn a_killed_download_goes_on_with_what_it_has_and_is_right() {
    const WHOLE: usize = 4;
    let ((come, comes), is_slow) = (channel(), Arc::new(AtomicBool::new(true)));
    let (come, slow, asked) = (Mutex::new(come), Arc::clone(&is_slow), Mutex::new(0));
    let (go, goes) = channel::<()>();
    let goes = Mutex::new(goes);
    let team = Team::behind(move |request| {
        if is_piece(request) && slow.load(Ordering::SeqCst) {
            let count = {
                let mut asked = asked.lock().unwrap();
                *asked += 1;
                let _ = come.lock().unwrap().send(number(request));
                *asked
            };
            if count > WHOLE {
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
    let asked: Vec<u64> = (0..PIECES).map(|_| comes.recv().unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    is_slow.store(false, Ordering::SeqCst);
    drop(go);
    assert_eq!(second.here().len(), 0);
    // Of what has come, the disk has changed a byte of one piece, and has half of another.
    let (whole, mut missing) = (&asked[..WHOLE], asked[WHOLE..].to_vec());
    let file = File::options().read(true).write(true).open(&begun(&second)[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, whole[0] * PIECE + 4321).unwrap();
    file.write_all_at(&[byte[0] ^ 1], whole[0] * PIECE + 4321).unwrap();
    file.write_all_at(&vec![0; PIECE as usize / 2], whole[1] * PIECE + PIECE / 2).unwrap();
    missing.extend(&whole[..2]);
    missing.sort_unstable();
    team.requests();
    let (code, pulled) = second.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
    assert_eq!(pieces(&team), missing);
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
    assert_eq!(pieces(&team).len(), PIECES + 1);
    assert_eq!(first.place.result("large", "numbers"), second.place.result("large", "numbers"));
}

#[test]
fn pieces_that_come_fast_are_asked_for_together_and_a_wrong_one_of_them_alone() {
    // 194,888,896 bytes: 24 pieces.
    let larger = LARGE.replace("10000000", "23000000");
    let is_long =
        |request: &Request| is_piece(request) && request.range.as_ref().is_some_and(|range| length(range) > PIECE);
    let is_spoilt = AtomicBool::new(false);
    let team = Team::behind(move |request| {
        if is_long(request) && !is_spoilt.swap(true, Ordering::SeqCst) { Treat::Flip } else { Treat::Well }
    });
    let Some(team) = team else { return };
    let (first, second) = (team.machine(&[&larger]), team.machine(&[&larger]));
    first.run_alone();
    first.store("push");
    team.requests();
    let (code, pulled) = second.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
    let asked: Vec<Request> = team.proxy.as_ref().unwrap().take().into_iter().filter(is_piece).collect();
    let spoilt = asked.iter().find(|request| is_long(request)).and_then(|request| request.range.clone()).unwrap();
    let bytes: u64 = asked.iter().filter_map(|request| request.range.as_ref()).map(length).sum();
    let numbers = second.place.result("large", "numbers");
    assert_eq!(bytes, numbers.len() as u64 + PIECE, "{spoilt:?} {asked:#?}");
    let of_spoilt = asked.iter().filter_map(|request| request.range.clone());
    let of_spoilt: Vec<_> = of_spoilt.filter(|range| range.start >= spoilt.start && range.end <= spoilt.end).collect();
    assert_eq!((of_spoilt.len(), length(&of_spoilt[1])), (2, PIECE), "{of_spoilt:?}");
    assert!(first.place.result("large", "numbers") == numbers);
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
fn a_piece_that_is_wrong_for_a_while_costs_no_other() {
    let is_wrong = Arc::new(AtomicBool::new(true));
    let wrong = Arc::clone(&is_wrong);
    let team = Team::behind(move |request| {
        let is_it = is_piece(request) && number(request) == 6 && wrong.load(Ordering::SeqCst);
        if is_it { Treat::Flip } else { Treat::Well }
    });
    let Some(team) = team else { return };
    let (first, second) = (team.machine(&[LARGE]), team.machine(&[LARGE]));
    first.run_alone();
    first.store("push");
    assert_eq!(second.store("pull").0, Some(1));
    let come: Vec<u64> = pieces(&team);
    assert_eq!(come.iter().filter(|piece| **piece == 6).count(), 3, "{come:?}");
    is_wrong.store(false, Ordering::SeqCst);
    // So that it asks for a publication again that it has found to be wrong.
    fs::remove_dir_all(second.place.path("artifacts/local/remotes")).unwrap();
    let (code, pulled) = second.store("pull");
    assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
    let again = pieces(&team);
    // Others may have been on their way when it was given up. It was asked for when one of the first six had come.
    assert!(again.contains(&6) && again.len() < PIECES, "{come:?} {again:?}");
    assert_eq!(first.place.result("large", "numbers"), second.place.result("large", "numbers"));
}

#[test]
fn subtrees_of_other_bytes_do_not_let_those_in() {
    let other = LARGE.replace("seq 10000000", "seq 10000000 | tr 1 2");
    let (team, others) = (Team::in_a_folder(), Team::in_a_folder());
    let first = team.machine(&[LARGE]);
    for machine in [&first, &others.machine(&[&other])] {
        machine.run_alone();
        assert_eq!(machine.store("push").0, Some(0));
    }
    let operation = |text: &str| -> Value { serde_json::from_str(text.split_once('\n').unwrap().1).unwrap() };
    let mut of_others = Value::Null;
    rewrite(&others.files("segments")[0], |text| {
        of_others = operation(&text)["publish"]["subtrees"].as_object().unwrap().values().next().unwrap().clone();
        text
    });
    rewrite(&team.files("segments")[0], |text| {
        let mut operation = operation(&text);
        for subtrees in operation["publish"]["subtrees"].as_object_mut().unwrap().values_mut() {
            assert_ne!(*subtrees, of_others);
            *subtrees = of_others.clone();
        }
        format!("{}\n{operation}", text.split_once('\n').unwrap().0)
    });
    fs::copy(&others.files("objects")[0], &team.files("objects")[0]).unwrap();
    let second = team.machine(&[LARGE]);
    let (code, pulled) = second.store("pull");
    let message = pulled["failed"][0]["message"].as_str().unwrap();
    assert!(code == Some(1) && message.ends_with("are others, and were refused"), "{pulled}");
    assert_eq!((second.here().len(), begun(&second).len()), (0, 0));
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
