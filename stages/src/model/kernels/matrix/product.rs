//! Cuts a product into blocks that fit the caches and tiles that fit the registers.

use std::{cell::RefCell, ops::Range};

use pulp::{Simd, WithSimd};

use super::{
    super::transpose,
    Matrix,
    pack::{aligned, pack_columns, pack_rows},
    tile::{MOST_ROWS, MOST_VECTORS, Operands, Target, most_rows, most_vectors, multiply_tile},
};

/// Most numbers of the right operand that are packed at a time (384 KiB), and of the left one: together they fit the
/// second cache of a core.
const PACKED_RIGHT: usize = 96 << 10;
const PACKED_LEFT: usize = 64 << 10;

/// Most columns that are packed at a time; half as many where the product is transposed on its way to the output.
const COLUMNS: usize = 128;

/// Rows of a transposed product that are computed before they go to the output together.
const GROUP: usize = 48;

/// Columns up to which a left operand whose rows do not lie together is read from where it is.
const FEW_COLUMNS: usize = 64;

/// Rows up to which a right operand is read from where it is, and the stride up to which it always is.
const FEW_ROWS: usize = 12;
const SHORT_STRIDE: usize = 64;

/// Numbers in the largest tile.
const TILE: usize = MOST_ROWS * MOST_VECTORS * 16;

/// `output = left * right` or its transpose. All sizes are positive, and the operands' numbers lie inside their slices.
pub(super) struct Product<'a> {
    pub(super) left: Matrix<'a>,
    pub(super) right: Matrix<'a>,
    pub(super) output: &'a mut [f32],
    pub(super) stride: usize,
    /// Whether the output is that of the transposed product: `output[column * stride + row]`.
    pub(super) transposed: bool,
    pub(super) accumulate: bool,
}

/// Memory for one product at a time.
#[derive(Default)]
struct Buffers {
    left: Vec<f32>,
    right: Vec<f32>,
    output: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Cuts `0..total` into the fewest parts of at most `most`, as even as can be.
pub(super) fn even(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let count = total.div_ceil(most);
    (0..count).map(move |part| part * total / count..(part + 1) * total / count)
}

/// Some rows of the product, some of its columns, a part of each sum.
struct Block<'a> {
    rows: Range<usize>,
    columns: Range<usize>,
    depth: Range<usize>,
    /// Vectors that hold the columns.
    vectors: usize,
    tile_rows: usize,
    /// The rows, packed by tiles.
    left: Option<&'a [f32]>,
}

/// Where tiles find rows of whole vectors.
#[derive(Clone, Copy)]
enum Right<'a> {
    /// In the buffer, each panel's rows side by side, one panel after another.
    Packed,
    /// In a matrix with such a row stride; with `copy`, the first tile of each panel packs it.
    InPlace { data: &'a [f32], stride: usize, copy: bool },
}

impl Right<'_> {
    fn after_first(self) -> Self {
        match self {
            Self::InPlace { copy: true, .. } => Self::Packed,
            right => right,
        }
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        BUFFERS.with_borrow_mut(|buffers| self.run(simd, buffers));
    }
}

impl<'a> Product<'a> {
    fn run<S: Simd>(mut self, simd: S, buffers: &mut Buffers) {
        let (rows, columns) = (self.left.rows, self.right.columns);
        let vectors = columns.div_ceil(S::F32_LANES);
        let at_once = (if self.transposed { COLUMNS / 2 } else { COLUMNS }) / S::F32_LANES;
        let parts = even(vectors, at_once);
        let panels = parts.clone().flat_map(|part| even(part.len(), most_vectors::<S>()));
        let tile_rows = most_rows::<S>(panels.map(|panel| panel.len()).max().unwrap_or(1));
        let pack_left = self.left.column_stride != 1 && columns > FEW_COLUMNS;
        for depth in even(self.left.columns, PACKED_RIGHT / (vectors.min(at_once) * S::F32_LANES)) {
            let most = if pack_left { (PACKED_LEFT / depth.len()).max(tile_rows) } else { rows };
            for rows in even(rows, most) {
                let left = pack_left.then(|| {
                    let packed = aligned(&mut buffers.left, rows.len() * depth.len());
                    for tile in even(rows.len(), tile_rows) {
                        let target = &mut packed[tile.start * depth.len()..tile.end * depth.len()];
                        pack_rows(self.left, rows.start + tile.start..rows.start + tile.end, depth.clone(), target);
                    }
                    &*packed
                });
                for part in parts.clone() {
                    let block = Block {
                        rows: rows.clone(),
                        columns: part.start * S::F32_LANES..columns.min(part.end * S::F32_LANES),
                        depth: depth.clone(),
                        vectors: part.len(),
                        tile_rows,
                        left,
                    };
                    self.block(simd, &block, &mut buffers.right, &mut buffers.output);
                }
            }
        }
    }

