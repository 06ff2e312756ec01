//! Low-rank adapters against PEFT: losses, gradients and merged weights. `fixtures/make_adapters.py` made the values.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors};
use tempfile::TempDir;
use twdag_stages::model::{Adapter, AdapterSettings, Generation, Gradients, Model, ModelError, Prompt, Sampling};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Adapters and the models that they belong to.
const ADAPTERS: [(&str, &str); 3] = [("llama-all", "llama-biases"), ("llama-rslora", "llama-tied"), ("phi-all", "phi")];

fn model(name: &str) -> Model {
    Model::open(&Path::new(FIXTURES).join("architectures").join(name)).unwrap()
}

fn folder(name: &str) -> PathBuf {
    Path::new(FIXTURES).join("adapters").join(name)
}

fn adapted(adapter: &str, name: &str) -> Model {
    let mut model = model(name);
    let adapter = Adapter::open(&folder(adapter), model.layout()).unwrap();
    model.set_adapter(adapter).unwrap();
    model
}

struct Expected(HashMap<String, Tensor>);

impl Expected {
    fn open(name: &str) -> Self {
        Self(safetensors::load(folder(name).join("expected.safetensors"), &Device::Cpu).unwrap())
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn ids(&self) -> Vec<u32> {
        self.0["ids"].flatten_all().unwrap().to_vec1::<i32>().unwrap().into_iter().map(|id| id as u32).collect()
    }

    fn named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.keys().filter_map(move |key| key.strip_prefix(prefix))
    }
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{index}: found {found}, expected {expected}");
    }
}

#[test]
fn losses_and_gradients_are_those_of_peft() {
    for (name, base) in ADAPTERS {
        let (model, expected) = (adapted(name, base), Expected::open(name));
        let (ids, coefficients) = (expected.ids(), expected.numbers("coefficients"));
        let mut gradients = Gradients::zeros_like(&model);
        let mut answer = |_: &[f32]| Ok::<_, ModelError>(coefficients.clone());
        let losses = model.forward_backward(&ids, 2, &mut answer, &mut gradients).unwrap();
        assert_close(&losses, &expected.numbers("cross_entropy"), 1e-4);
        assert_eq!(model.score(&ids, 2).unwrap().cross_entropy, losses, "{name}");

        let adapter = model.adapter().unwrap();
        let ours: BTreeSet<_> = adapter.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(ours, expected.named("gradient.").collect(), "{name}: trained parameters");
        assert_eq!(gradients.values().len(), adapter.values().len(), "{name}: nothing but the adapter has a gradient");
        for tensor in ours {
            let (found, expected) =
                (gradients.tensor(tensor).unwrap(), expected.numbers(&format!("gradient.{tensor}")));
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let size = norm(&mut expected.iter().copied());
            let distance = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
            assert!(size > 1e-7, "{name}: {tensor} has no gradient");
            assert!(distance <= 1e-4 * size, "{name}: {tensor} is off by {distance:e} of {size:e}");
        }
        let once = gradients.clone();
        model.forward_backward(&ids, 2, &mut answer, &mut gradients).unwrap();
        let mut half = gradients;
        half.scale(0.5);
        assert_close(half.values(), once.values(), 1e-6);
    }
}

#[test]
fn merged_weights_are_the_sum_bit_by_bit() {
    for (name, base) in ADAPTERS {
        let (original, expected) = (model(base), Expected::open(name));
        let merged = adapted(name, base).merged();
        assert!(merged.adapter().is_none());
        let changed: BTreeSet<_> = expected.named("merged.").collect();
        assert!(changed.len() >= 3);
        for tensor in original.layout().tensors() {
            let found = merged.tensor(&tensor.name).unwrap();
            if changed.contains(tensor.name.as_str()) {
                assert!(found == expected.numbers(&format!("merged.{}", tensor.name)), "{name}: {}", tensor.name);
            } else if tensor.name.contains(".layers.1.") {
                assert!(found == original.tensor(&tensor.name).unwrap(), "{name}: {} changed", tensor.name);
            }
        }
        let losses = merged.score(&expected.ids(), 2).unwrap().cross_entropy;
        assert_close(&losses, &expected.numbers("cross_entropy"), 1e-4);
    }
}

