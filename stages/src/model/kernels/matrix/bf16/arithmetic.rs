//! How pairs of bf16 numbers are made and multiplied: by the processor's own instruction, or by others to the same bits.

use pulp::{Simd, WithSimd};

use super::tile::{Operands, Target, most_rows, multiply_tile};

/// Vectors of f32 sums and of pairs of bf16 numbers, a pair in 32 bits, its first number in the low half.
pub(in super::super) trait Arithmetic: Copy {
    /// A vector of f32 numbers.
    type Numbers: Copy;
    /// Sums under way, for a vector of numbers.
    type Sums: Copy;
    /// A vector of pairs, as many as there are sums.
    type Pairs: Copy;
    /// Numbers in a vector.
    const LANES: usize;
    /// Most vectors in a row of a tile.
    const MOST_VECTORS: usize;
    /// Whether there are 32 registers for numbers, not 16.
    const MANY_REGISTERS: bool;
    /// Whether products are summed in groups of [`GROUP`](super::GROUP) pairs.
    const IN_GROUPS: bool;

    /// Most rows of a tile of so many vectors.
    fn most_rows(self, vectors: usize) -> usize;

    /// Whether tiles read the left factor by rows alone, the pairs of each one after the other.
    fn reads_rows(self) -> bool;

    /// Multiplies a tile of `rows` rows, at most [`Arithmetic::most_rows`], of `vectors <= MOST_VECTORS` vectors.
    fn multiply(self, rows: usize, vectors: usize, operands: Operands<'_>, target: Target<'_>);

    /// Sums of nothing.
    fn zero(self) -> Self::Sums;

    /// Sums to which products are to be added; numbers smaller than normal ones count as zero.
    fn begin(self, numbers: Self::Numbers) -> Self::Sums;

    /// Adds a group of products to each sum; if it is not whole, products of zeros fill it up.
    fn close(self, sums: Self::Sums, is_whole: bool) -> Self::Sums;

    /// What the sums are.
    fn end(self, sums: Self::Sums) -> Self::Numbers;

    /// The same pair in all places.
    fn splat(self, pair: u32) -> Self::Pairs;

    /// Adds to each sum, or to its group, the products of both numbers of a pair, the second ones first.
    fn add_products(self, left: Self::Pairs, right: Self::Pairs, sums: Self::Sums) -> Self::Sums;

    /// Asks for pairs that will be read soon; any address will do.
    fn prefetch(self, pairs: *const u32);

    /// Rounds numbers that follow one another to pairs. Their count is even.
    fn round(self, numbers: &[f32], pairs: &mut [u32]);

    /// Rounds two rows to pairs of numbers in the same place.
    fn interleave(self, first: &[f32], second: &[f32], pairs: &mut [u32]);

    /// Runs code compiled for the instruction set. Only what is inlined into it is.
    fn vectorize(self, call: impl Call);
}

/// Code that [`Arithmetic::vectorize`] compiles.
pub(in super::super) trait Call {
    /// Runs it.
    fn call<A: Arithmetic>(self, arithmetic: A);
}

/// bf16 bits of a number: rounded to nearest, ties to even; zero if smaller than normal numbers.
#[inline(always)]
fn rounded(number: f32) -> u32 {
    let bits = number.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    let result = if number.abs() < f32::MIN_POSITIVE { bits >> 16 & 0x8000 } else { nearest };
    if number.is_nan() { bits >> 16 | 0x40 } else { result }
}

/// Plain instructions; with `GROUPS`, in the order of groups.
#[derive(Clone, Copy)]
pub(super) struct Emulated<S, const GROUPS: bool>(pub(super) S);

/// A sum and, with groups, that of the first numbers' products in a group, and of the second ones.
#[derive(Clone, Copy)]
pub(super) struct Sums<N> {
    all: N,
    first: N,
    second: N,
}

