//! Buffers that are reused from call to call.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Precision,
    head::HeadBuffers,
    kernels::{ExponentialSum, Pairs},
    keys_values,
    packed_weights::PackedWeights,
    shape::Shape,
};

/// What the forward pass of training leaves of each layer for the backward pass. The results are the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activations {
    /// All that the backward pass reads.
    #[default]
    Keep,
    /// The input of the layer alone; the rest is computed again when the backward pass comes to the layer (activation
    /// checkpointing, also called gradient checkpointing). By the sizes of the buffers what is kept for a layer falls
    /// to about a tenth, at the cost of a second forward pass through the layer.
    Recompute,
}

/// What enters a layer.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Residual stream, `[rows, hidden]`.
    pub(super) input: Vec<f32>,
    /// Rotated queries and keys, and values, `[rows, projected]`.
    pub(super) projected: Vec<f32>,
    /// Keys by block ([`keys_values`]).
    pub(super) keys: Vec<f32>,
    /// Values likewise.
    pub(super) values: Vec<f32>,
}

/// What a layer leaves for its backward pass.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// Attention's output before the output projection, `[rows, attended]`.
    pub(super) attended: Vec<f32>,
    /// The sum of exponentials of each query, `[rows, heads]`.
    pub(super) sums: Vec<ExponentialSum>,
    /// Residual stream between attention and feed-forward part, `[rows, hidden]`; empty for parallel blocks.
    pub(super) middle: Vec<f32>,
    /// What enters the activation of the feed-forward part, `[rows, raised]`: gate and up, or up alone; empty if nothing
    /// is kept.
    pub(super) raised: Vec<f32>,
}

/// Buffers of the backward pass, used by one layer after another.
#[derive(Debug, Default)]
pub(super) struct Backward {
    /// Gradient of the layer's output, then of the next lower layer's, `[rows, hidden]`.
    pub(super) output: Vec<f32>,
    pub(super) middle: Vec<f32>,
    pub(super) input: Vec<f32>,
    /// The activation again, `[rows, inner]`.
    pub(super) activation: Vec<f32>,
    pub(super) raised: Vec<f32>,
    /// The rows again that the feed-forward part's own norm gave, `[rows, hidden]`.
    pub(super) feed_normalized: Vec<f32>,
    /// The rows again that the block's norm gave, `[rows, hidden]`.
    pub(super) normalized: Vec<f32>,
    pub(super) attended: Vec<f32>,
    /// `gradient . output` of each query, `[rows, heads]`.
    pub(super) delta: Vec<f32>,
    pub(super) projected: Vec<f32>,
    /// Gradients of queries, `[batch, key_value_heads, parts, blocks / parts, BLOCK, group * head_dim]`.
    pub(super) queries: Vec<f32>,
    /// Gradients of keys and values, `[batch, key_value_heads, parts, 2, length, head_dim]`.
    pub(super) keys_values: Vec<f32>,
    /// Gradients of the norms' parameters by block of rows, `[batch * blocks, parameters of the norm]`.
    pub(super) feed_norm: Vec<f32>,
    pub(super) norm: Vec<f32>,
    /// What dropout leaves of the output's gradient for attention and for the rest, `[rows, hidden]` each; empty without.
    pub(super) dropped: [Vec<f32>; 2],
}

/// All buffers of one call.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub(super) states: Vec<State>,
    pub(super) saved: Vec<Saved>,
    /// Inputs of the layers, `[rows, hidden]` each, if nothing else of them is kept.
    pub(super) inputs: Vec<Vec<f32>>,
    pub(super) backward: Backward,
    pub(super) head: HeadBuffers,
    /// Weights of the current layer, rounded to bf16 if products are taken so, and inputs of its matrices.
    pub(super) packed: PackedWeights,
    pub(super) packed_inputs: Pairs,
    pub(super) scratch: ScratchPool,
}

impl Workspace {
    /// Sizes the buffers of a forward pass over so many layers; for scoring nothing is kept of them.
    pub(super) fn prepare(&mut self, shape: &Shape, precision: Precision, layers: usize, kept: Option<Activations>) {
        let rows = shape.rows();
        let keep = kept == Some(Activations::Keep);
        self.inputs.resize_with(if kept == Some(Activations::Recompute) { layers } else { 0 }, Vec::new);
        for input in &mut self.inputs {
            input.resize(rows * shape.hidden, 0.0);
        }
        let keys_values = shape.batch * shape.blocks() * keys_values::block_len(shape, precision);
        self.states.resize_with(if keep { layers + 1 } else { 2 }, State::default);
        self.saved.resize_with(if keep { layers } else { 1 }, Saved::default);
        for state in &mut self.states {
            state.input.resize(rows * shape.hidden, 0.0);
            state.projected.resize(rows * shape.projected(), 0.0);
            state.keys.resize(keys_values, 0.0);
            state.values.resize(keys_values, 0.0);
        }
        for saved in &mut self.saved {
            saved.attended.resize(rows * shape.attended(), 0.0);
            saved.sums.resize(rows * shape.heads, ExponentialSum::default());
            saved.middle.resize(rows * shape.middle, 0.0);
            // Scoring reads it in the task that writes it.
            saved.raised.resize(if kept.is_some() { rows * shape.raised } else { 0 }, 0.0);
        }
    }
}

/// Small buffers for one task at a time.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    buffers: [Vec<f32>; 4],
    /// See [`Saved::raised`], for one block, where nothing is kept.
    pub(super) raised: Vec<f32>,
}

impl Scratch {
    /// Four buffers of at least these sizes; their contents are whatever was left there.
    pub(super) fn get(&mut self, sizes: [usize; 4]) -> [&mut [f32]; 4] {
        let mut index = 0;
        self.buffers.each_mut().map(|buffer| {
            let size = sizes[index];
            index += 1;
            if buffer.len() < size {
                buffer.resize(size, 0.0);
            }
            &mut buffer[..size]
        })
    }
}

/// Scratch buffers that no task uses at the moment.
#[derive(Debug, Default)]
pub(super) struct ScratchPool(Mutex<Vec<Scratch>>);

impl ScratchPool {
    /// Runs `body` for each task on the current thread pool, the last tasks first: under a causal mask they are the
    /// longest.
    pub(super) fn run<T: Send>(&self, tasks: Vec<T>, body: impl Fn(T, &mut Scratch) + Sync) {
        tasks.into_par_iter().rev().with_max_len(1).for_each(|task| {
            let mut scratch = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            body(task, &mut scratch);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        });
    }
}
