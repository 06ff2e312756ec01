//! The same settings give the same bytes: for any number of threads, any instruction set, any grouping into batches,
//! before and after a folder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{fs, io::Write as _, process::Command};

use serde_json::json;
use twdag_stages::model::{
    AdamW, AdamWSettings, Adapter, AdapterSettings, Config, Generation, Gradients, Model, ModelError, MomentStorage,
    Precision, Prompt, Rope, Sampling,
};

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Bf16Amx];

fn config(rope: Rope) -> Config {
    let object = json!({
        "model_type": "llama", "vocab_size": 300, "hidden_size": 48, "intermediate_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "rope_theta": 100.0, "tie_word_embeddings": false, "bos_token_id": 1,
        "eos_token_id": [2, 3], "a_field_of_the_future": {"kept": true},
    });
    let mut config = Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap();
    config.rope = rope;
    config
}

fn ids(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + i * 3 + 5) as u32 % 300).collect()
}

fn in_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn bytes_do_not_depend_on_threads() {
    // Attention goes through keys in chunks of 512: of one chunk, and of three.
    let work = |precision, (length, batch)| {
        let mut model = Model::initialize(config(Rope::Default { theta: 100.0 }), 0.1, 5);
        model.set_precision(precision);
        let mut optimizer = AdamW::new(&model, AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() });
        let mut gradients = Gradients::zeros_like(&model);
        let mut losses = Vec::new();
        for _ in 0..3 {
            gradients.zero();
            let mut mean = |losses: &[f32]| Ok::<_, ModelError>(vec![1.0 / losses.len() as f32; losses.len()]);
            losses = model.forward_backward(&ids(batch * length), batch, &mut mean, &mut gradients).unwrap();
            let clip = (1.0 / gradients.global_norm()).min(1.0);
            optimizer.step(&mut model, &gradients, 1e-3, clip).unwrap();
        }
        let scored = model.score(&ids(batch * length), batch).unwrap();
        (bits(&losses), bits(gradients.values()), bits(model.parameters()), bits(&scored.cross_entropy), scored.argmax)
    };
    let sizes = [(333, 3), (1100, 2)];
    let fast = [Precision::F32, Precision::Bf16].into_iter().flat_map(|precision| sizes.map(|size| (precision, size)));
    // Without AMX its sums take long.
    for (precision, size) in fast.chain([(Precision::Bf16Amx, (600, 1))]) {
        let expected = in_threads(1, || work(precision, size));
        for threads in [2, 3, 8] {
            let found = in_threads(threads, || work(precision, size));
            assert!(found == expected, "{threads} threads, {precision:?}, {} tokens", size.0);
        }
    }
}

