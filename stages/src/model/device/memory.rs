//! How much of a device's memory scoring and training take with bf16 products, counted from a configuration alone
//! (docs/memory.md has the terms and what was measured beside them).

use super::{SCORED_ROWS, head::LOGITS};
use crate::model::{Activations, Config, Layout, Purpose, shape::Shape};

/// Bytes of a number in a row or a factor, and of one in the residual stream, a gradient, a master or a moment.
const BF16: u64 = 2;
const F32: u64 = 4;

/// What the driver keeps for a process, with libraries and kernels. Measured on an H100.
const DRIVER: u64 = 600 << 20;

/// Bytes at the peak for `batch` sequences of `length` tokens at a time.
pub(in crate::model) fn device_memory(
    config: &Config,
    batch: usize,
    length: usize,
    purpose: &Purpose,
    is_optimizer_on_host: bool,
) -> u64 {
    let parameters = Layout::new(config).len() as u64;
    let batch = match purpose {
        // Groups are filled up.
        Purpose::Score => (SCORED_ROWS / length).max(1),
        Purpose::Train { .. } => batch,
    };
    let shape = Shape::new(config, batch, length);
    let (rows, layers) = (shape.rows() as u64, config.layers as u64);
    let (hidden, raised, inner) = (shape.hidden as u64, shape.raised as u64, shape.inner as u64);
    let (projected, attended) = (shape.projected() as u64, shape.attended() as u64);
    // Rotated queries, keys and values, and what attention gives.
    let of_attention = BF16 * (projected + attended) + F32 * shape.heads as u64;
    // It is composed of operations over f32 rows.
    let gelu = if raised == inner { F32 * inner } else { 0 };
    let logits = BF16 * (rows * shape.vocabulary as u64).min(LOGITS[1] as u64);
    let weights = BF16 * parameters;
    let passing = match purpose {
        // The stream before, between and after, the normalized rows, the projected ones, and what passes the unit.
        Purpose::Score => {
            let block = 3 * F32 * hidden + BF16 * (2 * hidden + projected + raised + inner) + of_attention + 2 * gelu;
            weights + (rows * block).max(rows * F32 * hidden + logits)
        }
        Purpose::Train { activations, adapter, .. } => {
            let saved = of_attention + F32 * hidden * 2 + BF16 * raised;
            let kept = match activations {
                Activations::Keep => layers * saved,
                Activations::Recompute => layers * F32 * hidden,
            };
            // What a block computes again or has saved, the gradients on their way, and the unit's output and its gradients.
            let block = saved + 2 * F32 * hidden + BF16 * (2 * hidden + 2 * inner + raised + projected) + 5 * gelu;
            // An adapter is small, and all else is frozen beside it.
            let trained = if adapter.is_some() { 0 } else { parameters };
            let of_optimizer = if is_optimizer_on_host { 0 } else { 3 * F32 * trained };
            let largest = if adapter.is_some() { 0 } else { (BF16 + F32) * shape.vocabulary as u64 * hidden };
            // The gradient of the output layer comes first, while all blocks wait; then each block's comes as what it kept goes.
            let at_first = rows * kept + largest + 2 * logits;
            let at_last = F32 * trained + rows * block;
            weights + of_optimizer + at_first.max(at_last)
        }
    };
    DRIVER + passing
}
