//! The backward pass, layer by layer from the top: feed-forward part by blocks of rows, attention by key heads,
//! projections by blocks of rows, then the weights' gradients by blocks of their rows.

use super::{
    Gradients, Model, Precision,
    attention::{CHUNK, STRIDE},
    feed::{FeedBuffers, FeedGradients},
    forward::{self, rotate},
    head,
    kernels::{self, Matrix, PackedColumns},
    keys_values::KeysValues,
    layout::BlockLayout,
    linear::{Applied, take, weight_gradients},
    packed_weights::{Pass, Weights},
    rope::RopeTables,
    shape::{BLOCK, Place, Shape},
    workspace::{Backward, Saved, Scratch, State, Workspace},
};

/// Independent parts in which the query blocks of a sequence are gone through; depends on the length alone, so that
/// the order of sums does.
pub(super) fn parts(shape: &Shape) -> usize {
    shape.blocks().min(4)
}

/// Adds to `gradients` those of the loss whose derivative by each target's cross entropy is `coefficients`.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    model: &Model,
    shape: &Shape,
    ids: &[u32],
    tables: &RopeTables,
    coefficients: &[f32],
    read: head::Forward,
    workspace: &mut Workspace,
    gradients: &mut Gradients,
) {
    prepare(model, shape, &mut workspace.backward);
    let gradients = gradients.values_mut();
    head::backward(model, shape, ids, coefficients, read, workspace, gradients);
    for (index, layer) in model.layout().blocks.iter().enumerate().rev() {
        let mut place = index;
        if !workspace.inputs.is_empty() {
            forward::again(model, shape, index, tables, workspace);
            place = 0;
        }
        layer_backward(model, layer, place, shape, tables, workspace, gradients);
    }
    if model.adapter().is_some() {
        return;
    }
    let embedding = &mut gradients[model.layout().embedding.clone()];
    for (row, id) in workspace.backward.output.chunks_exact(shape.hidden).zip(ids) {
        kernels::add(&mut embedding[*id as usize * shape.hidden..][..shape.hidden], row);
    }
}

fn prepare(model: &Model, shape: &Shape, buffers: &mut Backward) {
    let rows = shape.rows();
    for (buffer, width) in [
        (&mut buffers.output, shape.hidden),
        (&mut buffers.middle, shape.middle),
        (&mut buffers.input, shape.hidden),
        (&mut buffers.activation, shape.inner),
        (&mut buffers.raised, shape.raised),
        (&mut buffers.feed_normalized, shape.middle),
        (&mut buffers.normalized, shape.hidden),
        (&mut buffers.attended, shape.attended()),
        (&mut buffers.delta, shape.heads),
        (&mut buffers.projected, shape.projected()),
    ] {
        buffer.resize(rows * width, 0.0);
    }
    for dropped in &mut buffers.dropped {
        dropped.resize(if shape.dropout.is_some() { rows * shape.hidden } else { 0 }, 0.0);
    }
    let heads = shape.batch * shape.key_value_heads * parts(shape);
    buffers.queries.resize(heads * query_part(shape), 0.0);
    buffers.keys_values.resize(heads * 2 * shape.length * shape.head_dim, 0.0);
    let blocks = shape.batch * shape.blocks();
    let layer = model.layout().blocks.first();
    buffers.feed_norm.resize(blocks * layer.map_or(0, |layer| layer.feed.norm().map_or(0, |range| range.len())), 0.0);
    buffers.norm.resize(blocks * layer.map_or(0, |layer| layer.norm.range().len()), 0.0);
}

/// Numbers in one part of the queries' gradients.
pub(super) fn query_part(shape: &Shape) -> usize {
    shape.blocks().div_ceil(parts(shape)) * BLOCK * shape.group() * shape.head_dim
}

