//! Products with factors that are packed once and used many times.

use std::{cell::RefCell, ops::Range};

use pulp::bytemuck::{cast_slice, cast_slice_mut};

use super::{
    super::{super::transpose, Matrix, pack::aligned, product::even},
    GROUP, Instructions, Order,
    arithmetic::{Arithmetic, Call},
    pack::{PackColumns, PackRows},
    run,
    tile::{Operands, Target},
};

/// Columns of a right factor that lie side by side.
pub(in crate::model) const PANEL: usize = 64;

/// Columns are filled up with zeros to a multiple of this, which is one of the numbers in any vector.
const VECTOR: usize = 16;

/// Pairs of each sum that are added before those of the next one, and rows that are multiplied with these: with a panel
/// they fit the second cache of a core.
const PAIRS: usize = 512;
const ROWS: usize = 192;

/// A left factor rounded to pairs along the inner index: `pairs[row * row_stride + pair * pair_stride]`.
#[derive(Clone, Copy)]
pub(in crate::model) struct PackedRows<'a> {
    pairs: &'a [u32],
    rows: usize,
    depth: usize,
    row_stride: usize,
    pair_stride: usize,
    /// How many pairs lie together, and from the first of these to the first of the next.
    together: usize,
    apart: usize,
}

/// A right factor rounded to pairs along the inner index: panels of [`PANEL`] columns, with a row of numbers for each pair.
#[derive(Clone, Copy)]
pub(in crate::model) struct PackedColumns<'a> {
    pairs: &'a [u32],
    columns: usize,
    /// The first pair, and how many there are from it on.
    first: usize,
    depth: usize,
    /// Between panels.
    panel_stride: usize,
    /// How many pairs lie together, and from the first of these to the first of the next.
    together: usize,
    apart: usize,
}

/// A left factor as it is, or packed.
#[derive(Clone, Copy)]
pub(in crate::model) enum Left<'a> {
    Plain(Matrix<'a>),
    Packed(PackedRows<'a>),
}

/// A right factor as it is, or packed.
#[derive(Clone, Copy)]
pub(in crate::model) enum Right<'a> {
    Plain(Matrix<'a>),
    Packed(PackedColumns<'a>),
}

impl<'a> From<Matrix<'a>> for Left<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self::Plain(matrix)
    }
}

impl<'a> From<PackedRows<'a>> for Left<'a> {
    fn from(packed: PackedRows<'a>) -> Self {
        Self::Packed(packed)
    }
}

impl<'a> From<Matrix<'a>> for Right<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self::Plain(matrix)
    }
}

impl<'a> From<PackedColumns<'a>> for Right<'a> {
    fn from(packed: PackedColumns<'a>) -> Self {
        Self::Packed(packed)
    }
}

impl Right<'_> {
    /// Rows; of a packed factor an odd number is filled up.
    pub(in crate::model) fn rows(&self) -> usize {
        match self {
            Self::Plain(matrix) => matrix.rows,
            Self::Packed(packed) => 2 * packed.depth,
        }
    }

    /// Columns.
    pub(in crate::model) fn columns(&self) -> usize {
        match self {
            Self::Plain(matrix) => matrix.columns,
            Self::Packed(packed) => packed.columns,
        }
    }
}

/// Numbers in a row of a panel for so many columns.
fn filled(columns: usize) -> usize {
    PANEL.min(columns.next_multiple_of(VECTOR))
}

impl<'a> PackedRows<'a> {
    /// Pairs of a matrix of such a size.
    pub(in crate::model) fn len(rows: usize, depth: usize) -> usize {
        rows * depth.div_ceil(2)
    }

    /// What packing wrote for `matrix`.
    pub(in crate::model) fn new(pairs: &'a [u32], matrix: &Matrix<'_>) -> Self {
        let (rows, depth) = (matrix.rows, matrix.columns.div_ceil(2));
        let (row_stride, pair_stride) = if matrix.column_stride == 1 { (depth, 1) } else { (1, rows) };
        Self { pairs, rows, depth, row_stride, pair_stride, together: depth, apart: 0 }
    }

    /// So many blocks of as many columns as the matrix has, an even number, a block `apart` after the one before.
    pub(in crate::model) fn blocks(self, count: usize, apart: usize) -> Self {
        Self { depth: count * self.depth, apart, ..self }
    }

    /// Some of its rows.
    pub(in crate::model) fn of(self, rows: Range<usize>) -> Self {
        let pairs = self.pairs.get(rows.start * self.row_stride..).unwrap_or_default();
        Self { pairs, rows: rows.len(), ..self }
    }
}

impl<'a> PackedColumns<'a> {
    /// Pairs of a matrix of such a size whose panels follow one another.
    pub(in crate::model) fn len(depth: usize, columns: usize) -> usize {
        depth.div_ceil(2) * columns.next_multiple_of(VECTOR)
    }

    /// A matrix of such a size whose panels follow one another.
    pub(in crate::model) fn new(pairs: &'a [u32], depth: usize, columns: usize) -> Self {
        let depth = depth.div_ceil(2);
        Self { pairs, columns, first: 0, depth, panel_stride: depth * PANEL, together: depth, apart: 0 }
    }

