//! Attention composed of candle's operations, by blocks of queries and keys: scores exist for one pair of blocks at a time.
//!
//! The forward pass keeps the highest score and the sum of exponentials of each query while it goes over the keys (online
//! soft-max, arXiv 2205.14135). Query heads that share a key head stand below each other as rows of one product.

use candle_core::{D, Result, Tensor};

use super::{
    super::positions::Positions,
    {BLOCK, scale},
};
use crate::model::{Precision, shape::Shape};

/// Rotated queries and keys, and values, in the type of the products; one tensor for each block of positions.
#[derive(Debug)]
pub(in super::super) struct Heads {
    /// Divided by the root of the width of a head, `[batch * key_value_heads, group * rows, head_dim]`.
    queries: Vec<Tensor>,
    /// `[batch * key_value_heads, rows, head_dim]`, as are the values.
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
}

/// What attention gives, block by block.
#[derive(Debug)]
pub(in super::super) struct Attended {
    /// `[batch * key_value_heads, group * rows, head_dim]`.
    outputs: Vec<Tensor>,
    /// Logarithm of the sum of exponentials of each query's scores, `[batch * key_value_heads, group * rows, 1]`.
    log_sums: Vec<Tensor>,
}

impl Heads {
    /// From rows of queries, keys and values, `[batch * length, projected]`.
    pub(super) fn new(shape: &Shape, positions: &Positions, precision: Precision, projected: &Tensor) -> Result<Self> {
        let (heads, shared) = (shape.heads, shape.key_value_heads);
        let all =
            projected.reshape((shape.batch, shape.length, heads + 2 * shared, shape.head_dim))?.transpose(1, 2)?;
        let rotated = positions.rotate(&all.narrow(1, 0, heads + shared)?)?;
        let queries = (rotated.narrow(1, 0, heads)? * scale(shape))?;
        let dtype = precision.dtype();
        Ok(Self {
            queries: blocks(shape, &queries.to_dtype(dtype)?)?,
            keys: blocks(shape, &rotated.narrow(1, heads, shared)?.to_dtype(dtype)?)?,
            values: blocks(shape, &all.narrow(1, heads + shared, shared)?.to_dtype(dtype)?)?,
        })
    }

    /// The scores of a block of queries at a block of keys, minus infinity where a query must not look,
    /// `[batch * key_value_heads, group * rows, keys]`.
    fn scores(&self, positions: &Positions, precision: Precision, query: usize, key: usize) -> Result<Tensor> {
        let scores = precision.product(&self.queries[query], &self.keys[key].transpose(1, 2)?)?;
        let (count, rows, keys) = scores.dims3()?;
        match positions.mask(keys) {
            Some(mask) if query == key => {
                let scores = scores.reshape((count, rows / keys, keys, keys))?;
                scores.broadcast_add(mask)?.reshape((count, rows, keys))
            }
            _ => Ok(scores),
        }
    }

    /// Attention of each query to all keys up to its own.
    pub(super) fn attend(&self, positions: &Positions, precision: Precision) -> Result<Attended> {
        let mut attended = Attended { outputs: Vec::new(), log_sums: Vec::new() };
        for query in 0..self.queries.len() {
            // The query's own block comes first: it has a key for every query, so the highest score is finite at once.
            let scores = self.scores(positions, precision, query, query)?;
            let mut highest = scores.max_keepdim(D::Minus1)?;
            let probabilities = scores.broadcast_sub(&highest)?.exp()?;
            let mut sum = probabilities.sum_keepdim(D::Minus1)?;
            let mut output = precision.product(&probabilities, &self.values[query])?;
            for key in 0..query {
                let scores = self.scores(positions, precision, query, key)?;
                let higher = highest.maximum(&scores.max_keepdim(D::Minus1)?)?;
                let shrink = (highest - &higher)?.exp()?;
                let probabilities = scores.broadcast_sub(&higher)?.exp()?;
                sum = ((sum * &shrink)? + probabilities.sum_keepdim(D::Minus1)?)?;
                let added = precision.product(&probabilities, &self.values[key])?;
                output = (output.broadcast_mul(&shrink)? + added)?;
                highest = higher;
            }
            attended.outputs.push(output.broadcast_div(&sum)?);
            attended.log_sums.push((highest + sum.log()?)?);
        }
        Ok(attended)
    }

