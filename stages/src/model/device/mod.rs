//! The same models on an accelerator, composed of candle's operations, with the same formulas on every device of candle's.
//!
//! A [`DeviceModel`] holds its parameters on the device and computes what [`super::Model`] computes on the CPU, from the
//! same files: products are cuBLAS's on CUDA. Nothing of the size length x length or length x vocabulary exists.
//! On a CPU it is slower than [`super::Model`]; there it serves to compare the two.
//!
//! Shapes of products depend on the length of sequences alone when scoring (groups of sequences are filled up), so that what
//! a sequence gets does not depend on how many others are scored with it.

mod activation;
mod attention;
mod backward;
mod block;
mod gradients;
mod head;
mod norm;
mod positions;
mod precision;
mod structure;
mod training;

pub use gradients::DeviceGradients;
pub use training::DeviceTraining;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Result as DeviceResult, Tensor};

use super::{Config, Layout, ModelError, Precision, Rope, checkpoint::Folder, safetensors_file::root, shape::Shape};
use positions::Positions;
use structure::{Slot, Structure};

/// Most rows that are scored at once. Results depend on it on devices that choose products by their shape, so it is fixed.
const SCORED_ROWS: usize = 2048;

/// A language model on a device of candle's.
#[derive(Debug)]
pub struct DeviceModel {
    config: Config,
    structure: Structure,
    /// One for each slot: matrices in the type of the products, norms and biases in f32.
    values: Vec<Tensor>,
    device: Device,
    precision: Precision,
    positions: Mutex<Option<Arc<Positions>>>,
}

impl DeviceModel {
    /// Opens a model folder on a device, with another rotary embedding than its configuration says if one is given. The
    /// host holds one matrix at a time.
    pub fn open(folder: &Path, rope: Option<Rope>, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        let Folder { mut config, layout, shards } = Folder::open(folder)?;
        if let Some(rope) = rope {
            rope.check(config.rotary_dim())?;
            config.rope = rope;
        }
        Self::new(config, &layout, device, precision, |slot| {
            let mut numbers = vec![0.0; slot.range.len()];
            for tensor in layout.tensors().iter().filter(|tensor| slot.range.contains(&tensor.range.start)) {
                let place = tensor.range.start - slot.range.start..tensor.range.end - slot.range.start;
                shards.read(&tensor.name, &tensor.shape, &mut numbers[place])?;
            }
            Ok(numbers)
        })
    }

    /// A model whose parameters `numbers` gives slot by slot, f32.
    fn new(
        config: Config,
        layout: &Layout,
        device: &Device,
        precision: Precision,
        numbers: impl Fn(&Slot) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        let structure = Structure::new(layout, config.hidden_size);
        let value = |slot: &Slot| tensor(slot, numbers(slot)?, precision, device);
        let values = structure.slots.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { config, structure, values, device: device.clone(), precision, positions: Mutex::default() })
    }

    /// Puts other parameters in the place of those it has, in the order of the [`Layout`].
    fn set_parameters(&mut self, parameters: &[f32]) -> Result<(), ModelError> {
        for (slot, value) in self.structure.slots.iter().zip(&mut self.values) {
            *value = tensor(slot, parameters[slot.range.clone()].to_vec(), self.precision, &self.device)?;
        }
        Ok(())
    }

    /// Shape and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Cross entropy of every target of `ids`, which is `[batch, length]`: `[batch * (length - 1)]`, nats.
    pub fn score(&self, ids: &[u32], batch: usize) -> Result<Vec<f32>, ModelError> {
        let length = self.config.check_batch(ids, batch)?;
        let together = (SCORED_ROWS / length).max(1);
        let mut losses = Vec::with_capacity(ids.len() - batch);
        for group in ids.chunks(together * length) {
            let mut filled = group.to_vec();
            filled.resize(together * length, 0);
            let found = self.score_group(&filled, together, length).map_err(refused)?;
            losses.extend(&found[..group.len() / length * (length - 1)]);
        }
        Ok(losses)
    }

    fn score_group(&self, ids: &[u32], batch: usize, length: usize) -> DeviceResult<Vec<f32>> {
        let shape = Shape::new(&self.config, batch, length);
        let positions = self.positions(length)?;
        let mut stream = self.embed(ids)?;
        for block in &self.structure.blocks {
            stream = self.block(block, &shape, &positions, stream)?.0;
        }
        self.cross_entropy(&shape, ids, &stream)
    }

    /// The residual stream before the first block, `[rows, hidden]`.
    fn embed(&self, ids: &[u32]) -> DeviceResult<Tensor> {
        let ids = Tensor::from_slice(ids, ids.len(), &self.device)?;
        self.values[self.structure.embedding].index_select(&ids, 0)?.to_dtype(DType::F32)
    }

    fn positions(&self, length: usize) -> DeviceResult<Arc<Positions>> {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        match &*positions {
            Some(found) if found.length == length => Ok(Arc::clone(found)),
            _ => {
                let made = Arc::new(Positions::new(&self.config, length, &self.device)?);
                *positions = Some(Arc::clone(&made));
                Ok(made)
            }
        }
    }
}

/// The tensor of a slot: matrices in the type of the products, the rest in f32.
fn tensor(slot: &Slot, numbers: Vec<f32>, precision: Precision, device: &Device) -> Result<Tensor, ModelError> {
    let dtype = if slot.is_matrix() { precision.dtype() } else { DType::F32 };
    let host = Tensor::from_vec(numbers, slot.shape.as_slice(), &Device::Cpu);
    host.and_then(|value| value.to_dtype(dtype)?.to_device(device)).map_err(refused)
}

pub(super) fn refused(error: candle_core::Error) -> ModelError {
    ModelError::Device { problem: root(&error) }
}
