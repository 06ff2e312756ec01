//! Products by AMX, the tile instructions of Intel's processors from Sapphire Rapids on.
//!
//! `TDPBF16PS` multiplies 16 rows of [`GROUP`] pairs with as many rows of 16 columns. Its order of sums is specified (Intel's
//! "Architecture Instruction Set Extensions Programming Reference", section 3): it is what the module above calls groups.
//! Registers are the eight tiles: four of sums, 32 rows of 32 columns, and two of each factor.

use std::{
    arch::{
        asm,
        x86_64::{__cpuid, __cpuid_count, _xgetbv},
    },
    slice,
    sync::OnceLock,
};

use super::{
    GROUP,
    tile::{Operands, Target},
};

/// Most rows of a product at a time.
pub(super) const ROWS: usize = 2 * EDGE;

/// Rows, and columns, of a tile of sums.
const EDGE: usize = 16;

/// Bytes in a row of a tile.
const LINE: usize = 64;

/// Loads, clears and multiplies tiles, and stores them. Rows in memory are so many bytes apart. What is in a tile stays there from
/// one of these to the next, as nothing else in this program uses tiles.
macro_rules! load {
    ($tile:tt, $from:expr, $stride:expr) => {{
        let from: *const u8 = $from;
        asm!(
            concat!("tileloadd ", $tile, ", [{from} + 1*{stride}]"),
            from = in(reg) from, stride = in(reg) $stride, out($tile) _,
            options(nostack, readonly, preserves_flags)
        );
    }};
}
macro_rules! zero {
    ($tile:tt) => {
        asm!(
            concat!("tilezero ", $tile), out($tile) _, options(nostack, nomem, preserves_flags)
        )
    };
}
macro_rules! multiply {
    ($sums:tt, $left:tt, $right:tt) => {
        asm!(
            concat!("tdpbf16ps ", $sums, ", ", $left, ", ", $right),
            out($sums) _, options(nostack, nomem, preserves_flags)
        )
    };
}
macro_rules! store {
    ($tile:tt, $to:expr, $stride:expr) => {{
        let to: *mut u8 = $to;
        asm!(
            concat!("tilestored [{to} + 1*{stride}], ", $tile),
            to = in(reg) to, stride = in(reg) $stride, options(nostack, preserves_flags)
        );
    }};
}

/// Leave to use tiles; that it exists says that the processor and the system have them.
#[derive(Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// If the processor has tiles for bf16, and the system lets this process use them.
    pub(super) fn try_new() -> Option<Self> {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        AVAILABLE.get_or_init(|| has_tiles() && is_permitted()).then_some(Self(()))
    }

    /// For a processor whose instructions are computed for it.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn trapped() -> Self {
        super::trap::install();
        Self(())
    }

    /// Multiplies `rows <= ROWS` rows, in which pairs lie together, with as many vectors of columns as there are.
    #[allow(clippy::unused_self)] // It is the leave.
    pub(super) fn multiply(self, rows: usize, vectors: usize, operands: Operands<'_>, target: Target<'_>) {
        let Operands { left, left_row, left_pair, right, right_row, depth, together, left_apart, right_apart, .. } =
            operands;
        let Target { output, stride, accumulate } = target;
        let (blocks, pairs) = ((depth - 1) / together, (depth - 1) % together);
        let width = vectors * EDGE;
        assert!((1..=ROWS).contains(&rows) && left_pair == 1, "rows of pairs");
        assert!(
            blocks == 0 || together <= left_apart && together * right_row <= right_apart,
            "pairs follow one another"
        );
        assert!((rows - 1) * left_row + blocks * left_apart + pairs < left.len(), "the tile's rows");
        assert!(blocks * right_apart + pairs * right_row + width <= right.len(), "the tile's columns");
        assert!((rows - 1) * stride + width <= output.len(), "the tile's place");
        let rows = [rows.min(EDGE), rows.saturating_sub(EDGE)];
        let two_rows = rows[1] > 0;
        let configuration = Configuration::new(rows);
        let mut rest = Rest::default();
        // SAFETY: the processor has tiles. The asserts above bound what is read and written: tiles have as many rows as
        // `rows` says, whole groups lie in both factors, and what is left of a block is copied to `rest`, which has room
        // for a group. `output` is borrowed exclusively. No tile is in use before, and none after.
        unsafe {
            configuration.load();
            for vector in (0..vectors).step_by(2) {
                let two_columns = vector + 1 < vectors;
                let output = output.as_mut_ptr().add(vector * EDGE);
                let place = |row: usize, column: usize| output.wrapping_add(row * EDGE * stride + column * EDGE).cast();
                if accumulate {
                    load!("tmm0", place(0, 0), 4 * stride);
                    if two_columns {
                        load!("tmm1", place(0, 1), 4 * stride);
                    }
                    if two_rows {
                        load!("tmm2", place(1, 0), 4 * stride);
                    }
                    if two_rows && two_columns {
                        load!("tmm3", place(1, 1), 4 * stride);
                    }
                } else {
                    zero!("tmm0");
                    zero!("tmm1");
                    zero!("tmm2");
                    zero!("tmm3");
                }
                for block in 0..=blocks {
                    let pairs = together.min(depth - block * together);
                    let left = left.as_ptr().add(block * left_apart);
                    let right = right.as_ptr().add(block * right_apart + vector * EDGE);
                    for group in (0..pairs).step_by(GROUP) {
                        let mut left: *const u8 = left.add(group).cast();
                        let mut right: *const u8 = right.add(group * right_row).cast();
                        let (mut left_stride, mut right_stride) = (4 * left_row, 4 * right_row);
                        if pairs - group < GROUP {
                            let columns = EDGE * if two_columns { 2 } else { 1 };
                            rest.copy(
                                left.cast(),
                                left_row,
                                rows[0] + rows[1],
                                right.cast(),
                                right_row,
                                columns,
                                pairs - group,
                            );
                            (left, left_stride) = (rest.left.as_ptr().cast(), LINE);
                            (right, right_stride) = (rest.right.as_ptr().cast(), 2 * LINE);
                        }
                        load!("tmm4", left, left_stride);
                        load!("tmm6", right, right_stride);
                        multiply!("tmm0", "tmm4", "tmm6");
                        if two_columns {
                            load!("tmm7", right.add(LINE), right_stride);
                            multiply!("tmm1", "tmm4", "tmm7");
                        }
                        if two_rows {
                            load!("tmm5", left.add(EDGE * left_stride), left_stride);
                            multiply!("tmm2", "tmm5", "tmm6");
                        }
                        if two_rows && two_columns {
                            multiply!("tmm3", "tmm5", "tmm7");
                        }
                    }
                }
                store!("tmm0", place(0, 0), 4 * stride);
                if two_columns {
                    store!("tmm1", place(0, 1), 4 * stride);
                }
                if two_rows {
                    store!("tmm2", place(1, 0), 4 * stride);
                }
                if two_rows && two_columns {
                    store!("tmm3", place(1, 1), 4 * stride);
                }
            }
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem, preserves_flags)
            );
        }
    }
}

