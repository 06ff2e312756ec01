//! Products beside the plain loop, bit by bit, with every instruction set of the machine.

use proptest::prelude::*;

use super::{
    super::dispatch::sets, Instructions, Left, Matrix, Order, PANEL, PackedColumns, PackedRows, Right,
    multiply_bf16_with, multiply_with, pack_columns_with, pack_rows_with,
};

/// A matrix in memory with room around it: numbers, sizes, stride, whether it is given as the transpose of what lies there.
#[derive(Clone, Debug)]
struct Operand {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    stride: usize,
    transposed: bool,
}

impl Operand {
    fn new(rows: usize, columns: usize, gap: usize, transposed: bool, seed: u32) -> Self {
        let (lines, width) = if transposed { (columns, rows) } else { (rows, columns) };
        let stride = width + gap;
        Self { data: numbers((lines.max(1) - 1) * stride + width, seed), rows, columns, stride, transposed }
    }

    fn matrix(&self) -> Matrix<'_> {
        if self.transposed {
            Matrix::new(&self.data, self.columns, self.rows, self.stride).transposed()
        } else {
            Matrix::new(&self.data, self.rows, self.columns, self.stride)
        }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.data[if self.transposed { column * self.stride + row } else { row * self.stride + column }]
    }
}

/// Numbers of both signs and many magnitudes, so that another order of sums shows.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..count).map(|_| (next() as f32 / u32::MAX as f32 - 0.5) * (next() as f32 / u32::MAX as f32).exp2()).collect()
}

/// Zero, of the same sign, for what is smaller than normal numbers.
fn flush(number: f32) -> f32 {
    if number.abs() < f32::MIN_POSITIVE { 0.0_f32.copysign(number) } else { number }
}

/// The nearest number of 8 significant bits, the even one of two.
fn bf16(number: f32) -> f32 {
    let number = flush(number);
    if number == 0.0 {
        return number;
    }
    let (mut unit, size) = (f64::from(f32::MIN_POSITIVE), f64::from(number.abs()));
    while unit * 2.0 <= size {
        unit *= 2.0;
    }
    let unit = unit / 128.0;
    ((f64::from(number) / unit).round_ties_even() * unit) as f32
}

/// A product added to a sum, zero if less than the smallest normal number: with 24 bits, which numbers that size have not.
fn add_product(left: f32, right: f32, sum: f32) -> f32 {
    const UNIT: f64 = f32::MIN_POSITIVE as f64 / (1 << 23) as f64;
    let added = left.mul_add(right, sum);
    if added.abs() > f32::MIN_POSITIVE {
        return added;
    }
    // Whatever counts of two terms whose sum is that small has fewer bits than f64; the last of 24 is half a unit.
    let units = (f64::from(left) * f64::from(right) / UNIT + f64::from(sum) / UNIT).abs();
    let is_less = (units * 2.0).round_ties_even() < f64::from(1 << 24);
    if is_less { 0.0_f32.copysign(added) } else { added }
}

fn exact(sum: f32, left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).fold(sum, |sum, (left, right)| left.mul_add(*right, sum))
}

/// By pairs, the second number first.
fn by_pairs(sum: f32, left: &[f32], right: &[f32]) -> f32 {
    let mut sum = flush(sum);
    for (left, right) in left.chunks(2).zip(right.chunks(2)) {
        for (left, right) in left.iter().zip(right).rev() {
            sum = add_product(*left, *right, sum);
        }
    }
    sum
}

/// By groups of sixteen pairs, with zeros behind the last: first numbers and second ones each in a sum of their own.
fn by_groups(sum: f32, left: &[f32], right: &[f32]) -> f32 {
    let mut sum = flush(sum);
    for (left, right) in left.chunks(32).zip(right.chunks(32)) {
        let mut halves = [0.0_f32; 2];
        for index in 0..32 {
            let factors = [left, right].map(|numbers| numbers.get(index).copied().unwrap_or_default());
            halves[index % 2] = add_product(factors[0], factors[1], halves[index % 2]);
        }
        sum = flush(sum + flush(halves[0] + halves[1]));
    }
    sum
}