    /// The same with so much between panels.
    pub(in crate::model) fn panels_apart(self, panel_stride: usize) -> Self {
        Self { panel_stride, ..self }
    }

    /// The same with rows in blocks of so many, a block `apart` after the one before.
    pub(in crate::model) fn in_blocks(self, rows: usize, apart: usize) -> Self {
        Self { together: rows / 2, apart, ..self }
    }

    /// Some rows, from an even one on, of a matrix whose rows are not in blocks.
    pub(in crate::model) fn of(self, rows: Range<usize>) -> Self {
        let depth = rows.len().div_ceil(2);
        Self { first: self.first + rows.start / 2, depth, together: depth, ..self }
    }

    /// Numbers in a row of a panel.
    fn width(&self, panel: usize) -> usize {
        filled(self.columns - panel * PANEL)
    }
}

/// Rounds a matrix to what [`PackedRows::new`] takes.
pub(in super::super) struct PackRowsInto<'a> {
    pub(in super::super) matrix: Matrix<'a>,
    pub(in super::super) target: &'a mut [u32],
}

impl Call for PackRowsInto<'_> {
    #[inline(always)]
    fn call<A: Arithmetic>(self, arithmetic: A) {
        let Self { matrix, target } = self;
        arithmetic.vectorize(PackRows { matrix, rows: 0..matrix.rows, pairs: 0..matrix.columns.div_ceil(2), target });
    }
}

/// Rounds a matrix to panels that begin `panel_stride` after one another.
pub(in super::super) struct PackColumnsInto<'a> {
    pub(in super::super) matrix: Matrix<'a>,
    pub(in super::super) target: &'a mut [u32],
    pub(in super::super) panel_stride: usize,
}

impl Call for PackColumnsInto<'_> {
    #[inline(always)]
    fn call<A: Arithmetic>(self, arithmetic: A) {
        let Self { matrix, target, panel_stride } = self;
        let depth = matrix.rows.div_ceil(2);
        BUFFERS.with_borrow_mut(|Buffers { right: buffer, .. }| {
            for (panel, target) in target.chunks_mut(panel_stride).enumerate() {
                let columns = panel * PANEL..matrix.columns.min((panel + 1) * PANEL);
                if columns.is_empty() {
                    break;
                }
                let (width, pairs, buffer) = (filled(columns.len()), 0..depth, &mut *buffer);
                let target = &mut target[..depth * width];
                arithmetic.vectorize(PackColumns { matrix, pairs, columns, width, target, buffer });
            }
        });
    }
}

/// Memory for one product at a time.
#[derive(Default)]
struct Buffers {
    left: Vec<u32>,
    rows: Vec<u32>,
    right: Vec<u32>,
    edge: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// `output = left * right`, or `output += left * right`; rows of `output` are `stride` apart.
pub(in super::super) fn multiply_packed(
    instructions: Instructions,
    order: Order,
    output: &mut [f32],
    stride: usize,
    left: Left<'_>,
    right: PackedColumns<'_>,
    accumulate: bool,
) {
    let (rows, depth) = match left {
        Left::Plain(matrix) => (matrix.rows, matrix.columns.div_ceil(2)),
        Left::Packed(packed) => (packed.rows, packed.depth),
    };
    if rows == 0 || right.columns == 0 {
        return;
    }
    assert_eq!(depth, right.depth, "pairs of the inner sizes of a matrix product");
    if let Left::Plain(matrix) = left {
        assert!(matrix.is_inside(), "a factor lies inside its slice");
    }
    assert!(right.columns <= stride && (rows - 1) * stride + right.columns <= output.len(), "the product's place");
    if depth == 0 {
        if !accumulate {
            output.chunks_mut(stride).take(rows).for_each(|row| row[..right.columns].fill(0.0));
        }
        return;
    }
    run(instructions, order, PackedProduct { left, right, rows, output, stride, accumulate });
}

/// No size of it is zero.
struct PackedProduct<'a> {
    left: Left<'a>,
    right: PackedColumns<'a>,
    rows: usize,
    output: &'a mut [f32],
    stride: usize,
    accumulate: bool,
}

impl Call for PackedProduct<'_> {
    #[inline(always)]
    fn call<A: Arithmetic>(mut self, arithmetic: A) {
        BUFFERS.with_borrow_mut(|buffers| self.run(arithmetic, buffers));
    }
}

