//! The moments of AdamW as they are kept between steps: in f32, or in 8 bits a number.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::kernels::{self, AdamWStep};

/// How the optimizer's two moments are kept between steps; within a step they are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentStorage {
    /// In f32: 8 bytes for each trained number.
    #[default]
    F32,
    /// In blocks of 256 numbers, each 8 bits of the dynamic code of bitsandbytes (arXiv 2110.02861) times the largest
    /// magnitude of the block: 2 bytes for each trained number. Tensors of fewer than 4096 numbers stay in f32.
    Blockwise8,
}

/// Numbers that share one factor.
pub(super) const BLOCK: usize = 256;

/// Tensors of fewer numbers stay in f32, as in bitsandbytes.
const SMALLEST: usize = 4096;

/// Both moments of one tensor.
#[derive(Clone, Debug)]
pub(super) enum Moments {
    Full { first: Vec<f32>, second: Vec<f32> },
    Blockwise { first: Codes, second: Codes },
}

/// One moment in 8 bits.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    /// One for each number.
    pub(super) codes: Vec<u8>,
    /// One for each block.
    pub(super) factors: Vec<f32>,
}

impl Codes {
    fn zeros(len: usize, code: &Code) -> Self {
        Self { codes: vec![code.zero; len], factors: vec![0.0; len.div_ceil(BLOCK)] }
    }
}

/// A part of both moments, whole blocks from the start of a tensor on.
pub(super) enum Part<'a> {
    Full { first: &'a mut [f32], second: &'a mut [f32] },
    Blockwise { first: (&'a mut [u8], &'a mut [f32]), second: (&'a mut [u8], &'a mut [f32]) },
}

impl Moments {
    /// Zeros for a tensor of `len` numbers.
    pub(super) fn zeros(storage: MomentStorage, len: usize) -> Self {
        if storage == MomentStorage::F32 || len < SMALLEST {
            return Self::Full { first: vec![0.0; len], second: vec![0.0; len] };
        }
        Self::Blockwise { first: Codes::zeros(len, &SIGNED), second: Codes::zeros(len, &UNSIGNED) }
    }

    /// Parts of at most `size` numbers, a multiple of [`BLOCK`].
    pub(super) fn parts(&mut self, size: usize) -> Vec<Part<'_>> {
        match self {
            Self::Full { first, second } => {
                let parts = first.chunks_mut(size).zip(second.chunks_mut(size));
                parts.map(|(first, second)| Part::Full { first, second }).collect()
            }
            Self::Blockwise { first, second } => {
                let parts = first.codes.chunks_mut(size).zip(first.factors.chunks_mut(size / BLOCK));
                let others = second.codes.chunks_mut(size).zip(second.factors.chunks_mut(size / BLOCK));
                parts.zip(others).map(|(first, second)| Part::Blockwise { first, second }).collect()
            }
        }
    }
}

impl Part<'_> {
    /// One step of the parameters that these are the moments of.
    pub(super) fn step(self, step: AdamWStep, parameters: &mut [f32], gradients: &[f32]) {
        match self {
            Part::Full { first, second } => kernels::adamw_step(step, parameters, gradients, first, second),
            Part::Blockwise { first, second } => {
                let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
                let first = first.0.chunks_mut(BLOCK).zip(first.1);
                let second = second.0.chunks_mut(BLOCK).zip(second.1);
                let blocks = parameters.chunks_mut(BLOCK).zip(gradients.chunks(BLOCK));
                for ((parameters, gradients), (first, second)) in blocks.zip(first.zip(second)) {
                    let (m, v) = (&mut m[..parameters.len()], &mut v[..parameters.len()]);
                    SIGNED.decode(first.0, *first.1, m);
                    UNSIGNED.decode(second.0, *second.1, v);
                    kernels::adamw_step(step, parameters, gradients, m, v);
                    *first.1 = SIGNED.encode(m, first.0);
                    *second.1 = UNSIGNED.encode(v, second.0);
                }
            }
        }
    }
}

