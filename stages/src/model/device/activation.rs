//! The units of the feed-forward part: `silu(gate) * up` (SwiGLU, arXiv 2002.05202) and GELU by tanh (arXiv 1606.08415).

use candle_core::{DType, Result, Tensor};
use candle_nn::ops;

#[cfg(feature = "cuda")]
use super::cuda::rows;
use super::precision::converted;

/// Whether rows of gate and up are such as the kernels read.
#[cfg(feature = "cuda")]
fn is_for_kernels(gate_up: &Tensor) -> bool {
    gate_up.dtype() == DType::BF16 && gate_up.dims().last().is_some_and(|width| rows::knows_gated(*width))
}

/// `[rows, 2 * width]`, gate first, to `[rows, width]`, of the same type.
pub(super) fn gated(gate_up: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if is_for_kernels(gate_up) {
        return rows::gated(gate_up);
    }
    let dtype = gate_up.dtype();
    let gate_up = converted(gate_up, DType::F32)?;
    let width = gate_up.dim(1)? / 2;
    let up = gate_up.narrow(1, width, width)?;
    converted(&(gate_up.narrow(1, 0, width)?.silu()? * up)?, dtype)
}

/// `gelu_new`, of the same shape.
pub(super) fn gelu(x: &Tensor) -> Result<Tensor> {
    converted(&converted(x, DType::F32)?.gelu()?, x.dtype())
}

/// From the gradient of [`gated`]'s output to that of its input.
pub(super) fn gated_backward(gate_up: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if is_for_kernels(gate_up) {
        return rows::gated_backward(gate_up, &gradient.contiguous()?);
    }
    let dtype = gate_up.dtype();
    let (gate_up, gradient) = (converted(gate_up, DType::F32)?, converted(gradient, DType::F32)?);
    let width = gate_up.dim(1)? / 2;
    let (gate, up) = (gate_up.narrow(1, 0, width)?.contiguous()?, gate_up.narrow(1, width, width)?);
    let sigmoid = ops::sigmoid(&gate)?;
    let silu = (&gate * &sigmoid)?;
    // sigmoid * (1 + gate * (1 - sigmoid))
    let slope = (&sigmoid + (&silu - (&silu * &sigmoid)?)?)?;
    converted(&Tensor::cat(&[((&gradient * up)? * slope)?, (gradient * silu)?], 1)?, dtype)
}

/// From the gradient of [`gelu`]'s output to that of its input: as `(1 + tanh(u)) / 2` is `sigmoid(2 u)`, GELU is
/// `x * sigmoid(2 u)` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)`.
pub(super) fn gelu_backward(x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    const CUBE: f64 = 0.044715;
    let dtype = x.dtype();
    let (x, gradient) = (&converted(x, DType::F32)?, &converted(gradient, DType::F32)?);
    let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let square = x.sqr()?;
    let sigmoid = ops::sigmoid(&(x * square.affine(twice * CUBE, twice)?)?)?;
    let inner = (x * square.affine(3.0 * twice * CUBE, twice)?)?;
    let slope = (&sigmoid + (inner * (&sigmoid - sigmoid.sqr()?)?)?)?;
    converted(&(gradient * slope)?, dtype)
}
