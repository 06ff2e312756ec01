//! The same models on an accelerator, with the same formulas on every device of candle's: composed of its operations, or of
//! kernels of our own (`cuda`) where rows come in bf16.
//!
//! A [`DeviceModel`] holds its parameters on the device and computes what [`super::Model`] computes on the CPU, from the
//! same files: products are cuBLAS's on CUDA. Nothing of the size length x length or length x vocabulary exists.
//! On a CPU it is slower than [`super::Model`]; there it serves to compare the two.
//!
//! Shapes of products depend on the length of sequences alone when scoring (groups of sequences are filled up), so that what
//! a sequence gets does not depend on what follows it. It may depend on its place: cuBLAS gives equal rows of one product
//! other last bits in other places (measured: 4e-6 nats). Whoever scores must cut groups in a way that is in the key.

mod activation;
mod adapter;
mod attention;
mod backward;
mod block;
#[cfg(feature = "cuda")]
mod cuda;
mod generation;
mod gradients;
mod head;
mod memory;
mod norm;
mod positions;
mod precision;
mod structure;
mod training;

pub use gradients::DeviceGradients;
pub(super) use memory::device_memory;
pub use training::DeviceTraining;

use std::{
    borrow::Cow,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Result as DeviceResult, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::{
    Config, Layout, ModelError, Precision, Predictions, Rope, checkpoint::Folder, safetensors_file::root, shape::Shape,
};
use adapter::DeviceAdapter;
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
    /// Beside which the parameters are frozen.
    adapter: Option<DeviceAdapter>,
    device: Device,
    precision: Precision,
    positions: Mutex<Option<Arc<Positions>>>,
}

impl DeviceModel {
    /// Opens a model folder on a device, with another rotary embedding than its configuration says if one is given. The
    /// host holds one matrix at a time.
    pub fn open(folder: &Path, rope: Option<Rope>, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        if precision == Precision::Bf16Amx {
            let problem = "products in the order of AMX are the processor's alone; take `Bf16`";
            return Err(ModelError::Device { problem: problem.to_owned() });
        }
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
            Ok(Cow::Owned(numbers))
        })
    }

    /// A model whose parameters `numbers` gives slot by slot, f32.
    fn new<'a>(
        config: Config,
        layout: &Layout,
        device: &Device,
        precision: Precision,
        numbers: impl Fn(&Slot) -> Result<Cow<'a, [f32]>, ModelError>,
    ) -> Result<Self, ModelError> {
        let structure = Structure::new(layout, config.hidden_size);
        let value = |slot: &Slot| tensor(slot, &numbers(slot)?, precision, device);
        let values = structure.slots.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            config,
            structure,
            values,
            adapter: None,
            device: device.clone(),
            precision,
            positions: Mutex::default(),
        })
    }

    /// Puts other parameters in the place of those it has, in the order of the [`Layout`].
    fn set_parameters(&mut self, parameters: &[f32]) -> Result<(), ModelError> {
        for (slot, value) in self.structure.slots.iter().zip(&mut self.values) {
            *value = tensor(slot, &parameters[slot.range.clone()], self.precision, &self.device)?;
        }
        Ok(())
    }

    /// Shape and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Cross entropy of every target of `ids`, which is `[batch, length]`: `[batch * (length - 1)]`, nats.
    pub fn score(&self, ids: &[u32], batch: usize) -> Result<Vec<f32>, ModelError> {
        let mut losses = Vec::with_capacity(ids.len() - batch);
        self.by_groups(ids, batch, |shape, group, output, targets| {
            losses.extend_from_slice(&self.cross_entropy(shape, group, output)?[..targets]);
            Ok(())
        })?;
        Ok(losses)
    }

    /// Cross entropy and most probable token of every target, as [`super::Model::score`] gives them.
    pub fn predict(&self, ids: &[u32], batch: usize) -> Result<Predictions, ModelError> {
        let mut predictions = Predictions { cross_entropy: Vec::new(), argmax: Vec::new() };
        self.by_groups(ids, batch, |shape, group, output, targets| {
            let found = self.predictions(shape, group, output)?;
            predictions.cross_entropy.extend_from_slice(&found.cross_entropy[..targets]);
            predictions.argmax.extend_from_slice(&found.argmax[..targets]);
            Ok(())
        })?;
        Ok(predictions)
    }

    /// Brings groups of sequences through all blocks; `take` gets the shape of a group, its ids, the last block's output, and
    /// how many targets there are before those of the sequences that it was filled up with.
    fn by_groups(
        &self,
        ids: &[u32],
        batch: usize,
        mut take: impl FnMut(&Shape, &[u32], &Tensor, usize) -> DeviceResult<()>,
    ) -> Result<(), ModelError> {
        let length = self.config.check_batch(ids, batch)?;
        let together = (SCORED_ROWS / length).max(1);
        let shape = Shape::new(&self.config, together, length);
        for group in ids.chunks(together * length) {
            let mut filled = group.to_vec();
            filled.resize(together * length, 0);
            let mut through = || {
                let positions = self.positions(length, length)?;
                let mut stream = self.embed(&filled)?;
                for block in &self.structure.blocks {
                    stream = self.block(block, &shape, &positions, stream)?.0;
                }
                take(&shape, &filled, &stream, group.len() / length * (length - 1))
            };
            through().map_err(refused)?;
        }
        Ok(())
    }

    /// The residual stream before the first block, `[rows, hidden]`.
    fn embed(&self, ids: &[u32]) -> DeviceResult<Tensor> {
        let ids = Tensor::from_slice(ids, ids.len(), &self.device)?;
        self.values[self.structure.embedding].index_select(&ids, 0)?.to_dtype(DType::F32)
    }

    /// What depends on the positions of sequences of `length` tokens that may grow to `capacity`.
    fn positions(&self, length: usize, capacity: usize) -> DeviceResult<Arc<Positions>> {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        match &*positions {
            Some(found) if (found.length, found.capacity) == (length, capacity) => Ok(Arc::clone(found)),
            _ => {
                let made = Arc::new(Positions::new(&self.config, length, capacity, &self.device)?);
                *positions = Some(Arc::clone(&made));
                Ok(made)
            }
        }
    }
}

/// The tensor of a slot: matrices in the type of the products, the rest in f32.
fn tensor(slot: &Slot, numbers: &[f32], precision: Precision, device: &Device) -> Result<Tensor, ModelError> {
    let shape = slot.shape.as_slice();
    let made = if slot.is_matrix() && precision.is_bf16() {
        // Here, on all threads: half of the bytes go over, and candle rounds on one.
        let rounded: Vec<bf16> = numbers.par_iter().map(|number| bf16::from_f32(*number)).collect();
        Tensor::from_vec(rounded, shape, device)
    } else {
        Tensor::from_slice(numbers, shape, device)
    };
    made.map_err(refused)
}

pub(super) fn refused(error: candle_core::Error) -> ModelError {
    ModelError::Device { problem: root(&error) }
}