/// A product in place: instructions, output and its stride, factors, whether it is added.
type Multiply = fn(Instructions, &mut [f32], usize, Matrix<'_>, Matrix<'_>, bool);

/// A form of products: its name, what becomes of factors, how they are summed, and functions that compute it.
type Form = (&'static str, fn(f32) -> f32, fn(f32, &[f32], &[f32]) -> f32, &'static [Multiply]);

const FORMS: [Form; 3] = [
    ("f32", |number| number, exact, &[whole]),
    (
        "bf16",
        bf16,
        by_pairs,
        &[
            plain::<false>,
            packed_left::<false>,
            packed_right::<false>,
            packed_right_in_blocks::<false>,
            packed_left_in_blocks::<false>,
            packed_in_blocks::<false>,
            packed::<false>,
        ],
    ),
    (
        GROUPS,
        bf16,
        by_groups,
        &[
            plain::<true>,
            packed_left::<true>,
            packed_right::<true>,
            packed_right_in_blocks::<true>,
            packed_left_in_blocks::<true>,
            packed_in_blocks::<true>,
            packed::<true>,
        ],
    ),
];

/// That of AMX.
const GROUPS: &str = "bf16 in groups";

/// All instructions that compute a form, by name. Those of AMX need vectors of bf16 beside them, here and where they are used.
fn instructions(form: &str) -> Vec<(&'static str, Instructions)> {
    let mut all: Vec<_> = sets().into_iter().map(|(name, arch)| (name, Instructions::from(arch))).collect();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if let (GROUPS, Some(&("avx512", best))) = (form, all.last())
        && std::is_x86_feature_detected!("avx512bf16")
    {
        all.push(("AMX", Instructions { trap: true, ..best }));
    }
    all
}

fn order(groups: bool) -> Order {
    if groups { Order::Groups } else { Order::Chain }
}

fn whole(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    multiply_with(instructions.arch, output, stride, left, right, accumulate);
}

fn plain<const GROUPS: bool>(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    multiply_bf16_with(instructions, order(GROUPS), output, stride, left.into(), right.into(), accumulate);
}

fn packed_left<const GROUPS: bool>(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    let mut pairs = vec![1; PackedRows::len(left.rows, left.columns)];
    let left = pack_rows_with(instructions, left, &mut pairs);
    multiply_bf16_with(instructions, order(GROUPS), output, stride, left.into(), right.into(), accumulate);
}

fn packed_right<const GROUPS: bool>(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    let mut pairs = vec![1; PackedColumns::len(right.rows, right.columns)];
    pack_columns_with(instructions, right, &mut pairs, right.rows.div_ceil(2) * PANEL);
    let right = PackedColumns::new(&pairs, right.rows, right.columns);
    multiply_bf16_with(instructions, order(GROUPS), output, stride, left.into(), right.into(), accumulate);
}

/// Rows of the right factor in blocks with room between them, and so its panels.
fn packed_right_in_blocks<const GROUPS: bool>(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    // Blocks of whole groups, as others are other sums.
    let block_rows = if GROUPS { 32 } else { 6 };
    let panel = block_rows / 2 * PANEL + 16;
    let apart = right.columns.div_ceil(PANEL) * panel + 32;
    let mut pairs = vec![1; right.rows.div_ceil(block_rows) * apart];
    for first in (0..right.rows).step_by(block_rows) {
        let block =
            Matrix { data: &right.data[first * right.row_stride..], rows: block_rows.min(right.rows - first), ..right };
        pack_columns_with(instructions, block, &mut pairs[first / block_rows * apart..], panel);
    }
    let blocks = PackedColumns::new(&pairs, right.rows, right.columns).panels_apart(panel).in_blocks(block_rows, apart);
    multiply_bf16_with(instructions, order(GROUPS), output, stride, left.into(), blocks.into(), accumulate);
}

