//! Soft-max over rows of scores, in attention and in the loss.

use std::f32::consts::LOG2_E;

use super::{LANES, exponential::exp2, reduce, vectorized};

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
    for value in row.iter_mut() {
        *value = exp2(value.mul_add(factor, -offset));
    }
    reduce(row.len(), |i, partial| partial + row[i])
}

vectorized! {
    /// Turns the scores of a block of queries into unnormalized causal probabilities.
    ///
    /// `scores` holds rows of `stride` numbers, `keys` of them used; row `r` may see keys `0..=first + r`, the rest
    /// becomes zero. Writes the inverse of each row's sum to `inverse` and the logarithm of the sum of `exp(scale *
    /// score)` (nats) to `log_sum`, one number every `log_sum_stride`.
    fn attention_probabilities<'a>(
        scores: &'a mut [f32],
        stride: usize,
        keys: usize,
        first: usize,
        scale: f32,
        inverse: &'a mut [f32],
        log_sum: &'a mut [f32],
        log_sum_stride: usize,
    ) {
        for (r, inverse) in inverse.iter_mut().enumerate() {
            let row = &mut scores[r * stride..r * stride + keys];
            let (seen, hidden) = row.split_at_mut(first + r + 1);
            let highest = maximum(seen) * scale;
            let sum = exponentials(seen, scale * LOG2_E, highest * LOG2_E);
            hidden.fill(0.0);
            *inverse = 1.0 / sum;
            log_sum[r * log_sum_stride] = (f64::from(highest) + libm::log(f64::from(sum))) as f32;
        }
    }
}

vectorized! {
    /// From scores to probabilities `p`, and from the probabilities' gradients `g` to those of the unscaled scores,
    /// `p * (g - delta) * scale`, both in place, for keys `first_key..first_key + keys` and queries from `first`.
    fn attention_gradient<'a>(
        scores: &'a mut [f32],
        gradients: &'a mut [f32],
        stride: usize,
        keys: usize,
        first_key: usize,
        first: usize,
        rows: usize,
        scale: f32,
        log_sum: &'a [f32],
        delta: &'a [f32],
        row_stride: usize,
    ) {
        for r in 0..rows {
            let seen = (first + r + 1 - first_key).min(keys);
            let (p, hidden) = scores[r * stride..r * stride + keys].split_at_mut(seen);
            let (g, hidden_gradient) = gradients[r * stride..r * stride + keys].split_at_mut(seen);
            let offset = log_sum[r * row_stride] * LOG2_E;
            let delta = delta[r * row_stride];
            for i in 0..seen {
                p[i] = exp2(p[i].mul_add(scale * LOG2_E, -offset));
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

/// What one row of logits says.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::model) struct HeadRow {
    /// Logarithm of the sum of `exp(logit)`, nats.
    pub(in crate::model) log_sum: f64,
    /// The id with the highest logit, the smallest one among equals.
    pub(in crate::model) argmax: u32,
}

vectorized! {
    /// Reads one row of logits.
    fn head_row<'a>(logits: &'a [f32]) -> HeadRow {
        let highest = maximum(logits);
        let offset = highest * LOG2_E;
        let sum = reduce(logits.len(), |i, partial| partial + exp2(logits[i].mul_add(LOG2_E, -offset)));
        let argmax = logits.iter().position(|logit| *logit == highest).unwrap_or(0);
        HeadRow { log_sum: f64::from(highest) + libm::log(f64::from(sum)), argmax: argmax as u32 }
    }
}

vectorized! {
    /// `logits = coefficient * softmax(logits)`, given the logarithm of their sum of exponentials (nats).
    fn head_gradient<'a>(logits: &'a mut [f32], log_sum: f32, coefficient: f32) {
        let offset = log_sum * LOG2_E;
        for logit in logits.iter_mut() {
            *logit = coefficient * exp2(logit.mul_add(LOG2_E, -offset));
        }
    }
}
