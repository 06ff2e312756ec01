//! The forward pass: one task for each block of rows and layer.

use super::{
    Model, Precision,
    attention::{self, Queries, STRIDE},
    feed::FeedOutput,
    kernels::{self, ExponentialSum, Matrix},
    keys_values::{self, KeysValues},
    layout::BlockLayout,
    packed_weights::{Pass, Weights},
    rope::RopeTables,
    shape::{BLOCK, Place, Shape},
    workspace::{Saved, Scratch, ScratchPool, State, Workspace},
};

/// Runs all layers; the last state's input is then the input of the final norm. With two states the layers take
/// turns, with one more than there are layers each keeps what the backward pass needs. Where inputs of layers are kept
/// apart, [`again`] computes the rest a second time.
pub(super) fn forward(model: &Model, shape: &Shape, ids: &[u32], tables: &RopeTables, workspace: &mut Workspace) {
    let layers = &model.layout().blocks;
    let precision = model.precision();
    let count = workspace.states.len();
    let saved = workspace.saved.len();
    let embedding = &model.parameters()[model.layout().embedding.clone()];
    let first = &mut workspace.states[0];
    let projection = layers.first().map(|layer| &layer.query_key_value);
    workspace.packed.pack(model, Pass::Forward, projection.into_iter(), &workspace.scratch);
    let weights = Weights::new(model, &workspace.packed);
    let tasks = shape
        .places()
        .zip(shape.split(&mut first.input, shape.hidden))
        .zip(projections(shape, precision, &mut first.projected, &mut first.keys, &mut first.values))
        .collect();
    workspace.scratch.run(tasks, |((place, input), projection), scratch| {
        let ids = &ids[place.row..place.row + place.rows];
        for (row, id) in input.chunks_exact_mut(shape.hidden).zip(ids) {
            row.copy_from_slice(&embedding[*id as usize * shape.hidden..][..shape.hidden]);
        }
        if let Some(layer) = layers.first() {
            project(weights, layer, shape, tables, place, input, projection, scratch);
        }
    });
    for (index, layer) in layers.iter().enumerate() {
        let mut next = std::mem::take(&mut workspace.states[(index + 1) % count]);
        let current = &workspace.states[index % count];
        let saved = &mut workspace.saved[index % saved];
        let following = layers.get(index + 1);
        let matrices = layer.after_attention().chain(following.map(|layer| &layer.query_key_value));
        workspace.packed.pack(model, Pass::Forward, matrices, &workspace.scratch);
        let weights = Weights::new(model, &workspace.packed);
        layer_forward(weights, layer, following, shape, tables, current, saved, &mut next, &workspace.scratch);
        workspace.states[(index + 1) % count] = next;
        if let Some(kept) = workspace.inputs.get_mut(index) {
            std::mem::swap(kept, &mut workspace.states[index % count].input);
        }
    }
}

/// One layer, and the projections of the one that follows.
#[allow(clippy::too_many_arguments)]
fn layer_forward(
    weights: Weights<'_>,
    layer: &BlockLayout,
    following: Option<&BlockLayout>,
    shape: &Shape,
    tables: &RopeTables,
    current: &State,
    saved: &mut Saved,
    next: &mut State,
    scratch: &ScratchPool,
) {
    let precision = weights.model.precision();
    let raised = if saved.raised.is_empty() { 0 } else { shape.raised };
    let tasks = shape
        .places()
        .zip(shape.split(&mut saved.attended, shape.attended()))
        .zip(shape.split(&mut saved.sums, shape.heads))
        .zip(shape.split(&mut saved.middle, shape.middle))
        .zip(shape.split(&mut saved.raised, raised))
        .zip(shape.split(&mut next.input, shape.hidden))
        .zip(projections(shape, precision, &mut next.projected, &mut next.keys, &mut next.values))
        .collect();
    scratch.run(tasks, |task, scratch| {
        let ((((((place, attended), sums), middle), raised), output), projection) = task;
        attend(precision, shape, current, place, attended, sums, scratch);
        let input = place.of(&current.input, shape.hidden);
        let mut own = std::mem::take(&mut scratch.raised);
        let raised = if raised.is_empty() {
            own.resize(BLOCK * shape.raised, 0.0);
            &mut own[..place.rows * shape.raised]
        } else {
            raised
        };
        let result = FeedOutput { middle, raised, output };
        layer.feed.forward(weights, layer, shape, place, input, attended, result, scratch);
        scratch.raised = own;
        if let Some(following) = following {
            project(weights, following, shape, tables, place, output, projection, scratch);
        }
    });
}

