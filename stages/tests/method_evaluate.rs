//! Measures against transformers, against numbers that are known by construction, and across interruptions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use twdag_stages::{
    data::{ArrayKind, ArraySetWriter, GroundTruth, PartLayout, TokenSet, TokenSetWriter},
    evaluate::Evaluate,
    model::Model,
    registry::ron_options,
    stage::{Context, Kind, StageError, StageEvent},
};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");

fn stories() -> PathBuf {
    Path::new(DATA).join("models/stories260k")
}

struct Room {
    folder: TempDir,
}

impl Room {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tokens(&self, sequences: &[Vec<u32>], truth: Option<&[GroundTruth]>) {
        let folder = self.path("tokens");
        fs::create_dir_all(&folder).expect("a folder");
        let mut writer = TokenSetWriter::new(&folder, sequences[0].len(), truth.is_some());
        for (index, ids) in sequences.iter().enumerate() {
            writer.push(ids, truth.map(|truth| &truth[index])).expect("a sequence");
        }
        writer.finish(&stories().join("tokenizer.json"), Some(1), 512, 1).expect("tokens.json");
    }

    fn losses(&self, name: &str, values: &[f32]) {
        fs::create_dir_all(self.path(name)).expect("a folder");
        let tokens = TokenSet::open(&self.path("tokens")).expect("tokens");
        let layout = PartLayout::even(tokens.sequences());
        let kind = ArrayKind::CrossEntropy;
        let writer = ArraySetWriter::new(&self.path(name), kind, layout, tokens.length(), tokens.digest(), None);
        writer.write_part(0, values).expect("a part");
        writer.finish().expect("scores.json");
    }

    fn evaluate(
        &self,
        name: &str,
        settings: &str,
        watch: impl Fn(&StageEvent) -> bool + Send + Sync + 'static,
    ) -> Result<Value, StageError> {
        let (output, scratch) = (self.path(name), self.path(&format!("{name}.scratch")));
        if output.exists() {
            fs::remove_dir_all(&output).expect("removed");
        }
        fs::create_dir_all(&output).expect("a folder");
        fs::create_dir_all(&scratch).expect("a folder");
        let stage: Evaluate = ron_options().from_str(settings).expect("settings");
        stage.check()?;
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancel);
        let context = Context::builder(&output, scratch)
            .input("model", stories())
            .input("tokens", self.path("tokens"))
            .input("short", self.path("short"))
            .input("long", self.path("long"))
            .input("mmlu", Path::new(DATA).join("eval/mmlu"))
            .input("books", Path::new(DATA).join("corpora/small"))
            .threads(2)
            .cancel(cancel)
            .events(move |event| {
                if watch(&event) {
                    flag.store(true, Ordering::Relaxed);
                }
            })
            .build();
        stage.run(&context)?;
        Ok(serde_json::from_slice(&fs::read(output.join("metrics.json")).expect("metrics.json")).expect("JSON"))
    }

    fn predictions(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name).join("predictions.jsonl")).expect("predictions.jsonl");
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }
}

fn in_peace(_: &StageEvent) -> bool {
    false
}

#[track_caller]
fn close(found: &Value, expected: f64, tolerance: f64) {
    let found = found.as_f64().expect("a number");
    assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
}

