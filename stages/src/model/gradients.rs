//! Gradients of all parameters.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Layout, Model, ModelError, kernels};

/// Numbers summed as one; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// One gradient for each parameter of a model, f32, in the order of its [`Layout`].
#[derive(Clone, Debug)]
pub struct Gradients {
    layout: Arc<Layout>,
    values: Vec<f32>,
}

impl Gradients {
    /// Zeros for each parameter of a model.
    pub fn zeros_like(model: &Model) -> Self {
        let layout = model.shared_layout();
        Self { values: vec![0.0; layout.len()], layout }
    }

    /// Sets all to zero.
    pub fn zero(&mut self) {
        self.values.fill(0.0);
    }

    /// Multiplies all by a factor.
    pub fn scale(&mut self, factor: f32) {
        self.values.par_chunks_mut(CHUNK).for_each(|values| kernels::scale(values, factor));
    }

    /// Root of the sum of all squares.
    pub fn global_norm(&self) -> f64 {
        let sums: Vec<f64> = self.values.par_chunks(CHUNK).map(kernels::sum_of_squares).collect();
        sums.iter().sum::<f64>().sqrt()
    }

    /// Whether no number is infinite or NaN.
    pub fn is_finite(&self) -> bool {
        self.global_norm().is_finite()
    }

    /// All gradients, flat.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All gradients, flat.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The gradients of one tensor, by its Hugging Face name.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let tensor = self.layout.tensors().iter().find(|tensor| tensor.name == name)?;
        Some(&self.values[tensor.range.clone()])
    }

    pub(super) fn check(&self, model: &Model) -> Result<(), ModelError> {
        if *self.layout == *model.layout() {
            return Ok(());
        }
        let expected = format!("those of a model with {} parameters of the same shapes", model.layout().len());
        Err(ModelError::Size { what: "gradients", found: self.values.len(), expected })
    }
}
