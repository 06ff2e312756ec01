//! The final norm and the output layer: logits of a block of rows at a time, and what is read off them.

use std::ops::Range;

use super::{
    Model, Precision, Predictions,
    kernels::{self, HeadRow, Left, Matrix, PANEL, PackedColumns, PackedRows, Pairs, Right, pack_columns, pack_rows},
    linear::{Linear, take},
    shape::{BLOCK, Place, Shape},
    workspace::{ScratchPool, Workspace},
};

/// Most logits in memory at once in training, in numbers (64 MiB).
const KEPT: usize = 1 << 24;

/// Ids whose logits are computed and read as one piece, small enough for the second cache of a core. Results depend on it,
/// so it is fixed.
pub(super) const IDS: usize = 512;

/// Ids whose weights' gradients are summed as one task.
const TASK: usize = BLOCK;

/// Buffers of the output layer.
#[derive(Debug, Default)]
pub(super) struct HeadBuffers {
    /// For each block its rows, the last rows of sequences included, filled up to [`BLOCK`].
    rows: Vec<HeadRow>,
    /// One for each row.
    cross_entropy: Vec<f32>,
    /// Logits of some blocks of rows, then their gradients, `[blocks, vocabulary, BLOCK]`.
    logits: Vec<f32>,
    /// Normalized rows of these, `[rows, hidden]`.
    normalized: Vec<f32>,
    /// Gradients of the final norm by block.
    norm: Vec<f32>,
    packed: Packed,
    /// The normalized rows of each block, packed for the matrix' gradients; empty if products are not rounded to bf16.
    packed_normalized: Pairs,
}

/// The matrix rounded to bf16, if products are.
#[derive(Debug, Default)]
struct Packed {
    /// The matrix as left factor of the logits.
    rows: Pairs,
    /// The same as right factor of the rows' gradients.
    columns: Pairs,
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

impl Packed {
    /// Packs the matrix for logits.
    fn pack_rows(&mut self, model: &Model, scratch: &ScratchPool) {
        if !model.precision().is_bf16() {
            return;
        }
        let head = &model.layout().head;
        let weight = &model.parameters()[head.weight.clone()];
        self.rows.resize(PackedRows::len(head.outputs, head.inputs));
        let numbers = weight.chunks(IDS * head.inputs);
        let tasks = numbers.zip(self.rows.chunks_mut(PackedRows::len(IDS, head.inputs))).collect();
        scratch.run(tasks, |(numbers, pairs), _| {
            pack_rows(Matrix::new(numbers, numbers.len() / head.inputs, head.inputs, head.inputs), pairs);
        });
    }

    /// Packs the matrix for the rows' gradients.
    fn pack_columns(&mut self, model: &Model, scratch: &ScratchPool) {
        if !model.precision().is_bf16() {
            return;
        }
        let head = &model.layout().head;
        let weight = &model.parameters()[head.weight.clone()];
        self.columns.resize(PackedColumns::len(head.outputs, head.inputs));
        let panel = head.outputs.div_ceil(2) * PANEL;
        let tasks = self.columns.chunks_mut(panel).enumerate().collect();
        scratch.run(tasks, |(index, pairs), _| {
            let columns = PANEL.min(head.inputs - index * PANEL);
            pack_columns(Matrix::new(&weight[index * PANEL..], head.outputs, columns, head.inputs), pairs, panel);
        });
    }

    /// Some rows of the matrix as left factor.
    fn left<'a>(&'a self, model: &'a Model, ids: &Range<usize>) -> Left<'a> {
        let Linear { inputs, outputs, .. } = model.layout().head;
        let weight = &model.parameters()[model.layout().head.weight.clone()];
        match model.precision() {
            Precision::F32 => Matrix::new(&weight[ids.start * inputs..], ids.len(), inputs, inputs).into(),
            Precision::Bf16 | Precision::Bf16Amx => {
                PackedRows::new(&self.rows, &Matrix::new(weight, outputs, inputs, inputs)).of(ids.clone()).into()
            }
        }
    }

