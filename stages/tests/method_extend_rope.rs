//! Extended models: their configuration, and their losses against those that transformers computed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use twdag_stages::{
    extend_rope::ExtendRope,
    model::Model,
    registry::ron_options,
    stage::{Context, Kind, StageError},
};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models");

fn extend(model: &Path, output: &Path, settings: &str) -> Result<(), StageError> {
    let stage: ExtendRope = ron_options().from_str(&format!("(model: \"model\", {settings})")).expect("settings");
    stage.check()?;
    fs::create_dir_all(output).expect("an output folder");
    stage.run(&Context::builder(output, output).input("model", model).build())
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).expect("config.json")).expect("JSON")
}

fn babyllama() -> PathBuf {
    Path::new(MODELS).join("babyllama-char105")
}

#[test]
fn losses_are_those_of_transformers() {
    let reference: Value =
        serde_json::from_slice(&fs::read(babyllama().join("reference_rope.json")).expect("reference_rope.json"))
            .expect("JSON");
    let ids: Vec<u32> = serde_json::from_value(reference["input_ids"].clone()).expect("ids");
    let folder = TempDir::new().expect("a folder");
    for (name, method) in [
        ("linear", "Linear"),
        ("dynamic", "DynamicNtk"),
        ("yarn", "Yarn()"),
        ("llama3", "Llama3()"),
        ("ntk_aware", "NtkAware"),
    ] {
        let output = folder.path().join(name);
        extend(&babyllama(), &output, &format!("context: 1024, method: {method}")).expect(name);
        let model = Model::open(&output).expect("a model");
        assert_eq!(model.config().context, 1024, "{name}");
        let losses = model.score(&ids, 1).expect("losses").cross_entropy;
        let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        let expected = expected_mean(&reference, name);
        assert!((mean - expected).abs() < 1e-4, "{name}: {mean}, transformers {expected}");
    }
}

#[derive(Deserialize)]
struct LongRopeLosses {
    fields: serde_json::Map<String, Value>,
    losses: BTreeMap<usize, f64>,
}

#[test]
fn longrope_is_that_of_transformers() {
    let reference: LongRopeLosses =
        serde_json::from_str(include_str!("fixtures/longrope_losses.json")).expect("longrope_losses.json");
    let factors = |name: &str| reference.fields["rope_scaling"][name].to_string();
    let method = |more: &str| {
        let (short, long) = (factors("short_factor"), factors("long_factor"));
        format!("context: 1024, method: LongRope(short_factors: {short}, long_factors: {long}{more})")
    };
    let folder = TempDir::new().expect("a folder");
    extend(&babyllama(), folder.path(), &method("")).expect("a model");
    // What transformers read is what is written.
    let written = config(folder.path());
    for (field, value) in &reference.fields {
        assert_eq!(&written[field], value, "{field}");
    }
    let model = Model::open(folder.path()).expect("a model");
    assert_eq!((model.config().context, model.config().rope.longest()), (1024, Some(1024)));
    let all: Value =
        serde_json::from_slice(&fs::read(babyllama().join("reference_rope.json")).expect("a file")).expect("JSON");
    let ids: Vec<u32> = serde_json::from_value(all["input_ids"].clone()).expect("ids");
    assert_eq!(reference.losses.len(), 3);
    for (length, expected) in reference.losses {
        let losses = model.score(&ids[..length], 1).expect("losses").cross_entropy;
        let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        assert!((mean - expected).abs() < 1e-5, "{length}: {mean}, transformers {expected}");
    }
    let other = TempDir::new().expect("a folder");
    extend(&babyllama(), other.path(), &method(", attention_factor: 1.5")).expect("a model");
    assert_eq!(config(other.path())["rope_scaling"]["attention_factor"], 1.5);
}

fn expected_mean(reference: &Value, name: &str) -> f64 {
    let variants = reference["variants"].as_object().expect("variants");
    let found = variants.iter().find(|(key, _)| key.starts_with(name)).expect(name);
    found.1["mean_loss"].as_f64().expect("a mean loss")
}

#[test]
fn weights_and_tokenizer_stay_as_they_are() {
    let folder = TempDir::new().expect("a folder");
    extend(&babyllama(), folder.path(), "context: 1024, method: Base(theta: 160000)").expect("a model");
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let (from, to) = (fs::read(babyllama().join(name)), fs::read(folder.path().join(name)));
        assert_eq!(from.expect(name), to.expect(name));
    }
    let (before, after) = (config(&babyllama()), config(folder.path()));
    assert_eq!(after["rope_theta"], 160_000.0);
    assert_eq!(after["max_position_embeddings"], 1024);
    assert_eq!(after["rope_scaling"], Value::Null);
    for field in ["hidden_size", "num_hidden_layers", "vocab_size", "rms_norm_eps", "tie_word_embeddings"] {
        assert_eq!(before[field], after[field], "{field}");
    }
}

