//! Computes AMX's instructions where the processor has none: what it does not know interrupts the program, and this does
//! what Intel's "Architecture Instruction Set Extensions Programming Reference" says of it, number by number.
//!
//! So the very instructions of [`super::amx`] are tested on any processor with AVX-512 BF16; one that has AMX runs them itself.

use std::{cell::UnsafeCell, sync::Once};

use super::arithmetic::SCALE;

/// Rows of a tile, and bytes in each.
const ROWS: usize = 16;
const LINE: usize = 64;

#[derive(Clone, Copy)]
struct Tile {
    bytes: [[u8; LINE]; ROWS],
    rows: usize,
    line: usize,
}

const EMPTY: Tile = Tile { bytes: [[0; LINE]; ROWS], rows: 0, line: 0 };

thread_local! {
    static TILES: UnsafeCell<[Tile; 8]> = const { UnsafeCell::new([EMPTY; 8]) };
}

/// From now on this process has AMX, of a kind.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only touches its thread's tiles and memory that an instruction names, and ends the process at
        // anything else.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()), 0);
        }
    });
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over the interrupted thread's registers.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let place = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: an instruction was read there; those of AMX have five bytes at least, and another two where they name memory
    // this way, in the middle of a function.
    let found = unsafe { place.cast::<[u8; 7]>().read_unaligned() };
    match Instruction::read(found, registers) {
        Some(instruction) => {
            // SAFETY: nothing else on this thread uses its tiles, and the interrupted code says which memory it means.
            TILES.with(|tiles| unsafe { instruction.run(&mut *tiles.get()) });
            registers[libc::REG_RIP as usize] += instruction.length as i64;
        }
        None => std::process::abort(),
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Configure,
    Release,
    Zero,
    Load,
    Store,
    Multiply,
}

struct Instruction {
    operation: Operation,
    /// Tiles: of the sums or what is loaded and stored, then the factors.
    tiles: [usize; 3],
    address: usize,
    stride: isize,
    length: usize,
}

impl Instruction {
    /// `VEX.128`, map 2, one byte of operation, a byte of registers, and what memory needs.
    fn read(bytes: [u8; 7], registers: &[i64; 23]) -> Option<Self> {
        let [0xc4, high, low, operation, mode, scale, displacement] = bytes else { return None };
        let (prefix, tile) = (low & 3, usize::from(mode >> 3 & 7));
        let is_register = mode >> 6 == 3;
        let operation = match (operation, prefix, is_register) {
            (0x49, 0, false) => Operation::Configure,
            (0x49, 0, true) => Operation::Release,
            (0x49, 3, true) => Operation::Zero,
            (0x4b, 3, false) => Operation::Load,
            (0x4b, 2, false) => Operation::Store,
            (0x5c, 2, true) => Operation::Multiply,
            _ => return None,
        };
        // The second factor stands upside down in the prefix, and so do the high bits of registers.
        let tiles = [tile, usize::from(mode & 7), usize::from(!low >> 3 & 7)];
        let mut instruction = Self { operation, tiles, address: 0, stride: 0, length: 5 };
        if is_register {
            return (high & 0x1f == 2).then_some(instruction);
        }
        let number = |low: u8, inverted_bit: u8| usize::from(low & 7 | (!high >> inverted_bit & 1) << 3);
        let register = |number: usize| registers[GENERAL[number] as usize];
        if mode & 7 == 4 {
            let (base, index) = (number(scale, 5), number(scale >> 3, 6));
            instruction.length = 6;
            instruction.address = register(base) as usize;
            if index != 4 {
                instruction.stride = (register(index) << (scale >> 6)) as isize;
            }
            match mode >> 6 {
                // This base without displacement would mean something else.
                0 if base & 7 != 5 => {}
                1 if displacement == 0 => instruction.length += 1,
                _ => return None,
            }
        } else {
            let base = number(mode, 5);
            instruction.address = register(base) as usize;
            match mode >> 6 {
                0 if base & 7 != 5 => {}
                1 if scale == 0 => instruction.length += 1,
                _ => return None,
            }
        }
        Some(instruction)
    }

