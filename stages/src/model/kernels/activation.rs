//! The units of the feed-forward part: `silu(gate) * up` (SwiGLU, arXiv 2002.05202) and GELU.

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

/// `sqrt(2 / pi)`, and the factor of the cube in the approximation.
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

/// GELU in its approximation by tanh (`gelu_new`), and its derivative: as `(1 + tanh(u)) / 2` is `sigmoid(2 u)`, it is
/// `x * sigmoid(2 u)` with `u = sqrt(2 / pi) * (x + 0.044715 x^3)` (arXiv 1606.08415).
#[inline(always)]
fn gelu_and_slope(x: f32) -> (f32, f32) {
    let square = x * x;
    let s = sigmoid(2.0 * ROOT * x * CUBE.mul_add(square, 1.0));
    let inner = 2.0 * ROOT * (3.0 * CUBE).mul_add(square, 1.0);
    (x * s, s * (x * inner).mul_add(1.0 - s, 1.0))
}

vectorized! {
    /// `output = gelu(input)`.
    fn gelu<'a>(input: &'a [f32], output: &'a mut [f32]) {
        for (x, y) in input.iter().zip(output) {
            *y = gelu_and_slope(*x).0;
        }
    }
}

vectorized! {
    /// Writes the gradient of the input and, again, the output.
    fn gelu_backward<'a>(input: &'a [f32], gradient: &'a [f32], input_gradient: &'a mut [f32], output: &'a mut [f32]) {
        let len = input.len();
        let (gradient, input_gradient, output) = (&gradient[..len], &mut input_gradient[..len], &mut output[..len]);
        for i in 0..len {
            let (value, slope) = gelu_and_slope(input[i]);
            output[i] = value;
            input_gradient[i] = gradient[i] * slope;
        }
    }
}
