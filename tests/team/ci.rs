//! The workflow of examples/ci, step by step as a service would run it, with a store that a team shares.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::{
    place::Team,
    run_support::{Place, Said},
};

/// Two stages.
const CHAIN: &[&str] = &[
    r#""numbers": Command(run: ["sh", "-c", "seq 5 > $0/numbers", "{out}"])"#,
    r#""double": Command(run: ["sh", "-c", "awk -v by=$2 '{print $1 * by}' $0/numbers > $1/numbers", "{in.numbers}", "{out}", "2"], inputs: {"numbers": "numbers"})"#,
];

/// Keeps what would be posted: once as a new comment, then as another version of that.
const GH: &str = r#"#!/bin/sh
case "$1 $2" in
"pr comment") [ "$3 $4" = "7 --body-file" ] && [ ! -e posted.md ] && cat "$5" > posted.md ;;
"api repos/o/r/issues/7/comments") [ ! -e posted.md ] || printf '11\n12\n' ;;
"api --method") [ "$3 $4 $5 $6" = "PATCH repos/o/r/issues/comments/12 -F body=@comment.md" ] && cat comment.md > posted.md && touch edited ;;
*) exit 1 ;;
esac
"#;
const MARKER: &str = "<!-- twdag: reproducibility -->";

/// A step of the workflow.
#[derive(Debug, Default)]
struct Step {
    name: String,
    condition: String,
    script: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci")
}

/// The steps that run something, in order. The file is simple enough to be read by its indents.
fn steps() -> Vec<Step> {
    let text = fs::read_to_string(folder().join("reproducibility.yml")).unwrap();
    let (mut steps, mut in_script): (Vec<Step>, bool) = (Vec::new(), false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("      - name: ") {
            steps.push(Step { name: name.to_owned(), ..Step::default() });
            in_script = false;
        } else if let Some(step) = steps.last_mut() {
            if let Some(condition) = line.strip_prefix("        if: ") {
                condition.clone_into(&mut step.condition);
            } else if let Some(script) = line.strip_prefix("        run: ") {
                in_script = script == "|";
                if !in_script {
                    script.clone_into(&mut step.script);
                }
            } else if let Some(line) = line.strip_prefix("          ").filter(|_| in_script) {
                step.script.extend([line, "\n"]);
            }
        }
    }
    assert!(
        steps.len() > 6
            && text.matches("        run: ").count() == steps.iter().filter(|step| !step.script.is_empty()).count()
    );
    steps.retain(|step| !step.script.is_empty());
    steps
}

/// What became of a job.
struct Job {
    /// The steps that failed, with their exit codes.
    failed: Vec<(String, Option<i32>)>,
    /// The comment on the pull request.
    comment: String,
}

