//! Sizes of one call, and the fixed division of its rows into blocks.

use super::{Architecture, Config, Dropout, linear::take};

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
    /// Width inside the feed-forward part, after the activation.
    pub(super) inner: usize,
    /// Width of what enters the activation: gate and up, or up alone.
    pub(super) raised: usize,
    /// Width of what a block keeps of the residual stream between its two parts: none in a parallel block.
    pub(super) middle: usize,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    pub(super) head_dim: usize,
    /// Numbers of each head that are rotated.
    pub(super) rotary_dim: usize,
    pub(super) vocabulary: usize,
    pub(super) epsilon: f32,
    /// In training alone.
    pub(super) dropout: Option<Dropout>,
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

impl Place {
    /// Its rows in a buffer of `width` numbers a row.
    pub(super) fn of(self, buffer: &[f32], width: usize) -> &[f32] {
        &buffer[self.row * width..][..self.rows * width]
    }

    /// Its angles in a table of `pairs` numbers for each position.
    pub(super) fn angles(self, table: &[f32], pairs: usize) -> &[f32] {
        &table[self.first * pairs..][..self.rows * pairs]
    }
}

impl Shape {
    pub(super) fn new(config: &Config, batch: usize, length: usize) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (raised, middle) = match config.architecture {
            Architecture::Llama { .. } => (2 * inner, hidden),
            Architecture::Phi => (inner, 0),
        };
        Self {
            batch,
            length,
            hidden,
            inner,
            raised,
            middle,
            heads: config.heads,
            key_value_heads: config.key_value_heads,
            head_dim: config.head_dim,
            rotary_dim: config.rotary_dim(),
            vocabulary: config.vocab_size,
            epsilon: config.norm_epsilon as f32,
            dropout: None,
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
    pub(super) fn split<T>(self, buffer: &mut [T], width: usize) -> impl Iterator<Item = &mut [T]> {
        let mut rest = buffer;
        self.places().map(move |place| take(&mut rest, place.rows * width))
    }
}