    /// The same as right factor.
    fn right<'a>(&'a self, model: &'a Model, ids: &Range<usize>) -> Right<'a> {
        let Linear { inputs, outputs, .. } = model.layout().head;
        let weight = &model.parameters()[model.layout().head.weight.clone()];
        match model.precision() {
            Precision::F32 => Matrix::new(&weight[ids.start * inputs..], ids.len(), inputs, inputs).into(),
            Precision::Bf16 | Precision::Bf16Amx => {
                PackedColumns::new(&self.columns, outputs, inputs).of(ids.clone()).into()
            }
        }
    }
}

impl HeadBuffers {
    fn prepare(&mut self, shape: &Shape) {
        self.rows.resize(shape.batch * shape.blocks() * BLOCK, HeadRow::default());
        self.cross_entropy.resize(shape.rows(), 0.0);
    }

    /// Cross entropy of each target, `[batch * (length - 1)]`, nats.
    pub(super) fn cross_entropy(&self, shape: &Shape) -> Vec<f32> {
        let sequences = self.cross_entropy.chunks_exact(shape.length);
        sequences.flat_map(|sequence| &sequence[..shape.length - 1]).copied().collect()
    }

    /// Appends what the rows with a target say.
    pub(super) fn targets(&self, shape: &Shape, predictions: &mut Predictions) {
        for (place, rows) in shape.places().zip(self.rows.chunks_exact(BLOCK)) {
            let targets = place.rows.min(shape.length - 1 - place.first);
            predictions.cross_entropy.extend_from_slice(&self.cross_entropy[place.row..][..targets]);
            predictions.argmax.extend(rows[..targets].iter().map(|row| row.argmax));
        }
    }
}

/// Blocks of rows whose logits are in memory at once in training.
pub(super) fn kept_blocks(shape: &Shape) -> usize {
    (KEPT / shape.vocabulary / BLOCK).max(1)
}

/// Cross entropy and best token of each row. With `keep`, the logits stay for the backward pass if they are few; the
/// answer says whether they did.
pub(super) fn forward(model: &Model, shape: &Shape, ids: &[u32], workspace: &mut Workspace, keep: bool) -> Forward {
    let (hidden, vocabulary) = (shape.hidden, shape.vocabulary);
    let input = &workspace.states[model.layout().blocks.len() % workspace.states.len()].input;
    let buffers = &mut workspace.head;
    let blocks = shape.batch * shape.blocks();
    buffers.prepare(shape);
    buffers.packed.pack_rows(model, &workspace.scratch);
    let packed = &buffers.packed;
    let held = keep && blocks <= kept_blocks(shape);
    let mut kept = Vec::new();
    if held {
        buffers.logits.resize(blocks * vocabulary * BLOCK, 0.0);
        buffers.normalized.resize(shape.rows() * hidden, 0.0);
        let logits = buffers.logits.chunks_exact_mut(vocabulary * BLOCK);
        kept.extend(logits.zip(shape.split(&mut buffers.normalized, hidden)).map(Some));
    } else {
        kept.resize_with(blocks, || None);
    }
    let rows = buffers.rows.chunks_exact_mut(BLOCK);
    let tasks = shape.places().zip(rows).zip(shape.split(&mut buffers.cross_entropy, 1)).zip(kept).collect::<Vec<_>>();
    workspace.scratch.run(tasks, |(((place, rows), cross_entropy), kept), scratch| {
        let sizes = [BLOCK * hidden, if kept.is_some() { 0 } else { place.rows * hidden }, BLOCK * IDS, 0];
        let [columns, normalized, piece, _] = scratch.get(sizes);
        let (mut logits, normalized) = match kept {
            Some((logits, normalized)) => (Some(logits), normalized),
            None => (None, normalized),
        };
        let head = Head::new(model, packed, shape, place, input, normalized, columns);
        rows.fill(HeadRow::default());
        for piece_ids in pieces(vocabulary) {
            let piece = match &mut logits {
                Some(logits) => &mut logits[piece_ids.start * BLOCK..piece_ids.end * BLOCK],
                None => &mut piece[..piece_ids.len() * BLOCK],
            };
            head.logits(piece_ids.clone(), piece);
            head.read(ids, piece_ids, piece, rows, cross_entropy);
        }
        finish(rows, cross_entropy);
    });
    if held { Forward::Held } else { Forward::Read }
}

/// The vocabulary in pieces.
fn pieces(vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
    (0..vocabulary).step_by(IDS).map(move |start| start..vocabulary.min(start + IDS))
}

/// The output layer for one block of rows.
struct Head<'a> {
    model: &'a Model,
    packed: &'a Packed,
    place: Place,
    /// The normalized rows as columns, `[hidden, rows]`.
    columns: Right<'a>,
}