/// How large tiles are, as `LDTILECFG` reads it.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    /// Bytes in a row of each tile.
    line: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    /// For left factors and sums of so many rows, in two tiles; what has none is not used.
    fn new(rows: [usize; 2]) -> Self {
        let [first, second] = rows.map(|rows| rows.max(1) as u8);
        let (mut line, mut all) = ([0; 16], [0; 16]);
        line[..8].fill(LINE as u16);
        all[..8].copy_from_slice(&[first, first, second, second, first, second, GROUP as u8, GROUP as u8]);
        Self { palette: 1, start: 0, reserved: [0; 14], line, rows: all }
    }

    /// # Safety
    /// The processor has tiles, and this process may use them. What is in them is lost.
    unsafe fn load(&self) {
        // SAFETY: as above; 64 bytes are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly, preserves_flags)) };
    }
}

/// Factors of what is left of a block after whole groups, with zeros behind it.
#[repr(C, align(64))]
struct Rest {
    left: [u32; ROWS * GROUP],
    right: [u32; GROUP * 2 * EDGE],
}

impl Default for Rest {
    fn default() -> Self {
        Self { left: [0; ROWS * GROUP], right: [0; GROUP * 2 * EDGE] }
    }
}

impl Rest {
    /// # Safety
    /// `left` has `rows <= ROWS` rows of so many `pairs < GROUP`, and `right` as many rows of `columns <= 2 * EDGE`.
    #[allow(clippy::too_many_arguments)]
    unsafe fn copy(
        &mut self,
        left: *const u32,
        left_row: usize,
        rows: usize,
        right: *const u32,
        right_row: usize,
        columns: usize,
        pairs: usize,
    ) {
        self.right.fill(0);
        for (row, target) in self.left.chunks_exact_mut(GROUP).take(rows).enumerate() {
            target.fill(0);
            // SAFETY: the caller says so.
            target[..pairs].copy_from_slice(unsafe { slice::from_raw_parts(left.add(row * left_row), pairs) });
        }
        for (pair, target) in self.right.chunks_exact_mut(2 * EDGE).take(pairs).enumerate() {
            // SAFETY: the caller says so.
            target[..columns].copy_from_slice(unsafe { slice::from_raw_parts(right.add(pair * right_row), columns) });
        }
    }
}

/// Whether the processor has tiles and multiplies bf16 with them, and the system saves them.
fn has_tiles() -> bool {
    const SAVES_STATE: u32 = 1 << 27;
    const TILES_OF_BF16: u32 = 1 << 24 | 1 << 22;
    const STATE: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn state() -> u64 {
        // SAFETY: register 0 is there wherever the instruction is.
        unsafe { _xgetbv(0) }
    }
    __cpuid(0).eax >= 7
        && __cpuid(1).ecx & SAVES_STATE != 0
        && __cpuid_count(7, 0).edx & TILES_OF_BF16 == TILES_OF_BF16
        // SAFETY: the system has switched the instruction on, as the first question says.
        && unsafe { state() } & STATE == STATE
}

/// Asks the kernel, which keeps room for tiles only for those who ask.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: this call takes two numbers and touches no memory of the process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// Nothing is known of other systems.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}
