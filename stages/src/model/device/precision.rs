//! In which numbers products are taken.

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// In which numbers matrix products are taken. Everything else (norms, soft-max, activations, sums, the residual stream,
/// losses, gradients, the optimizer) is f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// f32, without TF32.
    #[default]
    F32,
    /// Factors rounded to bf16, their products summed in f32, each result rounded to bf16: what PyTorch's autocast does.
    Bf16,
}

impl Precision {
    /// The type of the factors.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// `a * b` in f32 for `[m, k]` and `[k, n]`, or for as many of each: `[count, m, k]` and `[count, k, n]`.
    pub(super) fn product(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let factor = |tensor: &Tensor| packed(&tensor.to_dtype(self.dtype())?);
        factor(a)?.matmul(&factor(b)?)?.to_dtype(DType::F32)
    }
}

/// The tensor in a form that cuBLAS reads: rows, or columns, without gaps.
fn packed(tensor: &Tensor) -> Result<Tensor> {
    if tensor.is_contiguous() || tensor.transpose(tensor.rank() - 2, tensor.rank() - 1)?.is_contiguous() {
        return Ok(tensor.clone());
    }
    tensor.contiguous()
}
