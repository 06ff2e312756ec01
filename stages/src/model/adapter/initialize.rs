//! The adapter that training starts from.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use super::{Adapter, AdapterSettings};
use crate::model::{Model, ModelError};

/// The first stream of the generator; those below belong to other random choices of the same seed.
const STREAMS: u64 = 1 << 32;

impl Adapter {
    /// As PEFT does it: A uniform between -1 / sqrt(inputs) and 1 / sqrt(inputs) (PyTorch's `kaiming_uniform_` with
    /// `a = sqrt(5)`), B zero, so that the adapted model starts as the model itself.
    ///
    /// Each A has its own stream of the generator, numbered by its place in [`Self::tensors`].
    pub fn initialize(model: &Model, settings: AdapterSettings, seed: u64) -> Result<Self, ModelError> {
        let mut adapter = Self::zeros(model.layout(), settings)?;
        for (index, part) in adapter.parts.iter().enumerate() {
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            generator.set_stream(STREAMS + index as u64);
            let bound = 1.0 / (part.inputs as f64).sqrt();
            for value in &mut adapter.values[part.a.clone()] {
                // 53 random bits: exact in f64, in [-1, 1).
                let unit = (generator.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
                *value = (unit * bound) as f32;
            }
        }
        Ok(adapter)
    }
}
