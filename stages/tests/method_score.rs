//! Windows against a model that can be computed by hand; scoring of real folders, also when it is interrupted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use stage_support::{Room, in_peace, model_folder, stories, toy};
use twdag_stages::{
    data::{ArrayKind, ArraySet, Origin, TokenSet, TokenSetWriter},
    extend_rope::ExtendRope,
    model::Model,
    score::{Rest, Score, WindowPlan, Windows},
    stage::{StageError, StageEvent},
};

fn plan(length: usize, window: usize, step: usize, bos: Option<u32>) -> WindowPlan {
    WindowPlan::new(length, Windows { length: window, step, rest: None }, bos, "windows.").expect("windows")
}

#[test]
fn the_owners_of_sixteen_tokens() {
    let plan = plan(16, 8, 4, None);
    let owners: Vec<_> = (0..plan.count()).map(|window| plan.targets(window)).collect();
    // Target i is token i + 1.
    assert_eq!(owners, [0..7, 7..11, 11..15]);
    let ids: Vec<u32> = (0..16).collect();
    assert_eq!(plan.tokens(&ids, 2), (8..16).collect::<Vec<u32>>());
}

#[test]
fn the_owners_of_the_papers_sequences() {
    let plan = plan(32768, 8192, 6144, Some(7));
    let ids: Vec<u32> = (0..32768).collect();
    let starts: Vec<u32> = (0..plan.count()).map(|window| plan.tokens(&ids, window)[1] - 1).collect();
    assert_eq!(starts, [0, 6144, 12288, 18432, 24576]);
    let new: Vec<_> = (1..5).map(|window| (plan.targets(window).start + 1, plan.targets(window).end)).collect();
    assert_eq!(new, [(8192, 14335), (14336, 20479), (20480, 26623), (26624, 32767)]);
    for (window, &start) in starts.iter().enumerate().skip(1) {
        let start = start as usize;
        let targets = plan.targets(window);
        assert_eq!((targets.start + 1 - start, targets.end - start), (2048, 8191), "context of window {window}");
        assert_eq!(plan.tokens(&ids, window)[0], 7);
    }
}

#[test]
fn windows_that_do_not_fit_are_refused_with_those_that_would() {
    let refused = |length, window, step| {
        let windows = Windows { length: window, step, rest: None };
        WindowPlan::new(length, windows, None, "windows.").expect_err("an error").to_string()
    };
    insta::assert_snapshot!(refused(16, 8, 3), @"setting `windows.step` is 3, expected a divisor of 8, which is 16 (tokens in a sequence) - 8 (tokens in a window); the nearest: 2, 4");
    insta::assert_snapshot!(refused(32768, 8192, 6000), @"setting `windows.step` is 6000, expected a divisor of 24576, which is 32768 (tokens in a sequence) - 8192 (tokens in a window); the nearest: 4096, 6144");
    insta::assert_snapshot!(refused(16, 17, 3), @"setting `windows.length` is 17, expected at most 16, the tokens of a sequence");
    insta::assert_snapshot!(refused(16, 8, 8), @"setting `windows.step` is 8, expected 1 to 7: less than the window, or tokens are left out");
    insta::assert_snapshot!(refused(16, 1, 1), @"setting `windows.length` is 1, expected 2 or more: a window of one token predicts nothing");
}

#[track_caller]
fn assert_probabilities(losses: &[f32], expected: [(u32, u32); 15]) {
    for (target, (loss, (part, whole))) in losses.iter().zip(expected).enumerate() {
        let probability = f64::from(-loss).exp();
        let expected = f64::from(part) / f64::from(whole);
        assert!((probability - expected).abs() < 1e-6, "target {target}: {probability}, expected {part}/{whole}");
    }
}

fn short(bos: Option<u32>, together: usize) -> Vec<f32> {
    let mut losses = vec![0.0; 15];
    let mut rows = [(&toy::TOKENS[..], losses.as_mut_slice())];
    plan(16, 8, 4, bos)
        .score(&mut rows, 0, together, &mut |ids, windows| Ok::<_, StageError>(toy::score(ids, windows)))
        .expect("losses");
    losses
}

#[test]
fn a_toy_model_in_windows() {
    assert_probabilities(&toy::score(&toy::TOKENS, 1), toy::LONG);
    for together in [1, 2, 3, 100] {
        assert_probabilities(&short(Some(0), together), toy::SHORT);
        assert_probabilities(&short(None, together), toy::SHORT_WITHOUT_BOS);
    }
}