#[test]
fn scaling_does_not_add_up_but_a_base_replaces_it() {
    let folder = TempDir::new().expect("a folder");
    let (yarn, base) = (folder.path().join("yarn"), folder.path().join("base"));
    extend(&babyllama(), &yarn, "context: 1024, method: Yarn()").expect("a model");
    let error = extend(&yarn, &folder.path().join("no"), "context: 2048, method: Linear").expect_err("an error");
    insta::assert_snapshot!(error, @"setting `method` is Linear, expected `Base`, or a model that is not scaled yet: `model` has Yarn { theta: 10000.0, factor: 4.0, original_context: 256, beta_fast: 32.0, beta_slow: 1.0, attention_factor: None, truncate: true } and scaling does not add up");
    extend(&yarn, &base, "context: 2048, method: Base(theta: 1e6)").expect("a model");
    assert_eq!(config(&base)["rope_scaling"], Value::Null);
    assert_eq!(config(&base)["max_position_embeddings"], 2048);
}

#[test]
fn impossible_settings_are_refused() {
    let folder = TempDir::new().expect("a folder");
    let refused = |settings: &str| extend(&babyllama(), folder.path(), settings).expect_err("an error").to_string();
    insta::assert_snapshot!(refused("context: 128, method: Linear"), @"setting `context` is 128, expected at least 256, the context of `model`");
    insta::assert_snapshot!(refused("context: 0, method: Linear"), @"setting `context` is 0, expected a number of tokens above 0");
    insta::assert_snapshot!(refused("context: 1024, method: Base(theta: -1)"), @"setting `method.theta` is -1, expected a finite number above 0");
    insta::assert_snapshot!(refused("context: 1024, method: Yarn(beta_fast: 1)"), @"setting `method.beta_fast` is 1, expected more than `beta_slow`, which is 1");
    insta::assert_snapshot!(refused("context: 1024, method: Llama3(high_freq_factor: 0.5)"), @"setting `method.high_freq_factor` is 0.5, expected more than `low_freq_factor`, which is 1");
    insta::assert_snapshot!(refused("context: 1024, method: LongRope(short_factors: [1, 1], long_factors: [2, 2])"), @"setting `method.short_factors` is a list of 2, expected 8, one for each pair of numbers that `model` rotates");
    insta::assert_snapshot!(refused("context: 1024, method: LongRope(short_factors: [1, 0], long_factors: [2, 2])"), @"setting `method.short_factors.1` is 0, expected a finite number above 0");
    insta::assert_snapshot!(refused("context: 1024, method: LongRope(short_factors: [], long_factors: [], attention_factor: 0)"), @"setting `method.attention_factor` is 0, expected a finite number above 0");
    let eight = "[1, 1, 1, 1, 1, 1, 1, 1]";
    insta::assert_snapshot!(refused(&format!("context: 128, method: LongRope(short_factors: {eight}, long_factors: {eight})")), @"setting `context` is 128, expected at least 256, the context of `model`");
}

/// If one of these changes, so does what `ExtendRope` makes of the same settings and inputs: raise its revision.
#[test]
fn revision_1_gives_these_configurations() {
    let folder = TempDir::new().expect("a folder");
    let digest = |name: &str, method: &str| {
        let output = folder.path().join(name);
        extend(&babyllama(), &output, &format!("context: 1024, method: {method}")).expect("a model");
        let bytes = fs::read(output.join("config.json")).expect("config.json");
        blake3::hash(&bytes).to_hex()[..16].to_owned()
    };
    assert_eq!(ExtendRope::REVISION, 1);
    insta::assert_snapshot!(digest("base", "Base(theta: 160000)"), @"d814a6019de2a35a");
    insta::assert_snapshot!(digest("linear", "Linear"), @"a331b2aa55a5d236");
    insta::assert_snapshot!(digest("ntk", "NtkAware"), @"9dfb7ec22b03d0c8");
    insta::assert_snapshot!(digest("dynamic", "DynamicNtk"), @"e1bcd2be28b05495");
    insta::assert_snapshot!(digest("yarn", "Yarn()"), @"9f650672a50e8f7e");
    insta::assert_snapshot!(digest("llama3", "Llama3()"), @"f20cd1fed329083c");
}

#[test]
fn writing_into_the_result_does_not_reach_the_source() {
    let folder = TempDir::new().expect("a folder");
    let (source, output) = (folder.path().join("source"), folder.path().join("output"));
    fs::create_dir(&source).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::write(source.join(name), fs::read(babyllama().join(name)).expect(name)).expect(name);
        let mut permissions = fs::metadata(source.join(name)).expect(name).permissions();
        permissions.set_readonly(true);
        fs::set_permissions(source.join(name), permissions).expect(name);
    }
    extend(&source, &output, "context: 1024, method: Linear").expect("a model");
    fs::remove_file(output.join("tokenizer.json")).expect("removed");
    // Who may write to everything may do so again: the copy is another file.
    let _ = fs::write(output.join("model.safetensors"), "");
    let _ = extend(&source, &output, "context: 1024, method: Linear");
    for name in ["model.safetensors", "tokenizer.json"] {
        assert_eq!(fs::read(source.join(name)).expect(name), fs::read(babyllama().join(name)).expect(name));
    }
}