// Functions, not closures: what is not inlined has none of the instruction set, so that each operation becomes a call.
impl<S: Simd, const GROUPS: bool> Emulated<S, GROUPS> {
    /// The first numbers of pairs.
    #[inline(always)]
    fn first(self, pairs: S::u32s) -> S::f32s {
        let Self(simd) = self;
        simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16)))
    }

    /// The second numbers of pairs.
    #[inline(always)]
    fn second(self, pairs: S::u32s) -> S::f32s {
        let Self(simd) = self;
        simd.transmute_f32s_u32s(simd.and_u32s(pairs, simd.splat_u32s(0xffff_0000)))
    }

    /// Zero, of the same sign, for what is smaller than normal numbers.
    #[inline(always)]
    fn flush(self, sums: S::f32s) -> S::f32s {
        let Self(simd) = self;
        let small = simd.less_than_f32s(simd.abs_f32s(sums), simd.splat_f32s(f32::MIN_POSITIVE));
        simd.select_f32s(small, simd.and_f32s(sums, simd.splat_f32s(-0.0)), sums)
    }

    /// The product added to the sums. Processors look whether a sum is smaller than normal numbers when it is rounded to 24
    /// bits, of which the smaller ones have fewer in memory: what comes out as the smallest normal number may have been less.
    #[inline(always)]
    fn add_product(self, left: S::f32s, right: S::f32s, sums: S::f32s) -> S::f32s {
        let Self(simd) = self;
        let smallest = simd.splat_f32s(f32::MIN_POSITIVE);
        let added = simd.mul_add_f32s(left, right, sums);
        let doubtful = simd.equal_f32s(simd.abs_f32s(added), smallest);
        if simd.first_true_m32s(doubtful) == S::F32_LANES {
            return self.flush(added);
        }
        let scale = simd.splat_f32s(SCALE);
        let exact = simd.mul_add_f32s(simd.mul_f32s(left, scale), right, simd.mul_f32s(sums, scale));
        let small = simd.less_than_f32s(simd.abs_f32s(exact), simd.mul_f32s(smallest, scale));
        let zero = simd.and_f32s(added, simd.splat_f32s(-0.0));
        let added = simd.select_f32s(doubtful, simd.select_f32s(small, zero, added), added);
        self.flush(added)
    }
}

/// Sums near the smallest normal number have 24 bits when they are so many times as large.
pub(in super::super) const SCALE: f32 = (1 << 24) as f32;

impl<S: Simd, const GROUPS: bool> Arithmetic for Emulated<S, GROUPS> {
    type Numbers = S::f32s;
    type Sums = Sums<S::f32s>;
    type Pairs = S::u32s;
    const LANES: usize = S::F32_LANES;
    // With what a product takes on the way, a tile of four rows fits 16 registers then.
    const MOST_VECTORS: usize = 2;
    const MANY_REGISTERS: bool = false;
    const IN_GROUPS: bool = GROUPS;

    #[inline(always)]
    fn most_rows(self, vectors: usize) -> usize {
        most_rows::<Self>(vectors)
    }

    #[inline(always)]
    fn reads_rows(self) -> bool {
        false
    }

    #[inline(always)]
    fn multiply(self, rows: usize, vectors: usize, operands: Operands<'_>, target: Target<'_>) {
        multiply_tile(self, rows, vectors, operands, target);
    }

    #[inline(always)]
    fn zero(self) -> Sums<S::f32s> {
        self.begin(self.0.splat_f32s(0.0))
    }

    #[inline(always)]
    fn begin(self, numbers: S::f32s) -> Sums<S::f32s> {
        let zero = self.0.splat_f32s(0.0);
        Sums { all: self.flush(numbers), first: zero, second: zero }
    }

    #[inline(always)]
    fn close(self, sums: Sums<S::f32s>, is_whole: bool) -> Sums<S::f32s> {
        let Self(simd) = self;
        let zero = simd.splat_f32s(0.0);
        let Sums { mut first, mut second, .. } = sums;
        if !is_whole {
            // Products of zeros are zero, which makes a zero of either sign a positive one.
            (first, second) = (simd.add_f32s(first, zero), simd.add_f32s(second, zero));
        }
        let group = self.flush(simd.add_f32s(first, second));
        Sums { all: self.flush(simd.add_f32s(sums.all, group)), first: zero, second: zero }
    }

