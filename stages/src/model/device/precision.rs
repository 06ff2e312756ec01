//! Products on a device, and the type of the rows between them.

use candle_core::{DType, Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda::rows;
use crate::model::Precision;

impl Precision {
    /// The type of the factors.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            // A device has its own order of sums; another one is refused.
            Self::Bf16 | Self::Bf16Amx => DType::BF16,
        }
    }

    /// The type of the rows between products: that of the factors where kernels of our own read and write them, else f32.
    /// The residual stream is f32 in any case.
    pub(super) fn row_dtype(self, device: &Device) -> DType {
        if cfg!(feature = "cuda") && device.is_cuda() { self.dtype() } else { DType::F32 }
    }

    /// `a * b` in f32 for `[m, k]` and `[k, n]`, or for as many of each: `[count, m, k]` and `[count, k, n]`.
    pub(super) fn product(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        converted(&self.factors_product(a, b)?, DType::F32)
    }

    /// The same in the type of rows.
    pub(super) fn row_product(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        converted(&self.factors_product(a, b)?, self.row_dtype(a.device()))
    }

    /// The same as the products are written: in the type of the factors.
    pub(super) fn factors_product(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let factor = |tensor: &Tensor| packed(&converted(tensor, self.dtype())?);
        factor(a)?.matmul(&factor(b)?)
    }
}

/// The tensor in another type, by a kernel of our own where there is one: candle's takes several times as long.
pub(super) fn converted(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if tensor.device().is_cuda() && tensor.is_contiguous() {
        match (tensor.dtype(), dtype) {
            (DType::BF16, DType::F32) => return rows::widen(tensor),
            (DType::F32, DType::BF16) => return rows::narrow(tensor),
            _ => (),
        }
    }
    tensor.to_dtype(dtype)
}

/// A sum in f32, such as the residual stream or a gradient, with what is added to it, in any type.
pub(super) fn sum(before: &Tensor, added: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if added.device().is_cuda() && added.dtype() == DType::BF16 {
        return rows::add(before, &added.contiguous()?);
    }
    before + added.to_dtype(DType::F32)?
}

/// The tensor in a form that cuBLAS reads: matrices of rows, or of columns, without gaps inside. Between matrices there may
/// be some, as in a cache that is not full.
fn packed(tensor: &Tensor) -> Result<Tensor> {
    let [.., rows, columns] = *tensor.dims() else { candle_core::bail!("a factor that is no matrix") };
    let [.., row, column] = *tensor.stride() else { candle_core::bail!("a factor that is no matrix") };
    if tensor.rank() <= 3 && [(columns, 1), (1, rows)].contains(&(row, column)) {
        return Ok(tensor.clone());
    }
    tensor.contiguous()
}