#[test]
fn an_adapter_is_written_as_it_was_read() {
    for (name, base) in ADAPTERS {
        let model = adapted(name, base);
        let target = TempDir::new().unwrap();
        let adapter = model.adapter().unwrap();
        adapter.save(target.path()).unwrap();
        let again = Adapter::open(target.path(), model.layout()).unwrap();
        assert_eq!((again.settings().scaling(), again.values()), (adapter.settings().scaling(), adapter.values()));
        let file = "adapter_model.safetensors";
        let tensors = |folder: &Path| safetensors::load(folder.join(file), &Device::Cpu).unwrap();
        let (ours, theirs) = (tensors(target.path()), tensors(&folder(name)));
        assert_eq!(ours.keys().collect::<BTreeSet<_>>(), theirs.keys().collect(), "{name}");
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_depends_on_its_seed() {
    let mut model = model("llama-tied");
    let ids: Vec<u32> = (0..30).map(|i| i * 5 % 23).collect();
    let before = model.score(&ids, 1).unwrap();
    let settings = AdapterSettings { rank: 4, alpha: 8.0, rslora: false, targets: Vec::new() };
    let adapter = Adapter::initialize(&model, settings.clone(), 3).unwrap();
    assert_eq!(adapter.values(), Adapter::initialize(&model, settings.clone(), 3).unwrap().values());
    assert_ne!(adapter.values(), Adapter::initialize(&model, settings, 4).unwrap().values());
    for tensor in adapter.tensors() {
        let values = adapter.tensor(&tensor.name).unwrap();
        if tensor.name.ends_with("lora_B.weight") {
            assert!(values.iter().all(|value| *value == 0.0));
        } else {
            // Uniform within 1 / sqrt(inputs): the mean square is a third of the bound's.
            let bound = 1.0 / (tensor.shape[1] as f32).sqrt();
            assert!(values.iter().all(|value| value.abs() <= bound));
            let mean = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
            assert!((mean / (bound * bound / 3.0) - 1.0).abs() < 0.5, "{}: {mean}", tensor.name);
        }
    }
    model.set_adapter(adapter).unwrap();
    assert_eq!(model.score(&ids, 1).unwrap(), before);
}

#[test]
fn an_adapter_takes_part_in_generation() {
    for (name, base) in ADAPTERS {
        let (beside, merged) = (adapted(name, base), adapted(name, base).merged());
        let settings = Generation { tokens: 12, stop: Vec::new(), sampling: Sampling::Greedy };
        let generate = |model: &Model| {
            let prompt = Prompt { ids: &[1, 5, 7, 2], stream: 0 };
            model.generate(&[prompt], &settings, &mut || Ok::<_, ModelError>(())).unwrap()
        };
        assert_eq!(generate(&beside), generate(&merged), "{name}");
        assert_ne!(generate(&beside), generate(&model(base)), "{name}: the adapter changes something");
    }
}

/// A copy of an adapter whose configuration has another value of one field.
fn changed(name: &str, field: &str, value: serde_json::Value) -> TempDir {
    let target = TempDir::new().unwrap();
    let read = fs::read_to_string(folder(name).join("adapter_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&read).unwrap();
    config[field] = value;
    fs::write(target.path().join("adapter_config.json"), config.to_string()).unwrap();
    let weights = "adapter_model.safetensors";
    fs::copy(folder(name).join(weights), target.path().join(weights)).unwrap();
    target
}

#[test]
fn what_is_not_understood_is_refused() {
    let problem = |field: &str, value: serde_json::Value| {
        let target = changed("phi-all", field, value);
        let error = Adapter::open(target.path(), model("phi").layout()).unwrap_err().to_string();
        error.replace(&target.path().display().to_string(), "FOLDER")
    };
    insta::assert_snapshot!(problem("peft_type", "IA3".into()), @r#"FOLDER/adapter_config.json: field `peft_type`: found "IA3", only "LORA" is supported"#);
    insta::assert_snapshot!(problem("use_dora", true.into()), @"FOLDER/adapter_config.json: field `use_dora`: found true, only false is supported");
    insta::assert_snapshot!(problem("bias", "all".into()), @r#"FOLDER/adapter_config.json: field `bias`: found "all", only "none" is supported"#);
    insta::assert_snapshot!(problem("init_lora_weights", "pissa".into()), @r#"FOLDER/adapter_config.json: field `init_lora_weights`: found "pissa", which changes the base model too; it is not supported"#);
    insta::assert_snapshot!(problem("rank_pattern", serde_json::json!({"fc1": 2})), @r#"FOLDER/adapter_config.json: field `rank_pattern`: found {"fc1":2}, only {} is supported"#);
    insta::assert_snapshot!(problem("r", 0.into()), @"FOLDER/adapter_config.json: field `r`: found 0, expected a positive whole number");
    insta::assert_snapshot!(problem("r", 1_000_000_000_000_u64.into()), @"FOLDER/adapter_model.safetensors: tensor `base_model.model.model.layers.0.mlp.fc1.lora_A.weight`: found shape [4, 16], expected 1000000000000 rows (`r` in adapter_config.json)");
    insta::assert_snapshot!(problem("r", 1_000_000_000_u64.into()), @"FOLDER/adapter_model.safetensors: tensor `base_model.model.model.layers.0.mlp.fc1.lora_A.weight`: found shape [4, 16], expected 1000000000 rows (`r` in adapter_config.json)");
    insta::assert_snapshot!(problem("lora_alpha", serde_json::json!("big")), @r#"FOLDER/adapter_config.json: field `lora_alpha`: found "big", expected a positive number"#);

    let other = Adapter::open(&folder("phi-all"), model("llama-tied").layout()).unwrap_err().to_string();
    let other = other.replace(FIXTURES, "FIXTURES");
    insta::assert_snapshot!(other, @"FIXTURES/adapters/phi-all/adapter_config.json: field `target_modules`: found fc1, expected one of the matrices in the model's blocks: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`");
    let alone = Model::open(&folder("phi-all")).unwrap_err().to_string().replace(FIXTURES, "FIXTURES");
    insta::assert_snapshot!(alone, @"FIXTURES/adapters/phi-all/adapter_config.json: found an adapter alone, expected a whole model; put the stage `MergeAdapter(model: …, adapter: …)` between");
    let mut llama = model("llama-tied");
    let foreign = adapted("llama-all", "llama-biases").adapter().unwrap().clone();
    insta::assert_snapshot!(llama.set_adapter(foreign).unwrap_err(), @"numbers of the adapter: found 1152, expected those of an adapter for this model, which has 1056");
}
