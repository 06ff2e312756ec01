//! Products with a few rows at a time, as decoding has them: memory is read once and nothing is packed.

use super::{LANES, reduce, vectorized};

vectorized! {
    /// Dot products of the rows of a matrix `[n, width]` with those of `inputs`, `[rows, width]`; `output` is
    /// `[n, rows]`.
    fn products_of_rows<'a>(matrix: &'a [f32], width: usize, inputs: &'a [f32], output: &'a mut [f32]) {
        let rows = inputs.len() / width;
        for (weights, output) in matrix.chunks_exact(width).zip(output.chunks_exact_mut(rows)) {
            for (input, output) in inputs.chunks_exact(width).zip(output) {
                *output = reduce(width, |i, partial| weights[i].mul_add(input[i], partial));
            }
        }
    }
}

vectorized! {
    /// `output += sum of weights[i] * rows[i]`, one row after the other; `rows` is `[weights, width of output]` at
    /// least.
    fn weighted_rows<'a>(weights: &'a [f32], rows: &'a [f32], output: &'a mut [f32]) {
        let width = output.len();
        for (part, output) in output.chunks_mut(LANES).enumerate() {
            let mut lanes = [0.0_f32; LANES];
            if let Ok(output) = <&mut [f32; LANES]>::try_from(&mut *output) {
                lanes = *output;
                for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
                    let row = &row[part * LANES..][..LANES];
                    for lane in 0..LANES {
                        lanes[lane] = weight.mul_add(row[lane], lanes[lane]);
                    }
                }
                *output = lanes;
            } else {
                let count = output.len();
                lanes[..count].copy_from_slice(output);
                for (weight, row) in weights.iter().zip(rows.chunks_exact(width)) {
                    for (lane, value) in lanes.iter_mut().zip(&row[part * LANES..]) {
                        *lane = weight.mul_add(*value, *lane);
                    }
                }
                output.copy_from_slice(&lanes[..count]);
            }
        }
    }
}