    #[inline(always)]
    fn end(self, sums: Sums<S::f32s>) -> S::f32s {
        sums.all
    }

    #[inline(always)]
    fn splat(self, pair: u32) -> S::u32s {
        self.0.splat_u32s(pair)
    }

    #[inline(always)]
    fn add_products(self, left: S::u32s, right: S::u32s, sums: Sums<S::f32s>) -> Sums<S::f32s> {
        let (left_first, left_second) = (self.first(left), self.second(left));
        let (right_first, right_second) = (self.first(right), self.second(right));
        if GROUPS {
            Sums {
                first: self.add_product(left_first, right_first, sums.first),
                second: self.add_product(left_second, right_second, sums.second),
                ..sums
            }
        } else {
            let all = self.add_product(left_second, right_second, sums.all);
            Sums { all: self.add_product(left_first, right_first, all), ..sums }
        }
    }

    #[inline(always)]
    fn prefetch(self, _: *const u32) {}

    #[inline(always)]
    fn round(self, numbers: &[f32], pairs: &mut [u32]) {
        let (numbers, _) = numbers.as_chunks::<2>();
        for ([first, second], pair) in numbers.iter().zip(pairs) {
            *pair = rounded(*second) << 16 | rounded(*first);
        }
    }

    #[inline(always)]
    fn interleave(self, first: &[f32], second: &[f32], pairs: &mut [u32]) {
        for ((first, second), pair) in first.iter().zip(second).zip(pairs) {
            *pair = rounded(*second) << 16 | rounded(*first);
        }
    }

    #[inline(always)]
    fn vectorize(self, call: impl Call) {
        self.0.vectorize(Emulation::<_, GROUPS>(call));
    }
}

/// Code by instructions that all processors have.
pub(super) struct Emulation<C, const GROUPS: bool>(pub(super) C);

impl<C: Call, const GROUPS: bool> WithSimd for Emulation<C, GROUPS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.call(Emulated::<S, GROUPS>(simd));
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use native::Native;

#[cfg(target_arch = "x86_64")]
mod native {
    use std::{
        arch::x86_64::{
            __m256bh, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_cvtepu16_epi32,
            _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_or_si512,
            _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_si512,
        },
        mem::transmute,
    };

    use pulp::NullaryFnOnce;

    use super::{
        super::{
            amx,
            tile::{Operands, Target, most_rows, multiply_tile},
        },
        Arithmetic, Call, Emulated,
    };

    pulp::simd_type! {
        /// AVX-512 with bf16; that it exists says that the processor has all of it.
        struct Avx512 {
            avx2: "avx2",
            fma: "fma",
            avx512f: "avx512f",
            avx512bw: "avx512bw",
            avx512cd: "avx512cd",
            avx512dq: "avx512dq",
            avx512vl: "avx512vl",
            avx512bf16: "avx512bf16",
        }
    }

    /// Numbers in a register.
    const LANES: usize = 16;

    struct Vectorized<C>(Native, C);