/// The 256 numbers that 8 bits stand for, in order, and how to find the nearest.
struct Code {
    numbers: [f32; 256],
    /// Between each number and the next.
    middles: [f32; 255],
    zero: u8,
    /// The first code that a number above zero may have: no second moment that is not zero becomes zero, or a first
    /// moment over it would grow without bound.
    least: u8,
}

static SIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(true));
static UNSIGNED: LazyLock<Code> = LazyLock::new(|| Code::new(false));

impl Code {
    /// The dynamic code of bitsandbytes: seven decades below 1, of which the d-th from the top has `2^(6 - d)` numbers
    /// of either sign (unsigned: twice as many), in the middles of equal intervals from a tenth of the decade up; and 0
    /// and 1.
    fn new(signed: bool) -> Self {
        let mut numbers = vec![0.0_f64, 1.0];
        for (exponent, decade) in [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0].into_iter().enumerate() {
            let count = 1_usize << (exponent + usize::from(!signed));
            for index in 0..count {
                let middle = 0.1 + 0.9 * (index as f64 + 0.5) / count as f64;
                numbers.push(decade * middle);
                if signed {
                    numbers.push(-decade * middle);
                }
            }
        }
        numbers.sort_by(f64::total_cmp);
        let mut code = Self { numbers: [0.0; 256], middles: [0.0; 255], zero: 0, least: 0 };
        for (target, number) in code.numbers.iter_mut().zip(&numbers) {
            *target = *number as f32;
        }
        for (target, pair) in code.middles.iter_mut().zip(numbers.windows(2)) {
            *target = f64::midpoint(pair[0], pair[1]) as f32;
        }
        code.zero = code.numbers.partition_point(|number| *number < 0.0) as u8;
        code.least = if signed { 0 } else { code.zero + 1 };
        code
    }

    fn decode(&self, codes: &[u8], factor: f32, values: &mut [f32]) {
        for (value, code) in values.iter_mut().zip(codes) {
            *value = self.numbers[usize::from(*code)] * factor;
        }
    }

    /// Writes the nearest codes and answers the block's factor.
    fn encode(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let factor = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if factor == 0.0 {
            codes.fill(self.zero);
            return 0.0;
        }
        for (code, value) in codes.iter_mut().zip(values) {
            let share = value / factor;
            let nearest = self.middles.partition_point(|middle| *middle < share) as u8;
            *code = if *value > 0.0 { nearest.max(self.least) } else { nearest };
        }
        factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/fixtures/make_dynamic_code.py` asked bitsandbytes.
    #[test]
    fn the_code_is_that_of_bitsandbytes() {
        let expected: [Vec<f32>; 2] =
            serde_json::from_str(include_str!("../../tests/fixtures/dynamic_code.json")).expect("dynamic_code.json");
        for (code, expected) in [&*SIGNED, &*UNSIGNED].into_iter().zip(expected) {
            assert_eq!(expected.len(), 256);
            for (found, expected) in code.numbers.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{found}, bitsandbytes {expected}");
            }
        }
    }

    #[test]
    fn numbers_of_the_code_are_kept_and_others_go_to_the_nearest() {
        for code in [&*SIGNED, &*UNSIGNED] {
            let (mut codes, mut back) = ([0; 256], [0.0; 256]);
            assert!(code.encode(&code.numbers, &mut codes) == 1.0);
            code.decode(&codes, 1.0, &mut back);
            assert!(back == code.numbers);
            assert!(code.encode(&[0.0; 4], &mut codes[..4]) == 0.0);
            code.decode(&codes[..4], 0.0, &mut back[..4]);
            assert!(back[..4] == [0.0; 4]);
        }
        let (mut codes, mut back) = ([0; 3], [0.0; 3]);
        let factor = UNSIGNED.encode(&[4.0, 1e-30, 0.0], &mut codes);
        UNSIGNED.decode(&codes, factor, &mut back);
        assert!(factor == 4.0 && back[0] == 4.0 && back[1] > 0.0 && back[2] == 0.0, "{back:?}");
    }
}
