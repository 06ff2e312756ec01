//! Where the passes and the optimizer's steps of a training run: on the CPU, in its state, or on a device, which is given
//! the state at the start and gives it back whenever it is saved.

use candle_core::Device;

use super::{OptimizerPlace, Train, checkpoint::State};
use crate::{
    model::{Activations, ComputeDevice, DeviceTraining, Gradients, ModelError, Precision},
    stage::StageError,
};

/// The gradients of a training, and whatever else it has beside its state.
pub(super) enum Engine {
    Cpu(Gradients),
    Device(Box<DeviceTraining>, Activations),
}

impl Engine {
    /// The one that the settings ask for.
    pub(super) fn new(settings: &Train, state: &State) -> Result<Self, StageError> {
        match settings.device {
            ComputeDevice::Cpu { .. } => Ok(Self::Cpu(Gradients::zeros_like(&state.model))),
            device @ ComputeDevice::Cuda { precision } => {
                Ok(Self::on(&device.open()?, precision, settings.optimizer, settings.activations.0, state)?)
            }
        }
    }

    fn on(
        device: &Device,
        precision: Precision,
        optimizer: OptimizerPlace,
        activations: Activations,
        state: &State,
    ) -> Result<Self, ModelError> {
        let training = match optimizer {
            // It is small there, and the same for every device.
            _ if state.model.adapter().is_some() => {
                DeviceTraining::with_host_optimizer(&state.model, device, precision)?
            }
            OptimizerPlace::Device => DeviceTraining::new(&state.model, &state.optimizer, device, precision)?,
            OptimizerPlace::Host => DeviceTraining::with_host_optimizer(&state.model, device, precision)?,
        };
        Ok(Self::Device(Box::new(training), activations))
    }

    /// Brings the state up to date.
    pub(super) fn store(&self, state: &mut State) -> Result<(), ModelError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Device(training, _) => training.store(&mut state.model, &mut state.optimizer),
        }
    }

    /// Sets all gradients to zero.
    pub(super) fn zero(&mut self) {
        match self {
            Self::Cpu(gradients) => gradients.zero(),
            Self::Device(training, _) => training.parts().1.zero(),
        }
    }

    /// Root of the sum of all squares of the gradients.
    pub(super) fn global_norm(&mut self) -> Result<f64, ModelError> {
        match self {
            Self::Cpu(gradients) => Ok(gradients.global_norm()),
            Self::Device(training, _) => training.parts().1.global_norm(),
        }
    }

    /// Cross entropy of every target under the model as it is now.
    pub(super) fn score(&self, state: &State, ids: &[u32], batch: usize) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::Cpu(_) => Ok(state.model.score(ids, batch)?.cross_entropy),
            Self::Device(training, _) => training.model().score(ids, batch),
        }
    }

    /// See [`crate::model::Model::forward_backward`].
    #[allow(clippy::type_complexity)]
    pub(super) fn forward_backward<E: From<ModelError>>(
        &mut self,
        state: &State,
        ids: &[u32],
        batch: usize,
        coefficients: &mut dyn FnMut(&[f32]) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        match self {
            Self::Cpu(gradients) => state.model.forward_backward(ids, batch, coefficients, gradients),
            Self::Device(training, activations) => {
                let (model, gradients) = training.parts();
                model.forward_backward(ids, batch, *activations, coefficients, gradients)
            }
        }
    }

    /// See [`crate::model::Model::forward_backward_fixed`].
    pub(super) fn forward_backward_fixed(
        &mut self,
        state: &State,
        ids: &[u32],
        batch: usize,
        coefficients: &[f32],
    ) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::Cpu(gradients) => state.model.forward_backward_fixed(ids, batch, coefficients, gradients),
            Self::Device(training, activations) => {
                let (model, gradients) = training.parts();
                model.forward_backward_fixed(ids, batch, *activations, coefficients, gradients)
            }
        }
    }

    /// One step of AdamW.
    pub(super) fn step(&mut self, state: &mut State, learning_rate: f64, clip_factor: f64) -> Result<(), ModelError> {
        match self {
            Self::Cpu(gradients) => state.optimizer.step(&mut state.model, gradients, learning_rate, clip_factor),
            Self::Device(training, _) => {
                training.step(&mut state.model, &mut state.optimizer, learning_rate, clip_factor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{AdamW, AdamWSettings, Config, Model};

    fn state() -> State {
        let object = json!({
            "model_type": "llama", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 100.0, "tie_word_embeddings": true,
        });
        let object = object.as_object().expect("an object").clone();
        let config = Config::from_json("config.json".as_ref(), object).expect("a configuration");
        let model = Model::initialize(config, 0.3, 7);
        State { optimizer: AdamW::new(&model, AdamWSettings::default()), model, log: Vec::new() }
    }

    /// Losses and norms of some steps, and the parameters that are stored in the end.
    fn course(mut engine: Engine, mut state: State) -> (Vec<f64>, Vec<f32>) {
        let ids: Vec<u32> = (0..2 * 40).map(|at| (at * at * 7 + at * 3 + 5) % 37).collect();
        let mut course = Vec::new();
        for step in 0..4 {
            engine.zero();
            let fixed = vec![0.01; 2 * 39];
            let losses = engine.forward_backward_fixed(&state, &ids, 2, &fixed).expect("losses");
            // Weights that depend on the losses.
            let mut focal = |losses: &[f32]| Ok::<_, ModelError>(losses.iter().map(|loss| loss / 400.0).collect());
            let again = engine.forward_backward(&state, &ids, 2, &mut focal).expect("losses");
            assert_eq!(losses, again, "step {step}");
            let scored = engine.score(&state, &ids, 2).expect("losses");
            course.extend(scored.iter().map(|loss| f64::from(*loss)));
            let norm = engine.global_norm().expect("a norm");
            course.push(norm);
            engine.step(&mut state, 1e-3, (1.0 / norm).min(1.0)).expect("a step");
        }
        engine.store(&mut state).expect("stored");
        assert_eq!(state.optimizer.steps(), 4);
        (course, state.model.parameters().to_vec())
    }

    #[test]
    fn a_device_takes_the_course_of_the_cpu() {
        let cpu = state();
        let expected = course(Engine::Cpu(Gradients::zeros_like(&cpu.model)), cpu);
        for (activations, optimizer) in [
            (Activations::Keep, OptimizerPlace::Device),
            (Activations::Recompute, OptimizerPlace::Device),
            (Activations::Keep, OptimizerPlace::Host),
        ] {
            let state = state();
            let engine = Engine::on(&Device::Cpu, Precision::F32, optimizer, activations, &state).expect("a device");
            let found = course(engine, state);
            for (found, expected) in found.0.iter().zip(&expected.0) {
                assert!((found - expected).abs() <= 1e-4 * expected.max(1.0), "found {found}, expected {expected}");
            }
            let moved = found.1.iter().zip(&expected.1).map(|(found, expected)| (found - expected).abs());
            assert!(moved.fold(0.0, f32::max) < 1e-3, "{activations:?}");
        }
    }
}