/// Columns of the left factor in blocks with room between them, and the other factor whole.
fn packed_left_in_blocks<const GROUPS: bool>(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    let block_columns = if GROUPS { 32 } else { 4 };
    let count = left.columns / block_columns;
    if count == 0 || !left.columns.is_multiple_of(block_columns) {
        return packed_right::<GROUPS>(instructions, output, stride, left, right, accumulate);
    }
    let apart = PackedRows::len(left.rows, block_columns) + 3;
    let mut pairs = vec![1; count * apart];
    let block = |index: usize| {
        let data = left.data.get(index * block_columns * left.column_stride..).unwrap_or_default();
        Matrix { data, columns: block_columns, ..left }
    };
    for (index, pairs) in pairs.chunks_mut(apart).enumerate() {
        pack_rows_with(instructions, block(index), pairs);
    }
    let left = PackedRows::new(&pairs, &block(0)).blocks(count, apart);
    let mut pairs = vec![1; PackedColumns::len(right.rows, right.columns)];
    pack_columns_with(instructions, right, &mut pairs, right.rows.div_ceil(2) * PANEL);
    let right = PackedColumns::new(&pairs, right.rows, right.columns);
    multiply_bf16_with(instructions, order(GROUPS), output, stride, left.into(), right.into(), accumulate);
}

/// Both factors in blocks of as many columns and rows, with room between them, as gradients of the output layer come.
fn packed_in_blocks<const GROUPS: bool>(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    const SIZE: usize = 64;
    let count = left.columns / SIZE;
    if count == 0 || !left.columns.is_multiple_of(SIZE) {
        return packed_right::<GROUPS>(instructions, output, stride, left, right, accumulate);
    }
    let (panel, apart) = (SIZE / 2 * PANEL, PackedRows::len(left.rows, SIZE) + 3);
    let right_apart = right.columns.div_ceil(PANEL) * panel + 32;
    let (mut lefts, mut rights) = (vec![0x7fc0_7fc0; count * apart], vec![0x7fc0_7fc0; count * right_apart]);
    let of_left = |index: usize| {
        let data = left.data.get(index * SIZE * left.column_stride..).unwrap_or_default();
        Matrix { data, columns: SIZE, ..left }
    };
    for index in 0..count {
        pack_rows_with(instructions, of_left(index), &mut lefts[index * apart..][..PackedRows::len(left.rows, SIZE)]);
        let data = right.data.get(index * SIZE * right.row_stride..).unwrap_or_default();
        let block = Matrix { data, rows: SIZE, ..right };
        pack_columns_with(instructions, block, &mut rights[index * right_apart..], panel);
    }
    let left = PackedRows::new(&lefts, &of_left(0)).blocks(count, apart);
    let right = PackedColumns::new(&rights, right.rows, right.columns).panels_apart(panel).in_blocks(SIZE, right_apart);
    multiply_bf16_with(instructions, order(GROUPS), output, stride, left.into(), right.into(), accumulate);
}

/// Both factors, a part of the rows of one and of the sums after the other.
fn packed<const GROUPS: bool>(
    instructions: Instructions,
    output: &mut [f32],
    stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    accumulate: bool,
) {
    let (rows, part) = (left.rows / 3, if GROUPS { 32 } else { 2 });
    let half = right.rows / 2 / part * part;
    let mut pairs = vec![1; PackedColumns::len(right.rows, right.columns)];
    pack_columns_with(instructions, right, &mut pairs, right.rows.div_ceil(2) * PANEL);
    let columns = PackedColumns::new(&pairs, right.rows, right.columns);
    for (inner, accumulate) in [(0..half, accumulate), (half..right.rows, true)] {
        let start = inner.start * left.column_stride;
        let part = Matrix { data: left.data.get(start..).unwrap_or_default(), columns: inner.len(), ..left };
        let mut pairs = vec![1; PackedRows::len(part.rows, part.columns)];
        let packed = pack_rows_with(instructions, part, &mut pairs);
        let right = Right::from(columns.of(inner));
        for rows in [0..rows, rows..part.rows] {
            let output = output.get_mut(rows.start * stride..).unwrap_or_default();
            multiply_bf16_with(
                instructions,
                order(GROUPS),
                output,
                stride,
                Left::from(packed.of(rows)),
                right,
                accumulate,
            );
        }
    }
}

fn check(left: &Operand, right: &Operand, gap: usize, accumulate: bool) {
    check_beside(left, right, gap, accumulate, 1.0);
}

