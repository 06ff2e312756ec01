//! One block: `middle = x + attention(norm(x))`, `y = middle + down(silu(gate(n)) * up(n))` with `n = norm(middle)` in a
//! Llama; `y = x + attention(n) + down(gelu(up(n)))` with `n = norm(x)` in a Phi.

use candle_core::{Result, Tensor};

use super::{
    DeviceModel, activation,
    attention::{Attended, Heads},
    positions::Positions,
    precision::{converted, sum},
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

/// A block's output, and what its backward pass reads of the way there, as in [`Saved`].
pub(super) struct AfterAttention {
    pub(super) output: Tensor,
    middle: Option<Tensor>,
    raised: Tensor,
}

impl DeviceModel {
    /// `x * weight^T + bias` for `[rows, inputs]`, and what an adapter adds, in the type of rows.
    pub(super) fn apply(&self, linear: Linear, x: &Tensor) -> Result<Tensor> {
        let weight = self.values[linear.weight].t()?;
        let product = match linear.bias {
            None => self.precision.row_product(x, &weight)?,
            Some(bias) => {
                let sum = self.precision.product(x, &weight)?.broadcast_add(&self.values[bias])?;
                converted(&sum, self.precision.row_dtype(&self.device))?
            }
        };
        match &self.adapter {
            Some(adapter) => adapter.add_to(linear.weight, self.precision, x, product),
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
        let attended = heads.attend(shape, positions, self.precision)?;
        let AfterAttention { output, middle, raised } =
            self.after_attention(block, &input, &normalized, &attended.rows(shape)?)?;
        Ok((output, Saved { heads, attended, input, middle, raised }))
    }

    /// The rest of a block, for its input, the normalized input and what attention gave, all rows.
    pub(super) fn after_attention(
        &self,
        block: &Block,
        input: &Tensor,
        normalized: &Tensor,
        attended: &Tensor,
    ) -> Result<AfterAttention> {
        let after = sum(input, &self.apply(block.output, attended)?)?;
        match block.feed {
            Feed::Llama { norm, gate_up, down } => {
                let raised = self.apply(gate_up, &self.normalize(norm, &after)?)?;
                let output = sum(&after, &self.apply(down, &activation::gated(&raised)?)?)?;
                Ok(AfterAttention { output, middle: Some(after), raised })
            }
            Feed::Phi { up, down } => {
                let raised = self.apply(up, normalized)?;
                let output = sum(&after, &self.apply(down, &activation::gelu(&raised)?)?)?;
                Ok(AfterAttention { output, middle: None, raised })
            }
        }
    }
}
