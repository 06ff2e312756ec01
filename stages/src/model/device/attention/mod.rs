//! Causal attention: composed of candle's operations on every device, or by kernels of our own where rows come in bf16.
//!
//! Both have the same formulas, and neither ever has scores of all queries at all keys. Which one computes is decided by
//! the device, the precision and the width of a head alone, all of which are in the key.

mod composed;
#[cfg(feature = "cuda")]
mod fused;

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::positions::Positions;
use crate::model::{Precision, shape::Shape};

/// Most queries, and keys, of a block where attention is composed. Results depend on it, so it is fixed.
pub(super) const BLOCK: usize = 512;

/// Rotated queries and keys, and values, in the type of the products.
#[derive(Debug)]
pub(super) enum Heads {
    Composed(composed::Heads),
    #[cfg(feature = "cuda")]
    Fused(fused::Heads),
}

/// What attention gives, and what its backward pass needs besides.
#[derive(Debug)]
pub(super) enum Attended {
    Composed(composed::Attended),
    #[cfg(feature = "cuda")]
    Fused(fused::Attended),
}

impl Heads {
    /// From rows of queries, keys and values, `[batch * length, projected]`; in bf16 for the kernels.
    pub(super) fn new(shape: &Shape, positions: &Positions, precision: Precision, projected: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if projected.dtype() == DType::BF16 && cuda::attention::knows(shape.head_dim) {
            return Ok(Self::Fused(fused::Heads::new(shape, positions, projected)?));
        }
        let projected = projected.to_dtype(DType::F32)?;
        Ok(Self::Composed(composed::Heads::new(shape, positions, precision, &projected)?))
    }

    /// Attention of each query to all keys up to its own.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub(super) fn attend(&self, shape: &Shape, positions: &Positions, precision: Precision) -> Result<Attended> {
        match self {
            Self::Composed(heads) => Ok(Attended::Composed(heads.attend(positions, precision)?)),
            #[cfg(feature = "cuda")]
            Self::Fused(heads) => Ok(Attended::Fused(heads.attend(shape)?)),
        }
    }

    /// Writes keys and values of the one sequence to the first positions of these, `[key_value_heads, capacity, head_dim]`.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub(super) fn copy_to(&self, shape: &Shape, rooms: &[Tensor; 2]) -> Result<()> {
        match self {
            Self::Composed(heads) => heads.copy_to(rooms),
            #[cfg(feature = "cuda")]
            Self::Fused(heads) => heads.copy_to(shape, rooms),
        }
    }

    /// From the gradient of the outputs, `[batch * length, heads * head_dim]`, to that of the rows of queries, keys and
    /// values, `[batch * length, projected]`: probabilities are computed again from the kept sums.
    pub(super) fn backward(
        &self,
        shape: &Shape,
        positions: &Positions,
        precision: Precision,
        attended: &Attended,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        match (self, attended) {
            (Self::Composed(heads), Attended::Composed(attended)) => {
                heads.backward(shape, positions, precision, attended, &gradient.to_dtype(DType::F32)?)
            }
            #[cfg(feature = "cuda")]
            (Self::Fused(heads), Attended::Fused(attended)) => heads.backward(shape, positions, attended, gradient),
            #[cfg(feature = "cuda")]
            _ => candle_core::bail!("attention that was computed in another way"),
        }
    }
}

impl Attended {
    /// The outputs as rows, `[batch * length, heads * head_dim]`.
    pub(super) fn rows(&self, shape: &Shape) -> Result<Tensor> {
        match self {
            Self::Composed(attended) => attended.rows(shape),
            #[cfg(feature = "cuda")]
            Self::Fused(attended) => Ok(attended.rows.clone()),
        }
    }
}

/// Attention of single queries, `[key_value_heads, group, head_dim]`, to all keys `[key_value_heads, keys, head_dim]` and
/// their values, as many; the queries are divided by the root of the width of a head already.
pub(super) fn attend_one(precision: Precision, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let scores = precision.product(queries, &keys.transpose(1, 2)?)?;
    let probabilities = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let sum = probabilities.sum_keepdim(D::Minus1)?;
    precision.product(&probabilities, values)?.broadcast_div(&sum)
}

/// What scores are multiplied with.
pub(super) fn scale(shape: &Shape) -> f64 {
    1.0 / (shape.head_dim as f64).sqrt()
}