    /// # Safety
    /// The memory that it names may be read, or written.
    unsafe fn run(&self, tiles: &mut [Tile; 8]) {
        let [first, left, right] = self.tiles;
        let row = |row: usize| self.address.wrapping_add_signed(row as isize * self.stride) as *mut [u8; LINE];
        match self.operation {
            Operation::Configure => {
                // SAFETY: the caller says so.
                let bytes = unsafe { *(self.address as *const [u8; LINE]) };
                assert_eq!(bytes[0], 1);
                for (number, tile) in tiles.iter_mut().enumerate() {
                    let line = usize::from(u16::from_le_bytes([bytes[16 + 2 * number], bytes[17 + 2 * number]]));
                    *tile = Tile { rows: usize::from(bytes[48 + number]), line, ..EMPTY };
                    assert!(tile.rows <= ROWS && line <= LINE && line % 4 == 0);
                }
            }
            Operation::Release => *tiles = [EMPTY; 8],
            Operation::Zero => tiles[first].bytes = EMPTY.bytes,
            Operation::Load => {
                let tile = &mut tiles[first];
                assert!(tile.line == LINE && tile.rows > 0);
                tile.bytes = EMPTY.bytes;
                for number in 0..tile.rows {
                    // SAFETY: the caller says so.
                    tile.bytes[number] = unsafe { row(number).read_unaligned() };
                }
            }
            Operation::Store => {
                let tile = &tiles[first];
                assert!(tile.line == LINE && tile.rows > 0);
                for number in 0..tile.rows {
                    // SAFETY: the caller says so.
                    unsafe { row(number).write_unaligned(tile.bytes[number]) };
                }
            }
            Operation::Multiply => {
                let (left, right) = (tiles[left], tiles[right]);
                let sums = &mut tiles[first];
                assert!(sums.rows == left.rows && left.line / 4 == right.rows && sums.line == right.line);
                assert!(first != self.tiles[1] && first != self.tiles[2] && self.tiles[1] != self.tiles[2]);
                // SAFETY: only processors with AVX-512 come here.
                unsafe { multiply(sums, &left, &right) };
            }
        }
    }
}

/// Numbers of the sixteen registers as the kernel orders them.
const GENERAL: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Zero, of the same sign, for what is smaller than normal numbers.
fn flush(number: f32) -> f32 {
    if number.abs() < f32::MIN_POSITIVE { 0.0_f32.copysign(number) } else { number }
}

/// The product added to a sum, zero if 24 bits of it are less than the smallest normal number.
#[inline]
fn add_product(left: f32, right: f32, sum: f32) -> f32 {
    let added = left.mul_add(right, sum);
    let is_less = added.abs() == f32::MIN_POSITIVE
        && (left * SCALE).mul_add(right, sum * SCALE).abs() < f32::MIN_POSITIVE * SCALE;
    if is_less { 0.0_f32.copysign(added) } else { flush(added) }
}

/// With the instruction for multiply-adds, which any processor with AVX-512 has, as a function for each takes long.
#[target_feature(enable = "fma")]
fn multiply(sums: &mut Tile, left: &Tile, right: &Tile) {
    let bf16 = |tile: &Tile, row: usize, number: usize| {
        let bytes = [tile.bytes[row][2 * number], tile.bytes[row][2 * number + 1]];
        flush(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
    };
    for row in 0..sums.rows {
        for column in 0..sums.line / 4 {
            let mut halves = [0.0_f32; 2];
            for pair in 0..left.line / 4 {
                for (half, sum) in halves.iter_mut().enumerate() {
                    let factors = (bf16(left, row, 2 * pair + half), bf16(right, pair, 2 * column + half));
                    *sum = add_product(factors.0, factors.1, *sum);
                }
            }
            let place = &mut sums.bytes[row][4 * column..][..4];
            let before = flush(f32::from_le_bytes([place[0], place[1], place[2], place[3]]));
            let sum = flush(before + flush(halves[0] + halves[1]));
            place.copy_from_slice(&sum.to_le_bytes());
        }
    }
}