#[test]
fn loss_by_position_is_that_of_transformers() {
    let room = Room::new();
    let reference: Value =
        serde_json::from_slice(&fs::read(stories().join("reference_rope.json")).expect("a file")).expect("JSON");
    let ids: Vec<u32> = serde_json::from_value(reference["input_ids"].clone()).expect("ids");
    room.tokens(&[ids], None);
    let tasks = "(model: \"model\", tasks: {\"held_out\": LossByPosition(tokens: \"tokens\", buckets: 8)})";
    let metrics = room.evaluate("metrics", tasks, in_peace).expect("metrics");
    let task = &metrics["tasks"]["held_out"];
    let expected = &reference["variants"]["default"];
    assert_eq!(task["kind"], "LossByPosition");
    close(&task["mean"], expected["mean_loss"].as_f64().expect("a mean"), 1e-4);
    let buckets = task["buckets"].as_array().expect("buckets");
    assert_eq!((&buckets[0]["from"], &buckets[0]["to"], &buckets[7]["to"]), (&1.into(), &256.into(), &2048.into()));
    assert_eq!(buckets.iter().map(|bucket| bucket["count"].as_u64().expect("a count")).sum::<u64>(), 2047);
    // The reference's buckets start one target later, so they differ by one loss of 256.
    let reference = expected["loss_by_bucket"].as_object().expect("buckets");
    for (range, loss) in reference {
        let start: u64 = range.split('-').next().expect("a start").parse().expect("a number");
        let bucket = buckets.iter().find(|bucket| bucket["from"].as_u64() == Some(start.max(1))).expect("a bucket");
        close(&bucket["loss"], loss.as_f64().expect("a loss"), 0.05);
    }
}

/// Two sequences of 40 tokens in which the model is right about one fact, half right about another, and wrong about
/// a third.
fn facts(room: &Room) -> (Vec<Vec<u32>>, Vec<f32>) {
    let model = Model::open(&stories()).expect("a model");
    let mut sequences: Vec<Vec<u32>> = (0..2)
        .map(|row| (0..40u32).map(|at| if at == 0 { 1 } else { 260 + (at * at + 17 * row) % 240 }).collect())
        .collect();
    let empty = || GroundTruth { far: vec![0; 40], fact: vec![-1; 40], distance: vec![0; 40] };
    let mut truth = vec![empty(), empty()];
    // What the model expects at a place depends on earlier tokens only, so places are set from left to right.
    let set = |sequences: &mut Vec<Vec<u32>>, row: usize, at: usize, right: bool| {
        let expected = model.score(&sequences[row], 1).expect("predictions").argmax[at - 1];
        sequences[row][at] = if right { expected } else { (expected + 1) % 512 };
    };
    for (row, at, right, fact, distance) in
        [(0, 20, true, 0, 5), (0, 21, true, 0, 5), (0, 30, true, 1, 25), (0, 31, false, 1, 25), (1, 35, false, 0, 30)]
    {
        set(&mut sequences, row, at, right);
        truth[row].far[at] = 1;
        truth[row].fact[at] = fact;
        truth[row].distance[at] = distance;
    }
    room.tokens(&sequences, Some(&truth));
    let losses = model.score(&sequences.concat(), 2).expect("losses").cross_entropy;
    (sequences, losses)
}

#[test]
fn planted_facts_are_counted_by_whole_values() {
    let room = Room::new();
    let (_, losses) = facts(&room);
    let tasks = "(model: \"model\", tasks: {\"facts\": PlantedFacts(tokens: \"tokens\", buckets: 3)})";
    let metrics = room.evaluate("metrics", tasks, in_peace).expect("metrics");
    let task = &metrics["tasks"]["facts"];
    assert_eq!(task["facts"], 3);
    close(&task["recall"], 1.0 / 3.0, 1e-12);
    let far = [19, 20, 29, 30, 39 + 34];
    let mean = |targets: &[usize]| targets.iter().map(|&at| f64::from(losses[at])).sum::<f64>() / targets.len() as f64;
    close(&task["loss_far"], mean(&far), 1e-9);
    let others: Vec<usize> = (0..losses.len()).filter(|at| !far.contains(at)).collect();
    close(&task["loss_other"], mean(&others), 1e-9);
    let by_distance = task["by_distance"].as_array().expect("buckets");
    let found: Vec<_> = by_distance
        .iter()
        .map(|bucket| {
            (bucket["from"].as_u64(), bucket["to"].as_u64(), bucket["recall"].as_f64(), bucket["facts"].as_u64())
        })
        .collect();
    assert_eq!(
        found,
        [
            (Some(1), Some(14), Some(1.0), Some(1)),
            (Some(14), Some(27), Some(0.0), Some(1)),
            (Some(27), Some(40), Some(0.0), Some(1))
        ]
    );
    let lines = room.predictions("metrics");
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["correct"], &lines[1]["correct"]), (&true.into(), &false.into()));
}

