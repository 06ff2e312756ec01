//! How pairs of bf16 numbers are made and multiplied: by the processor's own instruction, or by others to the same bits.

use pulp::{Simd, WithSimd};

/// Vectors of f32 sums and of pairs of bf16 numbers, a pair in 32 bits, its first number in the low half.
pub(in super::super) trait Arithmetic: Copy {
    /// A vector of f32 numbers.
    type Sums: Copy;
    /// A vector of pairs, as many as there are sums.
    type Pairs: Copy;
    /// Numbers in a vector.
    const LANES: usize;
    /// Most vectors in a row of a tile.
    const MOST_VECTORS: usize;
    /// Whether there are 32 registers for numbers, not 16.
    const MANY_REGISTERS: bool;

    /// Sums of nothing.
    fn zero(self) -> Self::Sums;

    /// Sums to which products are to be added; numbers smaller than normal ones count as zero.
    fn begin(self, sums: Self::Sums) -> Self::Sums;

    /// The same pair in all places.
    fn splat(self, pair: u32) -> Self::Pairs;

    /// Adds to each sum the products of both numbers of a pair, the second ones first.
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

/// Plain instructions.
#[derive(Clone, Copy)]
pub(super) struct Emulated<S>(pub(super) S);

impl<S: Simd> Emulated<S> {
    /// Zero, of the same sign, for what is smaller than normal numbers.
    #[inline(always)]
    fn flush(self, sums: S::f32s) -> S::f32s {
        let Self(simd) = self;
        let small = simd.less_than_f32s(simd.abs_f32s(sums), simd.splat_f32s(f32::MIN_POSITIVE));
        simd.select_f32s(small, simd.and_f32s(sums, simd.splat_f32s(-0.0)), sums)
    }
}

impl<S: Simd> Arithmetic for Emulated<S> {
    type Sums = S::f32s;
    type Pairs = S::u32s;
    const LANES: usize = S::F32_LANES;
    // With what a product takes on the way, a tile of four rows fits 16 registers then.
    const MOST_VECTORS: usize = 2;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn zero(self) -> S::f32s {
        self.0.splat_f32s(0.0)
    }

    #[inline(always)]
    fn begin(self, sums: S::f32s) -> S::f32s {
        self.flush(sums)
    }

    #[inline(always)]
    fn splat(self, pair: u32) -> S::u32s {
        self.0.splat_u32s(pair)
    }

    #[inline(always)]
    fn add_products(self, left: S::u32s, right: S::u32s, sums: S::f32s) -> S::f32s {
        let Self(simd) = self;
        let half = simd.splat_u32s(16);
        let high = simd.splat_u32s(0xffff_0000);
        let second = |pairs| simd.transmute_f32s_u32s(simd.and_u32s(pairs, high));
        let first = |pairs| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pairs, half));
        let sums = self.flush(simd.mul_add_f32s(second(left), second(right), sums));
        self.flush(simd.mul_add_f32s(first(left), first(right), sums))
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
        struct Vectorized<C>(C);
        impl<C: Call> WithSimd for Vectorized<C> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                self.0.call(Emulated(simd));
            }
        }
        self.0.vectorize(Vectorized(call));
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

    use super::{Arithmetic, Call, Emulated};

    pulp::simd_type! {
        /// AVX-512 with bf16; that it exists says that the processor has all of it.
        pub(in super::super) struct Native {
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

    impl<C: Call> NullaryFnOnce for Vectorized<C> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.1.call(self.0);
        }
    }

    impl Arithmetic for Native {
        type Sums = __m512;
        type Pairs = __m512i;
        const LANES: usize = LANES;
        const MOST_VECTORS: usize = 4;
        const MANY_REGISTERS: bool = true;

        #[inline(always)]
        fn zero(self) -> __m512 {
            // SAFETY: the processor has AVX-512.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        fn begin(self, sums: __m512) -> __m512 {
            // The instruction takes them so.
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
            Emulated(pulp::Scalar::new()).round(rest, last);
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
            Emulated(pulp::Scalar::new()).interleave(first_rest, second_rest, last);
        }

        #[inline(always)]
        fn vectorize(self, call: impl Call) {
            Native::vectorize(self, Vectorized(self, call));
        }
    }
}
