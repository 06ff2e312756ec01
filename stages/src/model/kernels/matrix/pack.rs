//! Operands copied to where tiles read them one number after the other.

use std::ops::Range;

use super::{super::transpose, Matrix};

/// A buffer of so many numbers of 32 bits that begins where a line of the cache does.
pub(super) fn aligned<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    const LINE: usize = 16;
    if buffer.len() < len + LINE {
        buffer.resize(len + LINE, T::default());
    }
    let start = buffer.as_ptr().align_offset(LINE * size_of::<T>()).min(LINE);
    &mut buffer[start..start + len]
}

/// `target[index, column] = matrix[index, column]` for the given ranges; rows of `target` are padded with zeros to
/// `width`.
pub(super) fn pack_columns(
    matrix: Matrix<'_>,
    depth: Range<usize>,
    columns: Range<usize>,
    width: usize,
    target: &mut [f32],
) {
    let Matrix { data, row_stride, column_stride, .. } = matrix;
    let (count, start) = (columns.len(), depth.start * row_stride + columns.start * column_stride);
    if column_stride == 1 {
        for (row, target) in target.chunks_exact_mut(width).enumerate() {
            let from = start + row * row_stride;
            target[..count].copy_from_slice(&data[from..from + count]);
            target[count..].fill(0.0);
        }
        return;
    }
    if count < width {
        target.fill(0.0);
    }
    if row_stride == 1 {
        return transpose(&data[start..], column_stride, count, depth.len(), target, width);
    }
    for (row, target) in target.chunks_exact_mut(width).enumerate() {
        for (column, number) in target[..count].iter_mut().enumerate() {
            *number = data[start + row * row_stride + column * column_stride];
        }
    }
}

/// `target[index, row] = matrix[row, index]` for the given ranges.
pub(super) fn pack_rows(matrix: Matrix<'_>, rows: Range<usize>, depth: Range<usize>, target: &mut [f32]) {
    let width = rows.len();
    pack_columns(matrix.transposed(), depth, rows, width, target);
}
