//! Training on a device: f32 masters and moments of AdamW (arXiv 1711.05101) beside the model.

use candle_core::{Device, Result as DeviceResult, Tensor};

use super::{DeviceGradients, DeviceModel, Precision, refused};
use crate::model::{AdamW, AdamWSettings, Model, ModelError, kernels::AdamWStep};

/// Numbers that one step of the optimizer goes through at once: what it needs beside the state is some buffers of so many.
const NUMBERS: usize = 1 << 24;

/// A model in training on a device, with its gradients and the state of its optimizer.
#[derive(Debug)]
pub struct DeviceTraining {
    model: DeviceModel,
    gradients: DeviceGradients,
    settings: AdamWSettings,
    steps: u64,
    /// By slot.
    states: Vec<State>,
}

/// The numbers of a slot, flat, f32.
#[derive(Debug)]
struct State {
    /// The parameters that are trained. In f32 the model's tensor is a view of this one; in bf16 it is rounded from it.
    master: Tensor,
    first: Tensor,
    second: Tensor,
}

impl DeviceTraining {
    /// Puts a model and the state of its optimizer on a device. Adapters, and moments in 8 bits, are for the CPU alone.
    pub fn new(model: &Model, optimizer: &AdamW, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        let no =
            |what: &'static str| ModelError::Size { what, found: 1, expected: "none in training on a device".into() };
        if model.adapter().is_some() {
            return Err(no("adapters"));
        }
        let Some([first, second]) = optimizer.full_moments() else { return Err(no("moments in 8 bits")) };
        let on_device = DeviceModel::new(model.config().clone(), model.layout(), device, precision, |slot| {
            Ok(model.parameters()[slot.range.clone()].to_vec())
        })?;
        let states = || {
            let slots = on_device.structure.slots.iter().zip(&on_device.values);
            let state = slots.map(|(slot, value)| {
                let flat = |values: &[f32]| Tensor::from_slice(&values[slot.range.clone()], slot.range.len(), device);
                let rounded = slot.is_matrix() && precision != Precision::F32;
                let master = if rounded { flat(model.parameters())? } else { value.flatten_all()? };
                Ok(State { master, first: flat(&first)?, second: flat(&second)? })
            });
            state.collect::<DeviceResult<Vec<_>>>()
        };
        Ok(Self {
            states: states().map_err(refused)?,
            gradients: DeviceGradients::zeros_like(&on_device),
            settings: optimizer.settings(),
            steps: optimizer.steps(),
            model: on_device,
        })
    }

    /// The model as it is now, and the gradients that its passes add to.
    pub fn parts(&mut self) -> (&DeviceModel, &mut DeviceGradients) {
        (&self.model, &mut self.gradients)
    }

    /// The model as it is now.
    pub fn model(&self) -> &DeviceModel {
        &self.model
    }

    /// One step of AdamW with the gradients as they are; see [`AdamW::step`].
    pub fn step(&mut self, learning_rate: f64, clip_factor: f64) -> Result<(), ModelError> {
        self.steps += 1;
        let [decayed, step] = self.settings.constants(self.steps, learning_rate, clip_factor);
        let mut update = || {
            for (number, slot) in self.model.structure.slots.iter().enumerate() {
                let step = if slot.is_matrix() { decayed } else { step };
                let state = &self.states[number];
                state.step(step, self.gradients.of(number))?;
                let value = &mut self.model.values[number];
                if slot.is_matrix() && self.model.precision != Precision::F32 {
                    *value = state.master.reshape(slot.shape.as_slice())?.to_dtype(self.model.precision.dtype())?;
                }
            }
            Ok(())
        };
        update().map_err(refused)
    }

    /// Brings parameters and the state of the optimizer back to the host, into those that [`Self::new`] was given or others
    /// of the same shapes.
    pub fn store(&self, model: &mut Model, optimizer: &mut AdamW) -> Result<(), ModelError> {
        let flat = |of: fn(&State) -> &Tensor| {
            let mut values = vec![0.0; model.layout().len()];
            for (slot, state) in self.model.structure.slots.iter().zip(&self.states) {
                values[slot.range.clone()].copy_from_slice(&of(state).to_vec1::<f32>().map_err(refused)?);
            }
            Ok::<_, ModelError>(values)
        };
        let master = flat(|state| &state.master)?;
        let moments = [flat(|state| &state.first)?, flat(|state| &state.second)?];
        optimizer.set_full_moments(self.steps, &moments)?;
        model.update(|parameters| parameters.copy_from_slice(&master));
        Ok(())
    }
}

impl State {
    /// One step in place, part by part, with the order of operations of [`crate::model::kernels`].
    fn step(&self, step: AdamWStep, gradient: Option<&Tensor>) -> DeviceResult<()> {
        let len = self.master.dim(0)?;
        let gradient = gradient.map(Tensor::flatten_all).transpose()?;
        for start in (0..len).step_by(NUMBERS) {
            let size = NUMBERS.min(len - start);
            let part = |tensor: &Tensor| tensor.narrow(0, start, size);
            let gradient = match &gradient {
                Some(gradient) => (part(gradient)? * f64::from(step.clip_factor))?,
                None => part(&self.first)?.zeros_like()?,
            };
            let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
            let first = ((part(&self.first)? * beta1)? + (&gradient * f64::from(1.0 - step.beta1))?)?;
            let second = ((part(&self.second)? * beta2)? + (gradient.sqr()? * f64::from(1.0 - step.beta2))?)?;
            let denominator =
                second.sqrt()?.affine(f64::from(step.inverse_root_correction), f64::from(step.epsilon))?;
            let change = ((&first / denominator)? * f64::from(-step.step_size))?;
            let master = ((part(&self.master)? * f64::from(step.keep))? + change)?;
            for (whole, part) in [(&self.first, first), (&self.second, second), (&self.master, master)] {
                whole.slice_set(&part, 0, start)?;
            }
        }
        Ok(())
    }
}