/// `place` is that of the layer's state and of what it saved.
fn layer_backward(
    model: &Model,
    layer: &BlockLayout,
    place: usize,
    shape: &Shape,
    tables: &RopeTables,
    workspace: &mut Workspace,
    gradients: &mut [f32],
) {
    let hidden = shape.hidden;
    let (state, saved) = (&workspace.states[place], &workspace.saved[place]);
    let buffers = &mut workspace.backward;
    workspace.packed.pack(model, Pass::Backward, layer.matrices(), &workspace.scratch);
    let weights = Weights::new(model, &workspace.packed);

    buffers.feed_norm.fill(0.0);
    let output = &buffers.output;
    let mut norms = buffers.feed_norm.as_mut_slice();
    let norm_len = layer.feed.norm().map_or(0, |range| range.len());
    let mut dropped = buffers.dropped.each_mut().map(Vec::as_mut_slice);
    let dropped_width = if shape.dropout.is_some() { hidden } else { 0 };
    let tasks = shape
        .places()
        .zip(shape.split(&mut buffers.middle, shape.middle))
        .zip(shape.split(&mut buffers.raised, shape.raised))
        .zip(shape.split(&mut buffers.activation, shape.inner))
        .zip(shape.split(&mut buffers.feed_normalized, shape.middle))
        .zip(shape.split(&mut buffers.attended, shape.attended()))
        .zip(shape.split(&mut buffers.delta, shape.heads))
        .map(|((((((place, middle), raised), activation), normalized), attended), delta)| {
            let norm = take(&mut norms, norm_len);
            let dropped = dropped.each_mut().map(|dropped| take(dropped, place.rows * dropped_width));
            (place, delta, FeedGradients { middle, raised, activation, normalized, attended, norm, dropped })
        })
        .collect();
    workspace.scratch.run(tasks, |(place, delta, mut gradients), scratch| {
        let output = place.of(output, hidden);
        layer.feed.backward(weights, layer, shape, place, saved, output, &mut gradients, scratch);
        let before = place.of(&saved.attended, shape.attended());
        kernels::row_products(gradients.attended, before, shape.head_dim, delta);
    });

    let parts = parts(shape);
    let tasks = (0..shape.batch * shape.key_value_heads * parts)
        .zip(buffers.queries.chunks_mut(query_part(shape)))
        .zip(buffers.keys_values.chunks_mut(2 * shape.length * shape.head_dim))
        .collect();
    let (attended, delta) = (&buffers.attended, &buffers.delta);
    workspace.scratch.run(tasks, |((number, queries), keys_values), scratch| {
        let part = AttentionPart {
            sequence: number / parts / shape.key_value_heads,
            key_value_head: number / parts % shape.key_value_heads,
            part: number % parts,
        };
        attend_backward(model.precision(), shape, part, state, saved, attended, delta, queries, keys_values, scratch);
    });

    buffers.norm.fill(0.0);
    let (queries, keys_values) = (&buffers.queries, &buffers.keys_values);
    let feed = FeedBuffers { output: &buffers.output, middle: &buffers.middle, raised: &buffers.raised };
    let tasks = shape
        .places()
        .zip(shape.split(&mut buffers.projected, shape.projected()))
        .zip(shape.split(&mut buffers.input, hidden))
        .zip(shape.split(&mut buffers.normalized, hidden))
        .zip(buffers.norm.chunks_mut(layer.norm.range().len()))
        .collect();
    workspace.scratch.run(tasks, |((((place, projected), input), normalized), norm), scratch| {
        gather(shape, place, queries, keys_values, projected);
        rotate(shape, tables, place, projected, -1.0);
        let [gradient, ..] = scratch.get([place.rows * hidden, 0, 0, 0]);
        layer.query_key_value.input_gradient(weights, projected, gradient, false);
        layer.feed.input_gradient(weights, shape, place, &feed, input, gradient);
        let before = place.of(&state.input, hidden);
        layer.norm.backward(model.parameters(), shape.epsilon, before, gradient, input, norm, normalized);
    });

    let query_key_value =
        Applied { linear: &layer.query_key_value, inputs: &buffers.normalized, gradients: &buffers.projected };
    let [output, first, second] = layer.feed.applied(layer, saved, buffers);
    let applied = [query_key_value, output, first, second];
    weight_gradients(model, shape.rows(), &applied, gradients, &mut workspace.packed_inputs, &workspace.scratch);
    std::mem::swap(&mut buffers.output, &mut buffers.input);
    if model.adapter().is_some() {
        return;
    }
    for (range, parts) in [(Some(layer.norm.range()), &buffers.norm), (layer.feed.norm(), &buffers.feed_norm)] {
        let Some(range) = range else { continue };
        for part in parts.chunks_exact(range.len()) {
            kernels::add(&mut gradients[range.clone()], part);
        }
    }
}

/// The query blocks `part`, `part + parts`, … of the heads that share one key head.
#[derive(Clone, Copy)]
struct AttentionPart {
    sequence: usize,
    key_value_head: usize,
    part: usize,
}

