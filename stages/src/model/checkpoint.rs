//! Model folders.

use std::path::Path;

use super::{
    Config, Layout, Model, ModelError, Rope,
    safetensors_file::{self, TensorFile},
};

impl Model {
    /// Opens a model folder (`config.json`, `model.safetensors`); BF16 and F16 tensors are widened to f32.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let config = Config::read(folder)?;
        let layout = Layout::new(&config);
        let path = folder.join("model.safetensors");
        let file = TensorFile::open(&path)?;
        let mut parameters = vec![0.0; layout.len()];
        for tensor in layout.tensors() {
            let values = &mut parameters[tensor.range.clone()];
            file.read(&tensor.name, &tensor.shape, values)?;
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(ModelError::Tensor {
                    path,
                    tensor: tensor.name.clone(),
                    problem: format!("found {} at number {index}, expected finite numbers", values[index]),
                });
            }
        }
        for name in file.names() {
            if !layout.tensors().iter().any(|tensor| tensor.name == name) && !is_redundant(&config, &name) {
                let problem = "not a tensor of this architecture; `config.json` belongs to another model".to_owned();
                return Err(ModelError::Tensor { path, tensor: name, problem });
            }
        }
        Ok(Self::from_parameters(config, layout, parameters))
    }

    /// Opens a model folder, with another rotary embedding than its configuration says.
    pub fn open_with_rope(folder: &Path, rope: Rope) -> Result<Self, ModelError> {
        Ok(Self::open(folder)?.with_rope(rope))
    }

    /// Writes `config.json` and `model.safetensors` into a folder; the same model always gives the same bytes.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        let mut config = self.config().clone();
        config.set_other("torch_dtype", serde_json::json!("float32"));
        config.write(folder)?;
        let tensors: Vec<_> = self
            .layout()
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.shape.clone(), &self.parameters()[tensor.range.clone()]))
            .collect();
        let metadata = [("format", "pt".to_owned())];
        safetensors_file::write(&folder.join("model.safetensors"), &tensors, &metadata)
    }
}

/// Tensors that some writers add and that say nothing new.
fn is_redundant(config: &Config, name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}
