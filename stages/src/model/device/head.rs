//! The final norm and the output layer: logits of some rows at a time, and what is read off them.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::DeviceModel;
use crate::model::shape::Shape;

/// Most logits in memory at once, in numbers (256 MiB in f32).
const LOGITS: usize = 1 << 26;

/// What the logits of some rows say of their targets; both `[rows, 1]`, nats.
pub(super) struct Reading {
    pub(super) log_sum: Tensor,
    pub(super) cross_entropy: Tensor,
}

impl DeviceModel {
    /// The target of each row, `[rows, 1]`: the next token, and for the last row of a sequence, which has none, token 0.
    pub(super) fn targets(&self, shape: &Shape, ids: &[u32]) -> Result<Tensor> {
        let next = |sequence: &[u32]| sequence[1..].iter().copied().chain([0]).collect::<Vec<_>>();
        let targets: Vec<u32> = ids.chunks_exact(shape.length).flat_map(next).collect();
        Tensor::from_vec(targets, (shape.rows(), 1), &self.device)
    }

    /// Cross entropy of each target from the last block's output, `[batch * (length - 1)]`, nats.
    pub(super) fn cross_entropy(&self, shape: &Shape, ids: &[u32], output: &Tensor) -> Result<Vec<f32>> {
        let targets = self.targets(shape, ids)?;
        let mut losses = Vec::new();
        for rows in chunks(shape) {
            let part = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.len());
            let normalized = self.normalize(self.structure.final_norm, &part(output)?)?;
            let logits = self.apply(self.structure.head, &normalized)?;
            losses.push(read(&logits, &part(&targets)?)?.cross_entropy);
        }
        of_targets(shape, &losses)
    }
}

/// Rows whose logits exist at the same time, one range after another. Their number depends on shapes alone.
pub(super) fn chunks(shape: &Shape) -> impl Iterator<Item = Range<usize>> + use<> {
    let (rows, size) = (shape.rows(), (LOGITS / shape.vocabulary).max(1));
    (0..rows).step_by(size).map(move |first| first..rows.min(first + size))
}

/// The numbers of rows that have a target, on the host.
pub(super) fn of_targets(shape: &Shape, rows: &[Tensor]) -> Result<Vec<f32>> {
    let all = Tensor::cat(rows, 0)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(all.chunks_exact(shape.length).flat_map(|sequence| &sequence[..shape.length - 1]).copied().collect())
}

/// Reads logits `[rows, vocabulary]` for targets `[rows, 1]`.
pub(super) fn read(logits: &Tensor, targets: &Tensor) -> Result<Reading> {
    let highest = logits.max_keepdim(1)?;
    let sum = logits.broadcast_sub(&highest)?.exp()?.sum_keepdim(1)?;
    let log_sum = (highest + sum.log()?)?;
    let cross_entropy = (&log_sum - logits.gather(targets, 1)?)?;
    Ok(Reading { log_sum, cross_entropy })
}