#[test]
fn far_tokens_are_told_from_others_without_a_model() {
    let room = Room::new();
    facts(&room);
    let mut short = vec![2.0; 78];
    let long = vec![2.0; 78];
    // Two of the five far targets have a score, in both directions; one of the others has a smaller one.
    (short[19], short[20], short[5]) = (4.0, 0.5, 2.25);
    room.losses("short", &short);
    room.losses("long", &long);
    let tasks = "(tasks: {\"far\": FarTokenDetection(short: \"short\", long: \"long\", tokens: \"tokens\")})";
    let metrics = room.evaluate("metrics", tasks, in_peace).expect("metrics");
    let task = &metrics["tasks"]["far"];
    assert_eq!((&task["positives"], &task["negatives"]), (&5.into(), &73.into()));
    // Two win against all 73, three tie with 72 and lose to one.
    close(&task["area_under_curve"], (2.0 * 73.0 + 3.0 * 72.0 * 0.5) / (5.0 * 73.0), 1e-12);
    assert_eq!(task["curve"][0], serde_json::json!([0.0, 0.0]));
    assert_eq!(task["curve"].as_array().and_then(|curve| curve.last()), Some(&serde_json::json!([1.0, 1.0])));
}

#[derive(Deserialize)]
struct Choice {
    subject: String,
    question: u64,
    losses: Vec<f64>,
    correct: String,
    shortened: bool,
}

#[test]
fn multiple_choice_is_that_of_transformers() {
    let room = Room::new();
    let reference: Vec<Choice> = serde_json::from_str(include_str!("fixtures/choice.json")).expect("choice.json");
    let tasks = "(model: \"model\", tasks: {\"mmlu\": MultipleChoice(data: \"mmlu\", shots: 3, limit: 3, \
                 subjects: [\"astronomy\", \"us_foreign_policy\"])})";
    let metrics = room.evaluate("metrics", tasks, in_peace).expect("metrics");
    let lines = room.predictions("metrics");
    assert_eq!(lines.len(), reference.len());
    let mut right = 0;
    for (line, expected) in lines.iter().zip(&reference) {
        assert_eq!(
            (&line["subject"], &line["question"]),
            (&expected.subject.clone().into(), &expected.question.into())
        );
        assert_eq!(line["correct"], expected.correct.as_str());
        assert_eq!(line["shortened"], expected.shortened);
        for (found, expected) in line["losses"].as_array().expect("losses").iter().zip(&expected.losses) {
            close(found, *expected, 1e-3);
        }
        let best = (0..4).fold(0, |best, at| if expected.losses[at] < expected.losses[best] { at } else { best });
        right += usize::from(["A", "B", "C", "D"][best] == expected.correct);
    }
    let task = &metrics["tasks"]["mmlu"];
    close(&task["accuracy"], right as f64 / reference.len() as f64, 1e-12);
    assert_eq!((&task["questions"], &task["by_subject"]["astronomy"]["questions"]), (&6.into(), &3.into()));
    assert_eq!(task["shortened"], reference.iter().filter(|choice| choice.shortened).count());
    assert!(reference.iter().any(|choice| choice.shortened), "the fixture has a prompt that is too long");
}

