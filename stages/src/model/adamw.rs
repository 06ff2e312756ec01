//! AdamW (arXiv 1711.05101).

use std::{path::Path, sync::Arc};

use rayon::prelude::*;

use super::{
    Gradients, Model, ModelError, Tensor,
    gradients::numbers,
    kernels::{self, AdamWStep},
    linear::take,
    safetensors_file::{self, Named, TensorFile},
};

/// Numbers updated as one task.
const CHUNK: usize = 1 << 14;

/// Constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate in each step. It applies to matrices (the embedding included),
    /// not to norms, as in Hugging Face's `Trainer`.
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimizer's state: moments in f32 and the number of steps taken.
#[derive(Clone, Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    /// The trained parameters.
    tensors: Arc<[Tensor]>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: u64,
}

impl AdamW {
    /// A fresh state for a model.
    pub fn new(model: &Model, settings: AdamWSettings) -> Self {
        let tensors = model.trained();
        let zeros = vec![0.0; numbers(&tensors)];
        Self { settings, tensors, first: zeros.clone(), second: zeros, steps: 0 }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step: every gradient is multiplied by `clip_factor` first (1 for no clipping).
    pub fn step(
        &mut self,
        model: &mut Model,
        gradients: &Gradients,
        learning_rate: f64,
        clip_factor: f64,
    ) -> Result<(), ModelError> {
        gradients.check(model)?;
        let trained = model.trained();
        if self.tensors != trained {
            let expected = format!("that of a model with {} trained parameters of the same shapes", numbers(&trained));
            return Err(ModelError::Size { what: "optimizer state", found: self.first.len(), expected });
        }
        self.steps += 1;
        let AdamWSettings { beta1, beta2, epsilon, weight_decay } = self.settings;
        let steps = self.steps as f64;
        let step = AdamWStep {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            clip_factor: clip_factor as f32,
            keep: 1.0,
            step_size: (learning_rate / (1.0 - beta1.powf(steps))) as f32,
            inverse_root_correction: (1.0 / (1.0 - beta2.powf(steps)).sqrt()) as f32,
        };
        let decayed = AdamWStep { keep: (1.0 - learning_rate * weight_decay) as f32, ..step };
        let values = gradients.values();
        let (mut first, mut second) = (self.first.as_mut_slice(), self.second.as_mut_slice());
        model.update_trained(|mut parameters| {
            let mut tasks = Vec::new();
            for tensor in trained.iter() {
                let step = if tensor.decays() { decayed } else { step };
                let mut start = tensor.range.start;
                while start < tensor.range.end {
                    let len = CHUNK.min(tensor.range.end - start);
                    tasks.push((
                        step,
                        take(&mut parameters, len),
                        &values[start..start + len],
                        take(&mut first, len),
                        take(&mut second, len),
                    ));
                    start += len;
                }
            }
            tasks.into_par_iter().for_each(|(step, parameters, gradients, first, second)| {
                kernels::adamw_step(step, parameters, gradients, first, second);
            });
        });
        Ok(())
    }

    /// Writes the state as a safetensors file from which [`Self::load`] makes the same bits.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        // Exact in f32 up to 2^24.
        let steps = [self.steps as f32];
        let tensors = &self.tensors;
        let names = |moment: &str| tensors.iter().map(|tensor| format!("{moment}.{}", tensor.name)).collect::<Vec<_>>();
        let (first, second) = (names("first"), names("second"));
        let mut named = vec![Named { name: "steps", shape: &[1], values: &steps }];
        for (moment, values) in [(&first, &self.first), (&second, &self.second)] {
            named.extend(moment.iter().zip(tensors.iter()).map(|(name, tensor)| Named {
                name,
                shape: &tensor.shape,
                values: &values[tensor.range.clone()],
            }));
        }
        safetensors_file::write(path, &named)
    }

    /// Reads a state that [`Self::save`] wrote for the same model.
    pub fn load(path: &Path, model: &Model, settings: AdamWSettings) -> Result<Self, ModelError> {
        let mut state = Self::new(model, settings);
        let file = TensorFile::open(path)?;
        let tensors = Arc::clone(&state.tensors);
        for tensor in tensors.iter() {
            let range = tensor.range.clone();
            file.read(&format!("first.{}", tensor.name), &tensor.shape, &mut state.first[range.clone()])?;
            file.read(&format!("second.{}", tensor.name), &tensor.shape, &mut state.second[range])?;
        }
        let mut steps = [0.0];
        file.read("steps", &[1], &mut steps)?;
        state.steps = steps[0] as u64;
        Ok(state)
    }
}
