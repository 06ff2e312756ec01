//! One block: `middle = x + attention(norm(x))`, `y = middle + down(silu(gate(n)) * up(n))` with `n = norm(middle)` in a
//! Llama; `y = x + attention(n) + down(gelu(up(n)))` with `n = norm(x)` in a Phi.

use candle_core::{Result, Tensor};

use super::{
    DeviceModel, activation,
    attention::{Attended, Heads},
    positions::Positions,
    structure::{Block, Feed, Linear},
};
use crate::model::shape::Shape;

/// What the backward pass of a block reads. All are rows but the first two.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) heads: Heads,
    pub(super) attended: Attended,
    pub(super) input: Tensor,
    /// Between attention and the gated unit; none in a parallel block.
    pub(super) middle: Option<Tensor>,
    /// What enters the activation: gate and up, or up alone.
    pub(super) raised: Tensor,
}

impl DeviceModel {
    /// `x * weight^T + bias` for `[rows, inputs]`.
    pub(super) fn apply(&self, linear: Linear, x: &Tensor) -> Result<Tensor> {
        let product = self.precision.product(x, &self.values[linear.weight].t()?)?;
        match linear.bias {
            Some(bias) => product.broadcast_add(&self.values[bias]),
            None => Ok(product),
        }
    }

    /// A block's output for its input, both `[batch * length, hidden]`, and what its backward pass reads.
    pub(super) fn block(
        &self,
        block: &Block,
        shape: &Shape,
        positions: &Positions,
        input: Tensor,
    ) -> Result<(Tensor, Saved)> {
        let normalized = self.normalize(block.norm, &input)?;
        let projected = self.apply(block.query_key_value, &normalized)?;
        let heads = Heads::new(shape, positions, self.precision, &projected)?;
        let attended = heads.attend(positions, self.precision)?;
        let rest = self.apply(block.output, &attended.rows(shape)?)?;
        let after = (&input + rest)?;
        let (output, middle, raised) = match block.feed {
            Feed::Llama { norm, gate_up, down } => {
                let raised = self.apply(gate_up, &self.normalize(norm, &after)?)?;
                let output = (&after + self.apply(down, &activation::gated(&raised)?)?)?;
                (output, Some(after), raised)
            }
            Feed::Phi { up, down } => {
                let raised = self.apply(up, &normalized)?;
                let output = (after + self.apply(down, &activation::gelu(&raised)?)?)?;
                (output, None, raised)
            }
        };
        Ok((output, Saved { heads, attended, input, middle, raised }))
    }
}
