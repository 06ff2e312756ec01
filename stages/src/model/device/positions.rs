//! What depends on the positions in a sequence alone: angles, and which keys a query may see.

use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb;

use super::attention::BLOCK;
use crate::model::Config;

/// Tables for sequences of one length.
#[derive(Debug)]
pub(super) struct Positions {
    pub(super) length: usize,
    rotary_dim: usize,
    /// `[length, rotary_dim / 2]`, as are the others.
    cos: Tensor,
    sin: Tensor,
    /// Of the opposite angles: the transposed rotation, which gradients go through.
    opposite_sin: Tensor,
    /// 0 where a query (row) may see a key (column) and minus infinity where not, `[rows, rows]`: for whole blocks, and for
    /// the rest of the sequence.
    masks: [Option<Tensor>; 2],
}

impl Positions {
    pub(super) fn new(config: &Config, length: usize, device: &Device) -> Result<Self> {
        let rotary_dim = config.rotary_dim();
        let tables = config.rope.tables(rotary_dim, length);
        let table = |values: Vec<f32>| Tensor::from_vec(values, (length, rotary_dim / 2), device);
        let sin = table(tables.sin)?;
        let mask = |rows: usize| (rows > 0).then(|| mask(rows, device)).transpose();
        Ok(Self {
            length,
            rotary_dim,
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
        self.rotate_by(heads, &self.sin)
    }

    /// The same by the opposite angles.
    pub(super) fn rotate_back(&self, heads: &Tensor) -> Result<Tensor> {
        self.rotate_by(heads, &self.opposite_sin)
    }

    fn rotate_by(&self, heads: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let width = heads.dim(3)?;
        if width == self.rotary_dim {
            return rotary_emb::rope(&heads.contiguous()?, &self.cos, sin);
        }
        let rotated = heads.narrow(3, 0, self.rotary_dim)?.contiguous()?;
        let rest = heads.narrow(3, self.rotary_dim, width - self.rotary_dim)?;
        Tensor::cat(&[rotary_emb::rope(&rotated, &self.cos, sin)?, rest], 3)
    }
}

fn mask(rows: usize, device: &Device) -> Result<Tensor> {
    let sees = |index: usize| if index % rows > index / rows { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_vec((0..rows * rows).map(sees).collect(), (rows, rows), device)
}
