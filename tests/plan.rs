//! Plans of real graph files against a real store, whose artifacts are written by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use tempfile::TempDir;
use twdag::{
    graph::{Graph, Overrides},
    plan::{Plan, PlanError, Status, plan},
    store::{Provenance, Record, Store},
};

struct Workspace {
    folder: TempDir,
    store: Store,
}

const GRAPH: &str = r#"Graph(
    version: 1,
    params: { "lambda": 0.75 },
    stages: {
        "text": Download(from: File(path: "text.txt")),
        "score": Command(run: ["score", "{in.text}"], inputs: { "text": "text" }),
        "weights": Command(run: ["weigh", "{in.score}"], inputs: { "score": "score/part" }, env: { "LAMBDA": "a" }),
    },
)"#;

impl Workspace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("twdag.ron"), "Workspace(version: 1)").unwrap();
        fs::write(folder.path().join("text.txt"), "one").unwrap();
        let store = Store::open(&folder.path().join("artifacts")).unwrap();
        Self { folder, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn graph(&self, text: &str) -> Graph {
        let path = self.path("graph.ron");
        fs::write(&path, text).unwrap();
        Graph::load(&path, &Overrides::default()).unwrap_or_else(|error| panic!("{}", error.render(false)))
    }

    fn try_plan(&self, text: &str) -> Result<Plan, PlanError> {
        let graph = self.graph(text);
        let all: Vec<usize> = (0..graph.nodes().len()).collect();
        plan(&graph, &all, &self.store)
    }

    fn plan(&self, text: &str) -> Plan {
        self.try_plan(text).unwrap()
    }

    /// Runs every stage as a driver would; what a stage gives is chosen by `content`. Tells which stages ran.
    fn run(&self, text: &str, content: impl Fn(&str) -> String) -> Vec<String> {
        let mut ran = Vec::new();
        loop {
            let plan = self.plan(text);
            for stage in &plan.stages {
                if let Some(action) = &stage.action {
                    self.store.remember_keys::<()>("graph", [(stage.name.as_str(), action.key(), None)], None).unwrap();
                }
            }
            let Some(stage) = plan.stages.iter().find(|stage| stage.status == Status::Run) else { return ran };
            let output = self.store.scratch(&stage.key.unwrap()).unwrap().join("output");
            fs::create_dir_all(output.join("part")).unwrap();
            fs::write(output.join("part/data.txt"), content(&stage.name)).unwrap();
            let action = stage.action.clone().unwrap();
            let record = Record {
                key: action.key(),
                artifact: self.store.ingest(&output).unwrap(),
                kind: action.kind,
                revision: action.revision,
                graph: "graph".to_owned(),
                stage: stage.name.clone(),
                settings: action.settings,
                inputs: action.inputs,
                references: Vec::new(),
                sources: action.sources,
                file_names: action.file_names,
                numeric_class: action.numeric_class,
                provenance: Provenance::here(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH, 0.0),
                notices: Vec::new(),
                part: None,
                parts: Vec::new(),
            };
            self.store.publish(&record).unwrap();
            ran.push(stage.name.clone());
        }
    }

    fn told(&self, text: &str) -> String {
        let lines: Vec<String> = self
            .plan(text)
            .stages
            .iter()
            .map(|stage| format!("{} {:?}: {}", stage.name, stage.status, stage.reason))
            .collect();
        lines.join("\n")
    }
}

fn same(name: &str) -> String {
    format!("what {name} gives")
}