/// Prints digests of all that models compute: training of everything and of an adapter, scoring within one chunk of attention and
/// over several, continuing, for both architectures and all precisions.
#[test]
#[ignore = "started by `bytes_do_not_depend_on_the_instruction_set`, once for each"]
fn digest_of_all_numbers() {
    let llama = config(Rope::DynamicNtk { theta: 100.0, factor: 4.0, original_context: 64 });
    let phi = json!({
        "model_type": "phi", "vocab_size": 300, "hidden_size": 40, "intermediate_size": 90, "num_hidden_layers": 2,
        "num_attention_heads": 4, "partial_rotary_factor": 0.4, "layer_norm_eps": 1e-5, "max_position_embeddings": 256,
        "rope_theta": 100.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    let phi = Config::from_json("config.json".as_ref(), phi.as_object().unwrap().clone()).unwrap();
    let both = [("llama", llama), ("phi", phi)];
    for ((architecture, config), precision) in both.iter().flat_map(|of| PRECISIONS.map(|precision| (of, precision))) {
        let add = |what: &str, values: &[f32]| {
            let mut hasher = blake3::Hasher::new();
            for value in values {
                hasher.update(&value.to_bits().to_le_bytes());
            }
            println!("digest of {what}, {architecture}, {precision:?}: {}", hasher.finalize());
        };
        let mut model = Model::initialize(config.clone(), 0.1, 5);
        model.set_precision(precision);
        // Without AMX its sums take long, most of all by plain instructions.
        let (length, scored) = if precision == Precision::Bf16Amx { (37, 70) } else { (131, 700) };
        for moments in [MomentStorage::F32, MomentStorage::Blockwise8] {
            let settings = AdamWSettings { weight_decay: 0.1, moments, ..AdamWSettings::default() };
            let mut optimizer = AdamW::new(&model, settings);
            let mut gradients = Gradients::zeros_like(&model);
            for _ in 0..2 {
                gradients.zero();
                let mut mean = |losses: &[f32]| Ok::<_, ModelError>(vec![1.0 / losses.len() as f32; losses.len()]);
                add("losses", &model.forward_backward(&ids(2 * length), 2, &mut mean, &mut gradients).unwrap());
                add("gradients", gradients.values());
                let clip = (1.0 / gradients.global_norm()).min(1.0);
                optimizer.step(&mut model, &gradients, 1e-3, clip).unwrap();
            }
            let form = AdapterSettings { rank: 3, alpha: 6.0, rslora: true, targets: Vec::new() };
            let adapter = Adapter::initialize(&model, form, 3).unwrap();
            model.set_adapter(adapter).unwrap();
        }
        add("AdamW's parameters", model.parameters());
        add("AdamW's adapter", model.adapter().unwrap().values());
        add("scores", &model.score(&ids(scored.min(150)), 1).unwrap().cross_entropy);
        add("scores of long sequences", &model.score(&ids(scored), 1).unwrap().cross_entropy);
        let generation = Generation { tokens: 20, stop: Vec::new(), sampling: Sampling::Greedy };
        let prompts = [Prompt { ids: &ids(100), stream: 0 }, Prompt { ids: &ids(3), stream: 1 }];
        let texts = model.generate(&prompts, &generation, &mut || Ok::<_, ModelError>(())).unwrap();
        add("continuations", &texts.iter().flat_map(|text| &text.ids).map(|id| *id as f32).collect::<Vec<_>>());
        let mut cache = model.cache(200).unwrap();
        add(
            "logits behind a prompt",
            &model.prefill(&mut [(&mut cache, &ids(100))], &mut || Ok::<_, ModelError>(())).unwrap(),
        );
        add("logits of one more token", &model.decode(&mut [(&mut cache, 7)]).unwrap());
    }
}

/// Whether this machine has an instruction set; told loudly where it has not.
#[allow(clippy::print_stderr, reason = "a skipped test has nothing but this to be noticed by")]
fn has(set: &str) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = match set {
        "avx2" => pulp::x86::V3::try_new().is_some(),
        _ => pulp::x86::V4::try_new().is_some(),
    };
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    if !has {
        writeln!(std::io::stderr(), "SKIPPED: this machine has no {set}").unwrap();
    }
    has
}

#[test]
fn bytes_do_not_depend_on_the_instruction_set() {
    let digests = |set: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "digest_of_all_numbers", "--ignored", "--nocapture"])
            .env("TWDAG_TEST_INSTRUCTION_SET", set)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let digests = text.lines().filter_map(|line| Some(line[line.find("digest of ")?..].to_owned()));
        let digests: Vec<String> = digests.collect();
        assert!(output.status.success() && digests.len() > 60, "{set}: {text}");
        digests
    };
    let expected = digests("portable");
    for set in ["avx2", "avx512"].into_iter().filter(|set| has(set)) {
        let found = digests(set);
        let differing: Vec<_> = found.iter().zip(&expected).filter(|(found, expected)| found != expected).collect();
        assert!(differing.is_empty() && found.len() == expected.len(), "{set}: {differing:#?}");
    }
}

/// Both with few logits, which stay in memory, and with more than that.
#[test]
fn known_coefficients_give_the_bits_of_those_that_wait_for_the_losses() {
    let small = PRECISIONS.map(|precision| (precision, 300, 130));
    let large = [Precision::F32, Precision::Bf16].map(|precision| (precision, 40_000, 500));
    for (precision, vocabulary, length) in small.into_iter().chain(large) {
        let mut object = config(Rope::Default { theta: 100.0 }).to_json();
        object.insert("vocab_size".to_owned(), json!(vocabulary));
        let config = Config::from_json("config.json".as_ref(), object).unwrap();
        let mut model = Model::initialize(config, 0.1, 5);
        model.set_precision(precision);
        let coefficients: Vec<f32> = (0..length - 1).map(|i| (i % 7) as f32 / 100.0).collect();
        let (mut known, mut awaited) = (Gradients::zeros_like(&model), Gradients::zeros_like(&model));
        let losses = model.forward_backward_fixed(&ids(length), 1, &coefficients, &mut known).unwrap();
        let mut answer = |_: &[f32]| Ok::<_, ModelError>(coefficients.clone());
        let expected = model.forward_backward(&ids(length), 1, &mut answer, &mut awaited).unwrap();
        assert!(bits(&losses) == bits(&expected), "losses");
        assert!(bits(known.values()) == bits(awaited.values()), "gradients");
    }
}

