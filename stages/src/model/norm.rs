//! The two norms.

use std::ops::Range;

use super::kernels;

/// A norm over the rows of the residual stream, by the places of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Norm {
    /// RMSNorm.
    Rms { weight: Range<usize> },
    /// LayerNorm; its bias follows its weight.
    Layer { weight: Range<usize>, bias: Range<usize> },
}

impl Norm {
    /// The place of all its parameters.
    pub(super) fn range(&self) -> Range<usize> {
        match self {
            Self::Rms { weight } => weight.clone(),
            Self::Layer { weight, bias } => weight.start..bias.end,
        }
    }

    /// Normalizes rows; `input` and `output` are `[rows, width]`.
    pub(super) fn apply(&self, parameters: &[f32], epsilon: f32, input: &[f32], output: &mut [f32]) {
        match self {
            Self::Rms { weight } => kernels::normalize(input, &parameters[weight.clone()], epsilon, output),
            Self::Layer { weight, bias } => {
                let (weight, bias) = (&parameters[weight.clone()], &parameters[bias.clone()]);
                kernels::layer_normalize(input, weight, bias, epsilon, output);
            }
        }
    }

    /// Adds the gradients of the rows to `input_gradient` and those of the parameters, in their order, to
    /// `parameter_gradient`; writes the normalized rows again to `output`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward(
        &self,
        parameters: &[f32],
        epsilon: f32,
        input: &[f32],
        gradient: &[f32],
        input_gradient: &mut [f32],
        parameter_gradient: &mut [f32],
        output: &mut [f32],
    ) {
        match self {
            Self::Rms { weight } => {
                let weight = &parameters[weight.clone()];
                kernels::normalize_backward(
                    input,
                    weight,
                    epsilon,
                    gradient,
                    input_gradient,
                    parameter_gradient,
                    output,
                );
            }
            Self::Layer { weight, bias } => {
                let (weight_gradient, bias_gradient) = parameter_gradient.split_at_mut(weight.len());
                kernels::layer_normalize_backward(
                    input,
                    &parameters[weight.clone()],
                    &parameters[bias.clone()],
                    epsilon,
                    gradient,
                    input_gradient,
                    weight_gradient,
                    bias_gradient,
                    output,
                );
            }
        }
    }
}
