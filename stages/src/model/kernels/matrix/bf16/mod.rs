//! Products of factors that are rounded to bf16.
//!
//! Factors are packed in pairs along the inner index, as the processor's instruction takes them (`VDPBF16PS` of AVX-512
//! BF16), and summed in f32. What that does to a sum is the definition for all instruction sets: it adds the product of the
//! second numbers of two pairs, then that of the first ones, each time rounded to the nearest, and to zero where the sum is
//! smaller than normal numbers; a sum that begins with so small a number begins with zero. Numbers are rounded to bf16 to the nearest likewise. Where the inner size is odd, a zero
//! follows. So each number of a product is one chain, and tiles, blocks and packing change no bit.
//!
//! AMX has another order of sums ([`Order::Groups`]): the inner index is cut into groups of [`GROUP`] pairs, from the
//! beginning of the product or of each block of a factor. In a group, products of first numbers are summed, beginning with zero,
//! and so are those of second numbers; both sums are added, and what comes of that is added to the number. Each step rounds as
//! above. Zeros fill up the last group.
//!
//! A factor that many products have is packed beforehand ([`PackedRows`], [`PackedColumns`]).

#[cfg(target_arch = "x86_64")]
mod amx;
mod arithmetic;
mod pack;
mod packed;
mod pairs;
mod product;
mod tile;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod trap;

use pulp::Arch;

use arithmetic::{Arithmetic, Call, Emulation};
pub(in crate::model) use packed::{Left, PANEL, PackedColumns, PackedRows, Right};
pub(super) use packed::{PackColumnsInto, PackRowsInto, multiply_packed};
pub(in crate::model) use pairs::Pairs;
pub(super) use product::Product;

/// Pairs whose products are summed before they are added to a number, where sums are in groups.
pub(super) const GROUP: usize = 16;

/// In which order products are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Order {
    /// One after the other.
    Chain,
    /// In groups, as AMX does.
    Groups,
}

/// With which instructions products are computed: the best of the processor that a set allows.
#[derive(Clone, Copy)]
pub(super) struct Instructions {
    pub(super) arch: Arch,
    /// Whether AMX's instructions are computed for the processor, should it have none.
    #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
    pub(super) trap: bool,
}

impl From<Arch> for Instructions {
    fn from(arch: Arch) -> Self {
        Self {
            arch,
            #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
            trap: false,
        }
    }
}

impl Instructions {
    /// Whether products in groups are computed by AMX.
    pub(super) fn use_amx(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.native(Order::Groups).is_some();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Those for bf16, if the processor has some that sum in this order.
    #[cfg(target_arch = "x86_64")]
    fn native(self, order: Order) -> Option<arithmetic::Native> {
        let Arch::V4(_) = self.arch else { return None };
        match order {
            Order::Chain => arithmetic::Native::vectors(),
            #[cfg(all(test, target_os = "linux"))]
            Order::Groups if self.trap => arithmetic::Native::tiles(amx::Tiles::trapped()),
            Order::Groups => arithmetic::Native::tiles(amx::Tiles::try_new()?),
        }
    }
}

/// Runs code of this module. Of AVX-512 the part for bf16, and AMX, are used if the processor has them.
pub(super) fn run(instructions: Instructions, order: Order, call: impl Call) {
    #[cfg(target_arch = "x86_64")]
    if let Some(native) = instructions.native(order) {
        return Arithmetic::vectorize(native, call);
    }
    match order {
        Order::Chain => instructions.arch.dispatch(Emulation::<_, false>(call)),
        Order::Groups => instructions.arch.dispatch(Emulation::<_, true>(call)),
    }
}
