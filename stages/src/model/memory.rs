//! How much memory scoring and training take, counted from a configuration alone: no weights are needed.
//!
//! The terms are those of docs/memory.md. A test compares their sum with the peaks of processes that do the work.

use super::{
    Activations, Adapter, AdapterSettings, Config, Layout, ModelError, MomentStorage, Precision,
    attention::STRIDE,
    backward::{parts, query_part},
    head::{IDS, kept_blocks},
    kernels::{HeadRow, PackedColumns, PackedRows},
    keys_values,
    language_model::scored_together,
    moments,
    packed_weights::{PackedWeights, Pass},
    shape::{BLOCK, Shape},
};

/// Bytes of one number, and of a pair of numbers in bf16.
const F32: u64 = 4;
const PAIR: u64 = 4;

/// What the program itself takes beside its buffers: code, thread stacks, the allocator's rest. Measured, not counted.
const PROCESS: u64 = 16 << 20;

/// What a buffer takes beside its numbers, since large memory comes in pages of 2 MiB: half of one on average, and less if
/// the buffer is small itself. Measured.
const REST_OF_PAGE: u64 = 1 << 20;
/// Buffers of a layer's state, and of what it saves.
const BUFFERS: u64 = 4;
/// Buffers of the backward pass.
const BACKWARD_BUFFERS: u64 = 14;

/// What is done with a model.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// Scoring, or evaluation by scoring.
    Score,
    /// Training.
    Train {
        /// What is kept of each layer for the backward pass.
        activations: Activations,
        /// How the optimizer's moments are kept.
        moments: MomentStorage,
        /// If an adapter is trained and the model frozen: its form.
        adapter: Option<AdapterSettings>,
    },
}

/// Bytes in memory at the peak, by what they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// All parameters in f32, an adapter's included, and those of a layer in bf16 where products are taken in it.
    pub parameters: u64,
    /// A gradient in f32 for each trained parameter.
    pub gradients: u64,
    /// Two moments for each trained parameter.
    pub moments: u64,
    /// What the forward pass leaves: in training of every layer, or of every layer's input; in scoring of two layers.
    pub activations: u64,
    /// Buffers of the backward pass, which all layers share, and the inputs of a layer's matrices in bf16.
    pub backward: u64,
    /// Attention probabilities of the blocks and keys that are computed at the moment, one block for each thread.
    pub attention: u64,
    /// Logits of the rows that are computed at the moment, what is kept of each row, and the output layer in bf16.
    pub logits: u64,
    /// Cosines and sines of all positions.
    pub positions: u64,
    /// The program itself, and the rests of pages at the ends of buffers.
    pub process: u64,
}