impl PackedProduct<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(&mut self, arithmetic: A, buffers: &mut Buffers) {
        let depth = self.right.depth;
        let left_together = match self.left {
            Left::Plain(_) => depth,
            Left::Packed(packed) => packed.together,
        };
        // Blocks stay together.
        let most = if self.right.together.min(left_together) < depth { depth } else { PAIRS };
        for pairs in in_groups(depth, most) {
            for rows in even(self.rows, ROWS) {
                let left = match self.left {
                    Left::Packed(packed) => packed.of(rows.clone()).skip(pairs.start),
                    Left::Plain(matrix) => {
                        let (rows, pairs) = (rows.clone(), pairs.clone());
                        let (count, depth) = (rows.len(), pairs.len());
                        let target = aligned(&mut buffers.left, count * depth);
                        let pack = PackRows { matrix, rows, pairs, target: &mut *target };
                        let (row_stride, pair_stride) = pack.apart();
                        arithmetic.vectorize(pack);
                        PackedRows {
                            pairs: target,
                            rows: count,
                            depth,
                            row_stride,
                            pair_stride,
                            together: depth,
                            apart: 0,
                        }
                    }
                };
                let left = if arithmetic.reads_rows() { left.in_rows(pairs.len(), &mut buffers.rows) } else { left };
                self.tiles(arithmetic, left, rows.start, &pairs, &mut buffers.edge);
            }
        }
    }

    /// Some rows, from `first_row` on, and some pairs of each sum.
    #[inline(always)]
    fn tiles<A: Arithmetic>(
        &mut self,
        arithmetic: A,
        left: PackedRows<'_>,
        first_row: usize,
        pairs: &Range<usize>,
        edge: &mut Vec<f32>,
    ) {
        let PackedColumns { pairs: data, columns, first, panel_stride, together, apart, .. } = self.right;
        // Blocks of both factors have the same size, if both are in blocks.
        let size = together.min(left.together).min(pairs.len());
        // A long left factor comes from far away.
        let is_streamed = matches!(self.left, Left::Packed(_)) && left.pair_stride == 1;
        let (depth, accumulate, stride) = (pairs.len(), self.accumulate || pairs.start > 0, self.stride);
        for panel in 0..columns.div_ceil(PANEL) {
            let right_row = self.right.width(panel);
            let data = &data[panel * panel_stride + (first + pairs.start) * right_row..];
            for vectors in even((columns - panel * PANEL).min(PANEL).div_ceil(A::LANES), A::MOST_VECTORS) {
                let width = vectors.len() * A::LANES;
                let column = panel * PANEL + vectors.start * A::LANES;
                let count = width.min(columns - column);
                for tile in even(left.rows, arithmetic.most_rows(vectors.len())) {
                    let operands = Operands {
                        left: &left.pairs[tile.start * left.row_stride..],
                        left_row: left.row_stride,
                        left_pair: left.pair_stride,
                        right: &data[vectors.start * A::LANES..],
                        right_row,
                        depth,
                        together: size,
                        left_apart: if size < left.together { size * left.pair_stride } else { left.apart },
                        right_apart: if size < together { size * right_row } else { apart },
                        ahead: if is_streamed { tile.len() * left.row_stride } else { 0 },
                    };
                    let output = &mut self.output[(first_row + tile.start) * stride + column..];
                    if count == width {
                        let target = Target { output, stride, accumulate };
                        arithmetic.multiply(tile.len(), vectors.len(), operands, target);
                        continue;
                    }
                    // A tile that is wider than what is left is computed beside the output.
                    let edge = aligned(edge, tile.len() * width);
                    if accumulate {
                        for (edge, output) in edge.chunks_exact_mut(width).zip(output.chunks(stride)) {
                            edge[..count].copy_from_slice(&output[..count]);
                        }
                    }
                    let target = Target { output: &mut *edge, stride: width, accumulate };
                    arithmetic.multiply(tile.len(), vectors.len(), operands, target);
                    for (edge, output) in edge.chunks_exact(width).zip(output.chunks_mut(stride)) {
                        output[..count].copy_from_slice(&edge[..count]);
                    }
                }
            }
        }
    }
}

/// Cuts pairs into about equal parts of whole groups, of no more than so many, rounded up to a group.
pub(super) fn in_groups(pairs: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    even(pairs.div_ceil(GROUP), most.div_ceil(GROUP))
        .map(move |groups| groups.start * GROUP..pairs.min(groups.end * GROUP))
}

impl<'a> PackedRows<'a> {
    /// The same, of so many pairs, with the pairs of each row one after the other.
    fn in_rows<'b>(self, depth: usize, buffer: &'b mut Vec<u32>) -> PackedRows<'b>
    where
        'a: 'b,
    {
        if self.pair_stride == 1 {
            return self;
        }
        let together = self.together.min(depth);
        let target = aligned(buffer, self.rows * depth);
        for first in (0..depth).step_by(together) {
            let pairs = &self.pairs[first / together * self.apart..];
            let (count, target) = (together.min(depth - first), &mut target[first..]);
            // Pairs are moved as they are, whatever number their bits would be.
            transpose(cast_slice(pairs), self.pair_stride, count, self.rows, cast_slice_mut(target), depth);
        }
        PackedRows { pairs: target, depth, row_stride: depth, pair_stride: 1, together: depth, apart: 0, ..self }
    }

    /// Without the first pairs of each row, which are not in blocks unless there are none to skip.
    fn skip(self, pairs: usize) -> Self {
        Self { pairs: &self.pairs[pairs * self.pair_stride..], depth: self.depth - pairs, ..self }
    }
}