    fn block<S: Simd>(&mut self, simd: S, block: &Block<'_>, right: &mut Vec<f32>, output: &mut Vec<f32>) {
        let Block { rows, columns, depth, vectors, .. } = block;
        let (accumulate, width) = (self.accumulate || depth.start > 0, vectors * S::F32_LANES);
        let packed = aligned(right, width * depth.len());
        let mut right = Right::Packed;
        if let Some((data, stride)) = self.in_place(block, width) {
            right = Right::InPlace { data, stride, copy: stride > SHORT_STRIDE && rows.len() > FEW_ROWS };
        } else {
            self.pack_right::<S>(block, packed);
        }
        if !self.transposed {
            let edge = aligned(output, TILE);
            for tile in even(rows.len(), block.tile_rows) {
                let start = (rows.start + tile.start) * self.stride + columns.start;
                let tiles = Tiles { block, left: self.left, right, rows: tile, accumulate };
                tiles.multiply(simd, packed, columns.len(), &mut self.output[start..], self.stride, edge);
                right = right.after_first();
            }
            return;
        }
        let target = aligned(output, GROUP * width);
        for group in even(rows.len(), GROUP) {
            let start = columns.start * self.stride + rows.start + group.start;
            if accumulate {
                transpose(&self.output[start..], self.stride, columns.len(), group.len(), target, width);
            }
            for tile in even(group.len(), block.tile_rows) {
                let rows = group.start + tile.start..group.start + tile.end;
                let tiles = Tiles { block, left: self.left, right, rows, accumulate };
                tiles.multiply(simd, packed, width, &mut target[tile.start * width..], width, &mut []);
                right = right.after_first();
            }
            transpose(target, width, group.len(), columns.len(), &mut self.output[start..], self.stride);
        }
    }

    /// The right operand of a block where it lies, with its stride, if its rows are whole vectors there.
    fn in_place(&self, block: &Block<'_>, width: usize) -> Option<(&'a [f32], usize)> {
        let Matrix { data, row_stride, column_stride, .. } = self.right;
        let start = block.depth.start * row_stride + block.columns.start;
        let end = (block.depth.end - 1) * row_stride + block.columns.start + width;
        (column_stride == 1 && end <= data.len()).then(|| (&data[start..end], row_stride))
    }

    fn pack_right<S: Simd>(&self, block: &Block<'_>, packed: &mut [f32]) {
        let Block { columns, depth, vectors, .. } = block;
        for panel in even(*vectors, most_vectors::<S>()) {
            let lanes = panel.start * S::F32_LANES..panel.end * S::F32_LANES;
            let columns = columns.start + lanes.start..columns.end.min(columns.start + lanes.end);
            let target = &mut packed[lanes.start * depth.len()..lanes.end * depth.len()];
            pack_columns(self.right, depth.clone(), columns, lanes.len(), target);
        }
    }
}

/// Tiles side by side: some rows of a block.
struct Tiles<'a> {
    block: &'a Block<'a>,
    left: Matrix<'a>,
    right: Right<'a>,
    /// Counted from the block's first.
    rows: Range<usize>,
    accumulate: bool,
}

impl Tiles<'_> {
    /// Writes the first `columns` numbers of each row, `stride` apart. `edge` is a buffer for a tile that is wider.
    fn multiply<S: Simd>(
        self,
        simd: S,
        packed: &mut [f32],
        columns: usize,
        output: &mut [f32],
        stride: usize,
        edge: &mut [f32],
    ) {
        let Self { block, left, right, rows, accumulate } = self;
        let depth = block.depth.len();
        let (left, left_row, left_column) = if let Some(packed) = block.left {
            (&packed[rows.start * depth..], 1, rows.len())
        } else {
            let start = (block.rows.start + rows.start) * left.row_stride + block.depth.start * left.column_stride;
            (&left.data[start..], left.row_stride, left.column_stride)
        };
        for panel in even(block.vectors, most_vectors::<S>()) {
            let (lane, width) = (panel.start * S::F32_LANES, panel.len() * S::F32_LANES);
            let packed = &mut packed[lane * depth..(lane + width) * depth];
            let (right, right_row, copy) = match right {
                Right::Packed => (&*packed, width, None),
                Right::InPlace { data, stride, copy } => (&data[lane..], stride, copy.then_some(packed)),
            };
            let operands = Operands { left, left_row, left_column, right, right_row, depth };
            let count = width.min(columns - lane);
            if count == width {
                let target = Target { output: &mut output[lane..], stride, accumulate, copy };
                multiply_tile(simd, rows.len(), panel.len(), operands, target);
                continue;
            }
            if accumulate {
                for (edge, output) in edge.chunks_exact_mut(width).zip(output.chunks(stride)).take(rows.len()) {
                    edge[..count].copy_from_slice(&output[lane..lane + count]);
                }
            }
            let target = Target { output: edge, stride: width, accumulate, copy };
            multiply_tile(simd, rows.len(), panel.len(), operands, target);
            for (edge, output) in edge.chunks_exact(width).zip(output.chunks_mut(stride)).take(rows.len()) {
                output[lane..lane + count].copy_from_slice(&edge[..count]);
            }
        }
    }
}