#[test]
fn a_plan_tells_what_is_cached_what_runs_and_what_waits() {
    let workspace = Workspace::new();
    insta::assert_snapshot!(workspace.told(GRAPH), @"
    text Run: never computed here
    score Waits: waits for `text`
    weights Waits: waits for `score`
    ");
    assert_eq!(workspace.run(GRAPH, same), ["text", "score", "weights"]);
    insta::assert_snapshot!(workspace.told(GRAPH), @"
    text Cached: its result is in the store
    score Cached: its result is in the store
    weights Cached: its result is in the store
    ");
}

#[test]
fn only_what_lies_downstream_of_a_change_runs_and_going_back_runs_nothing() {
    let workspace = Workspace::new();
    workspace.run(GRAPH, same);
    let changed = GRAPH.replace("\"LAMBDA\": \"a\"", "\"LAMBDA\": \"b\"");
    insta::assert_snapshot!(workspace.told(&changed), @r#"
    text Cached: its result is in the store
    score Cached: its result is in the store
    weights Run: setting `env.LAMBDA` changed: "a" → "b"
    "#);
    assert_eq!(workspace.run(&changed, same), ["weights"]);
    assert!(workspace.run(GRAPH, same).is_empty());
}

#[test]
fn form_names_and_order_of_the_file_run_nothing() {
    let workspace = Workspace::new();
    workspace.run(GRAPH, same);
    let reordered = r#"Graph(version: 1, stages: {
        // A comment, other names, another order of stages and of fields.
        "w": Command(env: { "LAMBDA": "a" }, inputs: { "score": "s/part" }, run: ["weigh", "{in.score}"]),
        "s": Command(inputs: { "text": "t" }, run: ["score", "{in.text}"]),
        "t": Download(from: File(name: None, path: "books/text.txt")),
    })"#;
    fs::create_dir(workspace.path("books")).unwrap();
    fs::rename(workspace.path("text.txt"), workspace.path("books/text.txt")).unwrap();
    assert!(workspace.run(reordered, same).is_empty());
}

#[test]
fn a_changed_source_runs_its_stage_and_an_equal_result_stops_the_wave() {
    let workspace = Workspace::new();
    workspace.run(GRAPH, same);
    fs::write(workspace.path("text.txt"), "two").unwrap();
    insta::assert_snapshot!(workspace.told(GRAPH), @"
    text Run: source `from.path` changed
    score Waits: waits for `text`
    weights Waits: waits for `score`
    ");
    assert_eq!(workspace.run(GRAPH, same), ["text"]);
    fs::write(workspace.path("text.txt"), "six").unwrap();
    let other = |name: &str| if name == "text" { "something else".to_owned() } else { same(name) };
    assert_eq!(workspace.run(GRAPH, other), ["text", "score"]);
}

#[test]
fn a_lost_result_is_told_and_computed_again() {
    let workspace = Workspace::new();
    workspace.run(GRAPH, same);
    let artifact = workspace.plan(GRAPH).stages[1].artifact.unwrap();
    let view = workspace.store.view(&artifact).unwrap();
    let digest = workspace.store.digest_inside(&artifact, Some("part/data.txt")).unwrap().to_string();
    let object = workspace.store.root().join("objects").join(&digest[..2]).join(&digest[2..]);
    fs::remove_file(&object).unwrap();
    insta::assert_snapshot!(workspace.told(GRAPH), @"
    text Cached: its result is in the store
    score Run: the content of `part/data.txt` is no longer in the store
    weights Waits: waits for `score`
    ");
    assert_eq!(workspace.run(GRAPH, same), ["score"]);
    assert_eq!(fs::read(view.join("part/data.txt")).unwrap(), b"what score gives");
}

#[test]
fn a_missing_source_names_stage_setting_path_and_workspace() {
    let workspace = Workspace::new();
    fs::remove_file(workspace.path("text.txt")).unwrap();
    let error = workspace.try_plan(GRAPH).unwrap_err();
    assert_eq!(error.place(), Some(("text", "from.path")));
    let folder = workspace.folder.path().display().to_string();
    let message = error.to_string().replace(&folder, "FOLDER");
    insta::assert_snapshot!(message, @"stage `text`: setting `from.path` names `text.txt`: FOLDER/text.txt: there is no such file or folder (relative paths start at FOLDER)");
}

#[test]
fn a_reference_into_an_artifact_that_lacks_it_is_told() {
    let workspace = Workspace::new();
    workspace.run(GRAPH, same);
    let error = workspace.try_plan(&GRAPH.replace("score/part", "score/parts")).unwrap_err();
    insta::assert_snapshot!(error, @"stage `weights`: setting `inputs.score` refers to `score/parts`: there is no `parts` in the artifact; it holds `part`");
}
