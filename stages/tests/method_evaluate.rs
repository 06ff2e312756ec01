//! Measures against transformers and against numbers that are known by construction.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use std::{collections::BTreeSet, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;
use stage_support::{DATA, Room, in_peace, stories};
use twdag_stages::{
    data::{ArrayKind, GroundTruth, TextTokenizer},
    evaluate::{Evaluate, is_key, perplexity},
    model::{Config, Model},
    stage::{StageError, StageEvent},
};

fn room() -> Room {
    let data = Path::new(DATA);
    Room::new().with("mmlu", data.join("eval/mmlu")).with("books", data.join("corpora/small"))
}

impl Room {
    fn losses(&self, name: &str, values: &[f32]) {
        self.arrays(name, ArrayKind::CrossEntropy, values);
    }

    fn evaluate(
        &self,
        name: &str,
        settings: &str,
        watch: impl Fn(&StageEvent) -> bool + Send + Sync + 'static,
    ) -> Result<Value, StageError> {
        self.run::<Evaluate>(name, 2, settings, watch)?;
        let metrics = fs::read(self.path(name).join("metrics.json")).expect("metrics.json");
        Ok(serde_json::from_slice(&metrics).expect("JSON"))
    }

    fn predictions(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name).join("predictions.jsonl")).expect("predictions.jsonl");
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }
}

#[track_caller]
fn close(found: &Value, expected: f64, tolerance: f64) {
    let found = found.as_f64().expect("a number");
    assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
}

