//! Sums, scalings and the optimizer's step.

use super::{LANES, vectorized};

vectorized! {
    /// `target += source`.
    fn add<'a>(target: &'a mut [f32], source: &'a [f32]) {
        for (target, source) in target.iter_mut().zip(source) {
            *target += source;
        }
    }
}

vectorized! {
    /// `target *= factor`.
    fn scale<'a>(target: &'a mut [f32], factor: f32) {
        for value in target.iter_mut() {
            *value *= factor;
        }
    }
}

vectorized! {
    /// Multiplies the first `width` numbers of rows that are `stride` apart, each row by its factor.
    fn scale_rows<'a>(rows: &'a mut [f32], stride: usize, width: usize, factors: &'a [f32]) {
        for (row, factor) in rows.chunks_mut(stride).zip(factors) {
            for value in &mut row[..width] {
                *value *= factor;
            }
        }
    }
}

vectorized! {
    /// Adds to `target` the sums over `rows` rows of as many first columns; rows of `source` are `stride` apart. Each
    /// sum runs in f64, row by row.
    fn add_column_sums<'a>(source: &'a [f32], stride: usize, rows: usize, target: &'a mut [f32]) {
        for (part, target) in target.chunks_mut(LANES).enumerate() {
            let mut lanes = [0.0_f64; LANES];
            for row in 0..rows {
                let values = &source[row * stride + part * LANES..][..target.len()];
                for (lane, value) in lanes.iter_mut().zip(values) {
                    *lane += f64::from(*value);
                }
            }
            for (target, lane) in target.iter_mut().zip(lanes) {
                *target += lane as f32;
            }
        }
    }
}

vectorized! {
    /// Adds to `target` the sums of the first `width` numbers of rows that are `stride` apart. Each sum runs in f64.
    fn add_row_sums<'a>(source: &'a [f32], stride: usize, width: usize, target: &'a mut [f32]) {
        for (row, target) in source.chunks(stride).zip(target) {
            *target += row[..width].iter().fold(0.0, |sum, value| sum + f64::from(*value)) as f32;
        }
    }
}

vectorized! {
    /// Sum of squares in f64, eight interleaved partial sums.
    fn sum_of_squares<'a>(values: &'a [f32]) -> f64 {
        let mut lanes = [0.0_f64; 8];
        for chunk in values.chunks(8) {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                let value = f64::from(*value);
                *lane = value.mul_add(value, *lane);
            }
        }
        ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
    }
}

/// The numbers of one AdamW step that are the same for every parameter.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct AdamWStep {
    pub(in crate::model) beta1: f32,
    pub(in crate::model) beta2: f32,
    pub(in crate::model) epsilon: f32,
    /// Factor on the gradient.
    pub(in crate::model) clip_factor: f32,
    /// `1 - learning_rate * weight_decay`.
    pub(in crate::model) keep: f32,
    /// `learning_rate / (1 - beta1^step)`.
    pub(in crate::model) step_size: f32,
    /// `1 / sqrt(1 - beta2^step)`.
    pub(in crate::model) inverse_root_correction: f32,
}

vectorized! {
    /// One step (arXiv 1711.05101, with the order of operations of PyTorch's implementation).
    fn adamw_step<'a>(
        step: AdamWStep,
        parameters: &'a mut [f32],
        gradients: &'a [f32],
        first: &'a mut [f32],
        second: &'a mut [f32],
    ) {
        let len = parameters.len();
        let (gradients, first, second) = (&gradients[..len], &mut first[..len], &mut second[..len]);
        for i in 0..len {
            let gradient = gradients[i] * step.clip_factor;
            let m = step.beta1.mul_add(first[i], (1.0 - step.beta1) * gradient);
            let v = step.beta2.mul_add(second[i], (1.0 - step.beta2) * gradient * gradient);
            first[i] = m;
            second[i] = v;
            let denominator = v.sqrt().mul_add(step.inverse_root_correction, step.epsilon);
            parameters[i] = (-step.step_size).mul_add(m / denominator, parameters[i] * step.keep);
        }
    }
}
