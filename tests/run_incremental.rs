//! Parts of a chain of ten stages, and results that are lost; what a change recomputes is in `run_reruns.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::collections::BTreeSet;

use run_support::Place;

/// Ten stages; each copies all that the one before has, the first one `start.txt`, the seventh `note.txt` besides.
fn chain() -> Vec<String> {
    // Each has a number among its settings, or those that read the same content would be one action.
    let mut stages = vec![r#""s0": Command(run: ["cp", "{file.0}", "{out}"], files: ["start.txt"])"#.to_owned()];
    for index in 1..10 {
        let (note, files) = if index == 6 { (r#""{file.0}", "#, r#", files: ["note.txt"]"#) } else { ("", "") };
        stages.push(format!(
            r#""s{index}": Command(run: ["cp", "-r", "{{in.before}}/.", {note}"{{out}}"], inputs: {{"before": "s{}"}}, env: {{"NUMBER": "{index}"}}{files})"#,
            index - 1
        ));
    }
    stages
}

fn place() -> Place {
    let place = Place::new();
    place.write("start.txt", "start\n");
    place.write("note.txt", "note\n");
    place.graph(&chain().iter().map(String::as_str).collect::<Vec<_>>());
    place
}

fn ran(place: &Place) -> Vec<String> {
    let run = place.run(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.with_outcome("ran")
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

/// A whole pipeline, as small as can be.
const PIPELINE: &str = r#"Graph(version: 1, params: { "lambda": 0.75, "kappa": 0.2 }, stages: {
    "text": Synthesize(documents: 8, seed: 1, sentences: 24, facts: 2, distance: (least: 4, most: 8)),
    "tokenizer": TrainTokenizer(text: ["text"], vocabulary: 300),
    "chunks": Tokenize(text: ["text"], tokenizer: "tokenizer", length: 64),
    "base": InitModel(tokenizer: "tokenizer", hidden_size: 8, layers: 1, heads: 1, intermediate_size: 16, context: 64, seed: 1),
    "small": InitModel(tokenizer: "tokenizer", hidden_size: 8, layers: 1, heads: 1, intermediate_size: 16, context: 64, seed: 2),
    "extended": ExtendRope(model: "base", context: 128, method: Base(theta: 160000)),
    "short": Score(model: "base", tokens: "chunks", windows: (length: 32, step: 16)),
    "long": Score(model: "extended", tokens: "chunks"),
    "dense": Postprocess(short: "short", long: "long", shape: Dense(lambda: param("lambda"))),
    "sparse": Postprocess(short: "short", long: "long", shape: Sparse(kappa: param("kappa"))),
    "train_dense": Train(model: "extended", tokens: "chunks", weighting: Static(weights: "dense"), steps: 1, batch: 2, learning_rate: 0.01),
    "train_sparse": Train(model: "extended", tokens: "chunks", weighting: Static(weights: "sparse"), steps: 1, batch: 2, learning_rate: 0.01),
    "measure_dense": Evaluate(model: "train_dense", tasks: { "loss": LossByPosition(tokens: "chunks", buckets: 2) }),
    "measure_sparse": Evaluate(model: "train_sparse", tasks: { "loss": LossByPosition(tokens: "chunks", buckets: 2) }),
})
"#;

#[test]
fn a_change_in_the_pipeline_keeps_all_that_does_not_depend_on_it() {
    let place = Place::new();
    place.write("graph.ron", PIPELINE);
    assert_eq!(ran(&place).len(), 14);
    let below = |set: &str| {
        let run = place.run(&["--set", set]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        run.with_outcome("ran")
    };
    assert_eq!(below("lambda=0.5"), ["dense", "measure_dense", "train_dense"]);
    assert_eq!(below("kappa=0.4"), ["measure_sparse", "sparse", "train_sparse"]);
    assert_eq!(ran(&place), [""; 0], "back to the first ones");

    let scored = ["dense", "measure_dense", "measure_sparse", "short", "sparse", "train_dense", "train_sparse"];
    let windows = "windows: (length: 32, step: 16)";
    let mut seen = BTreeSet::from([artifact(&place, "short")]);
    for (what, from, to) in [
        ("another scorer", r#"Score(model: "base""#, r#"Score(model: "small""#),
        (
            "another base of its rotary embedding",
            windows,
            "windows: (length: 32, step: 16), rope: Default(theta: 500000)",
        ),
        ("longer windows", windows, "windows: (length: 48, step: 16)"),
        ("wider steps", windows, "windows: (length: 32, step: 8)"),
        ("another type of numbers", windows, "windows: (length: 32, step: 16), device: Cpu(precision: Bf16)"),
        ("another rule for BOS", windows, "windows: (length: 32, step: 16), bos: Keep"),
    ] {
        let text = PIPELINE.replace(from, to);
        assert_ne!(text, PIPELINE, "{what}");
        place.write("graph.ron", &text);
        let ran = ran(&place);
        assert!(ran.iter().all(|stage| scored.contains(&stage.as_str())), "{what}: {ran:?}");
        // The same targets may be the best ones under another scorer: there the wave stops.
        let sure = ["dense", "measure_dense", "short", "train_dense"];
        assert!(sure.iter().all(|stage| ran.iter().any(|found| found == stage)), "{what}: {ran:?}");
        assert!(seen.insert(artifact(&place, "short")), "{what}: the result of other settings");
    }
    place.write("graph.ron", PIPELINE);
    assert_eq!(ran(&place), [""; 0], "back to the first scorer");
    let extended = PIPELINE.replace("theta: 160000", "theta: 320000");
    place.write("graph.ron", &extended);
    let ran = ran(&place);
    assert!(ran.contains(&"long".to_owned()) && !ran.contains(&"short".to_owned()), "another extension: {ran:?}");
}

fn artifact(place: &Place, stage: &str) -> String {
    let said = place.output(&["show", "graph.ron", stage, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&said.stdout).expect(&said.stdout);
    shown["artifact"].as_str().expect("an artifact").to_owned()
}