fn shorter(length: usize, window: usize, step: usize) -> WindowPlan {
    let windows = Windows { length: window, step, rest: Some(Rest::Shorter) };
    WindowPlan::new(length, windows, None, "windows.").expect("windows")
}

/// LongCE with a context of 4 tokens and steps of 3 over 12 tokens: window, its start and the context of each token.
#[test]
fn the_owners_of_long_ce() {
    let plan = shorter(12, 4 + 3, 3);
    let ids: Vec<u32> = (0..12).collect();
    let mut owners = Vec::new();
    for window in 0..plan.count() {
        let start = plan.tokens(&ids, window)[0] as usize;
        owners.extend(plan.targets(window).map(|target| (target + 1, start, target + 1 - start)));
    }
    // The first window sees all that comes before its tokens: its losses are those of the long side.
    let first = (1..4).map(|token| (token, 0, token));
    let rest = [(4, 0, 4), (5, 0, 5), (6, 0, 6), (7, 3, 4), (8, 3, 5), (9, 3, 6), (10, 6, 4), (11, 6, 5)];
    assert_eq!(owners, first.chain(rest).collect::<Vec<_>>());
    assert_eq!(plan.tokens(&ids, 2), [6, 7, 8, 9, 10, 11]);
    // Its defaults, on a sequence that they do not divide evenly: a window every 1024 tokens below 33000 - 4096.
    let plan = shorter(33_000, 4096 + 1024, 1024);
    assert_eq!(plan.count(), (0..33_000 - 4096).step_by(1024).count());
    let last = plan.targets(plan.count() - 1);
    assert_eq!((last.start + 1 - 28 * 1024, last.end), (4096, 32_999));
}

#[test]
fn every_target_of_any_length_has_the_window_that_it_should() {
    for (length, context, step) in [(12, 4, 3), (13, 4, 3), (16, 4, 4), (17, 1, 5), (40, 9, 7), (41, 9, 1)] {
        let ids: Vec<u32> = (0..length as u32).map(|at| at * at % 4).collect();
        let mut losses = vec![f32::NAN; length - 1];
        let mut rows = [(&ids[..], losses.as_mut_slice())];
        shorter(length, context + step, step)
            .score(&mut rows, 0, 3, &mut |ids, windows| Ok::<_, StageError>(toy::score(ids, windows)))
            .expect("losses");
        for token in 1..length {
            let start = token.saturating_sub(context) / step * step;
            let alone = toy::score(&ids[start..=token], 1);
            assert_eq!(Some(&losses[token - 1]), alone.last(), "token {token} of {length}");
        }
    }
}

/// `sequences` of `length`, each starting with `first`.
fn room_of(sequences: usize, length: usize, first: u32) -> Room {
    let room = Room::new();
    let ids = |sequence: usize| {
        let mut ids: Vec<u32> = (0..length).map(|at| 259 + ((at * at + 31 * sequence) % 250) as u32).collect();
        ids[0] = first;
        ids
    };
    room.tokens(&(0..sequences).map(ids).collect::<Vec<_>>(), None);
    room
}

impl Room {
    fn score(
        &self,
        name: &str,
        threads: usize,
        settings: &str,
        watch: impl Fn(&StageEvent) -> bool + Send + Sync + 'static,
    ) -> Result<(), StageError> {
        self.run::<Score>(name, threads, &format!("(model: \"model\", tokens: \"tokens\", {settings})"), watch)
    }

    fn losses(&self, name: &str) -> ArraySet {
        ArraySet::open(&self.path(name), ArrayKind::CrossEntropy).expect("losses")
    }
}

const WINDOWS: &str = "windows: (length: 16, step: 8)";

#[test]
fn real_windows_are_scored_like_sequences_of_their_own() {
    let room = room_of(3, 48, 1);
    room.score("short", 2, WINDOWS, in_peace).expect("losses");
    room.score("long", 2, "", in_peace).expect("losses");
    let (short, long) = (room.losses("short"), room.losses("long"));
    assert!(short.metadata().windows.is_some_and(|windows| windows.bos));
    assert_eq!(long.metadata().windows, None);
    let model = Model::open(&stories()).expect("a model");
    let tokens = TokenSet::open(&room.path("tokens")).expect("tokens");
    let ids = tokens.sequence(2).expect("a sequence");
    assert_eq!(long.row(2).expect("a row"), model.score(&ids, 1).expect("losses").cross_entropy);
    let mut window = ids[24..40].to_vec();
    window[0] = 1;
    let alone = model.score(&window, 1).expect("losses").cross_entropy;
    // The window from token 24 owns the tokens 32 to 39.
    assert_eq!(short.row(2).expect("a row")[31..39], alone[7..]);
    assert_eq!(short.row(2).expect("a row")[..15], long.row(2).expect("a row")[..15]);
}