impl MemoryBudget {
    /// What `batch` sequences of `length` tokens at a time take on `threads` threads: in training the micro-batch. Products
    /// are taken on the CPU.
    ///
    /// # Errors
    /// An adapter that does not fit the model.
    pub fn new(
        config: &Config,
        batch: usize,
        length: usize,
        threads: usize,
        precision: Precision,
        purpose: &Purpose,
    ) -> Result<Self, ModelError> {
        let layout = Layout::new(config);
        let numbers = layout.len() as u64;
        // Larger batches are scored in groups.
        let batch = match purpose {
            Purpose::Score => batch.min(scored_together(length)),
            Purpose::Train { .. } => batch,
        };
        let shape = Shape::new(config, batch, length);
        let (rows, threads) = (shape.rows() as u64, threads as u64);
        let (layers, hidden, vocabulary) = (config.layers as u64, shape.hidden as u64, shape.vocabulary as u64);
        let block = BLOCK as u64;

        let keys_values = 2 * (batch * shape.blocks() * keys_values::block_len(&shape, precision)) as u64;
        let state = rows * (hidden + shape.projected() as u64) + keys_values;
        let raised = shape.raised as u64;
        let saved = rows * ((shape.attended() + 2 * shape.heads + shape.middle) as u64 + raised);
        let scores = threads * block * STRIDE as u64;
        let positions = F32 * (length * shape.rotary_dim) as u64;
        let blocks = (batch * shape.blocks()) as u64;
        let of_rows = blocks * block * size_of::<HeadRow>() as u64 + rows * F32;
        // The rows of the output layer as rows and as columns, or as columns and with their gradients, those of a piece too.
        let head_buffers = if matches!(purpose, Purpose::Train { .. }) { 3 } else { 2 };
        let of_head = threads * block * head_buffers * hidden;

        let mut budget = Self {
            parameters: F32 * numbers,
            gradients: 0,
            moments: 0,
            activations: F32 * (2 * state + saved - rows * raised + threads * block * raised),
            backward: 0,
            attention: F32 * scores,
            logits: F32 * (threads * block * IDS as u64 + of_head) + of_rows,
            positions,
            process: 0,
        };
        let mut buffers = 3 * BUFFERS;
        if let Purpose::Train { activations, moments: kept, adapter } = purpose {
            let trained = match adapter {
                Some(settings) => Adapter::size(&layout, settings)? as u64,
                None => numbers,
            };
            budget.parameters += if adapter.is_some() { F32 * trained } else { 0 };
            budget.gradients = F32 * trained;
            budget.moments = match kept {
                MomentStorage::F32 => 2 * F32 * trained,
                // A code each, and a factor for each block.
                MomentStorage::Blockwise8 => 2 * (trained + F32 * trained.div_ceil(moments::BLOCK as u64)),
            };
            budget.activations = F32
                * match activations {
                    Activations::Keep => (layers + 1) * state + layers * saved,
                    Activations::Recompute => layers * rows * hidden + 2 * state + saved,
                };
            buffers = match activations {
                Activations::Keep => (2 * layers + 1) * BUFFERS,
                Activations::Recompute => layers + 3 * BUFFERS,
            } + BACKWARD_BUFFERS;
            budget.backward = F32 * of_backward(&shape);
            // Of probabilities and of their gradients.
            budget.attention *= 2;
            let chunk = blocks.min(kept_blocks(&shape) as u64) * block;
            budget.logits = F32 * (chunk * (vocabulary + hidden) + of_head) + of_rows;
        }
        if precision.is_bf16() {
            budget.add_packed(&layout, rows, purpose);
        }
        let rest = (budget.activations + budget.backward) / buffers / 4;
        budget.process = PROCESS + buffers * rest.min(REST_OF_PAGE);
        Ok(budget)
    }

    /// What is packed for products in bf16: weights of a layer, the output layer for its logits and in training for the
    /// gradients of its rows, and in full training the inputs of a layer's matrices.
    fn add_packed(&mut self, layout: &Layout, rows: u64, purpose: &Purpose) {
        if let Some(layer) = layout.blocks.first() {
            let len = |pass| layer.matrices().map(|linear| PackedWeights::len(pass, linear) as u64).sum::<u64>();
            self.parameters += PAIR * len(Pass::Forward).max(len(Pass::Backward));
        }
        let head = &layout.head;
        self.logits += PAIR * PackedRows::len(head.outputs, head.inputs) as u64;
        let Purpose::Train { adapter, .. } = purpose else { return };
        self.logits += PAIR * PackedColumns::len(head.outputs, head.inputs) as u64;
        if let (None, Some(layer)) = (adapter, layout.blocks.first()) {
            let inputs = layer.matrices().map(|linear| PackedColumns::len(rows as usize, linear.inputs) as u64);
            self.backward += PAIR * inputs.sum::<u64>();
        }
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Each part with its name.
    pub fn parts(&self) -> [(&'static str, u64); 9] {
        [
            ("parameters", self.parameters),
            ("gradients", self.gradients),
            ("moments", self.moments),
            ("activations", self.activations),
            ("backward", self.backward),
            ("attention", self.attention),
            ("logits", self.logits),
            ("positions", self.positions),
            ("process", self.process),
        ]
    }
}

/// Numbers in the buffers of the backward pass.
fn of_backward(shape: &Shape) -> u64 {
    let streams = 3 * shape.hidden + 2 * shape.middle;
    let feed = shape.inner + shape.raised;
    let attention = shape.attended() + shape.heads + shape.projected();
    let heads = shape.batch * shape.key_value_heads * parts(shape);
    let partial = heads * (query_part(shape) + 2 * shape.length * shape.head_dim);
    (shape.rows() * (streams + feed + attention) + partial) as u64
}
