//! Products beside the plain loop, bit by bit, with every instruction set of the machine.

use proptest::prelude::*;

use super::{super::dispatch::sets, Matrix, multiply_with};

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

fn check(left: &Operand, right: &Operand, gap: usize, accumulate: bool) {
    let (rows, columns, stride) = (left.rows, right.columns, right.columns + gap);
    let before = numbers(rows.max(1) * stride, 7);
    let mut expected = before.clone();
    for row in 0..rows {
        for column in 0..columns {
            let number = &mut expected[row * stride + column];
            let start = if accumulate { *number } else { 0.0 };
            *number = (0..left.columns).fold(start, |sum, i| left.at(row, i).mul_add(right.at(i, column), sum));
        }
    }
    for (name, arch) in sets() {
        let mut found = before.clone();
        multiply_with(arch, &mut found, stride, left.matrix(), right.matrix(), accumulate);
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found.to_bits() != expected.to_bits());
        assert_eq!(wrong, None, "{name}: {rows} x {} x {columns}, gap {gap}, {accumulate}", left.columns);
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
    for (rows, depth, columns) in [(200, 1600, 150), (70, 6200, 3), (3, 2000, 300)] {
        for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
            let left = Operand::new(rows, depth, 3, left, 3);
            let right = Operand::new(depth, columns, 0, right, 4);
            check(&left, &right, 5, true);
        }
    }
}
