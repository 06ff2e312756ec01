//! The units of the feed-forward part: `silu(gate) * up` (SwiGLU, arXiv 2002.05202) and GELU by tanh (arXiv 1606.08415).

use candle_core::{Result, Tensor};
use candle_nn::ops;

/// `[rows, 2 * width]`, gate first, to `[rows, width]`.
pub(super) fn gated(gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(1)? / 2;
    let up = gate_up.narrow(1, width, width)?;
    gate_up.narrow(1, 0, width)?.silu()? * up
}

/// `gelu_new`, of the same shape.
pub(super) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}

/// From the gradient of [`gated`]'s output to that of its input.
pub(super) fn gated_backward(gate_up: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(1)? / 2;
    let (gate, up) = (gate_up.narrow(1, 0, width)?.contiguous()?, gate_up.narrow(1, width, width)?);
    let sigmoid = ops::sigmoid(&gate)?;
    let silu = (&gate * &sigmoid)?;
    // sigmoid * (1 + gate * (1 - sigmoid))
    let slope = (&sigmoid + (&silu - (&silu * &sigmoid)?)?)?;
    Tensor::cat(&[((gradient * up)? * slope)?, (gradient * silu)?], 1)
}

/// From the gradient of [`gelu`]'s output to that of its input: as `(1 + tanh(u)) / 2` is `sigmoid(2 u)`, GELU is
/// `x * sigmoid(2 u)` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)`.
pub(super) fn gelu_backward(x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    const CUBE: f64 = 0.044715;
    let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let square = x.sqr()?;
    let sigmoid = ops::sigmoid(&(x * square.affine(twice * CUBE, twice)?)?)?;
    let inner = (x * square.affine(3.0 * twice * CUBE, twice)?)?;
    let slope = (&sigmoid + (inner * (&sigmoid - sigmoid.sqr()?)?)?)?;
    gradient * slope
}
