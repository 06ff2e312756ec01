//! Keys and values of the positions that a sequence has so far.

use std::sync::Arc;

use super::super::{
    Model, ModelError,
    rope::RopeTables,
    shape::{BLOCK, Shape},
};

/// Keys and values of one sequence in all layers. It grows by pages of 64 positions, and what was written once is never
/// moved.
#[derive(Debug)]
pub struct Cache {
    /// The pages of each layer.
    pub(super) layers: Vec<Vec<Page>>,
    pub(super) length: usize,
    pub(super) capacity: usize,
    pub(super) tables: Arc<RopeTables>,
}

/// Rotated keys and values of [`BLOCK`] positions in one layer.
#[derive(Debug)]
pub(super) struct Page {
    /// `[key_value_heads, head_dim, BLOCK]`.
    pub(super) keys: Vec<f32>,
    /// `[key_value_heads, BLOCK, head_dim]`.
    pub(super) values: Vec<f32>,
}

impl Cache {
    /// Positions that are filled.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Most positions that it may come to hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions but the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        for pages in &mut self.layers {
            pages.truncate(self.length.div_ceil(BLOCK));
        }
    }

    /// Adds the pages that `count` more positions need.
    pub(super) fn reserve(&mut self, shape: &Shape, count: usize) {
        let pages = (self.length + count).div_ceil(BLOCK);
        let size = shape.key_value_heads * shape.head_dim * BLOCK;
        for layer in &mut self.layers {
            layer.resize_with(pages, || Page { keys: vec![0.0; size], values: vec![0.0; size] });
        }
    }
}

impl Model {
    /// An empty cache for a sequence that grows to `capacity` tokens at most.
    ///
    /// Where the angles of the rotary embedding depend on the length of a sequence (dynamic NTK, LongRoPE), `capacity` is
    /// taken for that length: all positions have the same frequencies then, those with which [`Model::score`] sees a
    /// sequence of `capacity` tokens. A longer sequence than [`super::super::Rope::longest`] is an error.
    pub fn cache(&self, capacity: usize) -> Result<Cache, ModelError> {
        self.config().check_length(capacity)?;
        let mut layers = Vec::new();
        layers.resize_with(self.config().layers, Vec::new);
        Ok(Cache { layers, length: 0, capacity, tables: self.tables(capacity) })
    }
}