/// With numbers in the output before that are so many times as large as usual.
fn check_beside(left: &Operand, right: &Operand, gap: usize, accumulate: bool, scale: f32) {
    let (rows, depth, columns) = (left.rows, left.columns, right.columns);
    let stride = columns + gap;
    let before: Vec<f32> = numbers(rows.max(1) * stride, 7).into_iter().map(|number| number * scale).collect();
    for (form, factor, chain, products) in FORMS {
        let lefts: Vec<Vec<f32>> = (0..rows).map(|row| (0..depth).map(|i| factor(left.at(row, i))).collect()).collect();
        let rights: Vec<Vec<f32>> =
            (0..columns).map(|column| (0..depth).map(|i| factor(right.at(i, column))).collect()).collect();
        let mut expected = before.clone();
        for (left, expected) in lefts.iter().zip(expected.chunks_mut(stride.max(1))) {
            for (right, number) in rights.iter().zip(expected) {
                *number = chain(if accumulate { *number } else { 0.0 }, left, right);
            }
        }
        for ((name, instructions), (number, multiply)) in instructions(form)
            .into_iter()
            .flat_map(|set| products.iter().enumerate().map(move |product| (set, product)))
        {
            let mut found = before.clone();
            multiply(instructions, &mut found, stride, left.matrix(), right.matrix(), accumulate);
            let wrong = found.iter().zip(&expected).position(|(found, expected)| found.to_bits() != expected.to_bits());
            assert_eq!(wrong, None, "{form} {number}, {name}: {rows} x {depth} x {columns}, gap {gap}, {accumulate}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn products_are_chains_of_multiply_adds_whatever_the_instruction_set(
        (rows, depth, columns) in (0..80_usize, 0..150_usize, 0..150_usize),
        gaps in (0..20_usize, 0..20_usize, 0..20_usize),
        (left, right, accumulate) in any::<(bool, bool, bool)>(),
    ) {
        let left = Operand::new(rows, depth, gaps.0, left, 1);
        let right = Operand::new(depth, columns, gaps.1, right, 2);
        check(&left, &right, gaps.2, accumulate);
    }
}

/// Products that are cut in all directions.
#[test]
fn blocks_change_no_bit() {
    for (rows, depth, columns) in [(200, 1088, 150), (70, 6200, 3), (3, 2000, 300)] {
        for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
            let left = Operand::new(rows, depth, 3, left, 3);
            let right = Operand::new(depth, columns, 0, right, 4);
            check(&left, &right, 5, true);
        }
    }
}

/// A sum between the largest number below the smallest normal one and that, as far as 24 bits go and f32 does not.
#[test]
fn bf16_sums_are_rounded_before_they_are_found_too_small() {
    let operand = |data: Vec<f32>, rows, columns| Operand { data, rows, columns, stride: columns, transposed: false };
    for factor in [1.0, 1.5, 1.25, -1.5, 3.0] {
        let mut left = vec![f32::MIN_POSITIVE, 0.0, factor * (-75_f32).exp2()];
        let mut right = vec![1.0, 0.0, -(-76_f32).exp2()];
        left.extend([0.0; 40]);
        right.extend([0.0; 40]);
        check(&operand(left.clone(), 1, 43), &operand(right.clone(), 43, 1), 0, false);
        left.rotate_right(2);
        right.rotate_right(2);
        check(&operand(left, 1, 43), &operand(right, 43, 1), 0, false);
    }
}

/// Tiny numbers, which become zero on the way, and what rounds to infinity.
#[test]
fn bf16_has_no_numbers_below_normal_ones() {
    for scale in [1e-19, 1e-20, 1e-38, 1e-40, 1e19, 1e38] {
        let scaled = |mut operand: Operand| {
            operand.data.iter_mut().for_each(|number| *number *= scale);
            operand
        };
        let (left, right) = (Operand::new(9, 37, 0, false, 5), Operand::new(37, 40, 0, false, 6));
        check(&scaled(left.clone()), &scaled(right.clone()), 0, false);
        check_beside(&scaled(left), &scaled(right), 0, true, scale * scale);
        check_beside(&Operand::new(9, 3, 0, false, 5), &Operand::new(3, 40, 0, true, 6), 0, true, scale);
    }
}
