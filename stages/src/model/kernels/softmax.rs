//! Soft-max over rows of scores, in attention and in the loss.

use std::f32::consts::LOG2_E;

use super::{LANES, exponential::exp2, fold, reduce, vectorized};

/// Exponentials of logits that are summed in f32 before they are in f64. Results depend on it, so it is fixed.
const CHAIN: usize = 8;

#[inline(always)]
fn maximum(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    for (lane, value) in chunks.remainder().iter().enumerate() {
        lanes[lane] = if *value > lanes[lane] { *value } else { lanes[lane] };
    }
    let mut best = lanes[0];
    for lane in lanes {
        best = if lane > best { lane } else { best };
    }
    best
}

/// `row = 2^(row * factor - offset)`; returns the sum.
#[inline(always)]
fn exponentials(row: &mut [f32], factor: f32, offset: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            chunk[lane] = exp2(chunk[lane].mul_add(factor, -offset));
            lanes[lane] += chunk[lane];
        }
    }
    for (value, lane) in rest.iter_mut().zip(&mut lanes) {
        *value = exp2(value.mul_add(factor, -offset));
        *lane += *value;
    }
    fold(lanes)
}

/// A sum of exponentials whose terms come in chunks, held as multiples of the largest one.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct ExponentialSum {
    /// The largest exponent so far, nats.
    highest: f32,
    /// The sum of `exp(exponent - highest)`.
    sum: f32,
}

impl Default for ExponentialSum {
    fn default() -> Self {
        Self { highest: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl ExponentialSum {
    /// The sum as a multiple of its largest term.
    pub(in crate::model) fn sum(self) -> f32 {
        self.sum
    }

    /// The logarithm of the sum, nats.
    pub(in crate::model) fn logarithm(self) -> f64 {
        f64::from(self.highest) + libm::log(f64::from(self.sum))
    }

    /// Adds `2^(scale * row)` (in place, as multiples of the largest term from now on) and returns the factor from old
    /// multiples to new ones.
    #[inline(always)]
    fn add(&mut self, row: &mut [f32], scale: f32) -> f32 {
        let before = self.highest;
        let highest = maximum(row) * scale;
        self.highest = if highest > before { highest } else { before };
        let factor = exp2((before - self.highest) * LOG2_E);
        self.sum = self.sum.mul_add(factor, exponentials(row, scale * LOG2_E, self.highest * LOG2_E));
        factor
    }
}

vectorized! {
    /// Turns the scores of a block of queries with a chunk of keys into unnormalized causal probabilities.
    ///
    /// `scores` holds rows of `stride` numbers, `keys` of them used; row `r` may see keys `0..=first + r` of the chunk, the
    /// rest becomes zero. Adds `exp(scale * score)` to each row's sum, and writes what the row's earlier probabilities have
    /// to be multiplied by to `factors`.
    fn attention_probabilities<'a>(
        scores: &'a mut [f32],
        stride: usize,
        keys: usize,
        first: usize,
        scale: f32,
        sums: &'a mut [ExponentialSum],
        factors: &'a mut [f32],
    ) {
        for (r, (sum, factor)) in sums.iter_mut().zip(factors).enumerate() {
            let row = &mut scores[r * stride..r * stride + keys];
            let (seen, hidden) = row.split_at_mut(keys.min(first + r + 1));
            *factor = sum.add(seen, scale);
            hidden.fill(0.0);
        }
    }
}

vectorized! {
    /// From scores to probabilities `p`, and from the probabilities' gradients `g` to those of the unscaled scores,
    /// `p * (g - delta) * scale`, both in place, for keys `first_key..first_key + keys` and queries from `first`. The
    /// exponentials are those that were summed: all `p` of a row would share the rounding of a logarithm of the sum.
    fn attention_gradient<'a>(
        scores: &'a mut [f32],
        gradients: &'a mut [f32],
        stride: usize,
        keys: usize,
        first_key: usize,
        first: usize,
        rows: usize,
        scale: f32,
        sums: &'a [ExponentialSum],
        delta: &'a [f32],
        row_stride: usize,
    ) {
        for r in 0..rows {
            let seen = (first + r + 1 - first_key).min(keys);
            let (p, hidden) = scores[r * stride..r * stride + keys].split_at_mut(seen);
            let (g, hidden_gradient) = gradients[r * stride..r * stride + keys].split_at_mut(seen);
            let ExponentialSum { highest, sum } = sums[r * row_stride];
            let (offset, share) = (highest * LOG2_E, 1.0 / sum);
            let delta = delta[r * row_stride];
            for i in 0..seen {
                p[i] = exp2(p[i].mul_add(scale * LOG2_E, -offset)) * share;
                g[i] = p[i] * (g[i] - delta) * scale;
            }
            hidden.fill(0.0);
            hidden_gradient.fill(0.0);
        }
    }
}

vectorized! {
    /// Dot products of pieces of rows: `output[row, piece] = a[row, piece] . b[row, piece]`, pieces of `width` numbers.
    fn row_products<'a>(a: &'a [f32], b: &'a [f32], width: usize, output: &'a mut [f32]) {
        for ((a, b), output) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(output) {
            *output = reduce(width, |i, partial| a[i].mul_add(b[i], partial));
        }
    }
}