    /// The processor's instructions for bf16: those of AVX-512, or its tiles.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Native {
        simd: Avx512,
        tiles: Option<amx::Tiles>,
    }

    impl Native {
        /// Those of AVX-512, if the processor has them.
        pub(in super::super) fn vectors() -> Option<Self> {
            Some(Self { simd: Avx512::try_new()?, tiles: None })
        }

        /// Tiles, which sum in groups, and AVX-512 around them.
        pub(in super::super) fn tiles(tiles: amx::Tiles) -> Option<Self> {
            Some(Self { simd: Avx512::try_new()?, tiles: Some(tiles) })
        }
    }

    impl<C: Call> NullaryFnOnce for Vectorized<C> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.1.call(self.0);
        }
    }

    impl Arithmetic for Native {
        type Numbers = __m512;
        type Sums = __m512;
        type Pairs = __m512i;
        const LANES: usize = LANES;
        const MOST_VECTORS: usize = 4;
        const MANY_REGISTERS: bool = true;
        // Those of tiles are in the instruction.
        const IN_GROUPS: bool = false;

        #[inline(always)]
        fn most_rows(self, vectors: usize) -> usize {
            if self.tiles.is_some() { amx::ROWS } else { most_rows::<Self>(vectors) }
        }

        #[inline(always)]
        fn reads_rows(self) -> bool {
            self.tiles.is_some()
        }

        #[inline(always)]
        fn multiply(self, rows: usize, vectors: usize, operands: Operands<'_>, target: Target<'_>) {
            match self.tiles {
                Some(tiles) => tiles.multiply(rows, vectors, operands, target),
                None => multiply_tile(self, rows, vectors, operands, target),
            }
        }

        #[inline(always)]
        fn zero(self) -> __m512 {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        fn begin(self, numbers: __m512) -> __m512 {
            // The instruction takes them so.
            numbers
        }

        #[inline(always)]
        fn close(self, sums: __m512, _: bool) -> __m512 {
            sums
        }

        #[inline(always)]
        fn end(self, sums: __m512) -> __m512 {
            sums
        }

        #[inline(always)]
        fn splat(self, pair: u32) -> __m512i {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_set1_epi32(pair.cast_signed()) }
        }

        #[inline(always)]
        fn add_products(self, left: __m512i, right: __m512i, sums: __m512) -> __m512 {
            // SAFETY: the processor has AVX-512 with bf16; both types are 512 bits of any value.
            unsafe {
                _mm512_dpbf16_ps(sums, transmute::<__m512i, __m512bh>(left), transmute::<__m512i, __m512bh>(right))
            }
        }

        #[inline(always)]
        fn prefetch(self, pairs: *const u32) {
            // SAFETY: nothing is read, so any address is allowed.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(pairs.cast()) };
        }

        #[inline(always)]
        fn round(self, numbers: &[f32], pairs: &mut [u32]) {
            let (numbers, rest) = numbers.as_chunks::<{ 2 * LANES }>();
            let whole = numbers.len() * LANES;
            let (pairs, last) = pairs.split_at_mut(whole);
            for (numbers, pairs) in numbers.iter().zip(pairs.as_chunks_mut::<LANES>().0) {
                // SAFETY: the processor has AVX-512 with bf16; 32 numbers are read and 16 pairs written, where the arrays are.
                unsafe {
                    let (first, second) = (numbers.as_ptr(), numbers.as_ptr().add(LANES));
                    let rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(second), _mm512_loadu_ps(first));
                    _mm512_storeu_si512(pairs.as_mut_ptr().cast(), transmute::<__m512bh, __m512i>(rounded));
                }
            }
            Emulated::<_, false>(pulp::Scalar::new()).round(rest, last);
        }

        #[inline(always)]
        fn interleave(self, first: &[f32], second: &[f32], pairs: &mut [u32]) {
            let (first, first_rest) = first.as_chunks::<LANES>();
            let (second, second_rest) = second.as_chunks::<LANES>();
            let (pairs, last) = pairs.split_at_mut(first.len() * LANES);
            for ((first, second), pairs) in first.iter().zip(second).zip(pairs.as_chunks_mut::<LANES>().0) {
                // SAFETY: the processor has AVX-512 with bf16; 16 numbers are read twice and 16 pairs written, where the
                // arrays are.
                unsafe {
                    let low = _mm512_cvtneps_pbh(_mm512_loadu_ps(first.as_ptr()));
                    let low = _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(low));
                    let high = _mm512_cvtneps_pbh(_mm512_loadu_ps(second.as_ptr()));
                    let high = _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(high));
                    let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                    _mm512_storeu_si512(pairs.as_mut_ptr().cast(), both);
                }
            }
            Emulated::<_, false>(pulp::Scalar::new()).interleave(first_rest, second_rest, last);
        }

        #[inline(always)]
        fn vectorize(self, call: impl Call) {
            self.simd.vectorize(Vectorized(self, call));
        }
    }
}
