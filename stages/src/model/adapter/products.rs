//! The low-rank path in forward and backward passes.

use super::{Adapter, Part};
use crate::model::{
    kernels::{self, Matrix, multiply},
    linear::{Applied, Linear, take},
    shape::BLOCK,
    workspace::ScratchPool,
};

/// Rows of A's gradient that are summed as one task.
const RANKS: usize = 8;

impl Adapter {
    fn parts_of(&self, linear: &Linear) -> &[Part] {
        let start = self.parts.partition_point(|part| part.linear < linear.weight.start);
        let len = self.parts[start..].partition_point(|part| part.linear == linear.weight.start);
        &self.parts[start..start + len]
    }

    /// `scaling * x A^T`, `[rows, rank]`; `input` is `[rows, inputs]`.
    fn lowered(&self, part: &Part, input: &[f32], lowered: &mut [f32]) {
        let (rank, rows) = (self.settings.rank, input.len() / part.inputs);
        let a = Matrix::new(&self.values[part.a.clone()], rank, part.inputs, part.inputs).transposed();
        multiply(lowered, rank, Matrix::new(input, rows, part.inputs, part.inputs), a, false);
        kernels::scale(lowered, self.settings.scaling() as f32);
    }

    /// `scaling * gradient B`, `[rows, rank]`; `gradient` is `[rows, outputs of the shared matrix]`.
    fn lowered_gradient(&self, part: &Part, linear: &Linear, gradient: &[f32], lowered: &mut [f32]) {
        let (rank, rows) = (self.settings.rank, gradient.len() / linear.outputs);
        let b = Matrix::new(&self.values[part.b.clone()], part.outputs, rank, rank);
        let gradient = Matrix::new(&gradient[part.column..], rows, part.outputs, linear.outputs);
        multiply(lowered, rank, gradient, b, false);
        kernels::scale(lowered, self.settings.scaling() as f32);
    }

    /// Adds the low-rank path of a matrix to what it gave: `input` is `[rows, inputs]`, `output` `[rows, outputs]`.
    pub(in crate::model) fn apply(&self, linear: &Linear, input: &[f32], output: &mut [f32]) {
        let (rank, rows) = (self.settings.rank, input.len() / linear.inputs);
        let mut lowered = Vec::new();
        for part in self.parts_of(linear) {
            lowered.resize(rows * rank, 0.0);
            self.lowered(part, input, &mut lowered);
            let b = Matrix::new(&self.values[part.b.clone()], part.outputs, rank, rank).transposed();
            let lowered = Matrix::new(&lowered, rows, rank, rank);
            multiply(&mut output[part.column..], linear.outputs, lowered, b, true);
        }
    }

    /// Adds the low-rank path's share to the gradient of a matrix's input; shapes as for [`Self::apply`].
    pub(in crate::model) fn input_gradient(&self, linear: &Linear, gradient: &[f32], input_gradient: &mut [f32]) {
        let (rank, rows) = (self.settings.rank, gradient.len() / linear.outputs);
        let mut lowered = Vec::new();
        for part in self.parts_of(linear) {
            lowered.resize(rows * rank, 0.0);
            self.lowered_gradient(part, linear, gradient, &mut lowered);
            let a = Matrix::new(&self.values[part.a.clone()], rank, part.inputs, part.inputs);
            multiply(input_gradient, part.inputs, Matrix::new(&lowered, rows, rank, rank), a, true);
        }
    }

    /// Adds the gradients of A and B over all rows; the matrices come in the order of the buffer.
    ///
    /// With g the gradient of the output: that of B is `g^T (scaling x A^T)`, that of A `(scaling g B)^T x`.
    pub(in crate::model) fn gradients(
        &self,
        rows: usize,
        applied: &[Applied<'_>],
        gradients: &mut [f32],
        scratch: &ScratchPool,
    ) {
        let rank = self.settings.rank;
        let parts: Vec<(&Part, &Applied<'_>)> = applied
            .iter()
            .flat_map(|applied| self.parts_of(applied.linear).iter().map(move |part| (part, applied)))
            .collect();
        let mut lowered = vec![0.0; parts.len() * 2 * rows * rank];
        let mut tasks = Vec::new();
        for ((part, applied), lowered) in parts.iter().zip(lowered.chunks_mut((2 * rows * rank).max(1))) {
            let (inputs, outputs) = lowered.split_at_mut(rows * rank);
            let blocks = inputs.chunks_mut(BLOCK * rank).zip(outputs.chunks_mut(BLOCK * rank));
            for (block, (inputs, outputs)) in blocks.enumerate() {
                tasks.push((*part, *applied, block * BLOCK, inputs, outputs));
            }
        }
        scratch.run(tasks, |(part, applied, first, inputs, outputs), _| {
            let rows = inputs.len() / rank;
            let (width, linear) = (part.inputs, applied.linear);
            self.lowered(part, &applied.inputs[first * width..][..rows * width], inputs);
            let gradients = &applied.gradients[first * linear.outputs..][..rows * linear.outputs];
            self.lowered_gradient(part, linear, gradients, outputs);
        });

        // (left, its columns' place and stride, right, its width, target)
        let (mut rest, mut at) = (gradients, 0);
        let mut tasks = Vec::new();
        for ((part, applied), lowered) in parts.iter().zip(lowered.chunks((2 * rows * rank).max(1))) {
            let (inputs, outputs) = lowered.split_at(rows * rank);
            take(&mut rest, part.a.start - at);
            let (a, b) = (take(&mut rest, part.a.len()), take(&mut rest, part.b.len()));
            at = part.b.end;
            for (index, target) in a.chunks_mut(RANKS * part.inputs).enumerate() {
                tasks.push((&outputs[index * RANKS..], rank, applied.inputs, part.inputs, target));
            }
            for (index, target) in b.chunks_mut(BLOCK * rank).enumerate() {
                let column = part.column + index * BLOCK;
                tasks.push((&applied.gradients[column..], applied.linear.outputs, inputs, rank, target));
            }
        }
        scratch.run(tasks, |(left, stride, right, width, target), _| {
            let left = Matrix::new(left, rows, target.len() / width, stride).transposed();
            multiply(target, width, left, Matrix::new(right, rows, width, width), true);
        });
    }
}
