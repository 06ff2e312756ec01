//! Weights in several files with an index, as Hugging Face lays them out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Tensor, safetensors};
use insta::assert_snapshot;
use serde_json::{Value, json};
use twdag_stages::model::{Companions, Config, Model, copy_companions};

const INDEX: &str = "model.safetensors.index.json";
const NAME: &str = "model.layers.0.mlp.up_proj.weight";

fn model() -> Model {
    let object = json!({
        "model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 100.0,
        "tie_word_embeddings": true,
    });
    let config = Config::from_json(Path::new("config.json"), object.as_object().unwrap().clone()).unwrap();
    Model::initialize(config, 0.1, 1)
}

fn index(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join(INDEX)).unwrap()).unwrap()
}

#[test]
fn large_models_are_written_in_shards_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    model.save_in_shards(folder.path(), 1000).unwrap();
    assert_snapshot!(fs::read_to_string(folder.path().join(INDEX)).unwrap(), @r#"
{
  "metadata": {
    "total_parameters": 648,
    "total_size": 2592
  },
  "weight_map": {
    "model.embed_tokens.weight": "model-00001-of-00003.safetensors",
    "model.layers.0.input_layernorm.weight": "model-00001-of-00003.safetensors",
    "model.layers.0.mlp.down_proj.weight": "model-00003-of-00003.safetensors",
    "model.layers.0.mlp.gate_proj.weight": "model-00002-of-00003.safetensors",
    "model.layers.0.mlp.up_proj.weight": "model-00003-of-00003.safetensors",
    "model.layers.0.post_attention_layernorm.weight": "model-00002-of-00003.safetensors",
    "model.layers.0.self_attn.k_proj.weight": "model-00001-of-00003.safetensors",
    "model.layers.0.self_attn.o_proj.weight": "model-00002-of-00003.safetensors",
    "model.layers.0.self_attn.q_proj.weight": "model-00001-of-00003.safetensors",
    "model.layers.0.self_attn.v_proj.weight": "model-00002-of-00003.safetensors",
    "model.norm.weight": "model-00003-of-00003.safetensors"
  }
}
"#);
    let opened = Model::open(folder.path()).unwrap();
    assert_eq!(opened.parameters(), model.parameters());
    // No shard holds more than the limit, and together they hold what one file would.
    let names: Vec<_> = (1..=3).map(|number| format!("model-0000{number}-of-00003.safetensors")).collect();
    let mut found = HashMap::new();
    for name in &names {
        let tensors = safetensors::load(folder.path().join(name), &Device::Cpu).unwrap();
        assert!(tensors.values().map(Tensor::elem_count).sum::<usize>() * 4 <= 1000, "{name}");
        found.extend(tensors);
    }
    assert_eq!(found.len(), model.layout().tensors().len());

    // The same bytes again, and in one file if the limit is not exceeded.
    let again = tempfile::tempdir().unwrap();
    opened.save_in_shards(again.path(), 1000).unwrap();
    for name in names.iter().map(String::as_str).chain([INDEX, "config.json"]) {
        assert!(fs::read(folder.path().join(name)).unwrap() == fs::read(again.path().join(name)).unwrap(), "{name}");
    }
    let whole = tempfile::tempdir().unwrap();
    model.save_in_shards(whole.path(), 648 * 4).unwrap();
    assert!(whole.path().join("model.safetensors").exists() && !whole.path().join(INDEX).exists());

    // A tensor above the limit has a shard of its own.
    let single = tempfile::tempdir().unwrap();
    model.save_in_shards(single.path(), 1).unwrap();
    assert_eq!(index(single.path())["weight_map"][NAME], "model-00009-of-00011.safetensors");
    assert_eq!(Model::open(single.path()).unwrap().parameters(), model.parameters());
}

#[test]
fn shards_are_copied_with_a_model() {
    let [folder, copy] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    model().save_in_shards(folder.path(), 1000).unwrap();
    copy_companions(folder.path(), copy.path(), Companions::WeightsAndTokenizer).unwrap();
    fs::copy(folder.path().join("config.json"), copy.path().join("config.json")).unwrap();
    assert_eq!(Model::open(copy.path()).unwrap().parameters(), model().parameters());
}

#[test]
fn one_file_goes_before_an_index() {
    // As in `transformers`, so that a folder means the same in both.
    let folder = tempfile::tempdir().unwrap();
    model().save_in_shards(folder.path(), 1000).unwrap();
    let mut other = model();
    other.update(|parameters| parameters.fill(0.5));
    other.save(folder.path()).unwrap();
    assert_eq!(Model::open(folder.path()).unwrap().parameters(), other.parameters());
}

