//! Model folders.

use std::path::Path;

use super::{
    Config, Layout, Model, ModelError, Rope, adapter,
    safetensors_file::{Named, Numbers},
    shards::{self, Shards},
};

/// Bytes of numbers above which a model is written in shards: what `transformers` 4 does by default, and what every
/// file system and hub takes.
const SHARD_BYTES: u64 = 5_000_000_000;

/// A model folder whose configuration and weights belong together; no number has been read yet.
pub(super) struct Folder {
    pub(super) config: Config,
    pub(super) layout: Layout,
    pub(super) shards: Shards,
}

impl Folder {
    /// Maps the weights, and refuses tensors that are missing, of another shape, or not of the architecture.
    pub(super) fn open(folder: &Path) -> Result<Self, ModelError> {
        let adapter = folder.join(adapter::CONFIG);
        if adapter.exists() && !folder.join("config.json").exists() {
            let problem = "found an adapter alone, expected a whole model; put the stage `MergeAdapter(model: …, adapter: …)` between".to_owned();
            return Err(ModelError::Checkpoint { path: adapter, problem });
        }
        let config = Config::read(folder)?;
        let shards = Shards::open(folder)?;
        // Before anything is made in the size that the configuration asks for.
        let tensors = shards.names().count();
        if config.layers > tensors {
            let problem = format!("found {}, but all weights together are {tensors} tensors", config.layers);
            let (path, field) = (folder.join("config.json"), "num_hidden_layers".to_owned());
            return Err(ModelError::Config { path, field, problem });
        }
        let layout = Layout::new(&config);
        for (name, path) in shards.names() {
            if !layout.tensors().iter().any(|tensor| tensor.name == name) && !is_redundant(&config, name) {
                let problem = "not a tensor of this architecture; `config.json` belongs to another model".to_owned();
                return Err(ModelError::Tensor { path: path.to_owned(), tensor: name.to_owned(), problem });
            }
        }
        for tensor in layout.tensors() {
            shards.check(&tensor.name, &tensor.shape)?;
        }
        Ok(Self { config, layout, shards })
    }
}

impl Model {
    /// Opens a model folder (`config.json`, and `model.safetensors` or shards with their index); BF16 and F16 tensors
    /// are widened to f32.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let Folder { config, layout, shards } = Folder::open(folder)?;
        let mut parameters = vec![0.0; layout.len()];
        for tensor in layout.tensors() {
            shards.read(&tensor.name, &tensor.shape, &mut parameters[tensor.range.clone()])?;
        }
        Ok(Self::from_parameters(config, layout, parameters))
    }

    /// Opens a model folder, with another rotary embedding than its configuration says.
    pub fn open_with_rope(folder: &Path, rope: Rope) -> Result<Self, ModelError> {
        Self::open(folder)?.with_rope(rope)
    }

    /// Writes `config.json` and the weights into a folder, without an adapter that may stand beside them; the same model always gives the same bytes. Weights of more
    /// than 5 GB are written in shards.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        self.save_in_shards(folder, SHARD_BYTES)
    }

    /// Like [`Self::save`], in shards of at most `limit` bytes of numbers if there are more than that.
    pub fn save_in_shards(&self, folder: &Path, limit: u64) -> Result<(), ModelError> {
        let mut config = self.config().clone();
        config.set_other("torch_dtype", serde_json::json!("float32"));
        config.write(folder)?;
        let tensors = self.layout().tensors().iter().map(|tensor| Named {
            name: &tensor.name,
            shape: &tensor.shape,
            values: Numbers::F32(&self.parameters()[tensor.range.clone()]),
        });
        shards::write(folder, &tensors.collect::<Vec<_>>(), limit)
    }
}

/// Tensors that some writers add and that say nothing new.
fn is_redundant(config: &Config, name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}
