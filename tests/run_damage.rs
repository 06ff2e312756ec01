//! A damaged store heals by itself: what is damaged is set aside, its maker runs again, and the run says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use run_support::Place;
use twdag::digest::Digest;

fn chain() -> Place {
    let place = Place::with(&[
        r#""one": Command(run: ["cp", "{file.0}", "{out}/one"], files: ["text.txt"])"#,
        r#""two": Command(run: ["sh", "-c", "tr a-z A-Z < $0/one > $1/two", "{in.one}", "{out}"], inputs: {"one": "one"})"#,
        r#""three": Command(run: ["cp", "{in.two}/two", "{out}/three"], inputs: {"two": "two"})"#,
    ]);
    place.write("text.txt", "some text\n");
    assert_eq!(place.run(&[]).code, Some(0));
    place
}

fn object(place: &Place, content: &str) -> PathBuf {
    let name = Digest::of(content.as_bytes()).to_string();
    place.path("artifacts/objects").join(&name[..2]).join(&name[2..])
}

/// One bit, without a trace in size, mode and modification time.
fn flip(path: &Path) {
    let before = path.metadata().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[2] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    File::open(path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
}

#[test]
fn the_maker_of_a_damaged_object_runs_again_and_what_reads_it_stays() {
    let place = chain();
    flip(&object(&place, "SOME TEXT\n"));
    let _filters = place.filters();
    let run = place.run(&[]);
    // Both `two` and `three` lost their result, and the first of them to run brings it back for both.
    assert_eq!((run.code, run.with_outcome("ran")), (Some(0), vec!["two".to_owned()]), "{run:#?}");
    let damaged = run.event("store-damaged", "");
    let quarantine = PathBuf::from(damaged["quarantine"].as_str().unwrap());
    assert_eq!(fs::read_to_string(quarantine).unwrap(), "SOLE TEXT\n");
    assert!(damaged["problem"].as_str().unwrap().contains("was changed in the store"), "{damaged}");
    assert_eq!(place.result("three", "three"), "SOME TEXT\n");
    assert_eq!(place.run(&[]).with_outcome("cached").len(), 3);
}

#[test]
fn damage_is_told_on_the_terminal_by_whoever_sees_it() {
    let place = chain();
    let _filters = place.filters();
    flip(&object(&place, "some text\n"));
    let said = place.output(&["plan", "graph.ron"]);
    let told: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(told.len(), 1, "{}", said.stderr);
    assert!(told[0].starts_with("warning: damaged: the content of `one` was changed in the store ("), "{}", told[0]);
    assert!(told[0].contains("; set aside in artifacts/local/quarantine/"), "{}", told[0]);
    flip(&object(&place, "SOME TEXT\n"));
    let said = place.output(&["run", "graph.ron"]);
    assert_eq!(said.code, Some(0));
    assert!(said.stderr.starts_with("warning: damaged: the content of `t"), "{}", said.stderr);
}

#[test]
fn a_stage_whose_input_was_written_to_meanwhile_leaves_no_result() {
    for write in ["chmod u+w $1/a && echo evil >> $1/a", "chmod u+w $1 && echo evil > $1/new && mv $1/new $1/a"] {
        let place = Place::new();
        let (begun, written) = (place.path("begun").display().to_string(), place.path("written").display().to_string());
        let wait = |name: &str| format!("until test -e {name}; do sleep 0.02; done");
        let stage = |name: &str, script: &str| {
            format!(r#""{name}": Command(run: ["sh", "-c", "{script}", "{{out}}", "{{in.a}}"], inputs: {{"a": "a"}})"#)
        };
        place.graph(&[
            r#""a": Command(run: ["sh", "-c", "echo good > $0/a", "{out}"])"#,
            &stage("writes", &format!("{}; {write}; echo > {written}; echo > $0/b", wait(&begun))),
            &stage("reads", &format!("echo > {begun}; {}; cat $1/a > $0/c", wait(&written))),
        ]);
        let run = place.run(&["--jobs", "2", "--keep-going"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        let failed = run.event("stage-failed", "reads");
        let message = failed["message"].as_str().unwrap();
        assert_eq!(failed["blame"], "input");
        assert!(message.contains("its input `a` were written to while the stage read them"), "{message}");
        let again = place.run(&["reads"]);
        assert_eq!((again.code, place.result("reads", "c").as_str()), (Some(0), "good\n"), "{again:?}");
    }
}

#[test]
fn a_text_written_through_a_view_does_not_spread() {
    let place = chain();
    let said = place.output(&["path", "graph.ron", "two"]);
    flip(&Path::new(said.stdout.trim_end()).join("two"));
    assert_eq!(place.result_after_run("three", "three"), "SOME TEXT\n");
}
