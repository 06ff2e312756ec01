//! What people read, word for word; and what scripts read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::path::Path;

use run_support::{Place, Ran, Said, send};
use rustix::process::Signal;
use serde_json::Value;

const STAGES: [&str; 4] = [
    r#""text": Command(run: ["cp", "{file.0}", "{out}"], files: ["text.txt"])"#,
    r#""copy": Command(run: ["cp", "-r", "{in.text}/.", "{out}"], inputs: {"text": "text"}, env: {"STEP": "copy"})"#,
    r#""fails": Command(run: ["false"], inputs: {"copy": "copy/text.txt"})"#,
    r#""page": Command(run: ["cp", "-r", "{in.fails}/.", "{out}"], inputs: {"fails": "fails"})"#,
];

fn place() -> Place {
    let place = Place::with(&STAGES);
    place.write("text.txt", "text\n");
    place
}

/// Both streams, one after the other: their order between each other is not promised.
fn both(said: &Said) -> String {
    format!("{}-- errors, exit code {} --\n{}", said.stdout, said.code.unwrap_or(-1), said.stderr)
}

#[test]
fn a_run_from_nothing_and_one_from_everything() {
    let place = place();
    let _filters = place.filters();
    insta::assert_snapshot!(both(&place.output(&["run", "graph.ron", "copy"])), @r#"
    graph.ron: 1 run, 1 wait
      run     text   Command   never computed here
      waits   copy   Command   waits for `text`
    1 stage at a time, [threads] each; logs in artifacts/local/runs/[run]
      starts  text  Command
      done    text  [time]  [short]
      starts  copy  Command
      done    copy  [time]  [short]
    succeeded after [time]: 2 stages (2 ran)
      ran   text   [time]
      ran   copy   [time]
    -- errors, exit code 0 --
    "#);
    insta::assert_snapshot!(both(&place.output(&["run", "graph.ron", "copy"])), @r#"
    graph.ron: all 2 stages are cached, nothing to run
    -- errors, exit code 0 --
    "#);
}

#[test]
fn a_change_is_named_before_it_is_run() {
    let place = place();
    let _filters = place.filters();
    assert_eq!(place.output(&["run", "graph.ron", "copy"]).code, Some(0));
    place.graph(&[STAGES[0], &STAGES[1].replace("STEP\": \"copy", "STEP\": \"again")]);
    insta::assert_snapshot!(both(&place.output(&["run", "graph.ron"])), @r#"
    graph.ron: 1 cached, 1 run
      run   copy   Command   setting `env.STEP` changed: "copy" → "again"
    1 stage at a time, [threads] each; logs in artifacts/local/runs/[run]
      starts  copy  Command
      done    copy  [time]  [short]
    succeeded after [time]: 2 stages (1 cached, 1 ran)
      ran   copy   [time]
    -- errors, exit code 0 --
    "#);
}

#[test]
fn a_failing_run() {
    let place = place();
    let _filters = place.filters();
    insta::assert_snapshot!(both(&place.output(&["run", "graph.ron"])), @r#"
    graph.ron: 1 run, 3 wait
      run     text    Command   never computed here
      waits   copy    Command   waits for `text`
      waits   fails   Command   waits for `copy`
      waits   page    Command   waits for `fails`
    1 stage at a time, [threads] each; logs in artifacts/local/runs/[run]
      starts  text  Command
      done    text  [time]  [short]
      starts  copy  Command
      done    copy  [time]  [short]
      starts  fails  Command
    failed after [time]: 4 stages (2 ran, 1 failed, 1 skipped)
      ran       text    [time]
      ran       copy    [time]
      failed    fails   [time]
      skipped   page
    -- errors, exit code 1 --
    error: stage `fails` failed: the program `false` ended with exit code 1; it printed nothing
      log: artifacts/local/runs/[run]/logs/002-fails.log
    "#);
}

#[test]
fn a_plan_for_people_and_a_dry_run() {
    let place = place();
    let _filters = place.filters();
    assert_eq!(place.output(&["run", "graph.ron", "text"]).code, Some(0));
    let plan = place.output(&["plan", "graph.ron"]);
    insta::assert_snapshot!(both(&plan), @r#"
    graph.ron: 4 stages
      cached   text    Command   its result is in the store
      run      copy    Command   never computed here
      waits    fails   Command   waits for `copy`
      waits    page    Command   waits for `fails`
    1 cached, 1 run, 2 wait
    -- errors, exit code 0 --
    "#);
    let dry = place.output(&["run", "graph.ron", "--dry-run"]);
    assert_eq!(dry.stdout, plan.stdout);
    let json = place.output(&["plan", "graph.ron", "--json"]);
    assert_eq!(place.output(&["run", "graph.ron", "--dry-run", "--json"]).stdout, json.stdout);
    insta::assert_snapshot!(json.stdout.replace("},{", "},\n{"), @r#"
    {"graph":"graph.ron","stages":[{"name":"text","kind":"Command","status":"cached","reason":"its result is in the store","key":"[digest]","artifact":"[digest]"},
    {"name":"copy","kind":"Command","status":"run","reason":"never computed here","key":"[digest]","artifact":null},
    {"name":"fails","kind":"Command","status":"waits","reason":"waits for `copy`","key":null,"artifact":null},
    {"name":"page","kind":"Command","status":"waits","reason":"waits for `fails`","key":null,"artifact":null}]}
    "#);
}

#[test]
fn all_there_is_to_know_of_a_stage() {
    let place = place();
    assert_eq!(place.output(&["run", "graph.ron", "copy"]).code, Some(0));
    let said = place.output(&["show", "graph.ron", "copy", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let digest = blake3::hash(b"text\n").to_hex().to_string();
    assert_eq!(document["status"], "cached");
    assert_eq!(document["settings"]["outputs"], serde_json::json!([]), "defaults are shown");
    assert_eq!(
        document["files"],
        serde_json::json!([{"path": "text.txt", "digest": digest, "size": 5, "executable": false}])
    );
    assert_eq!(document["inputs"][0]["from"], "text");
    assert_eq!(document["inputs"][0]["digest"], document["artifact"], "this stage copies all that it reads");
    assert_eq!(document["provenance"]["version"], env!("CARGO_PKG_VERSION"));

    let _filters = place.filters();
    let people = place.output(&["show", "graph.ron", "copy"]).stdout;
    let end = people.find("provenance").unwrap();
    insta::assert_snapshot!(people[..end], @r#"
    copy Command  Runs any program: an argument list, declared inputs, files, outputs and environment.
      status     cached: its result is in the store
      key        [digest]
      artifact   [digest]
      revision   1
    settings
      env       {"STEP":"copy"}
      files     []
      inputs    {"text":"text"}
      outputs   []
      run       ["cp","-r","{in.text}/.","{out}"]
    inputs
      inputs.text   text   [short]
    files
      text.txt   5 B   [short]
    "#);
    insta::assert_snapshot!(place.output(&["show", "graph.ron", "page"]).stdout, @r#"
    page Command  Runs any program: an argument list, declared inputs, files, outputs and environment.
      status     waits for `fails`
      revision   1
    settings
      env       {}
      files     []
      inputs    {"fails":"fails"}
      outputs   []
      run       ["cp","-r","{in.fails}/.","{out}"]
    inputs
      inputs.fails   fails   not there yet
    "#);
}

#[test]
fn the_path_of_a_result_is_all_that_is_printed() {
    let place = place();
    let _filters = place.filters();
    insta::assert_snapshot!(both(&place.output(&["path", "graph.ron", "copy"])), @r#"
    -- errors, exit code 1 --
    error: stage `copy` has not been computed with these settings and inputs (waits for `text`); compute it with: twdag run graph.ron copy
    "#);
    assert_eq!(place.output(&["run", "graph.ron", "copy"]).code, Some(0));
    let said = place.output(&["path", "graph.ron", "copy"]);
    let path = Path::new(said.stdout.strip_suffix('\n').unwrap());
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    assert!(std::fs::metadata(path.join("text.txt")).unwrap().permissions().readonly());
    insta::assert_snapshot!(both(&place.output(&["path", "graph.ron", "copi"])), @r#"
    -- errors, exit code 2 --
    error: there is no stage `copi` in graph.ron; did you mean `copy`?
    "#);
}

#[test]
fn colours_go_only_to_those_who_want_them() {
    let place = place();
    let plain = place.output(&["plan", "graph.ron"]).stdout;
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let forced = place.twdag(&["plan", "graph.ron"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&forced.stdout).contains('\u{1b}'));
    let refused = place.twdag(&["plan", "graph.ron"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert_eq!(String::from_utf8(refused.stdout).unwrap(), plain);
}

/// The lines of a training log.
fn steps(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The training log that a run has kept beside its other logs.
fn live_log(place: &Place, run: &Ran, stage: &str) -> Vec<Value> {
    let logs = place.path(run.events[0]["folder"].as_str().unwrap()).join("logs");
    let mut folders = std::fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path());
    let folder = folders.find(|path| path.to_string_lossy().ends_with(&format!("-{stage}"))).unwrap();
    steps(&std::fs::read_to_string(folder.join("training.jsonl")).unwrap())
}

#[test]
fn times_of_training_steps_are_in_the_logs_of_the_run_and_in_no_result() {
    let place = Place::with(&[
        r#""text": Synthesize(documents: 12, seed: 1)"#,
        r#""tokenizer": TrainTokenizer(text: ["text"], vocabulary: 300)"#,
        r#""tokens": Tokenize(text: ["text"], tokenizer: "tokenizer", length: 64, chunking: Lossless)"#,
        r#""random": InitModel(tokenizer: "tokenizer", hidden_size: 32, layers: 2, heads: 2, intermediate_size: 64, context: 64, seed: 1)"#,
        r#""model": Train(model: "random", tokens: "tokens", steps: 500, batch: 4, learning_rate: 1e-3, seed: 1)"#,
    ]);
    let mut run = place.start(&[]);
    run.until("stage-progress", "model");
    send(run.pid(), Signal::INT);
    let first = run.end();
    assert_eq!(first.code, Some(130), "{first:#?}");
    let before = live_log(&place, &first, "model");
    assert!((1..500).contains(&before.len()), "{} steps", before.len());

    let second = place.run(&[]);
    assert_eq!(second.code, Some(0), "{second:#?}");
    let mut after = live_log(&place, &second, "model");
    assert_eq!(after.len(), 500);
    assert_eq!(after[..before.len()], before, "steps of the first attempt keep their times");
    for step in &mut after {
        assert!(step["seconds"].as_f64().unwrap() > 0.0, "{step}");
        step["seconds"] = Value::Null;
    }
    assert_eq!(after, steps(&place.result("model", "training.jsonl")));
}

#[test]
fn help_is_there_for_everyone() {
    let place = place();
    for command in ["run", "plan", "show", "path", "graph"] {
        let said = place.output(&[command, "--help"]);
        assert_eq!(said.code, Some(0));
        assert!(said.stdout.contains(&format!("  twdag {command} graphs/")), "{}", said.stdout);
    }
    assert_eq!(
        place.output(&["--version"]).stdout,
        format!("twdag {} (commit {})\n", env!("CARGO_PKG_VERSION"), twdag::store::COMMIT)
    );
}

#[test]
fn why_a_stage_runs_waits_or_is_cached() {
    let place = place();
    let _filters = place.filters();
    let why = |stage: &str| both(&place.output(&["plan", "graph.ron", "--why", stage]));
    insta::assert_snapshot!(why("page"), @"
    page: waits, Command
      waits for `fails`
    what has to run before that is known:
      run   text   Command   never computed here
    -- errors, exit code 0 --
    ");
    assert_eq!(place.output(&["run", "graph.ron", "copy"]).code, Some(0));
    insta::assert_snapshot!(why("copy"), @"
    copy: cached, Command
      its result is in the store
    key [short]
    -- errors, exit code 0 --
    ");
    place.write("text.txt", "other text\n");
    insta::assert_snapshot!(why("text"), @"
    text: run, Command
      source `files.0` changed: text.txt, [short] → [short]
    key [short], the last one was [short]
    -- errors, exit code 0 --
    ");
    insta::assert_snapshot!(why("copy"), @"
    copy: waits, Command
      waits for `text`
    what has to run before that is known:
      run   text   Command   source `files.0` changed
    its last key was [short]
    -- errors, exit code 0 --
    ");
    assert_eq!(place.output(&["run", "graph.ron", "text"]).code, Some(0));
    place.graph(&[STAGES[0], &STAGES[1].replace("STEP\": \"copy", "STEP\": \"again")]);
    insta::assert_snapshot!(why("copy"), @r#"
    copy: run, Command
      setting `env.STEP` changed: "copy" → "again"
      input `inputs.text` changed: text, [short] → [short]
    key [short], the last one was [short]
    -- errors, exit code 0 --
    "#);
    insta::assert_snapshot!(place.output(&["plan", "graph.ron", "--json", "--why", "copy"]).stdout, @r#"
    {
      "graph": "graph.ron",
      "name": "copy",
      "kind": "Command",
      "status": "run",
      "reason": "setting `env.STEP` changed: \"copy\" → \"again\"; input `inputs.text` changed",
      "key": "[digest]",
      "artifact": null,
      "last_key": "[digest]",
      "differences": [
        {
          "what": "setting",
          "place": "env.STEP",
          "reads": null,
          "from": "\"copy\"",
          "to": "\"again\""
        },
        {
          "what": "input",
          "place": "inputs.text",
          "reads": "text",
          "from": "[digest]",
          "to": "[digest]"
        }
      ],
      "waits_for": []
    }
    "#);
    assert_eq!(place.output(&["plan", "graph.ron", "copy", "--why", "copy"]).code, Some(2));
}
