//! The gated unit of the feed-forward part: `silu(gate) * up` (SwiGLU, arXiv 2002.05202).

use super::{exponential::sigmoid, vectorized};

vectorized! {
    /// `gate_up` is `[rows, 2 * width]`, gate first; `output` is `[rows, width]`.
    fn gated<'a>(gate_up: &'a [f32], width: usize, output: &'a mut [f32]) {
        for (row, output) in gate_up.chunks_exact(2 * width).zip(output.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for i in 0..width {
                output[i] = gate[i] * sigmoid(gate[i]) * up[i];
            }
        }
    }
}

vectorized! {
    /// Writes the gradient of `gate_up` and, again, the unit's output.
    fn gated_backward<'a>(
        gate_up: &'a [f32],
        width: usize,
        gradient: &'a [f32],
        gate_up_gradient: &'a mut [f32],
        output: &'a mut [f32],
    ) {
        for (((row, g), d), output) in gate_up
            .chunks_exact(2 * width)
            .zip(gradient.chunks_exact(width))
            .zip(gate_up_gradient.chunks_exact_mut(2 * width))
            .zip(output.chunks_exact_mut(width))
        {
            let (gate, up) = row.split_at(width);
            let (gate_gradient, up_gradient) = d.split_at_mut(width);
            for i in 0..width {
                let s = sigmoid(gate[i]);
                let silu = gate[i] * s;
                output[i] = silu * up[i];
                up_gradient[i] = g[i] * silu;
                gate_gradient[i] = g[i] * up[i] * s * gate[i].mul_add(1.0 - s, 1.0);
            }
        }
    }
}