/// Computes what a layer leaves for its backward pass a second time, with the same bits, from its kept input: into the
/// first state and the first place of what is saved.
pub(super) fn again(model: &Model, shape: &Shape, index: usize, tables: &RopeTables, workspace: &mut Workspace) {
    let layer = &model.layout().blocks[index];
    let [first, second] = workspace.states.as_mut_slice() else { return };
    std::mem::swap(&mut first.input, &mut workspace.inputs[index]);
    let input = &first.input;
    workspace.packed.pack(model, Pass::Forward, layer.matrices(), &workspace.scratch);
    let weights = Weights::new(model, &workspace.packed);
    let precision = model.precision();
    let tasks = shape
        .places()
        .zip(projections(shape, precision, &mut first.projected, &mut first.keys, &mut first.values))
        .collect();
    workspace.scratch.run(tasks, |(place, projection), scratch| {
        project(weights, layer, shape, tables, place, place.of(input, shape.hidden), projection, scratch);
    });
    layer_forward(weights, layer, None, shape, tables, first, &mut workspace.saved[0], second, &workspace.scratch);
}

/// A block's rows of queries, keys and values, and its block of transposed keys and values.
type Projection<'a> = ((&'a mut [f32], &'a mut [f32]), &'a mut [f32]);

fn projections<'a>(
    shape: &Shape,
    precision: Precision,
    projected: &'a mut [f32],
    keys: &'a mut [f32],
    values: &'a mut [f32],
) -> impl Iterator<Item = Projection<'a>> + use<'a> {
    shape
        .split(projected, shape.projected())
        .zip(keys.chunks_mut(keys_values::block_len(shape, precision)))
        .zip(values.chunks_mut(keys_values::block_len(shape, precision)))
}

/// Norm, projection to queries, keys and values, rotation.
#[allow(clippy::too_many_arguments)]
fn project(
    weights: Weights<'_>,
    layer: &BlockLayout,
    shape: &Shape,
    tables: &RopeTables,
    place: Place,
    input: &[f32],
    projection: Projection<'_>,
    scratch: &mut Scratch,
) {
    let ((projected, keys), values) = projection;
    let [normalized, ..] = scratch.get([place.rows * shape.hidden, 0, 0, 0]);
    layer.norm.apply(weights.model.parameters(), shape.epsilon, input, normalized);
    layer.query_key_value.apply(weights, normalized, projected, false);
    rotate(shape, tables, place, projected, 1.0);
    keys_values::write(shape, weights.model.precision(), projected, keys, values);
}

/// Rotates the queries and keys of a block of rows; `direction` is 1, or -1 for the gradient.
pub(super) fn rotate(shape: &Shape, tables: &RopeTables, place: Place, projected: &mut [f32], direction: f32) {
    let (heads, pairs) = (shape.heads + shape.key_value_heads, shape.rotary_dim / 2);
    let (cos, sin) = (place.angles(&tables.cos, pairs), place.angles(&tables.sin, pairs));
    kernels::rotate(projected, shape.projected(), heads, shape.head_dim, shape.rotary_dim, cos, sin, direction);
}

/// Causal attention of a block of queries to all keys up to its own.
fn attend(
    precision: Precision,
    shape: &Shape,
    state: &State,
    place: Place,
    attended: &mut [f32],
    sums: &mut [ExponentialSum],
    scratch: &mut Scratch,
) {
    let (width, head_dim, output_width) = (shape.projected(), shape.head_dim, shape.attended());
    let [scores, ..] = scratch.get([place.rows * STRIDE, 0, 0, 0]);
    let sequence = &state.projected[place.sequence * shape.length * width..][..shape.length * width];
    for head in 0..shape.heads {
        let queries = Queries {
            matrix: Matrix::new(&sequence[place.first * width + head * head_dim..], place.rows, head_dim, width),
            first: place.first,
            precision,
        };
        let keys_values = KeysValues::new(shape, precision, state, place.sequence, head / shape.group());
        let (key, value) =
            (|positions| keys_values.keys_transposed(positions), |positions| keys_values.values(positions));
        let (output, sums) = (&mut attended[head * head_dim..], &mut sums[head..]);
        attention::attend(queries, key, value, scores, output, output_width, sums, shape.heads);
    }
}
