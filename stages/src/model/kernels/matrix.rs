//! Matrix products.

use gemm::Parallelism;

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

    fn is_inside(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }
}

/// `output = left * right`, or `output += left * right`; rows of `output` are `stride` apart.
///
/// Runs on the calling thread, so the order of sums depends on shapes and strides only.
#[inline]
pub(in crate::model) fn multiply(
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    let (rows, columns) = (left.rows, right.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    assert_eq!(left.columns, right.rows, "inner sizes of a matrix product");
    assert!(left.is_inside() && right.is_inside(), "operands of a matrix product lie inside their slices");
    assert!(columns <= stride && (rows - 1) * stride + columns <= output.len(), "the product lies inside its slice");
    // SAFETY: the asserts above prove that every index which the shapes and strides reach lies inside the slices, and
    // `output` is borrowed exclusively, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            left.columns,
            output.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
