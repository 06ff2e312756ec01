//! Transposition of matrices.

/// Rows and columns of a block that is transposed at once.
const EDGE: usize = 8;

/// `target[column, row] = source[row, column]`; rows of `source` are `source_stride` apart, those of `target`
/// `target_stride`.
pub(in crate::model) fn transpose(
    source: &[f32],
    source_stride: usize,
    rows: usize,
    columns: usize,
    target: &mut [f32],
    target_stride: usize,
) {
    let transposition = Transposition { source, source_stride, rows, columns, target, target_stride };
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = super::dispatch::avx2() {
        return simd.vectorize(avx::Call(simd, transposition));
    }
    transposition.in_blocks(plain);
}

struct Transposition<'a> {
    source: &'a [f32],
    source_stride: usize,
    rows: usize,
    columns: usize,
    target: &'a mut [f32],
    target_stride: usize,
}

impl Transposition<'_> {
    /// `block` gets a block's first numbers in source and target, each with the stride of its rows.
    #[inline(always)]
    fn in_blocks(self, block: impl Fn(&[f32], usize, &mut [f32], usize)) {
        let Self { source, source_stride, rows, columns, target, target_stride } = self;
        let (whole_rows, whole_columns) = (rows / EDGE * EDGE, columns / EDGE * EDGE);
        // Along the rows of the target, so that what is written lies together.
        for column in (0..whole_columns).step_by(EDGE) {
            for row in (0..whole_rows).step_by(EDGE) {
                let source = &source[row * source_stride + column..];
                block(source, source_stride, &mut target[column * target_stride + row..], target_stride);
            }
        }
        for row in 0..rows {
            for column in if row < whole_rows { whole_columns } else { 0 }..columns {
                target[column * target_stride + row] = source[row * source_stride + column];
            }
        }
    }
}

fn plain(source: &[f32], source_stride: usize, target: &mut [f32], target_stride: usize) {
    for column in 0..EDGE {
        for (row, value) in target[column * target_stride..][..EDGE].iter_mut().enumerate() {
            *value = source[row * source_stride + column];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::__m256;

    use pulp::{NullaryFnOnce, cast, x86::V3};

    use super::{EDGE, Transposition};

    /// A transposition with its blocks in registers.
    pub(super) struct Call<'a>(pub(super) V3, pub(super) Transposition<'a>);

    impl NullaryFnOnce for Call<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, transposition) = self;
            transposition.in_blocks(
                #[inline(always)]
                |source, source_stride, target, target_stride| {
                    block(simd, source, source_stride, target, target_stride);
                },
            );
        }
    }

    /// Pairs of rows are interleaved, then pairs of pairs, then halves are exchanged.
    #[inline(always)]
    fn block(simd: V3, source: &[f32], source_stride: usize, target: &mut [f32], target_stride: usize) {
        let avx = simd.avx;
        let mut rows: [__m256; EDGE] = [cast([0.0_f32; EDGE]); EDGE];
        for index in 0..EDGE {
            let (row, _) = source[index * source_stride..][..EDGE].as_chunks::<EDGE>();
            rows[index] = cast(row[0]);
        }
        let mut pairs = rows;
        for index in (0..EDGE).step_by(2) {
            pairs[index] = avx._mm256_unpacklo_ps(rows[index], rows[index + 1]);
            pairs[index + 1] = avx._mm256_unpackhi_ps(rows[index], rows[index + 1]);
        }
        let mut fours = rows;
        for index in (0..EDGE).step_by(4) {
            fours[index] = avx._mm256_shuffle_ps::<0b01_00_01_00>(pairs[index], pairs[index + 2]);
            fours[index + 1] = avx._mm256_shuffle_ps::<0b11_10_11_10>(pairs[index], pairs[index + 2]);
            fours[index + 2] = avx._mm256_shuffle_ps::<0b01_00_01_00>(pairs[index + 1], pairs[index + 3]);
            fours[index + 3] = avx._mm256_shuffle_ps::<0b11_10_11_10>(pairs[index + 1], pairs[index + 3]);
        }
        for index in 0..EDGE / 2 {
            let low = avx._mm256_permute2f128_ps::<0x20>(fours[index], fours[index + 4]);
            let high = avx._mm256_permute2f128_ps::<0x31>(fours[index], fours[index + 4]);
            for (column, values) in [(index, low), (index + 4, high)] {
                target[column * target_stride..][..EDGE].copy_from_slice(&cast::<__m256, [f32; EDGE]>(values));
            }
        }
    }
}