#[test]
fn bos_replaces_nothing_where_sequences_do_not_start_with_it() {
    let room = room_of(2, 48, 300);
    room.score("short", 1, WINDOWS, in_peace).expect("losses");
    assert!(room.losses("short").metadata().windows.is_some_and(|windows| !windows.bos));
    let room = room_of(2, 48, 1);
    room.score("kept", 1, &format!("{WINDOWS}, bos: Keep"), in_peace).expect("losses");
    assert!(room.losses("kept").metadata().windows.is_some_and(|windows| !windows.bos));
}

#[test]
fn another_rotary_embedding_can_be_asked_for() {
    let room = room_of(2, 48, 1);
    room.score("own", 1, "", in_peace).expect("losses");
    room.score("same", 1, "rope: Default(theta: 10000)", in_peace).expect("losses");
    room.score("other", 1, "rope: Default(theta: 500000)", in_peace).expect("losses");
    let row = |name: &str| room.losses(name).row(0).expect("a row");
    assert_eq!(row("own"), row("same"));
    assert_ne!(row("own"), row("other"));
}

#[test]
fn an_interrupted_scoring_goes_on_with_the_next_part() {
    let room = room_of(520, 32, 1);
    room.score("peace", 1, WINDOWS, in_peace).expect("losses");
    let stop = |event: &StageEvent| matches!(event, StageEvent::Progress { done, .. } if *done >= 300 * 32);
    assert!(matches!(room.score("other", 2, WINDOWS, stop), Err(StageError::Canceled)));
    let parts = room.path("other.scratch/parts");
    assert!(parts.join("part-00000.safetensors").exists());
    let kept = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&kept);
    room.score("other", 2, WINDOWS, move |event| {
        if matches!(event, StageEvent::Progress { detail, .. } if detail.starts_with("kept")) {
            seen.store(true, Ordering::Relaxed);
        }
        false
    })
    .expect("losses");
    assert!(kept.load(Ordering::Relaxed));
    // A part that is not whole is made again.
    let damaged = parts.join("part-00001.safetensors");
    let bytes = fs::read(&damaged).expect("a part");
    fs::remove_file(&damaged).expect("removed");
    fs::write(&damaged, &bytes[..bytes.len() - 100]).expect("a damaged part");
    for round in 0..2 {
        for name in ["part-00000", "part-00001", "part-00002", "scores"] {
            let name = if name == "scores" { "scores.json".to_owned() } else { format!("{name}.safetensors") };
            let (peace, other) = (fs::read(room.path("peace").join(&name)), fs::read(room.path("other").join(&name)));
            assert!(peace.expect("a file") == other.expect("a file"), "{name}, round {round}");
        }
        room.score("other", 1, WINDOWS, in_peace).expect("losses");
    }
}

#[test]
fn tokens_of_another_tokenizer_are_refused() {
    let model = model_folder("babyllama-char105");
    let room = room_of(2, 32, 1).with("model", &model);
    let error = room.score("no", 1, "", in_peace).expect_err("an error").to_string();
    let message = error.replace(model.to_str().expect("a path"), "MODEL");
    insta::assert_snapshot!(message, @r#"MODEL/tokenizer.json: the tokenizer of model `model` (BLAKE3 ed4c22b4a942…) is not the one that made `tokens` (BLAKE3 b1eb7ead6ce3…); tokenize with `tokenizer: "model"`, or choose a model with the same tokenizer"#);
}

/// A folder of [`stories`] whose tokenizer went through `change`.
fn retold(place: &Path, change: impl Fn(&mut Value)) {
    fs::create_dir_all(place).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        fs::copy(stories().join(name), place.join(name)).expect("a copy");
    }
    let text = fs::read_to_string(stories().join("tokenizer.json")).expect("a tokenizer");
    let mut tokenizer = serde_json::from_str(&text).expect("JSON");
    change(&mut tokenizer);
    fs::write(place.join("tokenizer.json"), tokenizer.to_string()).expect("written");
}

