//! PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::{Adapter, AdapterSettings};
use crate::model::{
    Layout, ModelError,
    config::Fields,
    safetensors_file::{self, Named, Numbers, TensorFile},
};

/// What PEFT calls the two files.
pub(in crate::model) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Fields that change what is computed, each with the only value that is understood here; absent means the same.
const ONLY: [(&str, Value); 19] = [
    ("fan_in_fan_out", Value::Bool(false)),
    ("use_dora", Value::Bool(false)),
    ("use_qalora", Value::Bool(false)),
    ("lora_bias", Value::Bool(false)),
    ("exclude_modules", Value::Null),
    ("modules_to_save", Value::Null),
    ("layers_to_transform", Value::Null),
    ("layers_pattern", Value::Null),
    ("layer_replication", Value::Null),
    ("megatron_config", Value::Null),
    ("trainable_token_indices", Value::Null),
    ("target_parameters", Value::Null),
    ("alora_invocation_tokens", Value::Null),
    ("use_bdlora", Value::Null),
    ("arrow_config", Value::Null),
    ("velora_config", Value::Null),
    ("monteclora_config", Value::Null),
    ("kasa_config", Value::Null),
    ("lora_ga_config", Value::Null),
];

impl Adapter {
    /// Writes the two files; the same adapter always gives the same bytes.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        let mut targets: Vec<&str> = Vec::new();
        for tensor in self.tensors.iter() {
            let target = target(&tensor.name).unwrap_or_default();
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        let AdapterSettings { rank, alpha, rslora, .. } = self.settings;
        // PEFT has a whole number in most files.
        let alpha = if alpha.fract() == 0.0 && alpha < 1e15 { json!(alpha as u64) } else { json!(alpha) };
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": null,
            "inference_mode": true,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "use_rslora": rslora,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
        });
        let path = folder.join(CONFIG);
        let text = serde_json::to_string_pretty(&config)
            .map_err(|error| ModelError::Json { path: path.clone(), problem: error.to_string() })?;
        fs::write(&path, text + "\n").map_err(ModelError::io("write", &path))?;
        let tensors = self.tensors.iter().map(|tensor| Named {
            name: &tensor.name,
            shape: &tensor.shape,
            values: Numbers::F32(&self.values[tensor.range.clone()]),
        });
        safetensors_file::write(&folder.join(WEIGHTS), &tensors.collect::<Vec<_>>())
    }

    /// Reads an adapter that [`Self::save`] or PEFT wrote for a model of this layout. It must have A and B for its
    /// target modules in every block; F16 and BF16 are widened.
    pub fn open(folder: &Path, layout: &Layout) -> Result<Self, ModelError> {
        let path = folder.join(CONFIG);
        let text = fs::read(&path).map_err(ModelError::io("read", &path))?;
        let object: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|error| ModelError::Json { path: path.clone(), problem: error.to_string() })?;
        let fields = Fields::of(&path, &object);
        match fields.get("peft_type") {
            Some(kind) if kind == "LORA" => (),
            found => {
                let found = found.map_or_else(|| "missing".to_owned(), |kind| format!("found {kind}"));
                return Err(fields.error("peft_type", format!("{found}, only \"LORA\" is supported")));
            }
        }
        for (field, supported) in &ONLY {
            fields.only(field, supported)?;
        }
        fields.only("bias", &json!("none"))?;
        for field in ["rank_pattern", "alpha_pattern"] {
            fields.only(field, &json!({}))?;
        }
        // Other ways to start change the model's own weights, so that the adapter does not fit the model as it is.
        match fields.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => (),
            Some(Value::String(way)) if ["gaussian", "eva", "orthogonal"].contains(&way.as_str()) => (),
            Some(way) => {
                let problem = format!("found {way}, which changes the base model too; it is not supported");
                return Err(fields.error("init_lora_weights", problem));
            }
        }
        let file = TensorFile::open(&folder.join(WEIGHTS))?;
        let names = file.names();
        let mut targets: Vec<String> = Vec::new();
        for target in names.iter().filter_map(|name| target(name)) {
            if !targets.iter().any(|found| found == target) {
                targets.push(target.to_owned());
            }
        }
        let settings = AdapterSettings {
            rank: fields.count("r")?,
            alpha: fields.number("lora_alpha")?,
            rslora: fields.flag("use_rslora")?.unwrap_or(false),
            targets,
        };
        let refuse = |tensor: &str, problem: String| ModelError::Tensor {
            path: file.path().to_owned(),
            tensor: tensor.to_owned(),
            problem,
        };
        if settings.targets.is_empty() {
            let problem = "no tensor of the file is called …lora_A.weight or …lora_B.weight".to_owned();
            return Err(ModelError::Checkpoint { path: file.path().to_owned(), problem });
        }
        // A rank of any size can stand in a file; nothing is made in its size before a tensor has it.
        let rank = settings.rank;
        for name in names.iter().filter(|name| name.ends_with(".lora_A.weight")) {
            let shape = file.shape(name)?;
            if shape.first() != Some(&rank) {
                return Err(refuse(name, format!("found shape {shape:?}, expected {rank} rows (`r` in {CONFIG})")));
            }
        }
        let mut adapter = Self::zeros(layout, settings).map_err(|error| match error {
            ModelError::Adapter { found, expected, .. } => {
                fields.error("target_modules", format!("found {found}, expected {expected}"))
            }
            other => other,
        })?;
        for name in &names {
            if !adapter.tensors.iter().any(|tensor| tensor.name == *name) {
                return Err(refuse(name, "not an adapter of a matrix of this model".to_owned()));
            }
        }
        for tensor in &*adapter.tensors {
            file.read(&tensor.name, &tensor.shape, &mut adapter.values[tensor.range.clone()])?;
        }
        Ok(adapter)
    }
}

/// The last part of the name of the module that a tensor adapts.
fn target(tensor: &str) -> Option<&str> {
    let module = tensor.strip_suffix(".lora_A.weight").or_else(|| tensor.strip_suffix(".lora_B.weight"))?;
    module.rsplit('.').next()
}
