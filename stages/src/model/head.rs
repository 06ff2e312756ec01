//! The final norm and the output layer: logits of a block of rows at a time, and what is read off them.

use super::{
    Model, Predictions,
    kernels::{self, HeadRow},
    linear::{Applied, take, weight_gradients},
    shape::{BLOCK, Place, Shape},
    workspace::Workspace,
};

/// Most logits in memory at once in training, in numbers (64 MiB).
const CHUNK: usize = 1 << 24;

/// Buffers of the output layer.
#[derive(Debug, Default)]
pub(super) struct HeadBuffers {
    /// One for each row, the last rows of sequences included.
    rows: Vec<HeadRow>,
    cross_entropy: Vec<f32>,
    /// Logits of a chunk of rows, then their gradients, `[chunk, vocabulary]`.
    logits: Vec<f32>,
    /// Normalized rows of the chunk, `[chunk, hidden]`.
    normalized: Vec<f32>,
    /// Gradients of the final norm by block.
    norm: Vec<f32>,
}

/// What the backward pass finds of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forward {
    /// Nothing: it is done on the way. Possible where the derivative by each cross entropy is known beforehand.
    Due,
    /// All that was read off the logits; these themselves are computed again.
    Read,
    /// The logits of all rows as well.
    Held,
}

impl HeadBuffers {
    /// Cross entropy of each target, `[batch * (length - 1)]`, nats.
    pub(super) fn cross_entropy(&self, shape: &Shape) -> Vec<f32> {
        let sequences = self.cross_entropy.chunks_exact(shape.length);
        sequences.flat_map(|sequence| &sequence[..shape.length - 1]).copied().collect()
    }

    /// Appends what the rows with a target say.
    pub(super) fn targets(&self, shape: &Shape, predictions: &mut Predictions) {
        for sequence in 0..shape.batch {
            let rows = sequence * shape.length..(sequence + 1) * shape.length - 1;
            predictions.cross_entropy.extend_from_slice(&self.cross_entropy[rows.clone()]);
            predictions.argmax.extend(self.rows[rows].iter().map(|row| row.argmax));
        }
    }
}

/// Rows whose logits are in memory at once in training.
pub(super) fn chunk_rows(shape: &Shape) -> usize {
    (CHUNK / shape.vocabulary / BLOCK).max(1) * BLOCK
}

/// Cross entropy and best token of each row. With `keep`, the logits stay for the backward pass if they are few; the
/// answer says whether they did.
pub(super) fn forward(model: &Model, shape: &Shape, ids: &[u32], workspace: &mut Workspace, keep: bool) -> Forward {
    let (hidden, vocabulary) = (shape.hidden, shape.vocabulary);
    let input = &workspace.states[model.layout().blocks.len() % workspace.states.len()].input;
    let buffers = &mut workspace.head;
    buffers.rows.resize(shape.rows(), HeadRow::default());
    buffers.cross_entropy.resize(shape.rows(), 0.0);
    let held = keep && shape.rows() <= chunk_rows(shape);
    let mut kept = Vec::new();
    if held {
        buffers.logits.resize(shape.rows() * vocabulary, 0.0);
        buffers.normalized.resize(shape.rows() * hidden, 0.0);
        let logits = shape.split(&mut buffers.logits, vocabulary);
        kept.extend(logits.zip(shape.split(&mut buffers.normalized, hidden)).map(Some));
    } else {
        kept.resize_with(shape.batch * shape.blocks(), || None);
    }
    let rows = buffers.rows.chunks_mut(shape.length).flat_map(|sequence| sequence.chunks_mut(BLOCK));
    let tasks = shape.places().zip(rows).zip(shape.split(&mut buffers.cross_entropy, 1)).zip(kept).collect::<Vec<_>>();
    workspace.scratch.run(tasks, |(((place, rows), cross_entropy), kept), scratch| {
        let [a, b, ..] = if kept.is_some() {
            scratch.get([0; 4])
        } else {
            scratch.get([place.rows * vocabulary, place.rows * hidden, 0, 0])
        };
        let (logits, normalized) = kept.unwrap_or((a, b));
        compute_logits(model, shape, place, input, logits, normalized);
        read(place, ids, logits, rows, cross_entropy);
    });
    if held { Forward::Held } else { Forward::Read }
}

/// Reads a block's logits.
fn read(place: Place, ids: &[u32], logits: &[f32], rows: &mut [HeadRow], cross_entropy: &mut [f32]) {
    let vocabulary = logits.len() / place.rows;
    for (index, (row, cross_entropy)) in rows.iter_mut().zip(cross_entropy).enumerate() {
        let logits = &logits[index * vocabulary..(index + 1) * vocabulary];
        *row = kernels::head_row(logits);
        *cross_entropy = match ids.get(place.row + index + 1) {
            Some(target) => (row.log_sum - f64::from(logits[*target as usize])) as f32,
            None => 0.0,
        };
    }
}