#[test]
fn a_sequence_scores_the_same_alone_and_in_any_batch() {
    for rope in [Rope::Default { theta: 100.0 }, Rope::DynamicNtk { theta: 100.0, factor: 4.0, original_context: 64 }] {
        let mut model = Model::initialize(config(rope.clone()), 0.1, 5);
        for (length, precision) in [
            (2, Precision::F32),
            (17, Precision::F32),
            (64, Precision::F32),
            (100, Precision::F32),
            (100, Precision::Bf16),
            (333, Precision::F32),
            (333, Precision::Bf16),
            (600, Precision::F32),
            (600, Precision::Bf16),
            (100, Precision::Bf16Amx),
            (600, Precision::Bf16Amx),
        ] {
            model.set_precision(precision);
            let (count, batches) = if precision == Precision::Bf16Amx { (6, [2, 3, 6]) } else { (40, [2, 5, 40]) };
            let ids = ids(count * length);
            let alone: Vec<_> = ids.chunks(length).map(|ids| model.score(ids, 1).unwrap()).collect();
            for batch in batches {
                let together: Vec<_> = ids.chunks(batch * length).map(|ids| model.score(ids, batch).unwrap()).collect();
                let flat = |parts: &[twdag_stages::model::Predictions]| {
                    let losses: Vec<u32> = parts.iter().flat_map(|part| bits(&part.cross_entropy)).collect();
                    let best: Vec<u32> = parts.iter().flat_map(|part| part.argmax.clone()).collect();
                    (losses, best)
                };
                assert!(flat(&together) == flat(&alone), "length {length}, batch {batch}");
            }
        }
    }
}

#[test]
fn saving_and_opening_gives_the_same_bytes() {
    let rope = Rope::Yarn {
        theta: 100.0,
        factor: 4.0,
        original_context: 64,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
        truncate: true,
    };
    let mut config = config(rope);
    config.context = 256;
    let model = Model::initialize(config, 0.1, 5);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    model.save(folders[0].path()).unwrap();
    let again = Model::open(folders[0].path()).unwrap();
    again.save(folders[1].path()).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let [first, second] = folders.each_ref().map(|folder| fs::read(folder.path().join(name)).unwrap());
        assert!(first == second, "{name}");
    }
    assert_eq!(again.parameters(), model.parameters());
    assert_eq!((again.config().context, &again.config().rope), (256, &model.config().rope));
    assert_eq!(again.config().eos_token_id, [2, 3]);
    assert_eq!(again.config().other("a_field_of_the_future"), Some(&json!({"kept": true})));
}

#[test]
fn random_parameters_are_normal_and_depend_on_the_seed() {
    let make = |seed| Model::initialize(config(Rope::Default { theta: 100.0 }), 0.02, seed);
    let (model, other) = (make(1), make(2));
    assert_eq!(make(1).parameters(), model.parameters());
    for tensor in model.layout().tensors() {
        let values = model.tensor(&tensor.name).unwrap();
        if tensor.decays() {
            let count = values.len() as f64;
            let moment = |power| values.iter().map(|v| (f64::from(*v) / 0.02).powi(power)).sum::<f64>() / count;
            let error = 5.0 / count.sqrt();
            assert!(moment(1).abs() < error, "{}: mean {}", tensor.name, moment(1));
            assert!((moment(2) - 1.0).abs() < 2.0_f64.sqrt() * error, "{}: variance {}", tensor.name, moment(2));
            assert!((moment(4) - 3.0).abs() < 96.0_f64.sqrt() * error, "{}: kurtosis {}", tensor.name, moment(4));
            assert_ne!(values, other.tensor(&tensor.name).unwrap());
        } else {
            assert!(values.iter().all(|value| *value == 1.0));
        }
    }
    assert_ne!(
        model.tensor("model.layers.0.mlp.gate_proj.weight"),
        model.tensor("model.layers.1.mlp.gate_proj.weight")
    );
}