#[test]
fn loss_by_position_is_that_of_transformers() {
    let room = room();
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
    let room = room();
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
    let room = room();
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

#[test]
fn key_tokens_and_their_perplexity() {
    let (long, short) = ([0.5, 1.0, 2.5, 0.1], [3.0, 2.9, 5.0, 2.2]);
    let key: Vec<bool> = short.iter().zip(&long).map(|(&short, &long)| is_key(short, long, 2.0, -2.0)).collect();
    assert_eq!(key, [true, false, false, true]);
    let of_key = perplexity(long.iter().zip(&key).filter(|(_, key)| **key).map(|(&loss, _)| loss)).expect("a number");
    assert!((of_key - 1.3498588076).abs() < 1e-6, "{of_key}");
    assert!((perplexity(long).expect("a number") - 2.7870954606).abs() < 1e-6);
    assert_eq!(perplexity([]), None);
    // Both bounds are strict.
    assert!(!is_key(2.5, 0.5, 2.0, -2.0) && !is_key(9.0, 2.0, 2.0, -2.0));
}

#[test]
fn long_perplexity_is_of_the_model_over_the_evaluators_key_tokens() {
    let room = room();
    let sequences: Vec<Vec<u32>> = (0..3)
        .map(|row| (0..20u32).map(|at| if at == 0 { 1 } else { 260 + (at * at + 17 * row) % 240 }).collect())
        .collect();
    room.tokens(&sequences, None);
    // The evaluator's losses: targets 3 and 7 of the first sequence and 11 of the last are key tokens.
    let mut long = vec![3.0; 57];
    let mut short = vec![3.0; 57];
    for key in [3, 7, 38 + 11] {
        (long[key], short[key]) = (0.25, 2.5);
    }
    // Well known on both sides; much better with long context, but not known.
    (long[19], short[19], long[20], short[20]) = (0.5, 1.0, 2.5, 9.0);
    room.losses("long", &long);
    room.losses("short", &short);
    let task = |more: &str| {
        format!(
            "(model: \"model\", tasks: {{\"ppl\": LongPpl(short: \"short\", long: \"long\", tokens: \"tokens\"{more})}})"
        )
    };
    let metrics = room.evaluate("metrics", &task(""), in_peace).expect("metrics");
    let losses = Model::open(&stories()).expect("a model").score(&sequences.concat(), 3).expect("losses").cross_entropy;
    let mean = |targets: &[usize]| targets.iter().map(|&at| f64::from(losses[at])).sum::<f64>() / targets.len() as f64;
    let found = &metrics["tasks"]["ppl"];
    let key = mean(&[3, 7, 49]).exp();
    close(&found["long_perplexity"], key, 1e-9 * key);
    let all = mean(&(0..57).collect::<Vec<_>>()).exp();
    close(&found["perplexity"], all, 1e-9 * all);
    assert_eq!((&found["kind"], &found["key_tokens"], &found["tokens"]), (&"LongPpl".into(), &3.into(), &57.into()));
    let lines = room.predictions("metrics");
    let counts: Vec<_> = lines.iter().map(|line| line["key_tokens"].as_u64()).collect();
    assert_eq!(counts, [Some(2), Some(0), Some(1)]);
    close(&lines[0]["loss_key"], mean(&[3, 7]), 1e-9);
    assert_eq!(lines[1]["loss_key"], Value::Null);

    let wider = room.evaluate("wider", &task(", beta: -3"), in_peace).expect("metrics");
    assert_eq!(wider["tasks"]["ppl"]["key_tokens"], 4);
    insta::assert_snapshot!(room.evaluate("no", &task(", alpha: 20"), in_peace).expect_err("an error"), @"task `ppl`: none of 57 tokens of `tokens` is a key token: with long context the evaluator's loss must be below 2 nats and more than 20 nats below that with short context; lower `alpha` or `beta`, or take a better evaluator");
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
    let room = room();
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
            close(found, *expected, 1e-4);
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
    let room = room();
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
    insta::assert_snapshot!(room.evaluate("no", short, in_peace).expect_err("an error"), @"setting `tasks.own.lengths.1` is 16, expected more tokens: the question, one sentence and the answer do not fit into so few");
}

#[test]
fn needles_are_looked_for_in_what_the_model_writes() {
    let room = room();
    let tasks = "(model: \"model\", tasks: {\
        \"greedy\": Needles(lengths: [180, 240], depths: [0, 1], samples: 3, score: Generation(tokens: 30)),\
        \"random\": Needles(lengths: [200], depths: [0.5], samples: 40, seed: 9, \
            score: Generation(tokens: 30, sampling: Random(temperature: 0.8, top_p: 0.9, seed: 4))),\
    })";
    let metrics = room.evaluate("metrics", tasks, in_peace).expect("metrics");
    assert_eq!(metrics["tasks"]["greedy"]["score"], "Generation");
    let lines = room.predictions("metrics");
    assert_eq!(lines.len(), 52);
    let tokenizer = TextTokenizer::open(&stories()).expect("a tokenizer");
    let mut texts = BTreeSet::new();
    for line in &lines {
        let (answer, text) = (line["answer"].as_str().expect("a number"), line["generated"].as_str().expect("a text"));
        assert_eq!(line["correct"], text.contains(answer));
        assert_eq!((answer.len(), answer.parse::<u64>().is_ok()), (4, true));
        let (length, tokens) = (line["length"].as_u64().expect("a length"), line["tokens"].as_u64().expect("tokens"));
        assert!(tokens <= length && tokens + 60 > length, "{tokens} of {length}");
        let written = tokenizer.encode(text, false).expect("tokens").len();
        assert!((5..=40).contains(&written), "{written} tokens: {text}");
        texts.insert(text);
    }
    assert!(texts.len() > 45, "every sample has words and random numbers of its own: {}", texts.len());
    for task in ["greedy", "random"] {
        let right = lines.iter().filter(|line| line["task"] == task && line["correct"] == true).count();
        let found = &metrics["tasks"][task];
        close(&found["accuracy"], right as f64 / found["samples"].as_f64().expect("a number"), 1e-12);
    }
    room.evaluate("again", tasks, in_peace).expect("metrics");
    assert_eq!(room.files("metrics"), room.files("again"));

    let refused = |score: &str| {
        let task = format!("Needles(lengths: [128], depths: [0], samples: 1, score: {score})");
        let settings = format!("(model: \"model\", tasks: {{\"own\": {task}}})");
        room.evaluate("no", &settings, in_peace).expect_err("an error").to_string()
    };
    insta::assert_snapshot!(refused("Generation(tokens: 0)"), @"setting `tasks.own.score.tokens` is 0, expected a number above 0");
    insta::assert_snapshot!(refused("Generation(tokens: 100)"), @"setting `tasks.own.lengths.0` is 128, expected more tokens: the question, one sentence and the answer do not fit into so few");
    insta::assert_snapshot!(refused("Generation(tokens: 9, sampling: Random(temperature: -1))"), @"setting `tasks.own.score.sampling.temperature` is -1, expected a finite number above 0");
    insta::assert_snapshot!(refused("Generation(tokens: 9, sampling: Random(top_p: 0))"), @"setting `tasks.own.score.sampling.top_p` is 0, expected a share above 0, and 1 at most");
}

#[test]
fn the_forms_of_ruler_fill_their_length_and_hide_what_they_are_named_after() {
    let room = room();
    let forms = [
        ("NiahSingle1", false, 7),
        ("NiahSingle2", true, 7),
        ("NiahSingle3", true, 36),
        ("NiahMultikey1", true, 7),
        ("NiahMultikey2", false, 7),
        ("NiahMultikey3", false, 36),
    ];
    let mut tasks = Vec::new();
    for (form, reads_text, digits) in forms {
        let haystack = if reads_text { "haystack: \"books\", " } else { "" };
        let more = "lengths: [900], samples: 2, seed: 5";
        let written = format!("Generation(tokens: {})", 2 * digits);
        tasks.push(format!("\"{form}\": Needles(form: {form}, {haystack}{more}, depths: [0, 1], score: {written})"));
        tasks
            .push(format!("\"ranked {form}\": Needles(form: {form}, {haystack}{more}, depths: [0.5], score: Ranking)"));
    }
    let settings = format!("(model: \"model\", tasks: {{{}}})", tasks.join(", "));
    let metrics = room.evaluate("metrics", &settings, in_peace).expect("metrics");
    let lines = room.predictions("metrics");
    for (form, _, digits) in forms {
        assert_eq!(metrics["tasks"][form]["form"], form);
        let own: Vec<_> = lines.iter().filter(|line| line["task"] == form).collect();
        let answers: BTreeSet<&str> = own.iter().map(|line| line["answer"].as_str().expect("an answer")).collect();
        assert_eq!((own.len(), answers.len()), (4, 4), "{form}");
        assert!(answers.iter().all(|answer| answer.len() == digits), "{form}: {answers:?}");
        for line in lines.iter().filter(|line| line["task"].as_str().is_some_and(|task| task.ends_with(form))) {
            let (length, tokens) =
                (line["length"].as_u64().expect("a length"), line["tokens"].as_u64().expect("tokens"));
            // A line of the haystack less than would fit; where it is counted in words, a word.
            let line_of = if form.ends_with("Multikey3") { 150 } else { 80 };
            assert!(tokens <= length && tokens + line_of > length, "{form}: {tokens} of {length}");
        }
    }
    room.evaluate("again", &settings, in_peace).expect("metrics");
    assert_eq!(room.files("metrics"), room.files("again"));
    let useless = "(model: \"model\", tasks: {\"x\": Needles(form: NiahSingle1, haystack: \"books\", lengths: [900], depths: [0], samples: 1)})";
    insta::assert_snapshot!(room.evaluate("no", useless, in_peace).expect_err("an error"), @"setting `tasks.x.haystack` is given, expected nothing: the form NiahSingle1 has lines of its own");
}

/// Writes a model that says the given tokens, which differ, again and again, whatever it read before.
fn parrot(folder: &Path, said: &[u32]) {
    let object = serde_json::json!({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "rope_theta": 10000.0,
        "tie_word_embeddings": false,
    });
    let object = object.as_object().expect("an object").clone();
    let mut model = Model::initialize(Config::from_json("config.json".as_ref(), object).expect("valid"), 0.02, 0);
    let place = |name: &str| {
        let tensor = model.layout().tensors().iter().find(|tensor| tensor.name == name);
        tensor.expect("a tensor").range.start
    };
    let (embedding, head) = (place("model.embed_tokens.weight"), place("lm_head.weight"));
    model.update(|parameters| {
        for id in 0..512 {
            // What comes after a token: the first one, or the next one of the list.
            let next = said.iter().position(|other| *other == id).map_or(0, |at| (at + 1) % said.len());
            parameters[embedding + id as usize * 8 + next] = 9.0;
        }
        for (at, id) in said.iter().enumerate() {
            parameters[head + *id as usize * 8 + at] = 9.0;
        }
    });
    model.save(folder).expect("saved");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(stories().join(file), folder.join(file)).expect("copied");
    }
}

