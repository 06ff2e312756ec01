//! A model where a stage was told to compute.

use std::path::Path;

use super::{ComputeDevice, Config, DeviceModel, Generated, Generation, Model, ModelError, Predictions, Prompt, Rope};

/// A model on the processor, or on another device.
#[derive(Debug)]
pub enum PlacedModel {
    /// On the processor.
    Cpu(Box<Model>),
    /// On a device.
    Device(Box<DeviceModel>),
}

impl PlacedModel {
    /// Opens a model folder, with another rotary embedding than its configuration says if one is given.
    pub fn open(folder: &Path, rope: Option<Rope>, device: ComputeDevice) -> Result<Self, ModelError> {
        if !device.is_cpu() {
            let model = DeviceModel::open(folder, rope, &device.open()?, device.precision())?;
            return Ok(Self::Device(Box::new(model)));
        }
        let mut model = rope.map_or_else(|| Model::open(folder), |rope| Model::open_with_rope(folder, rope))?;
        model.set_precision(device.precision());
        Ok(Self::Cpu(Box::new(model)))
    }

    /// Shape and constants.
    pub fn config(&self) -> &Config {
        match self {
            Self::Cpu(model) => model.config(),
            Self::Device(model) => model.config(),
        }
    }

    /// Cross entropy of every target of `ids`, `[batch, length]`: `[batch * (length - 1)]`, nats.
    pub fn cross_entropy(&self, ids: &[u32], batch: usize) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::Cpu(model) => Ok(model.score(ids, batch)?.cross_entropy),
            Self::Device(model) => model.score(ids, batch),
        }
    }

    /// The same with the most probable token in each target's place.
    pub fn score(&self, ids: &[u32], batch: usize) -> Result<Predictions, ModelError> {
        match self {
            Self::Cpu(model) => model.score(ids, batch),
            Self::Device(model) => model.predict(ids, batch),
        }
    }

    /// Continues prompts; see [`Model::generate`].
    pub fn generate<E: From<ModelError>>(
        &self,
        prompts: &[Prompt<'_>],
        settings: &Generation,
        watch: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<Generated>, E> {
        match self {
            Self::Cpu(model) => model.generate(prompts, settings, watch),
            Self::Device(model) => model.generate(prompts, settings, watch),
        }
    }
}
