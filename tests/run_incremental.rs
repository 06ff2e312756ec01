//! What a change recomputes, on a chain of ten stages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use run_support::Place;

/// Ten stages; each copies all that the one before has, the first one `start.txt`, the seventh `note.txt` besides.
fn chain(copy: &str) -> Vec<String> {
    // Each has a number among its settings, or those that read the same content would be one action.
    let mut stages = vec![r#""s0": Command(run: ["cp", "{file.0}", "{out}"], files: ["start.txt"])"#.to_owned()];
    for index in 1..10 {
        let (options, files) = if index == 6 { (copy, r#", files: ["note.txt"]"#) } else { (r#""-r""#, "") };
        let note = if index == 6 { r#""{file.0}", "# } else { "" };
        stages.push(format!(
            r#""s{index}": Command(run: ["cp", {options}, "{{in.before}}/.", {note}"{{out}}"], inputs: {{"before": "s{}"}}, env: {{"NUMBER": "{index}"}}{files})"#,
            index - 1
        ));
    }
    stages
}

fn place() -> Place {
    let place = Place::new();
    place.write("start.txt", "start\n");
    place.write("note.txt", "note\n");
    set_chain(&place, r#""-r""#);
    place
}

fn set_chain(place: &Place, copy: &str) {
    let stages = chain(copy);
    place.graph(&stages.iter().map(String::as_str).collect::<Vec<_>>());
}

fn ran(place: &Place) -> Vec<String> {
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.with_outcome("ran")
}

#[test]
fn exactly_what_a_change_touches_runs_again() {
    let place = place();
    assert_eq!(ran(&place).len(), 10, "nothing is there at first");
    assert_eq!(place.result("s9", "note.txt"), "note\n");
    assert_eq!(ran(&place), [""; 0], "nothing has changed");

    place.write("note.txt", "another note\n");
    assert_eq!(ran(&place), ["s6", "s7", "s8", "s9"], "another output from the seventh stage on");
    assert_eq!(place.result("s9", "note.txt"), "another note\n");

    place.write("note.txt", "note\n");
    assert_eq!(ran(&place), [""; 0], "the old content has its results already");

    set_chain(&place, r#""-R""#);
    assert_eq!(ran(&place), ["s6"], "another command, the same output: the wave stops");
    set_chain(&place, r#""-r""#);
    assert_eq!(ran(&place), [""; 0], "the old command has its results already");
}

#[test]
fn what_means_nothing_recomputes_nothing() {
    let place = place();
    assert_eq!(ran(&place).len(), 10);
    let stages = chain(r#""-r""#);

    let backwards: Vec<&str> = stages.iter().rev().map(String::as_str).collect();
    let text = run_support::graph(&backwards).replace("stages: {", "// a remark\n\n    stages: { /* another */");
    place.write("graph.ron", &text);
    assert_eq!(ran(&place), [""; 0], "remarks, blank lines, order of stages");

    let fields_moved = text.replace(
        r#"Command(run: ["cp", "{file.0}", "{out}"], files: ["start.txt"])"#,
        r#"Command(files: ["start.txt"], env: {}, run: ["cp", "{file.0}", "{out}"])"#,
    );
    assert_ne!(fields_moved, text);
    place.write("graph.ron", &fields_moved);
    assert_eq!(ran(&place), [""; 0], "order of fields, a default written out");

    place.write("graph.ron", &text.replace("\"s5\"", "\"fifth\""));
    assert_eq!(ran(&place), [""; 0], "the name of a stage");
}

#[test]
fn only_the_stages_asked_for_and_what_they_need_run() {
    let place = place();
    let run = place.run(&["s2"]);
    assert_eq!(run.with_outcome("ran"), ["s0", "s1", "s2"]);
    assert_eq!(run.outcomes().len(), 3);
}

#[test]
fn a_result_that_is_lost_from_the_store_is_computed_again() {
    let place = place();
    assert_eq!(ran(&place).len(), 10);
    std::fs::remove_dir_all(place.path("artifacts/objects")).unwrap();
    assert_eq!(ran(&place).first().map(String::as_str), Some("s0"));
    std::fs::remove_dir_all(place.path("artifacts/local")).unwrap();
    assert_eq!(ran(&place), [""; 0], "what is private to the machine is no truth");
}

#[test]
fn the_run_folder_keeps_the_events_that_were_shown() {
    let place = place();
    let run = place.run(&[]);
    let folder = run.events[0]["folder"].as_str().unwrap();
    let kept = std::fs::read_to_string(format!("{folder}/events.jsonl")).unwrap();
    let kept: Vec<serde_json::Value> = kept
        .lines()
        .map(|line| {
            let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
            let time = event.as_object_mut().unwrap().remove("time").unwrap();
            time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            event
        })
        .collect();
    assert_eq!(kept, run.events);
}