#[test]
fn a_number_that_the_model_writes_is_found() {
    let room = room();
    let tokenizer = TextTokenizer::open(&stories()).expect("a tokenizer");
    let task = |model: &str| {
        let score = "score: Generation(tokens: 30)";
        let task = format!("Needles(lengths: [200], depths: [0.5], samples: 1, seed: 2, {score})");
        format!("(model: \"{model}\", tasks: {{\"own\": {task}}})")
    };
    room.evaluate("first", &task("model"), in_peace).expect("metrics");
    let answer = room.predictions("first")[0]["answer"].as_str().expect("a number").to_owned();
    let digit = |letter: char| {
        *tokenizer.encode(&letter.to_string(), false).expect("tokens").get_ids().last().expect("a digit")
    };
    let said: Vec<u32> = answer.chars().map(digit).collect();
    assert_eq!(said.iter().collect::<BTreeSet<_>>().len(), 4, "the seed gives four digits that differ: {answer}");
    let folder = room.path("parrot");
    fs::create_dir_all(&folder).expect("a folder");
    parrot(&folder, &said);
    let metrics = room.evaluate("found", &task("parrot"), in_peace).expect("metrics");
    let line = &room.predictions("found")[0];
    assert_eq!((&line["correct"], &metrics["tasks"]["own"]["accuracy"]), (&true.into(), &1.0.into()), "{line}");
    // Another number is not what it says.
    parrot(&folder, &said.iter().rev().copied().collect::<Vec<_>>());
    let metrics = room.evaluate("missed", &task("parrot"), in_peace).expect("metrics");
    assert_eq!(metrics["tasks"]["own"]["accuracy"], 0.0);
}

#[test]
fn impossible_settings_are_refused() {
    let room = room();
    room.tokens(&[vec![1, 300, 301]], None);
    let refused = |settings: &str| room.evaluate("no", settings, in_peace).expect_err("an error").to_string();
    insta::assert_snapshot!(refused("(tasks: {})"), @"setting `tasks` is empty, expected at least one task");
    insta::assert_snapshot!(refused("(tasks: {\"x\": LossByPosition(tokens: \"tokens\", buckets: 2)})"), @"setting `model` is absent, expected a model: task `x` (LossByPosition) needs one");
    insta::assert_snapshot!(refused("(model: \"model\", tasks: {\"x\": LongPpl(short: \"s\", long: \"l\", tokens: \"tokens\", beta: inf)})"), @"setting `tasks.x.beta` is inf, expected a finite number of nats");
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