/// Runs the job in a checkout. Installing is left out, and `gh` keeps what it would post.
fn job(place: &Place, team: &Team, sample: &str) -> Job {
    let bin = place.path("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(place.path(".github/workflows")).unwrap();
    fs::copy(folder().join("comment.py"), place.path(".github/workflows/comment.py")).unwrap();
    place.write("bin/gh", GH);
    fs::set_permissions(bin.join("gh"), fs::Permissions::from_mode(0o755)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_twdag")).parent().unwrap();
    let path = format!("{}:{}:{}", bin.display(), program.display(), env::var("PATH").unwrap());
    let environment: BTreeMap<&str, &str> = [
        ("PATH", path.as_str()),
        ("GRAPH", "graph.ron"),
        ("SAMPLE", sample),
        ("TWDAG_REMOTE_STORE", &team.address),
        ("TWDAG_REMOTE", "read"),
        ("TWDAG_ISOLATION", "warn"),
        ("GITHUB_STEP_SUMMARY", "summary.md"),
        ("GITHUB_REPOSITORY", "o/r"),
        ("MARKER", MARKER),
        ("PULL_REQUEST", "7"),
    ]
    .into();
    let mut job = Job { failed: Vec::new(), comment: String::new() };
    for step in steps() {
        let runs = match step.condition.as_str() {
            "" => job.failed.is_empty(),
            "failure()" => !job.failed.is_empty(),
            condition => condition.starts_with("always()"),
        };
        if !runs || step.name == "Install twdag" {
            continue;
        }
        let mut command = Command::new("bash");
        command.args(["-e", "-o", "pipefail", "-c", &step.script]).current_dir(place.path(""));
        let said = Said::from(command.env_remove("TWDAG_STORE").envs(&environment).output().unwrap());
        if said.code != Some(0) {
            job.failed.push((step.name, said.code));
        }
    }
    job.comment = fs::read_to_string(place.path("posted.md")).unwrap();
    assert!(fs::read_to_string(place.path("summary.md")).unwrap().ends_with(&job.comment));
    assert!(fs::read_to_string(folder().join("reproducibility.yml")).unwrap().contains(MARKER));
    job.comment = job.comment.strip_prefix(&format!("{MARKER}\n")).expect("the line that finds it again").to_owned();
    job
}

/// A checkout of what is committed, on a machine that has computed nothing.
fn checkout(from: &Place) -> Place {
    let place = Place::new();
    for file in ["graph.ron", "graph.lock.ron"] {
        fs::copy(from.path(file), place.path(file)).unwrap();
    }
    place
}

/// A machine that has computed, locked and given the results of these stages.
fn given(team: &Team, stages: &[&str]) -> Place {
    let place = Place::with(stages);
    let said = |arguments: &[&str]| {
        let said = place.output(arguments);
        assert_eq!(said.code, Some(0), "{said:#?}");
    };
    said(&["run", "graph.ron", "--remote-store", &team.address]);
    said(&["lock", "graph.ron"]);
    place
}

#[test]
fn a_change_that_changes_no_result_passes_and_is_fetched_instead_of_computed() {
    let team = Team::in_a_folder();
    let from = given(&team, CHAIN);
    let job = job(&checkout(&from), &team, "double");
    assert_eq!(job.failed, [], "{}", job.comment);
    let _filters = from.filters();
    // What this machine allows to be another one.
    let threads = (1..=1000).map(|threads| format!("threads ({threads}), "));
    let varied = ["host name, ", "file order, "].into_iter().map(str::to_owned).chain(threads);
    let comment = varied.fold(job.comment, |comment, varied| comment.replace(&varied, ""));
    insta::assert_snapshot!(comment, @r"
    ### twdag: :white_check_mark: the results are as locked, and the sample is reproducible

    All 2 stages are keyed as locked.

    The run succeeded: 2 cached.
    From the team's store: 2 results, of which 1 were fetched (11 bytes).

    | stage computed again | verdict |  |
    |---|---|---|
    | `double` | same (`Bitwise`) | 2 runs, varied: folders, time, work in one piece |
    ");
}

#[test]
fn a_changed_setting_fails_and_the_comment_says_in_what() {
    let team = Team::in_a_folder();
    let from = given(&team, CHAIN);
    let place = checkout(&from);
    let graph = fs::read_to_string(place.path("graph.ron")).unwrap();
    place.write("graph.ron", &graph.replace("\"2\"]", "\"3 | @everybody `\"]"));
    let job = job(&place, &team, "double");
    assert_eq!(job.failed, [("Tell what is not as locked".to_owned(), Some(3))]);
    let _filters = from.filters();
    insta::assert_snapshot!(job.comment, @r#"
    ### twdag: :x: not as locked, or not reproducible

    1 of 2 stages are not as locked. If that is meant: run, lock again, and commit the lock.

    | stage | in what |
    |---|---|
    | `double` | `setting run.5`: `"2"` → `` "3 ¦ @everybody `" `` |

    Nothing ran.

    No stage was computed again.
    "#);
}

#[test]
fn a_result_that_is_not_the_same_each_time_fails_and_the_comment_says_where() {
    let team = Team::in_a_folder();
    let clock = r#""clock": Command(run: ["sh", "-c", "echo always; date +%s.%N > $0/time", "{out}"])"#;
    let job = job(&checkout(&given(&team, &[clock])), &team, "clock");
    assert_eq!(job.failed, [("Compute a sample again".to_owned(), Some(3))], "{}", job.comment);
    let head =
        "| stage computed again | verdict |  |\n|---|---|---|\n| `clock` | differs (`Bitwise`) | `time`, line 1: `";
    assert!(job.comment.contains(head), "{}", job.comment);
}

#[test]
fn a_graph_that_cannot_be_read_is_told_too() {
    let team = Team::in_a_folder();
    let place = checkout(&given(&team, CHAIN));
    place.write("graph.ron", "Graph(");
    let first = job(&place, &team, "double");
    assert_eq!(first.failed[0], ("Tell what is not as locked".to_owned(), Some(2)));
    assert!(first.comment.contains("not everything could be told"), "{}", first.comment);
    assert!(!place.path("edited").exists());
    assert_eq!(job(&place, &team, "double").comment, first.comment);
    assert!(place.path("edited").exists(), "the next job edits its comment");
}

#[test]
fn a_report_fits_into_a_comment_and_tells_warnings_also_of_a_run_that_was_killed() {
    let place = Place::new();
    let long = |letter: &str| letter.repeat(1000);
    let difference = json!({"what": "setting", "place": long("p"), "from": long("f"), "to": long("t")});
    let deviation =
        |number| json!({"stage": format!("stage-{number}"), "differences": [difference, difference, difference]});
    let deviations: Vec<_> = (0..60).map(deviation).collect();
    place.write("plan.json", &json!({"stages": deviations, "deviations": deviations}).to_string());
    let warning = |stage: &str, message: &str| json!({"event": "stage-warning", "stage": stage, "message": message});
    let events = [warning("reads", "read @secret.txt"), warning("reads", "read @secret.txt")];
    place.write("events.jsonl", &format!("{}\n{}\n{{\"event\": \"stage-fin", events[0], events[1]));
    place.write("verdicts.json", "{\"stages\": [");
    let comment = |arguments: &[&str]| {
        let script = folder().join("comment.py");
        let output = Command::new("python3").arg(script).args(arguments).current_dir(place.path("")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = comment(&["--plan", "plan.json", "--run", "events.jsonl"]);
    assert!(told.chars().count() + MARKER.len() < 65_536, "{} characters", told.chars().count());
    assert!(told.trim_end().ends_with("the files of the job have all)"), "{told}");
    let told = comment(&["--run", "events.jsonl", "--check", "verdicts.json"]);
    insta::assert_snapshot!(told, @"
    ### twdag: :grey_question: not everything could be told

    The lock was not compared: the plan could not be made. The log tells why.

    The run was ended before it could tell its outcome, in the middle of a line.

    | stage that warned | of what |
    |---|---|
    | `reads` | `read @secret.txt` |

    What the check printed ends too early.
    ");
}