/// What is done to a tokenizer.
type Change<'a> = &'a dyn Fn(&mut Value);

/// Adds a token after all others.
fn added(tokenizer: &mut Value, content: &str, special: bool) {
    let token = json!({"id": 512, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special});
    tokenizer["added_tokens"].as_array_mut().expect("a list").push(token);
}

/// Llama 3.2 beside Llama 3: what was reserved has a name, and other things than ids are spelled otherwise.
#[test]
fn a_tokenizer_that_gives_text_the_same_ids_will_do() {
    let room = room_of(2, 32, 1);
    retold(&room.path("reserved"), |tokenizer| added(tokenizer, "<|reserved|>", true));
    let mut writer = TokenSetWriter::new(&room.path("tokens"), 32, false);
    for number in 0..2 {
        let ids: Vec<u32> = (0..32).map(|at| if at == 0 { 1 } else { 300 + at + number }).collect();
        writer.push(&ids, Origin { document: 0, number }, None).expect("a sequence");
    }
    writer.finish(&room.path("reserved/tokenizer.json"), Some(1), 512, 1).expect("tokens.json");

    let score = |name: &str, change: Change<'_>| {
        retold(&room.path(name), change);
        let warned = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&warned);
        let settings = format!("(model: {name:?}, tokens: \"tokens\")");
        let result = room.run::<Score>(&format!("{name}.scores"), 1, &settings, move |event| {
            if let StageEvent::Warning { message, .. } = event {
                heard.lock().expect("a list").push(message.clone());
            }
            false
        });
        let warned = warned.lock().expect("a list").clone();
        (result.map_err(|error| error.to_string()), warned)
    };
    let plain = |tokenizer: &mut Value| {
        added(tokenizer, "<|reserved|>", true);
        tokenizer["post_processor"] = Value::Null;
        for merge in tokenizer["model"]["merges"].as_array_mut().expect("merges") {
            if let Some((left, right)) = merge.as_str().and_then(|merge| merge.split_once(' ')) {
                *merge = json!([left, right]);
            }
        }
    };
    assert_eq!(score("spelled", &plain), (Ok(()), Vec::new()));
    let (result, warned) = score("named", &|tokenizer| added(tokenizer, "<|pad|>", true));
    assert_eq!(result, Ok(()));
    insta::assert_snapshot!(warned.join("\n"), @"model `named` and `tokens` have tokenizers with the same ids for text and other names of special tokens (1 of them, the first 512: `<|pad|>` and `<|reserved|>`); text that spells one is misread");
    assert_eq!(room.files("named.scores"), room.files("spelled.scores"));

    let merges = |tokenizer: &mut Value| {
        added(tokenizer, "<|reserved|>", true);
        tokenizer["model"]["merges"].as_array_mut().expect("merges").swap(0, 1);
    };
    let bos = |tokenizer: &mut Value| {
        added(tokenizer, "<|reserved|>", true);
        tokenizer["added_tokens"][1]["special"] = false.into();
    };
    let ordinary = |tokenizer: &mut Value| added(tokenizer, "once upon", false);
    let others: [(&str, Change<'_>); 3] = [("merges", &merges), ("bos", &bos), ("ordinary", &ordinary)];
    for (name, change) in others {
        let (result, _) = score(name, change);
        assert!(result.expect_err(name).contains("is not the one that made `tokens`"), "{name}");
    }
}

#[test]
fn sequences_beyond_the_end_of_a_rotary_embedding_are_refused() {
    let room = room_of(2, 528, 1);
    let method = "LongRope(short_factors: [1, 1, 1, 1], long_factors: [2, 2, 2, 2])";
    room.run::<ExtendRope>("long", 1, &format!("(model: \"model\", context: 520, method: {method})"), in_peace)
        .expect("a model");
    let score = |name: &str, more: &str| {
        room.run::<Score>(name, 1, &format!("(model: \"long\", tokens: \"tokens\", {more})"), in_peace)
    };
    let error = score("no", "").expect_err("an error").to_string();
    let message = error.replace(room.path("").to_str().expect("a path"), "ROOM/");
    insta::assert_snapshot!(message, @"ROOM/long/config.json: the model's LongRoPE factors end at 520 tokens, but it is shown 528 of `tokens` at once; take shorter sequences, or extend the model to 528 tokens");
    score("short", WINDOWS).expect("windows that are short enough");
}
