//! The innermost part of a product: a tile of the output in registers.

use super::{
    GROUP,
    arithmetic::{Arithmetic, Call},
};

/// What a tile is the product of.
#[derive(Clone, Copy)]
pub(in super::super) struct Operands<'a> {
    /// `left[row * left_row + pair * left_pair]`.
    pub(super) left: &'a [u32],
    pub(super) left_row: usize,
    pub(super) left_pair: usize,
    /// For each pair a row that begins with whole vectors, `right_row` after the one before.
    pub(super) right: &'a [u32],
    pub(super) right_row: usize,
    /// How many pairs there are, at least 1.
    pub(super) depth: usize,
    /// Pairs whose rows follow one another in both; the next so many begin so much after the first of these.
    pub(super) together: usize,
    pub(super) left_apart: usize,
    pub(super) right_apart: usize,
    /// How far from the rows those lie that come next, as many; zero if they need not be asked for.
    pub(super) ahead: usize,
}

/// Where a tile's numbers go.
pub(in super::super) struct Target<'a> {
    pub(super) output: &'a mut [f32],
    /// Between rows of the output.
    pub(super) stride: usize,
    /// Whether sums begin with what is in the output.
    pub(super) accumulate: bool,
}

/// Most rows of a tile of so many vectors: as many sums as registers hold beside the factors.
pub(super) const fn most_rows<A: Arithmetic>(vectors: usize) -> usize {
    match (A::MANY_REGISTERS, vectors) {
        (true, 4..) => 6,
        (true, 3) => 8,
        (true, _) => 12,
        (false, _) => 4,
    }
}

/// Multiplies a tile of `rows` rows, at most [`most_rows`], of `vectors <= MOST_VECTORS` vectors.
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
    if A::MANY_REGISTERS {
        choose! {
            1: 1 2 3 4 5 6 7 8 9 10 11 12;
            2: 1 2 3 4 5 6 7 8 9 10 11 12;
            3: 1 2 3 4 5 6 7 8;
            4: 1 2 3 4 5 6;
        }
    } else {
        choose! {
            1: 1 2 3 4;
            2: 1 2 3 4;
        }
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
        let Operands { left, left_row, left_pair, right, right_row, depth, together, .. } = operands;
        let Operands { left_apart, right_apart, ahead, .. } = operands;
        let width = VECTORS * A::LANES;
        let (blocks, pairs) = ((depth - 1) / together, (depth - 1) % together);
        let left_last = (ROWS - 1) * left_row + blocks * left_apart + pairs * left_pair;
        let last = blocks * right_apart + pairs * right_row;
        let is_ordered = together * left_pair <= left_apart && together * right_row <= right_apart;
        assert!(blocks == 0 || is_ordered, "pairs follow one another");
        assert!(left_last < left.len(), "the tile's rows");
        assert!(width <= right_row && last + width <= right.len(), "the tile's columns");
        assert!((ROWS - 1) * stride + width <= output.len(), "the tile's place");
        let (left, right, output) = (left.as_ptr(), right.as_ptr(), output.as_mut_ptr());
        let mut sums = [[arithmetic.zero(); VECTORS]; ROWS];
        // SAFETY: the asserts above bound all offsets: `row < ROWS`, `pair < depth`, and a vector's place in a row of
        // `width` numbers. `output` is borrowed exclusively. Vectors are read and written without regard to alignment.
        unsafe {
            if accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        // The next tile's, most often.
                        arithmetic.prefetch(output.wrapping_add((ROWS + row) * stride + vector * A::LANES).cast());
                        let from = output.add(row * stride + vector * A::LANES);
                        *sum = arithmetic.begin(from.cast::<A::Numbers>().read_unaligned());
                    }
                }
            }
            let mut first = 0;
            while first < depth {
                let block = first / together;
                let (left, right) = (left.add(block * left_apart), right.add(block * right_apart));
                let pairs = together.min(depth - first);
                for pair in 0..pairs {
                    arithmetic.prefetch(left.wrapping_add(ahead + pair * ROWS));
                    let mut columns = [arithmetic.splat(0); VECTORS];
                    for (vector, column) in columns.iter_mut().enumerate() {
                        *column = right.add(pair * right_row + vector * A::LANES).cast::<A::Pairs>().read_unaligned();
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let factor = arithmetic.splat(*left.add(row * left_row + pair * left_pair));
                        for (column, sum) in columns.iter().zip(sums) {
                            *sum = arithmetic.add_products(factor, *column, *sum);
                        }
                    }
                    if A::IN_GROUPS && (pair % GROUP == GROUP - 1 || pair + 1 == pairs) {
                        let is_whole = pair % GROUP == GROUP - 1;
                        sums.as_flattened_mut().iter_mut().for_each(|sum| *sum = arithmetic.close(*sum, is_whole));
                    }
                }
                first += together;
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    let target = output.add(row * stride + vector * A::LANES);
                    target.cast::<A::Numbers>().write_unaligned(arithmetic.end(sum));
                }
            }
        }
    }
}