impl<'a> Head<'a> {
    /// Normalizes the block's rows.
    fn new(
        model: &'a Model,
        packed: &'a Packed,
        shape: &Shape,
        place: Place,
        input: &[f32],
        normalized: &mut [f32],
        columns: &'a mut [f32],
    ) -> Self {
        let norm = &model.layout().final_norm;
        norm.apply(model.parameters(), shape.epsilon, place.of(input, shape.hidden), normalized);
        let (rows, hidden) = (place.rows, shape.hidden);
        let columns = match model.precision() {
            Precision::F32 => {
                kernels::transpose(normalized, hidden, rows, hidden, columns, BLOCK);
                Matrix::new(columns, hidden, rows, BLOCK).into()
            }
            Precision::Bf16 | Precision::Bf16Amx => {
                let pairs = kernels::as_pairs(columns);
                let matrix = Matrix::new(normalized, rows, hidden, hidden).transposed();
                pack_columns(matrix, pairs, hidden.div_ceil(2) * PANEL);
                PackedColumns::new(pairs, hidden, rows).into()
            }
        };
        Self { model, packed, place, columns }
    }

    /// Logits of some ids, `[ids, BLOCK]`; those of rows beyond the block's stay what they were.
    fn logits(&self, ids: Range<usize>, logits: &mut [f32]) {
        let head = &self.model.layout().head;
        if let Some(bias) = &head.bias {
            for (logits, bias) in
                logits.chunks_exact_mut(BLOCK).zip(&self.model.parameters()[bias.clone()][ids.clone()])
            {
                logits.fill(*bias);
            }
        }
        let weight = self.packed.left(self.model, &ids);
        self.model.precision().multiply(logits, BLOCK, weight, self.columns, head.bias.is_some());
    }

    /// Reads logits of some ids; those of targets go to `cross_entropy`.
    fn read(&self, ids: &[u32], piece: Range<usize>, logits: &[f32], rows: &mut [HeadRow], cross_entropy: &mut [f32]) {
        kernels::head_rows(logits, piece.start as u32, rows);
        for (index, logit) in cross_entropy.iter_mut().enumerate() {
            // The last row of all has no target; that of another sequence is not read.
            let target = ids.get(self.place.row + index + 1).map_or(0, |id| *id as usize);
            if piece.contains(&target) {
                *logit = logits[(target - piece.start) * BLOCK + index];
            }
        }
    }
}

