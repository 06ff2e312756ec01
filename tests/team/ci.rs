//! The workflow of examples/ci, step by step as a service would run it, with a store that a team shares.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    place::Team,
    run_support::{Place, Said},
};

/// Two stages.
const CHAIN: &[&str] = &[
    r#""numbers": Command(run: ["sh", "-c", "seq 5 > $0/numbers", "{out}"])"#,
    r#""double": Command(run: ["sh", "-c", "awk -v by=$2 '{print $1 * by}' $0/numbers > $1/numbers", "{in.numbers}", "{out}", "2"], inputs: {"numbers": "numbers"})"#,
];

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
    place.write("bin/gh", "#!/bin/sh\n[ \"$1 $2 $3 $4\" = \"pr comment 7 --body-file\" ] && cat \"$5\" > posted.md\n");
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
    assert_eq!(fs::read_to_string(place.path("summary.md")).unwrap(), job.comment);
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
    let comment = ["host name, ", "threads (1), ", "threads (2), ", "threads (3), ", "file order, "]
        .iter()
        .fold(job.comment, |comment, varied| comment.replace(varied, ""));
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
    let job = job(&place, &team, "double");
    assert_eq!(job.failed[0], ("Tell what is not as locked".to_owned(), Some(2)));
    assert!(job.comment.contains("not everything could be told"), "{}", job.comment);
}
