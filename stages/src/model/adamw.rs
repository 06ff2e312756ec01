//! AdamW (arXiv 1711.05101).

use std::{path::Path, sync::Arc};

use rayon::prelude::*;

use super::{
    Gradients, Model, ModelError, Tensor,
    gradients::numbers,
    kernels::AdamWStep,
    linear::take,
    moments::{BLOCK, MomentStorage, Moments},
    safetensors_file::{self, Named, Numbers, TensorFile},
};

/// Numbers updated as one task, whole blocks of moments.
const CHUNK: usize = 64 * BLOCK;

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
    /// How the moments are kept.
    pub moments: MomentStorage,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, moments: MomentStorage::F32 }
    }
}

impl AdamWSettings {
    /// The numbers of a step, the first of which is number 1: those of tensors that decay, and of the others.
    pub(super) fn constants(&self, step: u64, learning_rate: f64, clip_factor: f64) -> [AdamWStep; 2] {
        let Self { beta1, beta2, epsilon, weight_decay, .. } = *self;
        let steps = step as f64;
        let step = AdamWStep {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            clip_factor: clip_factor as f32,
            keep: 1.0,
            step_size: (learning_rate / (1.0 - libm::pow(beta1, steps))) as f32,
            inverse_root_correction: (1.0 / (1.0 - libm::pow(beta2, steps)).sqrt()) as f32,
        };
        [AdamWStep { keep: (1.0 - learning_rate * weight_decay) as f32, ..step }, step]
    }
}

/// The optimizer's state: moments and the number of steps taken.
#[derive(Clone, Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    /// The trained parameters.
    tensors: Arc<[Tensor]>,
    /// One for each tensor.
    moments: Vec<Moments>,
    steps: u64,
}

impl AdamW {
    /// A fresh state for a model.
    pub fn new(model: &Model, settings: AdamWSettings) -> Self {
        let tensors = model.trained();
        let moments = tensors.iter().map(|tensor| Moments::zeros(settings.moments, tensor.range.len())).collect();
        Self { settings, tensors, moments, steps: 0 }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The constants.
    pub(super) fn settings(&self) -> AdamWSettings {
        self.settings
    }

    /// Both moments of all trained parameters, flat, if they are kept in f32.
    pub(super) fn full_moments(&self) -> Option<[Vec<f32>; 2]> {
        let mut all = [Vec::new(), Vec::new()];
        for moments in &self.moments {
            let Moments::Full { first, second } = moments else { return None };
            all[0].extend_from_slice(first);
            all[1].extend_from_slice(second);
        }
        Some(all)
    }

    /// Puts moments in the place of those that [`Self::full_moments`] gives, as they are after so many steps.
    pub(super) fn set_full_moments(&mut self, steps: u64, all: &[Vec<f32>; 2]) -> Result<(), ModelError> {
        for (tensor, moments) in self.tensors.iter().zip(&mut self.moments) {
            let (Moments::Full { first, second }, [firsts, seconds]) = (moments, all) else {
                let (found, expected) = (steps as usize, "moments that are kept in f32".to_owned());
                return Err(ModelError::Size { what: "optimizer state", found, expected });
            };
            first.copy_from_slice(&firsts[tensor.range.clone()]);
            second.copy_from_slice(&seconds[tensor.range.clone()]);
        }
        self.steps = steps;
        Ok(())
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
            return Err(ModelError::Size { what: "optimizer state", found: numbers(&self.tensors), expected });
        }
        self.steps += 1;
        let [decayed, step] = self.settings.constants(self.steps, learning_rate, clip_factor);
        let values = gradients.values();
        let moments = &mut self.moments;
        model.update_trained(|mut parameters| {
            let mut tasks = Vec::new();
            for (tensor, moments) in trained.iter().zip(moments) {
                let step = if tensor.decays() { decayed } else { step };
                let parameters = take(&mut parameters, tensor.range.len()).chunks_mut(CHUNK);
                let gradients = values[tensor.range.clone()].chunks(CHUNK);
                for ((parameters, gradients), part) in parameters.zip(gradients).zip(moments.parts(CHUNK)) {
                    tasks.push((step, parameters, gradients, part));
                }
            }
            tasks
                .into_par_iter()
                .for_each(|(step, parameters, gradients, part)| part.step(step, parameters, gradients));
        });
        Ok(())
    }

    /// Writes the state as a safetensors file from which [`Self::load`] makes the same bits.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        // Exact in f32 up to 2^24.
        let steps = [self.steps as f32];
        let mut full = vec![("steps".to_owned(), vec![1], steps.as_slice())];
        let mut codes = Vec::new();
        for (tensor, moments) in self.tensors.iter().zip(&self.moments) {
            let (name, shape) = (&tensor.name, &tensor.shape);
            match moments {
                Moments::Full { first, second } => {
                    full.push((format!("first.{name}"), shape.clone(), first));
                    full.push((format!("second.{name}"), shape.clone(), second));
                }
                Moments::Blockwise { first, second } => {
                    for (moment, kept) in [("first", first), ("second", second)] {
                        codes.push((format!("{moment}_codes.{name}"), shape.clone(), kept.codes.as_slice()));
                        full.push((format!("{moment}_factors.{name}"), vec![kept.factors.len()], &kept.factors));
                    }
                }
            }
        }
        let full = full.iter().map(|(name, shape, values)| Named { name, shape, values: Numbers::F32(values) });
        let codes = codes.iter().map(|(name, shape, codes)| Named { name, shape, values: Numbers::U8(codes) });
        safetensors_file::write(path, &full.chain(codes).collect::<Vec<_>>())
    }

    /// Reads a state that [`Self::save`] wrote for the same model.
    pub fn load(path: &Path, model: &Model, settings: AdamWSettings) -> Result<Self, ModelError> {
        let mut state = Self::new(model, settings);
        let file = TensorFile::open(path)?;
        let tensors = Arc::clone(&state.tensors);
        for (tensor, moments) in tensors.iter().zip(&mut state.moments) {
            let (name, shape) = (&tensor.name, &tensor.shape);
            match moments {
                Moments::Full { first, second } => {
                    file.read(&format!("first.{name}"), shape, first)?;
                    file.read(&format!("second.{name}"), shape, second)?;
                }
                Moments::Blockwise { first, second } => {
                    for (moment, kept) in [("first", first), ("second", second)] {
                        file.read_bytes(&format!("{moment}_codes.{name}"), shape, &mut kept.codes)?;
                        let blocks = kept.factors.len();
                        file.read(&format!("{moment}_factors.{name}"), &[blocks], &mut kept.factors)?;
                    }
                }
            }
        }
        let mut steps = [0.0];
        file.read("steps", &[1], &mut steps)?;
        state.steps = steps[0] as u64;
        Ok(state)
    }
}
