//! Products of rows with a matrix of parameters.

use std::ops::Range;

use super::{
    Model,
    kernels::{self, Matrix, PANEL, PackedColumns, Pairs, Right, pack_columns},
    packed_weights::{Pass, Weights},
    workspace::ScratchPool,
};

/// A matrix `[outputs, inputs]` with or without a bias, by the places of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Linear {
    pub(super) weight: Range<usize>,
    pub(super) bias: Option<Range<usize>>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Linear {
    /// `output = input * weight^T + bias`, or added to what is in `output`; `input` is `[rows, inputs]`, `output`
    /// `[rows, outputs]`.
    pub(super) fn apply(&self, weights: Weights<'_>, input: &[f32], output: &mut [f32], accumulate: bool) {
        let (model, inputs, outputs) = (weights.model, self.inputs, self.outputs);
        if let Some(bias) = &self.bias {
            let bias = &model.parameters()[bias.clone()];
            for row in output.chunks_exact_mut(outputs) {
                if accumulate {
                    kernels::add(row, bias);
                } else {
                    row.copy_from_slice(bias);
                }
            }
        }
        let rows = output.len() / outputs;
        let accumulate = accumulate || self.bias.is_some();
        let input_rows = Matrix::new(input, rows, inputs, inputs);
        model.precision().multiply(output, outputs, input_rows, weights.of(self, Pass::Forward), accumulate);
        if let Some(adapter) = model.adapter() {
            adapter.apply(self, input, output);
        }
    }

    /// `input_gradient = gradient * weight`, or added to what is there.
    pub(super) fn input_gradient(
        &self,
        weights: Weights<'_>,
        gradient: &[f32],
        input_gradient: &mut [f32],
        accumulate: bool,
    ) {
        let (model, inputs, outputs) = (weights.model, self.inputs, self.outputs);
        let rows = input_gradient.len() / inputs;
        let gradient_rows = Matrix::new(gradient, rows, outputs, outputs);
        let weight = weights.of(self, Pass::Backward);
        model.precision().multiply(input_gradient, inputs, gradient_rows, weight, accumulate);
        if let Some(adapter) = model.adapter() {
            adapter.input_gradient(self, gradient, input_gradient);
        }
    }
}

/// A matrix with the rows it was applied to and the gradients of the rows it gave.
#[derive(Clone, Copy)]
pub(super) struct Applied<'a> {
    pub(super) linear: &'a Linear,
    /// `[rows, inputs]`.
    pub(super) inputs: &'a [f32],
    /// `[rows, outputs]`.
    pub(super) gradients: &'a [f32],
}

/// Rows of a matrix whose gradients are summed as one task: each task reads all inputs, so few are better. No bit depends
/// on it.
const OUTPUTS: usize = 128;

/// `gradient of weight += (gradients of outputs)^T * inputs` over all rows, and the same for biases; or, if the model has
/// an adapter, the gradients of that. The matrices come in the order of the buffer.
pub(super) fn weight_gradients(
    model: &Model,
    rows: usize,
    applied: &[Applied<'_>],
    gradients: &mut [f32],
    packed: &mut Pairs,
    scratch: &ScratchPool,
) {
    if let Some(adapter) = model.adapter() {
        return adapter.gradients(rows, applied, gradients, scratch);
    }
    let mut factors = vec![None; applied.len()];
    if model.precision().is_bf16() {
        factors = pack_inputs(rows, applied, packed, scratch).into_iter().map(Some).collect();
    }
    let (mut rest, mut at) = (gradients, 0);
    let mut tasks = Vec::new();
    for (Applied { linear, inputs, gradients }, packed) in applied.iter().zip(factors) {
        let inputs =
            packed.map_or(Right::Plain(Matrix::new(inputs, rows, linear.inputs, linear.inputs)), Right::Packed);
        let weight = cut(&mut rest, &mut at, &linear.weight);
        let bias = linear.bias.as_ref().map(|bias| cut(&mut rest, &mut at, bias));
        let mut biases = bias.into_iter().flat_map(|bias| bias.chunks_mut(OUTPUTS));
        for (index, target) in weight.chunks_mut(OUTPUTS * linear.inputs).enumerate() {
            tasks.push((*linear, &gradients[index * OUTPUTS..], inputs, target, biases.next()));
        }
    }
    scratch.run(tasks, |(linear, gradients, inputs, target, bias), _| {
        let width = linear.inputs;
        let left = Matrix::new(gradients, rows, target.len() / width, linear.outputs).transposed();
        model.precision().multiply(target, width, left, inputs, true);
        if let Some(bias) = bias {
            kernels::add_column_sums(gradients, linear.outputs, rows, bias);
        }
    });
}

/// Rounds the inputs of matrices, which all tasks read, once.
fn pack_inputs<'a>(
    rows: usize,
    applied: &[Applied<'_>],
    packed: &'a mut Pairs,
    scratch: &ScratchPool,
) -> Vec<PackedColumns<'a>> {
    let lens = || applied.iter().map(|applied| PackedColumns::len(rows, applied.linear.inputs));
    let len = lens().sum();
    if packed.len() < len {
        packed.resize(len);
    }
    let (panel, mut rest, mut tasks) = (rows.div_ceil(2) * PANEL, &mut **packed, Vec::new());
    for (Applied { linear, inputs, .. }, len) in applied.iter().zip(lens()) {
        for (index, target) in take(&mut rest, len).chunks_mut(panel).enumerate() {
            let columns = PANEL.min(linear.inputs - index * PANEL);
            tasks.push((Matrix::new(&inputs[index * PANEL..], rows, columns, linear.inputs), target));
        }
    }
    scratch.run(tasks, |(matrix, target), _| pack_columns(matrix, target, panel));
    let mut rest: &[u32] = packed;
    let packed = applied.iter().zip(lens()).map(|(applied, len)| {
        let (first, after) = rest.split_at(len);
        rest = after;
        PackedColumns::new(first, rows, applied.linear.inputs)
    });
    packed.collect()
}

/// Splits `range` off a buffer of which the first `at` numbers are gone.
#[allow(clippy::mut_mut)]
fn cut<'a>(rest: &mut &'a mut [f32], at: &mut usize, range: &Range<usize>) -> &'a mut [f32] {
    take(rest, range.start - *at);
    *at = range.end;
    take(rest, range.len())
}

/// Splits the first `len` elements off.
#[allow(clippy::mut_mut)]
pub(super) fn take<'a, T>(slice: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(slice).split_at_mut(len);
    *slice = rest;
    first
}