/// From the targets' logits to their cross entropy.
fn finish(rows: &[HeadRow], cross_entropy: &mut [f32]) {
    for (row, number) in rows.iter().zip(cross_entropy) {
        *number = (row.log_sum() - f64::from(*number)) as f32;
    }
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
    buffers.prepare(shape);
    if forward == Forward::Due {
        buffers.packed.pack_rows(model, &workspace.scratch);
    }
    buffers.packed.pack_columns(model, &workspace.scratch);
    let packed = &buffers.packed;
    let is_packed = are_gradients_packed(model.precision(), &layout.head);
    let places: Vec<Place> = shape.places().collect();
    buffers.norm.clear();
    buffers.norm.resize(places.len() * norm_len, 0.0);
    let mut outputs = workspace.backward.output.as_mut_slice();
    let mut norms = buffers.norm.chunks_exact_mut(norm_len);
    let mut head_rows = buffers.rows.chunks_exact_mut(BLOCK);
    let mut cross_entropies = buffers.cross_entropy.as_mut_slice();
    for chunk in places.chunks(kept_blocks(shape)) {
        let rows: usize = chunk.iter().map(|place| place.rows).sum();
        buffers.logits.resize(chunk.len() * vocabulary * BLOCK, 0.0);
        buffers.normalized.resize(rows * hidden, 0.0);
        let (mut logits, mut normalized) =
            (buffers.logits.chunks_exact_mut(vocabulary * BLOCK), buffers.normalized.as_mut_slice());
        let mut tasks = Vec::with_capacity(chunk.len());
        for place in chunk {
            let logits = logits.next().unwrap_or_default();
            tasks.push((
                (*place, head_rows.next().unwrap_or_default(), take(&mut cross_entropies, place.rows)),
                (logits, take(&mut normalized, place.rows * hidden)),
                (take(&mut outputs, place.rows * hidden), norms.next().unwrap_or_default()),
            ));
        }
        workspace.scratch.run(tasks, |task, scratch| {
            let ((place, head_rows, cross_entropy), (logits, normalized), (output, norm_gradient)) = task;
            let piece = if is_packed { BLOCK * IDS } else { 0 };
            let numbers = place.rows * hidden;
            let [columns, gradient, packed_from, of_piece] = scratch.get([BLOCK * hidden, numbers, piece, numbers]);
            gradient.fill(0.0);
            let head = Head::new(model, packed, shape, place, input, normalized, columns);
            if forward == Forward::Due {
                head_rows.fill(HeadRow::default());
                for piece in pieces(vocabulary) {
                    let logits = &mut logits[piece.start * BLOCK..piece.end * BLOCK];
                    head.logits(piece.clone(), logits);
                    head.read(ids, piece, logits, head_rows, cross_entropy);
                }
                finish(head_rows, cross_entropy);
            }
            let (mut highest, mut factors, mut of_targets) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
            for (index, row) in head_rows[..place.rows].iter().enumerate() {
                highest[index] = row.highest;
                // The last row of a sequence has no target.
                if place.first + index + 1 < shape.length {
                    let coefficient = coefficients[place.row + index - place.sequence];
                    factors[index] = (f64::from(coefficient) / row.sum) as f32;
                    of_targets[index] = coefficient;
                }
            }
            for piece in pieces(vocabulary) {
                let place_of_logits = &mut logits[piece.start * BLOCK..piece.end * BLOCK];
                if forward == Forward::Read {
                    head.logits(piece.clone(), place_of_logits);
                }
                let logits = if is_packed {
                    packed_from[..place_of_logits.len()].copy_from_slice(place_of_logits);
                    &mut packed_from[..place_of_logits.len()]
                } else {
                    &mut *place_of_logits
                };
                kernels::head_gradient(logits, &highest, &factors);
                for (index, coefficient) in of_targets[..place.rows].iter().enumerate() {
                    let target = ids.get(place.row + index + 1).map_or(0, |id| *id as usize);
                    if piece.contains(&target) {
                        logits[(target - piece.start) * BLOCK + index] -= coefficient;
                    }
                }
                let weight = packed.right(model, &piece);
                let logits = Matrix::new(logits, piece.len(), place.rows, BLOCK).transposed();
                // One chain for all pieces would lose the many small probabilities beside a large one.
                model.precision().multiply(of_piece, hidden, logits, weight, false);
                kernels::add(gradient, of_piece);
                if is_packed {
                    let logits = Matrix::new(packed_from, piece.len(), place.rows, BLOCK);
                    pack_rows(logits, kernels::as_pairs(place_of_logits));
                }
            }
            output.fill(0.0);
            let input = place.of(input, hidden);
            let norm = &layout.final_norm;
            norm.backward(parameters, shape.epsilon, input, gradient, output, norm_gradient, normalized);
        });
        // Frozen beside an adapter.
        if model.adapter().is_none() {
            let (logits, normalized) = (&buffers.logits, &buffers.normalized);
            weight_gradients(
                model.precision(),
                &layout.head,
                shape,
                chunk,
                logits,
                normalized,
                gradients,
                &mut buffers.packed_normalized,
                &workspace.scratch,
            );
        }
    }
    let parts = if model.adapter().is_some() { &[] } else { buffers.norm.as_slice() };
    for part in parts.chunks_exact(norm_len) {
        kernels::add(&mut gradients[layout.final_norm.range()], part);
    }
}

