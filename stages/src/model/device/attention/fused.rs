//! Attention by kernels of our own: rows stay rows, and no scores leave the device's processors.

use candle_core::{Result, Tensor};

use super::super::{
    cuda::{attention, rows},
    positions::Positions,
};
use crate::model::shape::Shape;

/// Rotated queries and keys, and values, rows in bf16.
#[derive(Debug)]
pub(in super::super) struct Heads {
    /// `[batch * length, (heads + key_value_heads) * head_dim]`.
    both: Tensor,
    /// `[batch * length, key_value_heads * head_dim]`.
    values: Tensor,
}

/// What attention gives.
#[derive(Debug)]
pub(in super::super) struct Attended {
    /// `[batch * length, heads * head_dim]`, bf16.
    pub(super) rows: Tensor,
    /// Logarithm of the sum of exponentials of each query's scores, `[batch, heads, length]`.
    log_sums: Tensor,
}

impl Heads {
    pub(super) fn new(shape: &Shape, positions: &Positions, projected: &Tensor) -> Result<Self> {
        let [both, values] = rows::rotate_and_split(shape, projected, positions.tables())?;
        Ok(Self { both, values })
    }

    pub(super) fn attend(&self, shape: &Shape) -> Result<Attended> {
        let [rows, log_sums] = attention::forward(shape, &self.both, &self.values)?;
        Ok(Attended { rows, log_sums })
    }

    /// See [`super::Heads::copy_to`].
    pub(super) fn copy_to(&self, shape: &Shape, [keys, values]: &[Tensor; 2]) -> Result<()> {
        let own = self.both.narrow(1, shape.attended(), shape.key_value_heads * shape.head_dim)?;
        for (to, from) in [(keys, &own), (values, &self.values)] {
            let heads = from.reshape((shape.length, shape.key_value_heads, shape.head_dim))?;
            to.slice_set(&heads.transpose(0, 1)?.contiguous()?, 1, 0)?;
        }
        Ok(())
    }

    pub(super) fn backward(
        &self,
        shape: &Shape,
        positions: &Positions,
        attended: &Attended,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        let deltas = rows::deltas(shape, &attended.rows, gradient)?;
        let factors = [&self.both, &self.values];
        let [queries, keys, values] = attention::backward(shape, factors, gradient, &attended.log_sums, &deltas)?;
        rows::rotate_back_and_join(shape, [&queries, &keys, &values], positions.tables())
    }
}