/// Opens a folder of three shards after `damage`.
fn open(damage: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    model().save_in_shards(folder.path(), 1000).unwrap();
    damage(folder.path());
    let message = match Model::open(folder.path()) {
        Ok(model) => format!("a model with {} parameters", model.parameters().len()),
        Err(error) => error.to_string(),
    };
    message.replace(&folder.path().display().to_string(), "MODEL")
}

fn change_index(folder: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = index(folder);
    change(&mut value);
    fs::write(folder.join(INDEX), value.to_string()).unwrap();
}

fn change_shard(folder: &Path, number: usize, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = folder.join(format!("model-0000{number}-of-00003.safetensors"));
    let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    safetensors::save(&tensors, &path).unwrap();
}

#[test]
fn damage_is_told_by_file_and_tensor() {
    assert_snapshot!(open(|_| ()), @"a model with 648 parameters");
    // A shard.
    assert_snapshot!(open(|folder| fs::remove_file(folder.join("model-00002-of-00003.safetensors")).unwrap()), @"MODEL/model-00002-of-00003.safetensors: missing, though `model.safetensors.index.json` names it; bring the rest of the model here");
    assert_snapshot!(open(|folder| {
        let path = folder.join("model-00002-of-00003.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
    }), @"MODEL/model-00002-of-00003.safetensors: tensor `model.layers.0.self_attn.v_proj.weight`: ends at byte 1360 of the file, which has 1260: it was cut short; download or write it again");
    // A tensor.
    assert_snapshot!(open(|folder| change_shard(folder, 3, |tensors| drop(tensors.remove(NAME)))), @"MODEL/model-00003-of-00003.safetensors: tensor `model.layers.0.mlp.up_proj.weight`: missing, though `model.safetensors.index.json` says that it is in this file");
    assert_snapshot!(open(|folder| change_shard(folder, 3, |tensors| {
        let turned = tensors[NAME].t().unwrap().contiguous().unwrap();
        tensors.insert(NAME.to_owned(), turned);
    })), @"MODEL/model-00003-of-00003.safetensors: tensor `model.layers.0.mlp.up_proj.weight`: found shape [8, 12], expected [12, 8]");
    assert_snapshot!(open(|folder| change_shard(folder, 3, |tensors| {
        let broken = (&tensors[NAME] / 0.0).unwrap();
        tensors.insert(NAME.to_owned(), broken);
    })), @"MODEL/model-00003-of-00003.safetensors: tensor `model.layers.0.mlp.up_proj.weight`: found inf at number 0, expected finite numbers");
    assert_snapshot!(open(|folder| change_shard(folder, 3, |tensors| drop(tensors.insert("extra".to_owned(), tensors[NAME].clone())))), @"MODEL/model-00003-of-00003.safetensors: tensor `extra`: `model.safetensors.index.json` does not name it");
    assert_snapshot!(open(|folder| change_shard(folder, 3, |tensors| drop(tensors.insert("model.embed_tokens.weight".to_owned(), tensors[NAME].clone())))), @"MODEL/model-00003-of-00003.safetensors: tensor `model.embed_tokens.weight`: `model.safetensors.index.json` says that it is in `model-00001-of-00003.safetensors`");
    // The index.
    assert_snapshot!(open(|folder| {
        change_shard(folder, 3, |tensors| drop(tensors.remove(NAME)));
        change_index(folder, |index| drop(index["weight_map"].as_object_mut().unwrap().remove(NAME)));
    }), @"MODEL/model.safetensors.index.json: tensor `model.layers.0.mlp.up_proj.weight`: missing");
    assert_snapshot!(open(|folder| change_index(folder, |index| index["weight_map"][NAME] = json!("../model.safetensors"))), @r#"MODEL/model.safetensors.index.json: found the shard "../model.safetensors", expected the name of a file beside the index"#);
    assert_snapshot!(open(|folder| fs::write(folder.join(INDEX), "{}").unwrap()), @"MODEL/model.safetensors.index.json: no index of shards: missing field `weight_map` at line 1 column 2");
    assert_snapshot!(open(|folder| fs::write(folder.join(INDEX), "{\n\"weight_map\": {\"a\": 1}}").unwrap()), @"MODEL/model.safetensors.index.json: no index of shards: invalid type: integer `1`, expected a string at line 2 column 21");
}