vectorized! {
    /// The place of the first of the highest numbers; 0 if none is a number.
    fn argmax<'a>(values: &'a [f32]) -> usize {
        let highest = maximum(values);
        values.iter().position(|value| *value == highest).unwrap_or(0)
    }
}

/// What the logits in one place say.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct HeadRow {
    /// The highest logit.
    pub(in crate::model) highest: f32,
    /// The sum of `exp(logit - highest)`.
    pub(in crate::model) sum: f64,
    /// The id with the highest logit, the smallest one among equals.
    pub(in crate::model) argmax: u32,
}

impl Default for HeadRow {
    fn default() -> Self {
        Self { highest: f32::NEG_INFINITY, sum: 0.0, argmax: 0 }
    }
}

impl HeadRow {
    /// Logarithm of the sum of `exp(logit)`, nats.
    pub(in crate::model) fn log_sum(&self) -> f64 {
        f64::from(self.highest) + libm::log(self.sum)
    }
}

vectorized! {
    /// Reads the logits of some ids from `first` on, `[ids, rows]`, into what is known of each row. The number of rows is a
    /// multiple of [`LANES`].
    fn head_rows<'a>(logits: &'a [f32], first: u32, rows: &'a mut [HeadRow]) {
        let width = rows.len();
        for (group, rows) in rows.chunks_exact_mut(LANES).enumerate() {
            let numbers = || logits.chunks_exact(width).map(|row| &row[group * LANES..][..LANES]);
            let (mut highest, mut argmax) = ([0.0; LANES], [0; LANES]);
            for (lane, row) in rows.iter().enumerate() {
                (highest[lane], argmax[lane]) = (row.highest, row.argmax);
            }
            for (id, logits) in (first..).zip(numbers()) {
                for lane in 0..LANES {
                    let higher = logits[lane] > highest[lane];
                    highest[lane] = if higher { logits[lane] } else { highest[lane] };
                    argmax[lane] = if higher { id } else { argmax[lane] };
                }
            }
            // Chains of a few numbers in f32, then f64.
            let mut sums = [0.0_f64; LANES];
            for part in logits.chunks(width * CHAIN) {
                let mut chains = [0.0_f32; LANES];
                for logits in part.chunks_exact(width).map(|row| &row[group * LANES..][..LANES]) {
                    for lane in 0..LANES {
                        chains[lane] += exp2((logits[lane] - highest[lane]) * LOG2_E);
                    }
                }
                for lane in 0..LANES {
                    sums[lane] += f64::from(chains[lane]);
                }
            }
            for (lane, row) in rows.iter_mut().enumerate() {
                let factor = exp2((row.highest - highest[lane]) * LOG2_E);
                let sum = row.sum.mul_add(f64::from(factor), sums[lane]);
                *row = HeadRow { highest: highest[lane], sum, argmax: argmax[lane] };
            }
        }
    }
}

vectorized! {
    /// `logits = factor * exp(logits - highest)` for some ids, `[ids, rows]`, given for each row the last two: the highest
    /// logit, and the coefficient of its soft-max divided by the sum of exponentials. The number of rows is a multiple
    /// of [`LANES`].
    ///
    /// These are the exponentials that were summed. With a logarithm of the sum, all numbers of a row would share its
    /// rounding, which SmolLM2-135M, whose embeddings have much in common, takes into its gradient a hundredfold.
    fn head_gradient<'a>(logits: &'a mut [f32], highest: &'a [f32], factors: &'a [f32]) {
        let width = highest.len();
        for group in (0..width).step_by(LANES) {
            let (mut offsets, mut scales) = ([0.0; LANES], [0.0; LANES]);
            offsets.copy_from_slice(&highest[group..group + LANES]);
            scales.copy_from_slice(&factors[group..group + LANES]);
            for row in logits.chunks_exact_mut(width) {
                let row = &mut row[group..group + LANES];
                for lane in 0..LANES {
                    row[lane] = scales[lane] * exp2((row[lane] - offsets[lane]) * LOG2_E);
                }
            }
        }
    }
}
