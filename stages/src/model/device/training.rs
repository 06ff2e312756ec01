//! Training on a device: f32 masters and moments of AdamW (arXiv 1711.05101) beside the model, or on the host.

use std::borrow::Cow;

#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::{Device, Result as DeviceResult, Tensor};

#[cfg(feature = "cuda")]
use super::cuda::rows;
use super::{DeviceGradients, DeviceModel, Precision, adapter::DeviceAdapter, refused, structure::Slot};
use crate::model::{AdamW, AdamWSettings, Gradients, Model, ModelError, kernels::AdamWStep};

/// Numbers that one step of the optimizer goes through at once: what it needs beside the state is some buffers of so many.
const NUMBERS: usize = 1 << 24;

/// A model in training on a device, with its gradients and the state of its optimizer.
#[derive(Debug)]
pub struct DeviceTraining {
    model: DeviceModel,
    gradients: DeviceGradients,
    optimizer: Optimizer,
}

/// Where parameters are changed.
#[derive(Debug)]
enum Optimizer {
    Device {
        settings: AdamWSettings,
        steps: u64,
        /// By slot.
        states: Vec<State>,
    },
    /// By the CPU engine, with the gradients as they were brought there last.
    Host(Gradients),
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
    /// Puts a model and the state of its optimizer on a device. Adapters, which are small, and moments in 8 bits are for
    /// [`Self::with_host_optimizer`].
    pub fn new(model: &Model, optimizer: &AdamW, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        if model.adapter().is_some() {
            return Err(unfit("adapters"));
        }
        let Some([first, second]) = optimizer.full_moments() else { return Err(unfit("moments in 8 bits")) };
        let on_device = on_device(model, device, precision)?;
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
        let (settings, steps) = (optimizer.settings(), optimizer.steps());
        Ok(Self {
            optimizer: Optimizer::Device { settings, steps, states: states().map_err(refused)? },
            gradients: DeviceGradients::zeros_like(&on_device),
            model: on_device,
        })
    }

    /// Puts a model, with its adapter if it has one, on a device, and leaves the parameters that are trained and the optimizer
    /// to the host: the device holds parameters in the type of products, gradients, and what passes leave. [`Self::step`]
    /// changes the host's model.
    pub fn with_host_optimizer(model: &Model, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        let mut on_device = on_device(model, device, precision)?;
        if let Some(adapter) = model.adapter() {
            let slots = &on_device.structure.slots;
            on_device.adapter = Some(DeviceAdapter::new(adapter, slots, device, precision)?);
        }
        Ok(Self {
            optimizer: Optimizer::Host(Gradients::zeros_like(model)),
            gradients: DeviceGradients::zeros_like(&on_device),
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

    /// One step of AdamW with the gradients as they are; see [`AdamW::step`]. `model` and `optimizer` are the host's: they are
    /// what changes where the optimizer is there, and are left alone otherwise.
    pub fn step(
        &mut self,
        model: &mut Model,
        optimizer: &mut AdamW,
        learning_rate: f64,
        clip_factor: f64,
    ) -> Result<(), ModelError> {
        match &mut self.optimizer {
            Optimizer::Device { settings, steps, states } => {
                *steps += 1;
                let constants = settings.constants(*steps, learning_rate, clip_factor);
                step_on_device(&mut self.model, states, &self.gradients, constants).map_err(refused)
            }
            Optimizer::Host(gradients) => {
                self.gradients.read(gradients.values_mut())?;
                optimizer.step(model, gradients, learning_rate, clip_factor)?;
                let DeviceModel { adapter, device, precision, .. } = &mut self.model;
                match (adapter, model.adapter()) {
                    (Some(on_device), Some(adapter)) => on_device.set(adapter.values(), device, *precision),
                    _ => self.model.set_parameters(model.parameters()),
                }
            }
        }
    }

    /// Brings parameters and the state of the optimizer back to the host, into those that [`Self::new`] was given or others
    /// of the same shapes. Those of an optimizer on the host are there already.
    pub fn store(&self, model: &mut Model, optimizer: &mut AdamW) -> Result<(), ModelError> {
        let Optimizer::Device { steps, states, .. } = &self.optimizer else { return Ok(()) };
        let flat = |of: fn(&State) -> &Tensor| {
            let mut values = vec![0.0; model.layout().len()];
            for (slot, state) in self.model.structure.slots.iter().zip(states) {
                values[slot.range.clone()].copy_from_slice(&of(state).to_vec1::<f32>().map_err(refused)?);
            }
            Ok::<_, ModelError>(values)
        };
        let master = flat(|state| &state.master)?;
        let moments = [flat(|state| &state.first)?, flat(|state| &state.second)?];
        optimizer.set_full_moments(*steps, &moments)?;
        model.update(|parameters| parameters.copy_from_slice(&master));
        Ok(())
    }
}

fn unfit(what: &'static str) -> ModelError {
    ModelError::Size { what, found: 1, expected: "none where the optimizer is on the device".into() }
}

fn on_device(model: &Model, device: &Device, precision: Precision) -> Result<DeviceModel, ModelError> {
    let values = |slot: &Slot| Ok(Cow::Borrowed(&model.parameters()[slot.range.clone()]));
    DeviceModel::new(model.config().clone(), model.layout(), device, precision, values)
}

fn step_on_device(
    model: &mut DeviceModel,
    states: &[State],
    gradients: &DeviceGradients,
    [decayed, step]: [AdamWStep; 2],
) -> DeviceResult<()> {
    for (number, slot) in model.structure.slots.iter().enumerate() {
        let step = if slot.is_matrix() { decayed } else { step };
        let state = &states[number];
        #[cfg(feature = "cuda")]
        if let Some(gradient) = gradients.of(number)
            && model.device.is_cuda()
            && model.values[number].dtype() == DType::BF16
        {
            let moments = [&state.master, &state.first, &state.second];
            rows::adamw(step, &gradient.contiguous()?, moments, &model.values[number], 0..slot.range.len())?;
            continue;
        }
        state.step(step, gradients.of(number))?;
        if slot.is_matrix() && model.precision != Precision::F32 {
            model.values[number] = state.master.reshape(slot.shape.as_slice())?.to_dtype(model.precision.dtype())?;
        }
    }
    Ok(())
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
