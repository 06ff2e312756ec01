//! What depends on the positions in a sequence alone: angles, and which keys a query may see.

use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb;

use super::attention::BLOCK;
use crate::model::Config;

/// Tables for sequences of one length, and for those that grow to more.
#[derive(Debug)]
pub(super) struct Positions {
    pub(super) length: usize,
    /// Positions that have angles.
    pub(super) capacity: usize,
    /// `[capacity, rotary_dim / 2]`, as are the others.
    cos: Tensor,
    sin: Tensor,
    /// Of the opposite angles: the transposed rotation, which gradients go through.
    opposite_sin: Tensor,
    /// 0 where a query (row) may see a key (column) and minus infinity where not, `[rows, rows]`: for whole blocks, and for
    /// the rest of the sequence.
    masks: [Option<Tensor>; 2],
}

impl Positions {
    pub(super) fn new(config: &Config, length: usize, capacity: usize, device: &Device) -> Result<Self> {
        let rotary_dim = config.rotary_dim();
        let tables = config.rope.tables(rotary_dim, capacity);
        let table = |values: Vec<f32>| Tensor::from_vec(values, (capacity, rotary_dim / 2), device);
        let sin = table(tables.sin)?;
        let mask = |rows: usize| (rows > 0).then(|| mask(rows, device)).transpose();
        Ok(Self {
            length,
            capacity,
            cos: table(tables.cos)?,
            opposite_sin: sin.neg()?,
            sin,
            masks: [mask(if length >= BLOCK { BLOCK } else { 0 })?, mask(length % BLOCK)?],
        })
    }

    /// The mask of the block of queries that has so many rows, on the keys of the same positions.
    pub(super) fn mask(&self, rows: usize) -> Option<&Tensor> {
        self.masks[usize::from(rows != BLOCK)].as_ref()
    }

    /// Rotates the first numbers of each head by the position: `heads` is `[batch, heads, length, head_dim]`.
    pub(super) fn rotate(&self, heads: &Tensor) -> Result<Tensor> {
        rotate(heads, &self.cos, &self.sin)
    }

    /// Cosines and sines of all positions, `[capacity, rotary_dim / 2]` each.
    #[cfg(feature = "cuda")]
    pub(super) fn tables(&self) -> [&Tensor; 2] {
        [&self.cos, &self.sin]
    }

    /// Cosines and sines of one position, `[1, rotary_dim / 2]` each.
    pub(super) fn angles(&self, position: usize) -> Result<[Tensor; 2]> {
        Ok([self.cos.narrow(0, position, 1)?, self.sin.narrow(0, position, 1)?])
    }

    /// The same by the opposite angles.
    pub(super) fn rotate_back(&self, heads: &Tensor) -> Result<Tensor> {
        rotate(heads, &self.cos, &self.opposite_sin)
    }
}

/// Rotates heads `[batch, heads, length, head_dim]` by angles `[length or more, rotary_dim / 2]`, row by row.
pub(super) fn rotate(heads: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (width, rotary_dim) = (heads.dim(3)?, 2 * cos.dim(1)?);
    if width == rotary_dim {
        return rotary_emb::rope(&heads.contiguous()?, cos, sin);
    }
    let rotated = heads.narrow(3, 0, rotary_dim)?.contiguous()?;
    let rest = heads.narrow(3, rotary_dim, width - rotary_dim)?;
    Tensor::cat(&[rotary_emb::rope(&rotated, cos, sin)?, rest], 3)
}

fn mask(rows: usize, device: &Device) -> Result<Tensor> {
    let sees = |index: usize| if index % rows > index / rows { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_vec((0..rows * rows).map(sees).collect(), (rows, rows), device)
}
