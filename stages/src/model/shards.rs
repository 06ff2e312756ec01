//! The weights of a model folder: one safetensors file, or several with an index, in Hugging Face's layout.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    ModelError,
    safetensors_file::{self, Named, TensorFile},
};

/// The file of an unsharded model.
const SINGLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// `model.safetensors.index.json`. Readers need the map only; the totals are for people.
#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(default)]
    metadata: Totals,
    /// Tensor -> name of its file.
    weight_map: BTreeMap<String, String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Totals {
    #[serde(default)]
    total_parameters: u64,
    /// In bytes.
    #[serde(default)]
    total_size: u64,
}

/// The memory-mapped weights of a model folder.
pub(super) struct Shards {
    files: Vec<TensorFile>,
    /// Tensor -> number of its file.
    places: BTreeMap<String, usize>,
    /// What to name when a tensor is nowhere: the index, or the only file.
    about: PathBuf,
}

impl Shards {
    /// Maps all files of a folder. Like `transformers`, prefers `model.safetensors` where both forms are there.
    pub(super) fn open(folder: &Path) -> Result<Self, ModelError> {
        let (single, about) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() || !about.exists() {
            let file = TensorFile::open(&single)?;
            let places = file.names().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self { files: vec![file], places, about: single });
        }
        let text = fs::read(&about).map_err(ModelError::io("read", &about))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| ModelError::Checkpoint {
            path: about.clone(),
            problem: format!("no index of shards: {error}"),
        })?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        let mut files = Vec::new();
        let mut places = BTreeMap::new();
        for (number, name) in names.into_iter().enumerate() {
            // A name with folders in it could reach out of the model folder.
            if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
                let problem = format!("found the shard {name:?}, expected the name of a file beside the index");
                return Err(ModelError::Checkpoint { path: about, problem });
            }
            let path = folder.join(name);
            if !path.exists() {
                let problem = format!("missing, though `{INDEX}` names it; bring the rest of the model here");
                return Err(ModelError::Checkpoint { path, problem });
            }
            let file = TensorFile::open(&path)?;
            let fail = |tensor: &str, problem: String| ModelError::Tensor {
                path: file.path().to_owned(),
                tensor: tensor.to_owned(),
                problem,
            };
            let found: BTreeSet<String> = file.names().into_iter().collect();
            let expected = index.weight_map.iter().filter(|(_, shard)| *shard == name).map(|(tensor, _)| tensor);
            for tensor in expected {
                if !found.contains(tensor) {
                    return Err(fail(tensor, format!("missing, though `{INDEX}` says that it is in this file")));
                }
            }
            for tensor in found {
                match index.weight_map.get(&tensor) {
                    Some(shard) if shard == name => drop(places.insert(tensor, number)),
                    Some(shard) => return Err(fail(&tensor, format!("`{INDEX}` says that it is in `{shard}`"))),
                    None => return Err(fail(&tensor, format!("`{INDEX}` does not name it"))),
                }
            }
            files.push(file);
        }
        Ok(Self { files, places, about })
    }

    /// All names, sorted, and the file of each.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.places.iter().map(|(name, file)| (name.as_str(), self.files[*file].path()))
    }

    fn file(&self, name: &str) -> Result<&TensorFile, ModelError> {
        self.places.get(name).map(|file| &self.files[*file]).ok_or_else(|| ModelError::Tensor {
            path: self.about.clone(),
            tensor: name.to_owned(),
            problem: "missing".to_owned(),
        })
    }

    /// Refuses a tensor that is not there, or of another shape or type, without reading it.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        self.file(name)?.check(name, shape)
    }

    /// Copies a tensor of the given shape, widened to f32, into `target`. Infinities and NaN are refused.
    pub(super) fn read(&self, name: &str, shape: &[usize], target: &mut [f32]) -> Result<(), ModelError> {
        let file = self.file(name)?;
        file.read(name, shape, target)?;
        match target.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(ModelError::Tensor {
                path: file.path().to_owned(),
                tensor: name.to_owned(),
                problem: format!("found {} at number {index}, expected finite numbers", target[index]),
            }),
        }
    }
}

/// Writes tensors, in order, as one file, or as shards of at most `limit` bytes of numbers (a larger tensor has a
/// shard of its own) and an index.
pub(super) fn write(folder: &Path, tensors: &[Named<'_>], limit: u64) -> Result<(), ModelError> {
    let bytes = |tensor: &Named<'_>| tensor.values.size() as u64;
    let (mut shards, mut size) = (vec![Vec::new()], 0);
    for tensor in tensors {
        if size > 0 && size + bytes(tensor) > limit {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes(tensor);
        if let Some(shard) = shards.last_mut() {
            shard.push(*tensor);
        }
    }
    if let [only] = shards.as_slice() {
        return safetensors_file::write(&folder.join(SINGLE), only);
    }
    let total_size = tensors.iter().map(bytes).sum();
    let total_parameters = total_size / size_of::<f32>() as u64;
    let mut index = Index { metadata: Totals { total_parameters, total_size }, weight_map: BTreeMap::new() };
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        safetensors_file::write(&folder.join(&name), shard)?;
        index.weight_map.extend(shard.iter().map(|tensor| (tensor.name.to_owned(), name.clone())));
    }
    let path = folder.join(INDEX);
    let mut text = serde_json::to_vec_pretty(&index)
        .map_err(|error| ModelError::Checkpoint { path: path.clone(), problem: error.to_string() })?;
    text.push(b'\n');
    fs::write(&path, text).map_err(ModelError::io("write", &path))
}
