//! Gradients of all parameters that are trained.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Model, ModelError, Tensor, kernels};

/// Numbers summed as one; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// One gradient for each trained parameter of a model, f32: in the order of its [`super::Layout`], or of its adapter if it
/// has one.
#[derive(Clone, Debug)]
pub struct Gradients {
    tensors: Arc<[Tensor]>,
    values: Vec<f32>,
}

impl Gradients {
    /// Zeros for each trained parameter of a model.
    pub fn zeros_like(model: &Model) -> Self {
        let tensors = model.trained();
        Self { values: vec![0.0; numbers(&tensors)], tensors }
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

    /// The gradients of one tensor, by its Hugging Face or PEFT name.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name)?;
        Some(&self.values[tensor.range.clone()])
    }

    pub(super) fn check(&self, model: &Model) -> Result<(), ModelError> {
        let trained = model.trained();
        if self.tensors == trained {
            return Ok(());
        }
        let expected = format!("those of a model with {} trained parameters of the same shapes", numbers(&trained));
        Err(ModelError::Size { what: "gradients", found: self.values.len(), expected })
    }
}

/// Numbers in all tensors of a flat buffer.
pub(super) fn numbers(tensors: &[Tensor]) -> usize {
    tensors.last().map_or(0, |tensor| tensor.range.end)
}