/// Recomputes the probabilities from the kept sums and writes the gradients of queries, and of keys and values as far
/// as these queries contribute to them.
#[allow(clippy::too_many_arguments)]
fn attend_backward(
    precision: Precision,
    shape: &Shape,
    part: AttentionPart,
    state: &State,
    saved: &Saved,
    attended: &[f32],
    delta: &[f32],
    queries: &mut [f32],
    keys_values: &mut [f32],
    scratch: &mut Scratch,
) {
    let (head_dim, group, length, blocks) = (shape.head_dim, shape.group(), shape.length, shape.blocks());
    let (width, attended_width) = (shape.projected(), shape.attended());
    let scale = 1.0 / (head_dim as f32).sqrt();
    keys_values.fill(0.0);
    let (keys, values) = keys_values.split_at_mut(length * head_dim);
    let pairs = PackedColumns::len(BLOCK, head_dim);
    let [scores, score_gradients, query_pairs, gradient_pairs] =
        scratch.get([BLOCK * STRIDE, BLOCK * STRIDE, pairs, pairs]);
    let sequence = &state.projected[part.sequence * length * width..][..length * width];
    let head_keys_values = KeysValues::new(shape, precision, state, part.sequence, part.key_value_head);
    for (slot, block) in (part.part..blocks).step_by(parts(shape)).enumerate() {
        let first = block * BLOCK;
        let rows = BLOCK.min(length - first);
        let row = part.sequence * length + first;
        for member in 0..group {
            let head = part.key_value_head * group + member;
            let query = Matrix::new(&sequence[first * width + head * head_dim..], rows, head_dim, width);
            let gradient =
                Matrix::new(&attended[row * attended_width + head * head_dim..], rows, head_dim, attended_width);
            let of_query = precision.right(query, &mut query_pairs[..pairs]);
            let of_output = precision.right(gradient, &mut gradient_pairs[..pairs]);
            let target = &mut queries[(slot * BLOCK * group + member) * head_dim..];
            for first_key in (0..first + rows).step_by(CHUNK) {
                let count = CHUNK.min(first + rows - first_key);
                let mut offset = 0;
                while offset < count {
                    let positions = first_key + offset..first_key + count;
                    let key = head_keys_values.keys_transposed(positions.clone());
                    let value = head_keys_values.values_transposed(positions);
                    precision.multiply(&mut scores[offset..], STRIDE, query, key, false);
                    precision.multiply(&mut score_gradients[offset..], STRIDE, gradient, value, false);
                    offset += key.columns();
                }
                kernels::attention_gradient(
                    scores,
                    score_gradients,
                    STRIDE,
                    count,
                    first_key,
                    first,
                    rows,
                    scale,
                    &saved.sums[row * shape.heads + head..],
                    &delta[row * shape.heads + head..],
                    shape.heads,
                );
                let probabilities = Matrix::new(scores, rows, count, STRIDE);
                let score_gradient = Matrix::new(score_gradients, rows, count, STRIDE);
                let range = first_key * head_dim..;
                precision.multiply(&mut values[range.clone()], head_dim, probabilities.transposed(), of_output, true);
                precision.multiply(&mut keys[range], head_dim, score_gradient.transposed(), of_query, true);
                let key = head_keys_values.keys(first_key..first_key + count);
                precision.multiply(target, group * head_dim, score_gradient, key, first_key > 0);
            }
        }
    }
}

/// Brings the gradients of a block's queries, keys and values into rows, summing the parts in order.
fn gather(shape: &Shape, place: Place, queries: &[f32], keys_values: &[f32], projected: &mut [f32]) {
    let (head_dim, parts) = (shape.head_dim, parts(shape));
    let group = shape.group() * head_dim;
    for key_value_head in 0..shape.key_value_heads {
        let first_part = (place.sequence * shape.key_value_heads + key_value_head) * parts;
        let slot = (first_part + place.block % parts) * query_part(shape) + place.block / parts * BLOCK * group;
        for (index, row) in projected.chunks_exact_mut(shape.projected()).enumerate() {
            let from = &queries[slot + index * group..][..group];
            row[key_value_head * group..][..group].copy_from_slice(from);
            for (which, column) in [shape.key_column(), shape.value_column()].into_iter().enumerate() {
                let target = &mut row[column + key_value_head * head_dim..][..head_dim];
                target.fill(0.0);
                for part in first_part..first_part + parts {
                    let from = ((part * 2 + which) * shape.length + place.first + index) * head_dim;
                    for (target, number) in target.iter_mut().zip(&keys_values[from..from + head_dim]) {
                        *target += number;
                    }
                }
            }
        }
    }
}
