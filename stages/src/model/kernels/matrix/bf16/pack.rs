//! Factors rounded to pairs, where tiles read them one after the other.

use std::ops::Range;

use pulp::bytemuck::{cast_slice, cast_slice_mut};

use super::{
    super::{super::transpose, Matrix},
    arithmetic::{Arithmetic, Call},
};

/// Rounds some rows of a matrix to pairs along its columns.
pub(super) struct PackRows<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) rows: Range<usize>,
    pub(super) pairs: Range<usize>,
    pub(super) target: &'a mut [u32],
}

impl PackRows<'_> {
    /// How far rows, and how far pairs, are apart in the target.
    pub(super) fn apart(&self) -> (usize, usize) {
        if self.matrix.column_stride == 1 { (self.pairs.len(), 1) } else { (1, self.rows.len()) }
    }
}

impl Call for PackRows<'_> {
    #[inline(always)]
    fn call<A: Arithmetic>(self, arithmetic: A) {
        let Self { matrix, rows, pairs, target } = self;
        if matrix.column_stride == 1 {
            round_lines(arithmetic, matrix, rows, &pairs, target);
        } else {
            let width = rows.len();
            interleave_lines(arithmetic, matrix.transposed(), &pairs, rows, width, target);
        }
    }
}

/// Rounds some columns of a matrix to pairs along its rows: a row of `width` of them for each pair, filled up with zeros.
pub(super) struct PackColumns<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) pairs: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) width: usize,
    pub(super) target: &'a mut [u32],
    pub(super) buffer: &'a mut Vec<u32>,
}

impl Call for PackColumns<'_> {
    #[inline(always)]
    fn call<A: Arithmetic>(self, arithmetic: A) {
        let Self { matrix, pairs, columns, width, target, buffer } = self;
        if matrix.column_stride == 1 {
            return interleave_lines(arithmetic, matrix, &pairs, columns, width, target);
        }
        let (count, depth) = (columns.len(), pairs.len());
        if buffer.len() < count * depth {
            buffer.resize(count * depth, 0);
        }
        let lines = &mut buffer[..count * depth];
        round_lines(arithmetic, matrix.transposed(), columns, &pairs, lines);
        if count < width {
            target.fill(0);
        }
        // Pairs are moved as they are, whatever number their bits would be.
        transpose(cast_slice(lines), depth, count, depth, cast_slice_mut(target), width);
    }
}

/// Rounds rows whose numbers lie together; an odd number at the end gets a zero beside it.
#[inline(always)]
fn round_lines<A: Arithmetic>(
    arithmetic: A,
    matrix: Matrix<'_>,
    rows: Range<usize>,
    pairs: &Range<usize>,
    target: &mut [u32],
) {
    let Matrix { data, row_stride, columns, .. } = matrix;
    let numbers = 2 * pairs.start..columns.min(2 * pairs.end);
    for (row, target) in rows.zip(target.chunks_exact_mut(pairs.len())) {
        let numbers = &data[row * row_stride + numbers.start..][..numbers.len()];
        let (even, last) = numbers.split_at(numbers.len() / 2 * 2);
        arithmetic.round(even, target);
        if let ([last], Some(pair)) = (last, target.last_mut()) {
            arithmetic.round(&[*last, 0.0], std::slice::from_mut(pair));
        }
    }
}

/// Rounds the rows of a matrix two by two; its columns lie together. Zeros follow a last odd row.
#[inline(always)]
fn interleave_lines<A: Arithmetic>(
    arithmetic: A,
    matrix: Matrix<'_>,
    pairs: &Range<usize>,
    columns: Range<usize>,
    width: usize,
    target: &mut [u32],
) {
    let Matrix { data, row_stride, rows, .. } = matrix;
    let count = columns.len();
    for (pair, target) in pairs.clone().zip(target.chunks_exact_mut(width)) {
        let (target, rest) = target.split_at_mut(count);
        let first = &data[2 * pair * row_stride + columns.start..][..count];
        if 2 * pair + 1 < rows {
            arithmetic.interleave(first, &data[(2 * pair + 1) * row_stride + columns.start..][..count], target);
        } else {
            for (pair, number) in target.iter_mut().zip(first) {
                arithmetic.round(&[*number, 0.0], std::slice::from_mut(pair));
            }
        }
        rest.fill(0);
    }
}