fn compute_logits(
    model: &Model,
    shape: &Shape,
    place: Place,
    input: &[f32],
    logits: &mut [f32],
    normalized: &mut [f32],
) {
    let (parameters, layout) = (model.parameters(), model.layout());
    layout.final_norm.apply(parameters, shape.epsilon, place.of(input, shape.hidden), normalized);
    layout.head.apply(model, normalized, logits, false);
}

/// Adds the gradients of output layer and final norm to `gradients`, and writes that of the last layer's output to
/// the backward buffers. `coefficients` has one number for each target.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    model: &Model,
    shape: &Shape,
    ids: &[u32],
    coefficients: &[f32],
    forward: Forward,
    workspace: &mut Workspace,
    gradients: &mut [f32],
) {
    let (hidden, vocabulary) = (shape.hidden, shape.vocabulary);
    let layout = model.layout();
    let input = &workspace.states[layout.blocks.len() % workspace.states.len()].input;
    let buffers = &mut workspace.head;
    let (parameters, norm_len) = (model.parameters(), layout.final_norm.range().len());
    buffers.rows.resize(shape.rows(), HeadRow::default());
    buffers.cross_entropy.resize(shape.rows(), 0.0);
    let places: Vec<Place> = shape.places().collect();
    buffers.norm.clear();
    buffers.norm.resize(places.len() * norm_len, 0.0);
    let mut outputs = workspace.backward.output.as_mut_slice();
    let mut norms = buffers.norm.as_mut_slice();
    let (mut head_rows, mut cross_entropies) = (buffers.rows.as_mut_slice(), buffers.cross_entropy.as_mut_slice());
    let mut rest = places.as_slice();
    while !rest.is_empty() {
        let mut rows = 0;
        let limit = if forward == Forward::Held { usize::MAX } else { chunk_rows(shape) };
        let count = rest
            .iter()
            .take_while(|place| {
                rows += place.rows;
                rows <= limit
            })
            .count();
        let (chunk, tail) = rest.split_at(count);
        rest = tail;
        let rows: usize = chunk.iter().map(|place| place.rows).sum();
        buffers.logits.resize(rows * vocabulary, 0.0);
        buffers.normalized.resize(rows * hidden, 0.0);
        let (mut logits, mut normalized) = (buffers.logits.as_mut_slice(), buffers.normalized.as_mut_slice());
        let mut tasks = Vec::with_capacity(count);
        for place in chunk {
            tasks.push((
                (*place, take(&mut head_rows, place.rows), take(&mut cross_entropies, place.rows)),
                (take(&mut logits, place.rows * vocabulary), take(&mut normalized, place.rows * hidden)),
                (take(&mut outputs, place.rows * hidden), take(&mut norms, norm_len)),
            ));
        }
        workspace.scratch.run(tasks, |task, scratch| {
            let ((place, head_rows, cross_entropy), (logits, normalized), (output, norm_gradient)) = task;
            if forward != Forward::Held {
                compute_logits(model, shape, place, input, logits, normalized);
            }
            if forward == Forward::Due {
                read(place, ids, logits, head_rows, cross_entropy);
            }
            for (index, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
                let position = place.first + index;
                if position + 1 == shape.length {
                    logits.fill(0.0);
                } else {
                    let row = place.row + index;
                    let coefficient = coefficients[row - place.sequence];
                    kernels::head_gradient(logits, head_rows[index].log_sum as f32, coefficient);
                    logits[ids[row + 1] as usize] -= coefficient;
                }
            }
            let [gradient, ..] = scratch.get([place.rows * hidden, 0, 0, 0]);
            layout.head.input_gradient(model, logits, gradient, false);
            output.fill(0.0);
            let input = place.of(input, hidden);
            let norm = &layout.final_norm;
            norm.backward(parameters, shape.epsilon, input, gradient, output, norm_gradient, normalized);
        });
        let head = Applied { linear: &layout.head, inputs: &buffers.normalized, gradients: &buffers.logits };
        weight_gradients(model, rows, &[head], gradients, &workspace.scratch);
    }
    // Frozen beside an adapter.
    let parts = if model.adapter().is_some() { &[] } else { buffers.norm.as_slice() };
    for part in parts.chunks_exact(norm_len) {
        kernels::add(&mut gradients[layout.final_norm.range()], part);
    }
}
