//! The innermost part of a product: a tile of the output in registers.

use pulp::{Simd, WithSimd};

/// Most rows of a tile, and most vectors in one of its rows.
pub(super) const MOST_ROWS: usize = 8;
pub(super) const MOST_VECTORS: usize = 4;

/// Most vectors in a row of a tile: tiles fit the registers, which are 16 in AVX2 and otherwise 32.
pub(super) const fn most_vectors<S: Simd>() -> usize {
    if S::F32_LANES == 8 { 2 } else { MOST_VECTORS }
}

/// Most rows of a tile with so many vectors.
pub(super) const fn most_rows<S: Simd>(vectors: usize) -> usize {
    if S::F32_LANES == 8 || vectors == MOST_VECTORS { 6 } else { MOST_ROWS }
}

/// What a tile is the product of.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// `left[row * left_row + index * left_column]`.
    pub(super) left: &'a [f32],
    pub(super) left_row: usize,
    pub(super) left_column: usize,
    /// A row of whole vectors for each `index`, `right_row` apart.
    pub(super) right: &'a [f32],
    pub(super) right_row: usize,
    /// How far `index` runs, at least 1.
    pub(super) depth: usize,
}

/// Where a tile's numbers go.
pub(super) struct Target<'a> {
    pub(super) output: &'a mut [f32],
    /// Between rows of the output.
    pub(super) stride: usize,
    /// Whether sums begin with what is in the output.
    pub(super) accumulate: bool,
    /// Gets the rows of the right operand side by side, for the tiles that follow.
    pub(super) copy: Option<&'a mut [f32]>,
}

/// Multiplies a tile of `rows <= most_rows(vectors)` rows of `vectors <= most_vectors()` vectors. Each number is one chain
/// of fused multiply-adds in the order of `index`.
#[inline(always)]
pub(super) fn multiply_tile<S: Simd>(simd: S, rows: usize, vectors: usize, operands: Operands<'_>, target: Target<'_>) {
    macro_rules! choose {
        ($($vectors:literal: $($rows:literal)*;)*) => {
            match (vectors, rows, target.copy.is_some()) {
                $($(
                    ($vectors, $rows, false) => simd.vectorize(Tile::<$rows, $vectors, false> { operands, target }),
                    ($vectors, $rows, true) => simd.vectorize(Tile::<$rows, $vectors, true> { operands, target }),
                )*)*
                _ => unreachable!("a tile of {rows} rows of {vectors} vectors"),
            }
        };
    }
    choose! {
        1: 1 2 3 4 5 6 7 8;
        2: 1 2 3 4 5 6 7 8;
        3: 1 2 3 4 5 6 7 8;
        4: 1 2 3 4 5 6;
    }
}

/// Rows of the right operand that are asked for before they are needed, where they come from far away.
const AHEAD: usize = 16;

/// Asks for a line of memory; any address will do.
#[inline(always)]
fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
}

struct Tile<'a, const ROWS: usize, const VECTORS: usize, const COPY: bool> {
    operands: Operands<'a>,
    target: Target<'a>,
}

impl<const ROWS: usize, const VECTORS: usize, const COPY: bool> WithSimd for Tile<'_, ROWS, VECTORS, COPY> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { operands, target: Target { output, stride, accumulate, copy } } = self;
        let Operands { left, left_row, left_column, right, right_row, depth } = operands;
        let width = VECTORS * S::F32_LANES;
        assert!((ROWS - 1) * left_row + (depth - 1) * left_column < left.len(), "the tile's rows");
        assert!((depth - 1) * right_row + width <= right.len(), "the tile's columns");
        assert!((ROWS - 1) * stride + width <= output.len(), "the tile's place");
        let copy = copy.unwrap_or_default();
        assert!(!COPY || depth * width <= copy.len(), "the copy's place");
        let copy = copy.as_mut_ptr();
        let (left, right, output) = (left.as_ptr(), right.as_ptr(), output.as_mut_ptr());
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        // SAFETY: the asserts above bound all offsets: `row < ROWS`, `index < depth`, and a vector's place in a row of
        // `width` numbers. `output` and `copy` are borrowed exclusively. Vectors are read and written without regard to alignment.
        unsafe {
            if accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        let from = output.add(row * stride + vector * S::F32_LANES);
                        *sum = from.cast::<S::f32s>().read_unaligned();
                    }
                }
            }
            let mut factors = [left; ROWS];
            for (row, factors) in factors.iter_mut().enumerate() {
                *factors = left.add(row * left_row);
            }
            let mut columns = [simd.splat_f32s(0.0); VECTORS];
            let ahead = left.wrapping_add(ROWS * left_row);
            for index in 0..depth {
                if COPY {
                    let row = right.wrapping_add((index + AHEAD) * right_row);
                    for vector in 0..VECTORS {
                        prefetch(row.wrapping_add(vector * S::F32_LANES));
                    }
                } else {
                    prefetch(ahead.wrapping_add(index * ROWS));
                }
                for (vector, column) in columns.iter_mut().enumerate() {
                    let from = right.add(index * right_row + vector * S::F32_LANES);
                    *column = from.cast::<S::f32s>().read_unaligned();
                    if COPY {
                        let to = copy.add(index * width + vector * S::F32_LANES);
                        to.cast::<S::f32s>().write_unaligned(*column);
                    }
                }
                for (factors, sums) in factors.iter().zip(&mut sums) {
                    let factor = simd.splat_f32s(*factors.add(index * left_column));
                    for (column, sum) in columns.iter().zip(sums) {
                        *sum = simd.mul_add_f32s(factor, *column, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    let to = output.add(row * stride + vector * S::F32_LANES);
                    to.cast::<S::f32s>().write_unaligned(sum);
                }
            }
        }
    }
}
