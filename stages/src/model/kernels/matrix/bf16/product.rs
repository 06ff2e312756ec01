//! Cuts a product into blocks that fit the caches and tiles that fit the registers.

use std::{cell::RefCell, ops::Range};

use pulp::bytemuck::{cast_slice, cast_slice_mut};

use super::{
    super::{super::transpose, Matrix, pack::aligned, product::even},
    arithmetic::{Arithmetic, Call},
    pack::{PackColumns, PackRows},
    packed::in_groups,
    tile::{Operands, Target},
};

/// Most pairs of the right operand that are packed at a time (256 KiB).
const PACKED_RIGHT: usize = 64 << 10;

/// Most columns that are packed at a time; half as many where the product is transposed on its way to the output.
const COLUMNS: usize = 256;

/// Rows of the left operand that are packed at a time.
const GROUP: usize = 48;

/// `output = left * right` or its transpose. All sizes are positive, and the operands' numbers lie inside their slices.
pub(in super::super) struct Product<'a> {
    pub(in super::super) left: Matrix<'a>,
    pub(in super::super) right: Matrix<'a>,
    pub(in super::super) output: &'a mut [f32],
    pub(in super::super) stride: usize,
    /// Whether the output is that of the transposed product: `output[column * stride + row]`.
    pub(in super::super) transposed: bool,
    pub(in super::super) accumulate: bool,
}

/// Memory for one product at a time.
#[derive(Default)]
struct Buffers {
    left: Vec<u32>,
    /// The same by rows, where tiles read it so and it comes by pairs.
    in_rows: Vec<u32>,
    right: Vec<u32>,
    /// For columns that are packed, as rows.
    lines: Vec<u32>,
    output: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Some columns of the product, packed, and a part of each sum.
struct Block<'a> {
    columns: Range<usize>,
    pairs: Range<usize>,
    /// Vectors that hold the columns.
    vectors: usize,
    /// The panels side by side, each a row of whole vectors for each pair.
    right: &'a [u32],
}

impl Call for Product<'_> {
    #[inline(always)]
    fn call<A: Arithmetic>(self, arithmetic: A) {
        BUFFERS.with_borrow_mut(|buffers| self.run(arithmetic, buffers));
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(mut self, arithmetic: A, buffers: &mut Buffers) {
        let Buffers { left, in_rows, right, lines, output } = buffers;
        let columns = self.right.columns;
        let vectors = columns.div_ceil(A::LANES);
        let at_once = (if self.transposed { COLUMNS / 2 } else { COLUMNS }) / A::LANES;
        for pairs in in_groups(self.right.rows.div_ceil(2), PACKED_RIGHT / (vectors.min(at_once) * A::LANES)) {
            for part in even(vectors, at_once) {
                let columns = part.start * A::LANES..columns.min(part.end * A::LANES);
                let packed = aligned(right, part.len() * A::LANES * pairs.len());
                for panel in even(part.len(), A::MOST_VECTORS) {
                    let lanes = panel.start * A::LANES..panel.end * A::LANES;
                    let target = &mut packed[lanes.start * pairs.len()..lanes.end * pairs.len()];
                    let columns = columns.start + lanes.start..columns.end.min(columns.start + lanes.end);
                    let (pairs, width, buffer) = (pairs.clone(), lanes.len(), &mut *lines);
                    arithmetic.vectorize(PackColumns { matrix: self.right, pairs, columns, width, target, buffer });
                }
                let block = Block { columns, pairs: pairs.clone(), vectors: part.len(), right: packed };
                for rows in even(self.left.rows, GROUP) {
                    self.group(arithmetic, &block, rows, left, in_rows, output);
                }
            }
        }
    }

    /// Some rows of a block.
    #[inline(always)]
    fn group<A: Arithmetic>(
        &mut self,
        arithmetic: A,
        block: &Block<'_>,
        rows: Range<usize>,
        left: &mut Vec<u32>,
        in_rows: &mut Vec<u32>,
        output: &mut Vec<f32>,
    ) {
        let Block { columns, pairs, vectors, .. } = block;
        let accumulate = self.accumulate || pairs.start > 0;
        let mut left = aligned(left, rows.len() * pairs.len());
        let pack = PackRows { matrix: self.left, rows: rows.clone(), pairs: pairs.clone(), target: &mut *left };
        let mut apart = pack.apart();
        arithmetic.vectorize(pack);
        if arithmetic.reads_rows() && apart.1 > 1 {
            let in_rows = aligned(in_rows, left.len());
            // Pairs are moved as they are, whatever number their bits would be.
            transpose(cast_slice(left), rows.len(), pairs.len(), rows.len(), cast_slice_mut(in_rows), pairs.len());
            (left, apart) = (in_rows, (pairs.len(), 1));
        }
        let (stride, width) = (self.stride, vectors * A::LANES);
        // Where the product does not lie in rows of whole vectors in the output, it is computed beside it.
        let beside = self.transposed || columns.len() < width;
        let (start, across) = if self.transposed {
            (columns.start * stride + rows.start, columns.len())
        } else {
            (rows.start * stride + columns.start, rows.len())
        };
        let place = &mut self.output[start..];
        if !beside {
            return tiles(arithmetic, block, left, apart, rows.len(), Target { output: place, stride, accumulate });
        }
        let output = aligned(output, rows.len() * width);
        if accumulate && self.transposed {
            transpose(place, stride, across, rows.len(), output, width);
        } else if accumulate {
            for (row, place) in output.chunks_exact_mut(width).zip(place.chunks(stride)) {
                row[..columns.len()].copy_from_slice(&place[..columns.len()]);
            }
        }
        tiles(arithmetic, block, left, apart, rows.len(), Target { output, stride: width, accumulate });
        if self.transposed {
            return transpose(output, width, rows.len(), columns.len(), place, stride);
        }
        for (row, place) in output.chunks_exact(width).zip(place.chunks_mut(stride)) {
            place[..columns.len()].copy_from_slice(&row[..columns.len()]);
        }
    }
}

/// Multiplies packed rows, which are so far `apart` as are their pairs, with a block.
#[inline(always)]
fn tiles<A: Arithmetic>(
    arithmetic: A,
    block: &Block<'_>,
    left: &[u32],
    apart: (usize, usize),
    rows: usize,
    target: Target<'_>,
) {
    let (depth, (left_row, left_pair)) = (block.pairs.len(), apart);
    let Target { output, stride, accumulate } = target;
    for panel in even(block.vectors, A::MOST_VECTORS) {
        let right = &block.right[panel.start * A::LANES * depth..panel.end * A::LANES * depth];
        let right_row = panel.len() * A::LANES;
        for tile in even(rows, arithmetic.most_rows(panel.len())) {
            let left = &left[tile.start * left_row..];
            let operands = Operands {
                left,
                left_row,
                left_pair,
                right,
                right_row,
                depth,
                together: depth,
                left_apart: 0,
                right_apart: 0,
                ahead: 0,
            };
            let output = &mut output[tile.start * stride + panel.start * A::LANES..];
            let target = Target { output, stride, accumulate };
            arithmetic.multiply(tile.len(), panel.len(), operands, target);
        }
    }
}
