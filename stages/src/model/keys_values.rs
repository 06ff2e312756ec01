//! Keys and values of a layer in the form in which attention's products read them, by blocks of positions.
//!
//! For f32 that is the transpose of both, and the rows of queries, keys and values themselves. For bf16 it is both and both
//! transposed, rounded and packed: each block of keys is read by all queries after it.

use std::ops::Range;

use super::{
    Precision,
    kernels::{self, Matrix, PANEL, PackedColumns, Right, as_pairs, pack_columns, pairs},
    shape::{BLOCK, Shape},
    workspace::State,
};

/// Numbers, or pairs, of one block of keys, and as many of one of values.
pub(super) fn block_len(shape: &Shape, precision: Precision) -> usize {
    shape.key_value_heads
        * match precision {
            Precision::F32 => shape.head_dim * BLOCK,
            Precision::Bf16 | Precision::Bf16Amx => transposed_len(shape) + rows_len(shape),
        }
}

/// Pairs of one head's transposed block, then of its block of rows.
fn transposed_len(shape: &Shape) -> usize {
    PackedColumns::len(shape.head_dim, BLOCK)
}

fn rows_len(shape: &Shape) -> usize {
    PackedColumns::len(BLOCK, shape.head_dim)
}

/// Between panels of a block of rows.
const PANEL_STRIDE: usize = BLOCK / 2 * PANEL;

/// Writes a block of keys and one of values from rows of queries, keys and values.
pub(super) fn write(shape: &Shape, precision: Precision, projected: &[f32], keys: &mut [f32], values: &mut [f32]) {
    let (width, head_dim) = (shape.projected(), shape.head_dim);
    let rows = projected.len() / width;
    for (target, column) in [(keys, shape.key_column()), (values, shape.value_column())] {
        let source = &projected[column..];
        if !precision.is_bf16() {
            kernels::transpose(source, width, rows, shape.key_value_heads * head_dim, target, BLOCK);
            continue;
        }
        let (transposed, of_rows) = as_pairs(target).split_at_mut(shape.key_value_heads * transposed_len(shape));
        let heads = transposed.chunks_exact_mut(transposed_len(shape)).zip(of_rows.chunks_exact_mut(rows_len(shape)));
        for (head, (transposed, of_rows)) in heads.enumerate() {
            let matrix = Matrix::new(&source[head * head_dim..], rows, head_dim, width);
            pack_columns(matrix.transposed(), transposed, head_dim.div_ceil(2) * PANEL);
            pack_columns(matrix, of_rows, PANEL_STRIDE);
        }
    }
}

/// Keys and values of one head in one sequence.
#[derive(Clone, Copy)]
pub(super) struct KeysValues<'a> {
    shape: &'a Shape,
    precision: Precision,
    head: usize,
    /// Rows of queries, keys and values of the sequence.
    rows: &'a [f32],
    /// Its blocks.
    keys: &'a [f32],
    values: &'a [f32],
}

impl<'a> KeysValues<'a> {
    pub(super) fn new(shape: &'a Shape, precision: Precision, state: &'a State, sequence: usize, head: usize) -> Self {
        let rows = &state.projected[sequence * shape.length * shape.projected()..];
        let start = sequence * shape.blocks() * block_len(shape, precision);
        Self { shape, precision, head, rows, keys: &state.keys[start..], values: &state.values[start..] }
    }

    /// `[head_dim, positions]` of keys for so many positions, or fewer, from the first one on, which begins a block.
    pub(super) fn keys_transposed(&self, positions: Range<usize>) -> Right<'a> {
        self.transposed(self.keys, positions)
    }

    /// The same of values.
    pub(super) fn values_transposed(&self, positions: Range<usize>) -> Right<'a> {
        self.transposed(self.values, positions)
    }

    /// `[positions, head_dim]` of keys for these positions, the first of which begins a block.
    pub(super) fn keys(&self, positions: Range<usize>) -> Right<'a> {
        self.in_rows(self.keys, self.shape.key_column(), positions)
    }

    /// The same of values.
    pub(super) fn values(&self, positions: Range<usize>) -> Right<'a> {
        self.in_rows(self.values, self.shape.value_column(), positions)
    }

    fn transposed(&self, blocks: &'a [f32], positions: Range<usize>) -> Right<'a> {
        let (head_dim, apart) = (self.shape.head_dim, block_len(self.shape, self.precision));
        let blocks = &blocks[positions.start / BLOCK * apart..];
        match self.precision {
            Precision::F32 => {
                let block = &blocks[self.head * head_dim * BLOCK..];
                Matrix::new(block, head_dim, positions.len().min(BLOCK), BLOCK).into()
            }
            Precision::Bf16 | Precision::Bf16Amx => {
                let blocks = &pairs(blocks)[self.head * transposed_len(self.shape)..];
                PackedColumns::new(blocks, head_dim, positions.len()).panels_apart(apart).into()
            }
        }
    }

    fn in_rows(&self, blocks: &'a [f32], column: usize, positions: Range<usize>) -> Right<'a> {
        let Self { shape, head, .. } = *self;
        let (head_dim, width, apart) = (shape.head_dim, shape.projected(), block_len(shape, self.precision));
        match self.precision {
            Precision::F32 => {
                let rows = &self.rows[positions.start * width + column + head * head_dim..];
                Matrix::new(rows, positions.len(), head_dim, width).into()
            }
            Precision::Bf16 | Precision::Bf16Amx => {
                let start = shape.key_value_heads * transposed_len(shape) + head * rows_len(shape);
                let blocks = &pairs(blocks)[positions.start / BLOCK * apart + start..];
                let columns = PackedColumns::new(blocks, positions.len(), head_dim);
                columns.panels_apart(PANEL_STRIDE).in_blocks(BLOCK, apart).into()
            }
        }
    }
}
