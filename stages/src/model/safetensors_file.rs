//! Reading and writing safetensors files: named, shaped f32 data, in a fixed order of bytes.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, safetensors::MmapedSafetensors};
use safetensors::{Dtype, tensor::TensorView};

use super::ModelError;

/// A memory-mapped file of tensors.
pub(super) struct TensorFile<'a> {
    path: &'a Path,
    map: MmapedSafetensors,
}

impl<'a> TensorFile<'a> {
    /// Maps a file and reads its header.
    pub(super) fn open(path: &'a Path) -> Result<Self, ModelError> {
        fs::metadata(path).map_err(ModelError::io("read", path))?;
        // SAFETY: the mapping is only unsound if the file changes while mapped; artifacts never change once written.
        let map = unsafe { MmapedSafetensors::new(path) }.map_err(|error| ModelError::Checkpoint {
            path: path.to_owned(),
            problem: format!("not a whole safetensors file ({}); download or write it again", root(&error)),
        })?;
        Ok(Self { path, map })
    }

    /// The names in the file, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.map.tensors().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    /// Copies a tensor of the given shape, widened to f32, into `target`.
    pub(super) fn read(&self, name: &str, shape: &[usize], target: &mut [f32]) -> Result<(), ModelError> {
        let fail =
            |problem: String| ModelError::Tensor { path: self.path.to_owned(), tensor: name.to_owned(), problem };
        let view = self.map.get(name).map_err(|_| fail("missing".to_owned()))?;
        if view.shape() != shape {
            return Err(fail(format!("found shape {:?}, expected {shape:?}", view.shape())));
        }
        if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(fail(format!("found {:?}, expected F32, BF16 or F16", view.dtype())));
        }
        let values = self
            .map
            .load(name, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>())
            .map_err(|error| fail(root(&error)))?;
        target.copy_from_slice(&values);
        Ok(())
    }
}

/// Writes tensors of f32 as one file; the bytes depend on names, shapes and values only.
pub(super) fn write(
    path: &Path,
    tensors: &[(String, Vec<usize>, &[f32])],
    metadata: &[(&str, String)],
) -> Result<(), ModelError> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let failed = |problem: String| ModelError::Checkpoint { path: path.to_owned(), problem };
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| failed(error.to_string()))?;
    // One entry at most: a map of several has no fixed order in the header.
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let file = safetensors::serialize(views, Some(metadata)).map_err(|error| failed(error.to_string()))?;
    fs::write(path, file).map_err(ModelError::io("write", path))
}

/// The innermost message, without the backtrace that candle may add.
fn root(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::WithPath { inner, .. } => root(inner),
        other => other.to_string(),
    }
}
