//! Products on a device.

use crate::model::Precision;
use candle_core::{DType, Result, Tensor};

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