#[test]
fn needles_fill_their_length_and_no_more() {
    let room = Room::new();
    let tasks = "(model: \"model\", tasks: {\
        \"own\": Needles(lengths: [128, 256], depths: [0, 0.5, 1], samples: 2, seed: 3),\
        \"books\": Needles(haystack: \"books\", lengths: [256], depths: [0.25], samples: 3, score: Ranking),\
    })";
    let metrics = room.evaluate("metrics", tasks, in_peace).expect("metrics");
    let own = &metrics["tasks"]["own"];
    assert_eq!((&own["samples"], own["grid"].as_array().map(Vec::len)), (&12.into(), Some(6)));
    assert_eq!(metrics["tasks"]["books"]["score"], "Ranking");
    for line in room.predictions("metrics").iter().filter(|line| line["task"] == "own") {
        let (length, tokens) = (line["length"].as_u64().expect("a length"), line["tokens"].as_u64().expect("tokens"));
        assert!(tokens <= length && tokens + 60 > length, "{tokens} of {length}");
    }
    let again = room.evaluate("again", tasks, in_peace).expect("metrics");
    assert_eq!(metrics, again);
    let short = "(model: \"model\", tasks: {\"own\": Needles(lengths: [128, 16], depths: [0], samples: 1)})";
    insta::assert_snapshot!(room.evaluate("no", short, in_peace).expect_err("an error"), @"setting `tasks.own.lengths.1` is 16, expected more tokens: the question and one sentence do not fit into so few");
}

#[test]
fn an_interrupted_evaluation_gives_the_same_bytes() {
    let room = Room::new();
    facts(&room);
    let tasks = "(model: \"model\", tasks: {\
        \"b\": PlantedFacts(tokens: \"tokens\"),\
        \"a\": LossByPosition(tokens: \"tokens\", buckets: 4),\
        \"c\": Needles(lengths: [128], depths: [0.5], samples: 2),\
    })";
    room.evaluate("peace", tasks, in_peace).expect("metrics");
    let stop = |event: &StageEvent| matches!(event, StageEvent::Progress { done, .. } if *done >= 2000);
    assert!(matches!(room.evaluate("other", tasks, stop), Err(StageError::Canceled)));
    assert!(room.path("other.scratch/task-0.json").exists());
    room.evaluate("other", tasks, in_peace).expect("metrics");
    for name in ["metrics.json", "predictions.jsonl"] {
        let (peace, other) = (fs::read(room.path("peace").join(name)), fs::read(room.path("other").join(name)));
        assert!(peace.expect("a file") == other.expect("a file"), "{name}");
    }
}

#[test]
fn impossible_settings_are_refused() {
    let room = Room::new();
    room.tokens(&[vec![1, 300, 301]], None);
    let refused = |settings: &str| room.evaluate("no", settings, in_peace).expect_err("an error").to_string();
    insta::assert_snapshot!(refused("(tasks: {})"), @"setting `tasks` is empty, expected at least one task");
    insta::assert_snapshot!(refused("(tasks: {\"x\": LossByPosition(tokens: \"tokens\", buckets: 2)})"), @"setting `model` is absent, expected a model: task `x` (LossByPosition) needs one");
    insta::assert_snapshot!(refused("(model: \"model\", tasks: {\"x\": LossByPosition(tokens: \"tokens\", buckets: 0)})"), @"setting `tasks.x.buckets` is 0, expected a number above 0");
    insta::assert_snapshot!(refused("(model: \"model\", tasks: {\"x\": Needles(lengths: [64], depths: [0, 1.5], samples: 1)})"), @"setting `tasks.x.depths.1` is 1.5, expected a number from 0 (the start of the text) to 1 (its end)");
    insta::assert_snapshot!(refused("(model: \"model\", tasks: {\"x\": PlantedFacts(tokens: \"tokens\")})"), @"`tokens` does not say which tokens need far context; tokenize a corpus with facts, such as one of `Synthesize`");
    let message =
        refused("(model: \"model\", tasks: {\"x\": MultipleChoice(data: \"mmlu\", subjects: [\"cooking\"])})");
    assert!(
        message.starts_with("setting `tasks.x.subjects.0` is cooking, expected one of abstract_algebra, anatomy,"),
        "{message}"
    );
}
