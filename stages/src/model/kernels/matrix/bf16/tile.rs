//! The innermost part of a product: a tile of the output in registers.

use super::arithmetic::{Arithmetic, Call};

/// What a tile is the product of.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// `left[row * left_row + pair * left_pair]`.
    pub(super) left: &'a [u32],
    pub(super) left_row: usize,
    pub(super) left_pair: usize,
    /// A row of whole vectors for each pair.
    pub(super) right: &'a [u32],
    /// How many pairs there are, at least 1.
    pub(super) depth: usize,
}

/// Where a tile's numbers go.
pub(super) struct Target<'a> {
    pub(super) output: &'a mut [f32],
    /// Between rows of the output.
    pub(super) stride: usize,
    /// Whether sums begin with what is in the output.
    pub(super) accumulate: bool,
}

/// Multiplies a tile of `rows <= MOST_ROWS` rows of `vectors <= MOST_VECTORS` vectors.
#[inline(always)]
pub(super) fn multiply_tile<A: Arithmetic>(
    arithmetic: A,
    rows: usize,
    vectors: usize,
    operands: Operands<'_>,
    target: Target<'_>,
) {
    macro_rules! choose {
        ($($vectors:literal: $($rows:literal)*;)*) => {
            match (vectors, rows) {
                $($(($vectors, $rows) => arithmetic.vectorize(Tile::<$rows, $vectors> { operands, target }),)*)*
                _ => unreachable!("a tile of {rows} rows of {vectors} vectors"),
            }
        };
    }
    choose! {
        1: 1 2 3 4 5 6;
        2: 1 2 3 4 5 6;
        3: 1 2 3 4 5 6;
        4: 1 2 3 4 5 6;
    }
}

struct Tile<'a, const ROWS: usize, const VECTORS: usize> {
    operands: Operands<'a>,
    target: Target<'a>,
}

impl<const ROWS: usize, const VECTORS: usize> Call for Tile<'_, ROWS, VECTORS> {
    #[inline(always)]
    fn call<A: Arithmetic>(self, arithmetic: A) {
        let Self { operands, target: Target { output, stride, accumulate } } = self;
        let Operands { left, left_row, left_pair, right, depth } = operands;
        let width = VECTORS * A::LANES;
        assert!((ROWS - 1) * left_row + (depth - 1) * left_pair < left.len(), "the tile's rows");
        assert!(depth * width <= right.len(), "the tile's columns");
        assert!((ROWS - 1) * stride + width <= output.len(), "the tile's place");
        let (left, right, output) = (left.as_ptr(), right.as_ptr(), output.as_mut_ptr());
        let mut sums = [[arithmetic.zero(); VECTORS]; ROWS];
        // SAFETY: the asserts above bound all offsets: `row < ROWS`, `pair < depth`, and a vector's place in a row of
        // `width` numbers. `output` is borrowed exclusively. Vectors are read and written without regard to alignment.
        unsafe {
            if accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        let from = output.add(row * stride + vector * A::LANES);
                        *sum = arithmetic.begin(from.cast::<A::Sums>().read_unaligned());
                    }
                }
            }
            for pair in 0..depth {
                let mut columns = [arithmetic.splat(0); VECTORS];
                for (vector, column) in columns.iter_mut().enumerate() {
                    *column = right.add(pair * width + vector * A::LANES).cast::<A::Pairs>().read_unaligned();
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = arithmetic.splat(*left.add(row * left_row + pair * left_pair));
                    for (column, sum) in columns.iter().zip(sums) {
                        *sum = arithmetic.add_products(factor, *column, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    output.add(row * stride + vector * A::LANES).cast::<A::Sums>().write_unaligned(sum);
                }
            }
        }
    }
}
