//! Products of factors that are rounded to bf16.
//!
//! Factors are packed in pairs along the inner index, as the processor's instruction takes them (`VDPBF16PS` of AVX-512
//! BF16), and summed in f32. What that does to a sum is the definition for all instruction sets: it adds the product of the
//! second numbers of two pairs, then that of the first ones, each time rounded to the nearest, and to zero where the sum is
//! smaller than normal numbers; a sum that begins with so small a number begins with zero. Numbers are rounded to bf16 to the nearest likewise. Where the inner size is odd, a zero
//! follows. So each number of a product is one chain, and tiles, blocks and packing change no bit.
//!
//! A factor that many products have is packed beforehand ([`PackedRows`], [`PackedColumns`]).

mod arithmetic;
mod pack;
mod packed;
mod product;
mod tile;

use pulp::{Arch, Simd, WithSimd};

use arithmetic::{Arithmetic, Call, Emulated};
pub(in crate::model) use packed::{Left, PANEL, PackedColumns, PackedRows, Right};
pub(super) use packed::{PackColumnsInto, PackRowsInto, multiply_packed};
pub(super) use product::Product;

/// Runs code of this module with an instruction set. Of AVX-512 the part for bf16 is used if the processor has it.
pub(super) fn run(arch: Arch, call: impl Call) {
    #[cfg(target_arch = "x86_64")]
    if let (Arch::V4(_), Some(native)) = (arch, arithmetic::Native::try_new()) {
        return Arithmetic::vectorize(native, call);
    }
    arch.dispatch(Emulation(call));
}

/// Code by instructions that all processors have.
struct Emulation<C>(C);

impl<C: Call> WithSimd for Emulation<C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.call(Emulated(simd));
    }
}