/// Whether gradients of logits are rounded where these were: nothing but products reads them then.
fn are_gradients_packed(precision: Precision, head: &Linear) -> bool {
    precision.is_bf16() && head.bias.is_none()
}

/// Those of some ids of one piece, for a block of so many rows; those of other blocks follow.
fn packed_gradients<'a>(logits: &'a [f32], vocabulary: usize, ids: &Range<usize>, rows: usize) -> PackedRows<'a> {
    let first = ids.start / IDS * IDS;
    let logits = &logits[first * BLOCK..];
    let matrix = Matrix::new(logits, IDS.min(vocabulary - first), rows, BLOCK);
    PackedRows::new(kernels::pairs(logits), &matrix).of(ids.start - first..ids.end - first)
}

/// Adds the gradients of the output layer's parameters for some blocks of rows, one block after the other.
#[allow(clippy::too_many_arguments)]
fn weight_gradients(
    precision: Precision,
    head: &Linear,
    shape: &Shape,
    places: &[Place],
    logits: &[f32],
    normalized: &[f32],
    gradients: &mut [f32],
    packed: &mut Pairs,
    scratch: &ScratchPool,
) {
    let (hidden, first_row) = (shape.hidden, places.first().map_or(0, |place| place.row));
    let rows = |place: &Place| {
        let normalized = &normalized[(place.row - first_row) * hidden..];
        Matrix::new(normalized, place.rows, hidden, hidden)
    };
    let factors: Vec<Right<'_>> = match precision {
        Precision::F32 => places.iter().map(|place| rows(place).into()).collect(),
        Precision::Bf16 | Precision::Bf16Amx => {
            let len = PackedColumns::len(BLOCK, hidden);
            packed.resize(places.len() * len);
            let tasks = places.iter().zip(packed.chunks_exact_mut(len)).collect();
            scratch.run(tasks, |(place, pairs), _| pack_columns(rows(place), pairs, place.rows.div_ceil(2) * PANEL));
            let packed = places.iter().zip(packed.chunks_exact(len));
            packed.map(|(place, pairs)| PackedColumns::new(pairs, place.rows, hidden).into()).collect()
        }
    };
    let tasks = gradients[head.weight.clone()].chunks_mut(TASK * hidden).enumerate().collect();
    if are_gradients_packed(precision, head) {
        let (len, vocabulary) = (PackedColumns::len(BLOCK, hidden), shape.vocabulary);
        return scratch.run(tasks, |(task, target), _| {
            let ids = task * TASK..task * TASK + target.len() / hidden;
            let mut first = 0;
            // Whole blocks one after the other are one product.
            for run in places.chunk_by(|place, next| place.rows == BLOCK && next.rows == BLOCK) {
                let rows = run.iter().map(|place| place.rows).sum();
                let logits = &logits[first * vocabulary * BLOCK..];
                let logits = packed_gradients(logits, vocabulary, &ids, run[0].rows);
                let columns = PackedColumns::new(&packed[first * len..], rows, hidden)
                    .panels_apart(run[0].rows.div_ceil(2) * PANEL)
                    .in_blocks(BLOCK, len);
                precision.multiply(target, hidden, logits.blocks(run.len(), vocabulary * BLOCK), columns, true);
                first += run.len();
            }
        });
    }
    scratch.run(tasks, |(task, target), _| {
        let ids = target.len() / hidden;
        let logits = logits.chunks_exact(shape.vocabulary * BLOCK);
        for ((place, factor), logits) in places.iter().zip(&factors).zip(logits) {
            let logits = Matrix::new(&logits[task * TASK * BLOCK..], ids, place.rows, BLOCK);
            precision.multiply(target, hidden, logits, *factor, true);
        }
    });
    let Some(bias) = &head.bias else { return };
    let tasks = gradients[bias.clone()].chunks_mut(TASK).enumerate().collect();
    scratch.run(tasks, |(task, target), _| {
        for (place, logits) in places.iter().zip(logits.chunks_exact(shape.vocabulary * BLOCK)) {
            kernels::add_row_sums(&logits[task * TASK * BLOCK..], BLOCK, place.rows, target);
        }
    });
}
