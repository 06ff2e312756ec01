//! Commands that look into the store of this machine alone say so where they miss something.

use crate::{place::Team, run_support::Place};

const STAGES: &[&str] = &[
    r#""text": Command(run: ["sh", "-c", "echo text > $0/text", "{out}"])"#,
    r#""upper": Command(run: ["sh", "-c", "tr a-z A-Z < $0/text > $1/upper", "{in.text}", "{out}"], inputs: {"text": "text"})"#,
];
const NOTE: &str =
    "note: only the store of this machine was asked; what the remote store has comes with `twdag store pull`\n";

#[test]
fn what_is_missing_here_may_be_in_the_remote_store() {
    let team = Team::in_a_folder();
    let (from, place) = (Place::with(STAGES), Place::with(STAGES));
    assert_eq!(from.output(&["run", "graph.ron", "--remote-store", &team.address]).code, Some(0));
    assert_eq!(from.output(&["lock", "graph.ron"]).code, Some(0));
    std::fs::copy(from.path("graph.lock.ron"), place.path("graph.lock.ron")).unwrap();
    let file = format!("Workspace(version: 1, remote_store: {:?})\n", team.address);
    let commands: [&[&str]; 7] = [
        &["lock", "graph.ron"],
        &["pin", "graph.ron"],
        &["check", "graph.ron", "text"],
        &["show", "graph.ron", "upper"],
        &["plan", "graph.ron", "--why", "upper"],
        &["diff", "graph.lock.ron:upper", "graph.ron:text"],
        &["provenance", "graph.lock.ron:upper"],
    ];
    for command in commands {
        place.write("twdag.ron", "Workspace(version: 1)\n");
        let said = place.output(command);
        assert!(!said.stderr.contains("note: "), "{command:?} {said:#?}");
        place.write("twdag.ron", &file);
        let said = place.output(command);
        assert_eq!(said.stderr.matches(NOTE).count(), 1, "{command:?} {said:#?}");
        let said = crate::run_support::Said::from(place.twdag(command).env("TWDAG_REMOTE", "write").output().unwrap());
        assert!(!said.stderr.contains(NOTE), "{command:?} {said:#?}");
    }
    // What is there needs no word.
    assert_eq!(place.output(&["store", "pull", "graph.ron"]).code, Some(0));
    for command in commands {
        let said = place.output(command);
        assert!(!said.stderr.contains(NOTE), "{command:?} {said:#?}");
    }
}

#[test]
fn what_changed_is_told_also_of_results_that_are_elsewhere() {
    let team = Team::in_a_folder();
    let (from, place) = (Place::with(STAGES), Place::with(STAGES));
    let remote = ["--remote-store", &team.address];
    for place in [&from, &place] {
        assert_eq!(place.output(&[&["run", "graph.ron"][..], &remote].concat()).code, Some(0));
    }
    let records = walkdir::WalkDir::new(place.path("artifacts/actions")).into_iter().flatten();
    assert_eq!(records.filter(|entry| entry.file_type().is_file()).count(), 1, "what nobody reads stays there");
    place.write(
        "graph.ron",
        &std::fs::read_to_string(place.path("graph.ron")).unwrap().replace("echo text", "echo words"),
    );
    let said = place.output(&["plan", "graph.ron", "--why", "text"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(said.stdout.contains("setting `run.2` changed") && said.stdout.contains("echo words"), "{said:#?}");
}
