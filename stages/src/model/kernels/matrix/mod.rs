//! Matrix products.
//!
//! Each number of a product is one chain of fused multiply-adds, in the order of the inner index: from zero, or from what
//! is in the output where a product is added to it. So neither the instruction set nor the tiles, blocks and packing that
//! are chosen here change a bit.
//!
//! With factors rounded to bf16 ([`bf16`]) the chain is one of pairs, or of groups of them, as the instruction for it has it.
//!
//! A tile of the output stays in registers while the inner index runs ([`tile`]). One operand gives a number for each of
//! its rows, from wherever that lies; the other gives vectors, which are packed side by side before. Where the right
//! operand is a transposed matrix (rows times the transposed weights), the transposed product is computed instead, so that
//! weights are read as they are, once for each block of rows, and only the rows are packed.

mod bf16;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod tile;

use pulp::{
    Arch,
    bytemuck::{cast_slice, cast_slice_mut},
};

use super::dispatch::chosen;
use bf16::Instructions;
pub(in crate::model) use bf16::{Left, Order, PANEL, PackedColumns, PackedRows, Pairs, Right};
use product::Product;

/// A strided view of f32 numbers.
#[derive(Clone, Copy)]
pub(in crate::model) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` numbers, each row `stride` after the one before.
    #[inline]
    pub(in crate::model) fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The same numbers with rows and columns swapped.
    #[inline]
    pub(in crate::model) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Number of rows.
    #[inline]
    pub(in crate::model) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[inline]
    pub(in crate::model) fn columns(&self) -> usize {
        self.columns
    }

    fn is_inside(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }
}

/// `output = left * right`, or `output += left * right`; rows of `output` are `stride` apart.
///
/// Runs on the calling thread. Each number of the product is one chain of fused multiply-adds in the order of the inner
/// index, beginning with zero or with what is in `output`.
pub(in crate::model) fn multiply(
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    multiply_with(chosen(), output, stride, left, right, accumulate);
}

/// As [`multiply`], with factors rounded to bf16. Each number of the product is a sum in an order that [`bf16`] defines,
/// whether factors are packed or not.
pub(in crate::model) fn multiply_bf16(
    order: Order,
    output: &mut [f32],
    stride: usize,
    left: Left<'_>,
    right: Right<'_>,
    accumulate: bool,
) {
    multiply_bf16_with(chosen().into(), order, output, stride, left, right, accumulate);
}

/// Whether products in groups are computed by AMX.
pub(in crate::model) fn uses_amx() -> bool {
    Instructions::from(chosen()).use_amx()
}

/// Numbers as room for pairs.
pub(in crate::model) fn as_pairs(numbers: &mut [f32]) -> &mut [u32] {
    cast_slice_mut(numbers)
}

/// Pairs in such room.
pub(in crate::model) fn pairs(numbers: &[f32]) -> &[u32] {
    cast_slice(numbers)
}

/// Rounds a left factor to bf16, into [`PackedRows::len`] pairs.
pub(in crate::model) fn pack_rows<'a>(matrix: Matrix<'_>, target: &'a mut [u32]) -> PackedRows<'a> {
    pack_rows_with(chosen().into(), matrix, target)
}

/// Rounds a right factor to bf16, into panels that begin `panel_stride` after one another.
pub(in crate::model) fn pack_columns(matrix: Matrix<'_>, target: &mut [u32], panel_stride: usize) {
    pack_columns_with(chosen().into(), matrix, target, panel_stride);
}

fn pack_rows_with<'a>(instructions: Instructions, matrix: Matrix<'_>, target: &'a mut [u32]) -> PackedRows<'a> {
    assert!(matrix.is_inside(), "a matrix to be packed lies inside its slice");
    if matrix.rows > 0 && matrix.columns > 0 {
        bf16::run(instructions, Order::Chain, bf16::PackRowsInto { matrix, target: &mut *target });
    }
    PackedRows::new(target, &matrix)
}

fn pack_columns_with(instructions: Instructions, matrix: Matrix<'_>, target: &mut [u32], panel_stride: usize) {
    assert!(matrix.is_inside(), "a matrix to be packed lies inside its slice");
    if matrix.rows > 0 && matrix.columns > 0 {
        bf16::run(instructions, Order::Chain, bf16::PackColumnsInto { matrix, target, panel_stride });
    }
}

fn multiply_with(arch: Arch, output: &mut [f32], stride: usize, left: Matrix<'_>, right: Matrix<'_>, accumulate: bool) {
    let Some((left, right, transposed)) = ordered(output, stride, left, right, accumulate) else { return };
    arch.dispatch(Product { left, right, output, stride, transposed, accumulate });
}

fn multiply_bf16_with(
    instructions: Instructions,
    order: Order,
    output: &mut [f32],
    stride: usize,
    left: Left<'_>,
    right: Right<'_>,
    accumulate: bool,
) {
    match (left, right) {
        (Left::Plain(left), Right::Plain(right)) => {
            let Some((left, right, transposed)) = ordered(output, stride, left, right, accumulate) else { return };
            let product = bf16::Product { left, right, output, stride, transposed, accumulate };
            bf16::run(instructions, order, product);
        }
        (left, Right::Packed(right)) => {
            bf16::multiply_packed(instructions, order, output, stride, left, right, accumulate);
        }
        (left @ Left::Packed(_), Right::Plain(right)) => {
            let mut pairs = vec![0; PackedColumns::len(right.rows, right.columns)];
            pack_columns_with(instructions, right, &mut pairs, right.rows.div_ceil(2) * PANEL);
            let right = PackedColumns::new(&pairs, right.rows, right.columns);
            bf16::multiply_packed(instructions, order, output, stride, left, right, accumulate);
        }
    }
}

/// Checks the operands and puts them in the order in which they are multiplied, or does what there is to do without;
/// the last says whether it is the transposed product then.
fn ordered<'a>(
    output: &mut [f32],
    stride: usize,
    left: Matrix<'a>,
    right: Matrix<'a>,
    accumulate: bool,
) -> Option<(Matrix<'a>, Matrix<'a>, bool)> {
    let (rows, columns) = (left.rows, right.columns);
    if rows == 0 || columns == 0 {
        return None;
    }
    assert_eq!(left.columns, right.rows, "inner sizes of a matrix product");
    assert!(left.is_inside() && right.is_inside(), "operands of a matrix product lie inside their slices");
    assert!(columns <= stride && (rows - 1) * stride + columns <= output.len(), "the product lies inside its slice");
    if left.columns == 0 {
        if !accumulate {
            output.chunks_mut(stride).take(rows).for_each(|row| row[..columns].fill(0.0));
        }
        return None;
    }
    let transposed = right.column_stride != 1;
    Some(if transposed { (right.transposed(), left.transposed(), true) } else { (left, right, false) })
}
