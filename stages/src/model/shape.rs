//! Sizes of one call, and the fixed division of its rows into blocks.

use super::Config;

/// Rows (positions of one sequence) that go through a layer as one task. Results depend on it, so it is fixed.
pub(super) const BLOCK: usize = 64;

/// Sizes of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Sequences.
    pub(super) batch: usize,
    /// Tokens in each.
    pub(super) length: usize,
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocabulary: usize,
    pub(super) epsilon: f32,
}

/// One block of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) sequence: usize,
    /// Number of the block within its sequence.
    pub(super) block: usize,
    /// Position of its first row.
    pub(super) first: usize,
    /// Number of its rows.
    pub(super) rows: usize,
    /// Number of its first row among the rows of all sequences.
    pub(super) row: usize,
}

impl Shape {
    pub(super) fn new(config: &Config, batch: usize, length: usize) -> Self {
        Self {
            batch,
            length,
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            heads: config.heads,
            key_value_heads: config.key_value_heads,
            head_dim: config.head_dim,
            vocabulary: config.vocab_size,
            epsilon: config.rms_norm_eps as f32,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.batch * self.length
    }

    /// Blocks of one sequence.
    pub(super) fn blocks(&self) -> usize {
        self.length.div_ceil(BLOCK)
    }

    /// Query heads that share one key and value head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.key_value_heads
    }

    /// Width of all query heads together.
    pub(super) fn attended(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a row of queries, keys and values.
    pub(super) fn projected(&self) -> usize {
        (self.heads + 2 * self.key_value_heads) * self.head_dim
    }

    /// Column of the first key head in a row of queries, keys and values.
    pub(super) fn key_column(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Column of the first value head.
    pub(super) fn value_column(&self) -> usize {
        (self.heads + self.key_value_heads) * self.head_dim
    }

    /// Numbers in one block of transposed keys (or values): `[key_value_heads, head_dim, BLOCK]`.
    pub(super) fn transposed_block(&self) -> usize {
        self.key_value_heads * self.head_dim * BLOCK
    }

    /// All blocks, in the order of rows.
    pub(super) fn places(self) -> impl Iterator<Item = Place> {
        (0..self.batch).flat_map(move |sequence| {
            (0..self.blocks()).map(move |block| {
                let first = block * BLOCK;
                Place {
                    sequence,
                    block,
                    first,
                    rows: BLOCK.min(self.length - first),
                    row: sequence * self.length + first,
                }
            })
        })
    }

    /// The rows of each block in a buffer of `width` numbers a row.
    pub(super) fn split(self, buffer: &mut [f32], width: usize) -> impl Iterator<Item = &mut [f32]> {
        buffer.chunks_mut(self.length * width).flat_map(move |sequence| sequence.chunks_mut(BLOCK * width))
    }
}
