//! Which model an adapter belongs to: PEFT's files name it at most by a path, which says nothing of its content.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::model::ModelError;

const FILE: &str = "base_model.json";

/// The content of the model folder beside whose weights an adapter was trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseModel {
    /// BLAKE3 of `config.json` and of each file of weights, by name.
    files: BTreeMap<String, String>,
}

impl BaseModel {
    /// That of a model folder.
    pub fn of(folder: &Path) -> Result<Self, ModelError> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(ModelError::io("read", folder))? {
            let entry = entry.map_err(ModelError::io("read", folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "config.json" || name.ends_with(".safetensors") {
                let path = entry.path();
                let mut hasher = blake3::Hasher::new();
                hasher.update_mmap_rayon(&path).map_err(ModelError::io("read", &path))?;
                files.insert(name, hasher.finalize().to_hex().to_string());
            }
        }
        Ok(Self { files })
    }

    /// Writes it beside an adapter.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| ModelError::Json { path: path.clone(), problem: error.to_string() })?;
        fs::write(&path, text + "\n").map_err(ModelError::io("write", &path))
    }

    /// What stands beside an adapter; adapters from elsewhere do not say.
    pub fn beside(folder: &Path) -> Result<Option<Self>, ModelError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).map_err(ModelError::io("read", &path))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| ModelError::Json { path, problem: error.to_string() })
    }

    /// Refuses a model folder of other content; `adapter` is the folder that this stands in.
    pub fn check(&self, adapter: &Path, model: &Path) -> Result<(), ModelError> {
        let found = Self::of(model)?;
        let names = self.files.keys().chain(found.files.keys());
        let Some(name) = names.into_iter().find(|name| self.files.get(*name) != found.files.get(*name)) else {
            return Ok(());
        };
        let problem = format!(
            "the adapter was trained beside another model: `{name}` differs from that in {}; merge it into the model \
             that its training started from",
            model.display()
        );
        Err(ModelError::Checkpoint { path: adapter.join(FILE), problem })
    }
}
