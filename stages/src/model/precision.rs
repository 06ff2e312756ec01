//! In which numbers matrix products are taken.

use serde::{Deserialize, Serialize};

use super::kernels::{Matrix, multiply, multiply_bf16};

/// In which numbers matrix products are taken. Everything else (norms, soft-max, activations, sums, the residual stream,
/// losses, gradients, parameters in training, the optimizer) is f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// f32, without TF32.
    #[default]
    F32,
    /// Factors rounded to bf16, their products summed in f32. On an accelerator each result is rounded to bf16 too, which is
    /// what PyTorch's autocast does; on the CPU it stays f32.
    Bf16,
}

impl Precision {
    /// `output = left * right` on the CPU, or added to what is in `output`; rows of `output` are `stride` apart. Each number
    /// is one chain, which depends on nothing but its factors.
    pub(super) fn multiply(
        self,
        output: &mut [f32],
        stride: usize,
        left: Matrix<'_>,
        right: Matrix<'_>,
        accumulate: bool,
    ) {
        match self {
            Self::F32 => multiply(output, stride, left, right, accumulate),
            Self::Bf16 => multiply_bf16(output, stride, left, right, accumulate),
        }
    }
}
