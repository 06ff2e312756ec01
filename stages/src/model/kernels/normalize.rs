//! RMSNorm: `y = x * w / sqrt(mean(x^2) + eps)` (arXiv 1910.07467), and LayerNorm:
//! `y = (x - mean(x)) * w / sqrt(variance(x) + eps) + b` (arXiv 1607.06450).

use super::{reduce, vectorized};

#[inline(always)]
fn inverse_root(x: &[f32], epsilon: f32) -> f32 {
    let squares = reduce(x.len(), |i, partial| x[i].mul_add(x[i], partial));
    1.0 / (squares / x.len() as f32 + epsilon).sqrt()
}

vectorized! {
    /// Normalizes rows: `input` and `output` are `[rows, width]`, `weight` is `[width]`.
    fn normalize<'a>(input: &'a [f32], weight: &'a [f32], epsilon: f32, output: &'a mut [f32]) {
        let width = weight.len();
        for (x, y) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
            let scale = inverse_root(x, epsilon);
            for i in 0..width {
                y[i] = x[i] * scale * weight[i];
            }
        }
    }
}

vectorized! {
    /// Adds the gradient of the rows' input to `input_gradient` and that of the weight to `weight_gradient`, and
    /// writes the normalized rows again to `output`. All `[rows, width]` but the weights.
    fn normalize_backward<'a>(
        input: &'a [f32],
        weight: &'a [f32],
        epsilon: f32,
        gradient: &'a [f32],
        input_gradient: &'a mut [f32],
        weight_gradient: &'a mut [f32],
        output: &'a mut [f32],
    ) {
        let width = weight.len();
        let weight_gradient = &mut weight_gradient[..width];
        for (((x, g), dx), y) in input
            .chunks_exact(width)
            .zip(gradient.chunks_exact(width))
            .zip(input_gradient.chunks_exact_mut(width))
            .zip(output.chunks_exact_mut(width))
        {
            let scale = inverse_root(x, epsilon);
            let dot = reduce(width, |i, partial| (x[i] * weight[i]).mul_add(g[i], partial));
            let inward = dot * scale * scale * scale / width as f32;
            for i in 0..width {
                let unit = x[i] * scale;
                y[i] = unit * weight[i];
                weight_gradient[i] = g[i].mul_add(unit, weight_gradient[i]);
                dx[i] += (g[i] * weight[i]).mul_add(scale, -x[i] * inward);
            }
        }
    }
}

/// Mean, and inverse root of the variance and epsilon.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let mean = reduce(x.len(), |i, partial| partial + x[i]) / x.len() as f32;
    let squares = reduce(x.len(), |i, partial| (x[i] - mean).mul_add(x[i] - mean, partial));
    (mean, 1.0 / (squares / x.len() as f32 + epsilon).sqrt())
}

vectorized! {
    /// Normalizes rows: `input` and `output` are `[rows, width]`, `weight` and `bias` are `[width]`.
    fn layer_normalize<'a>(
        input: &'a [f32],
        weight: &'a [f32],
        bias: &'a [f32],
        epsilon: f32,
        output: &'a mut [f32],
    ) {
        let width = weight.len();
        let bias = &bias[..width];
        for (x, y) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
            let (mean, scale) = moments(x, epsilon);
            for i in 0..width {
                y[i] = ((x[i] - mean) * scale).mul_add(weight[i], bias[i]);
            }
        }
    }
}

vectorized! {
    /// Adds the gradient of the rows' input to `input_gradient` and those of weight and bias to theirs, and writes the
    /// normalized rows again to `output`. All `[rows, width]` but weight and bias.
    fn layer_normalize_backward<'a>(
        input: &'a [f32],
        weight: &'a [f32],
        bias: &'a [f32],
        epsilon: f32,
        gradient: &'a [f32],
        input_gradient: &'a mut [f32],
        weight_gradient: &'a mut [f32],
        bias_gradient: &'a mut [f32],
        output: &'a mut [f32],
    ) {
        let width = weight.len();
        let (weight_gradient, bias_gradient) = (&mut weight_gradient[..width], &mut bias_gradient[..width]);
        let bias = &bias[..width];
        for (((x, g), dx), y) in input
            .chunks_exact(width)
            .zip(gradient.chunks_exact(width))
            .zip(input_gradient.chunks_exact_mut(width))
            .zip(output.chunks_exact_mut(width))
        {
            let (mean, scale) = moments(x, epsilon);
            let sum = reduce(width, |i, partial| weight[i].mul_add(g[i], partial)) / width as f32;
            let dot = reduce(width, |i, partial| (weight[i] * (x[i] - mean)).mul_add(g[i], partial));
            let inward = dot * scale * scale / width as f32;
            for i in 0..width {
                let unit = (x[i] - mean) * scale;
                y[i] = unit.mul_add(weight[i], bias[i]);
                weight_gradient[i] = g[i].mul_add(unit, weight_gradient[i]);
                bias_gradient[i] += g[i];
                dx[i] += (g[i].mul_add(weight[i], -sum) - (x[i] - mean) * inward) * scale;
            }
        }
    }
}
