//! Causal attention of a block of queries, by chunks of keys. Soft-max keeps a running maximum and sum (arXiv 2205.14135),
//! so scores exist for one head, one block of queries and one chunk of keys at a time.

use std::ops::Range;

use super::{
    Precision,
    kernels::{self, ExponentialSum, Matrix, Right},
    shape::BLOCK,
};

/// Keys of a chunk. Results depend on it, so it is fixed.
pub(super) const CHUNK: usize = 8 * BLOCK;

/// Between rows of scores: a power of two would send the rows of a tile to the same lines of the first cache.
pub(super) const STRIDE: usize = CHUNK + 16;

/// The queries of one head in a block.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    /// `[rows, head_dim]`.
    pub(super) matrix: Matrix<'a>,
    /// Position of the first one; all positions from the last multiple of [`CHUNK`] up to it are visible.
    pub(super) first: usize,
    /// In which numbers products are taken.
    pub(super) precision: Precision,
}

/// Writes attention's output of one head to rows `stride` apart, and each query's sum of exponentials, one every
/// `sum_stride`.
///
/// For a range of positions, `key` and `value` give those from its start on that lie together: keys as `[head_dim,
/// positions]`, values as `[positions, head_dim]`. `scores` has room for a block of rows ([`STRIDE`]).
#[allow(clippy::too_many_arguments)]
pub(super) fn attend<'a>(
    queries: Queries<'_>,
    key: impl Fn(Range<usize>) -> Right<'a>,
    value: impl Fn(Range<usize>) -> Right<'a>,
    scores: &mut [f32],
    output: &mut [f32],
    stride: usize,
    query_sums: &mut [ExponentialSum],
    sum_stride: usize,
) {
    let Queries { matrix, first, precision } = queries;
    let (rows, head_dim) = (matrix.rows(), matrix.columns());
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut sums = [ExponentialSum::default(); BLOCK];
    let mut factors = [0.0; BLOCK];
    let (sums, factors) = (&mut sums[..rows], &mut factors[..rows]);
    for start in (0..first + rows).step_by(CHUNK) {
        let end = (first + rows).min(start + CHUNK);
        let mut at = start;
        while at < end {
            let key = key(at..end);
            precision.multiply(&mut scores[at - start..], STRIDE, matrix, key, false);
            at += key.columns();
        }
        kernels::attention_probabilities(scores, STRIDE, end - start, first - start, scale, sums, factors);
        if start > 0 {
            kernels::scale_rows(output, stride, head_dim, factors);
        }
        let mut at = start;
        while at < end {
            let value = value(at..end);
            let probabilities = Matrix::new(&scores[at - start..], rows, value.rows().min(end - at), STRIDE);
            precision.multiply(output, stride, probabilities, value, at > 0);
            at += value.rows();
        }
    }
    for (row, (sum, factor)) in sums.iter().zip(&mut *factors).enumerate() {
        *factor = 1.0 / sum.sum();
        query_sums[row * sum_stride] = *sum;
    }
    kernels::scale_rows(output, stride, head_dim, factors);
}