    /// Writes keys and values of the one sequence to the first positions of these, `[key_value_heads, capacity, head_dim]`.
    pub(super) fn copy_to(&self, [keys, values]: &[Tensor; 2]) -> Result<()> {
        for (to, blocks) in [(keys, &self.keys), (values, &self.values)] {
            for (number, block) in blocks.iter().enumerate() {
                to.slice_set(block, 1, number * BLOCK)?;
            }
        }
        Ok(())
    }

    /// From the gradient of the outputs to that of the rows of queries, keys and values, `[batch * length, projected]`:
    /// probabilities are computed again from the kept sums. Each sum goes over the blocks in their order.
    pub(super) fn backward(
        &self,
        shape: &Shape,
        positions: &Positions,
        precision: Precision,
        attended: &Attended,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        let gradient = gradient.reshape((shape.batch, shape.length, shape.heads, shape.head_dim))?.transpose(1, 2)?;
        let outputs = blocks(shape, &gradient)?;
        let count = self.queries.len();
        let (mut queries, mut keys, mut values) = (vec![None; count], vec![None; count], vec![None; count]);
        for (query, output) in outputs.iter().enumerate() {
            // gradient . output of each query, which is that of its probabilities too
            let delta = (output * &attended.outputs[query])?.sum_keepdim(D::Minus1)?;
            let output = output.to_dtype(precision.dtype())?;
            for key in 0..=query {
                let scores = self.scores(positions, precision, query, key)?;
                let probabilities = scores.broadcast_sub(&attended.log_sums[query])?.exp()?;
                let product = precision.product(&probabilities.transpose(1, 2)?, &output)?;
                add(&mut values[key], product)?;
                let inner = precision.product(&output, &self.values[key].transpose(1, 2)?)?;
                let inner = (probabilities * inner.broadcast_sub(&delta)?)?;
                add(&mut keys[key], precision.product(&inner.transpose(1, 2)?, &self.queries[query])?)?;
                add(&mut queries[query], precision.product(&inner, &self.keys[key])?)?;
            }
        }
        let heads = |blocks: Vec<Option<Tensor>>, heads| {
            joined(shape, heads, &blocks.into_iter().flatten().collect::<Vec<_>>())
        };
        let queries = (heads(queries, shape.heads)? * scale(shape))?;
        let rotated = Tensor::cat(&[queries, heads(keys, shape.key_value_heads)?], 1)?;
        let values = heads(values, shape.key_value_heads)?;
        rows(shape, &Tensor::cat(&[positions.rotate_back(&rotated)?, values], 1)?)
    }
}

fn add(sum: &mut Option<Tensor>, product: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(before) => (before + product)?,
        None => product,
    });
    Ok(())
}

/// Cuts `[batch, heads, length, head_dim]` into blocks `[batch * key_value_heads, heads / key_value_heads * rows,
/// head_dim]`.
fn blocks(shape: &Shape, heads: &Tensor) -> Result<Vec<Tensor>> {
    let cut = |first: usize| {
        let rows = BLOCK.min(shape.length - first);
        heads.narrow(2, first, rows)?.contiguous()?.reshape((shape.batch * shape.key_value_heads, (), shape.head_dim))
    };
    (0..shape.length).step_by(BLOCK).map(cut).collect()
}

/// Puts blocks of `heads` heads together again: `[batch, heads, length, head_dim]`.
fn joined(shape: &Shape, heads: usize, blocks: &[Tensor]) -> Result<Tensor> {
    let open = |block: &Tensor| block.reshape((shape.batch, heads, (), shape.head_dim));
    Tensor::cat(&blocks.iter().map(open).collect::<Result<Vec<_>>>()?, 2)
}

/// Brings heads `[batch, heads, length, head_dim]` into rows `[batch * length, heads * head_dim]`.
fn rows(shape: &Shape, heads: &Tensor) -> Result<Tensor> {
    heads.transpose(1, 2)?.contiguous()?.reshape((shape.rows(), ()))
}

impl Attended {
    /// The outputs as rows, `[batch * length, heads * head_dim]`.
    pub(super) fn rows(&self, shape: &Shape) -> Result<Tensor> {
        rows(shape, &joined(shape, shape.heads, &self.outputs)?)
    }
}
