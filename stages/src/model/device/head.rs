//! The final norm and the output layer: logits of some rows at a time, and what is read off them.

use std::ops::Range;

use candle_core::{DType, Result, Tensor, WithDType};

use super::DeviceModel;
#[cfg(feature = "cuda")]
use super::cuda::rows;
use crate::model::{Predictions, shape::Shape};

/// Most logits in memory at once, in numbers: 256 MiB in f32, of which there are up to four at a time where operations are
/// candle's, and 512 MiB in bf16, of which there are two. Gradients of the output layer depend on it, so both are fixed.
pub(super) const LOGITS: [usize; 2] = [1 << 26, 1 << 28];

/// What the logits of some rows say of their targets; both `[rows, 1]`, nats.
pub(super) struct Reading {
    pub(super) log_sum: Tensor,
    pub(super) cross_entropy: Tensor,
    /// The most probable tokens, where finding them is no work of its own.
    best: Option<Tensor>,
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
        let mut losses = Vec::new();
        self.by_rows(shape, ids, output, |logits, targets| {
            losses.push(read(logits, targets)?.cross_entropy);
            Ok(())
        })?;
        of_targets(shape, &losses)
    }

    /// The same with the most probable token in each target's place.
    pub(super) fn predictions(&self, shape: &Shape, ids: &[u32], output: &Tensor) -> Result<Predictions> {
        let (mut losses, mut argmax) = (Vec::new(), Vec::new());
        self.by_rows(shape, ids, output, |logits, targets| {
            let reading = read(logits, targets)?;
            losses.push(reading.cross_entropy);
            argmax.push(reading.best.map_or_else(|| logits.argmax_keepdim(1), Ok)?);
            Ok(())
        })?;
        Ok(Predictions { cross_entropy: of_targets(shape, &losses)?, argmax: of_targets(shape, &argmax)? })
    }

    /// Computes logits for some rows at a time; `take` gets them, `[rows, vocabulary]`, and their targets, `[rows, 1]`.
    fn by_rows(
        &self,
        shape: &Shape,
        ids: &[u32],
        output: &Tensor,
        mut take: impl FnMut(&Tensor, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let targets = self.targets(shape, ids)?;
        for rows in chunks(shape, self.precision.row_dtype(&self.device)) {
            take(
                &self.logits(&output.narrow(0, rows.start, rows.len())?)?,
                &targets.narrow(0, rows.start, rows.len())?,
            )?;
        }
        Ok(())
    }

    /// Final norm and output layer for rows of the residual stream, `[rows, hidden]`: `[rows, vocabulary]` in the type of rows.
    pub(super) fn logits(&self, stream: &Tensor) -> Result<Tensor> {
        self.apply(self.structure.head, &self.normalize(self.structure.final_norm, stream)?)
    }
}

/// Rows whose logits, of this type, exist at the same time, one range after another. Their number depends on shapes alone.
pub(super) fn chunks(shape: &Shape, dtype: DType) -> impl Iterator<Item = Range<usize>> + use<> {
    let logits = LOGITS[usize::from(dtype == DType::BF16)];
    let (rows, size) = (shape.rows(), (logits / shape.vocabulary).max(1));
    (0..rows).step_by(size).map(move |first| first..rows.min(first + size))
}

/// The numbers of rows that have a target, on the host.
pub(super) fn of_targets<T: WithDType>(shape: &Shape, rows: &[Tensor]) -> Result<Vec<T>> {
    let all = Tensor::cat(rows, 0)?.flatten_all()?.to_vec1::<T>()?;
    Ok(all.chunks_exact(shape.length).flat_map(|sequence| &sequence[..shape.length - 1]).copied().collect())
}

/// Reads logits `[rows, vocabulary]` for targets `[rows, 1]`.
pub(super) fn read(logits: &Tensor, targets: &Tensor) -> Result<Reading> {
    #[cfg(feature = "cuda")]
    if logits.dtype() == DType::BF16 {
        let [log_sum, cross_entropy, best] = rows::read_logits(logits, targets)?;
        return Ok(Reading { log_sum, cross_entropy, best: Some(best) });
    }
    let highest = logits.max_keepdim(1)?;
    let sum = logits.broadcast_sub(&highest)?.exp()?.sum_keepdim(1)?;
    let log_sum = (highest + sum.log()?)?;
    let cross_entropy = (&log_sum - logits.gather(targets, 1)?)?;
    Ok(Reading { log_sum, cross_entropy, best: None })
}

/// The gradient of logits from that of each row's loss, `coefficients` `[rows, 1]`: coefficient * (soft-max - 1 at the target).
pub(super) fn logit_gradients(
    logits: Tensor,
    reading: &Reading,
    targets: &Tensor,
    coefficients: &Tensor,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if logits.dtype() == DType::BF16 {
        return rows::logit_gradients(&logits, &reading.log_sum, targets, coefficients);
    }
    let probabilities = logits.broadcast_sub(&reading.log_sum)?.exp()?;
    drop(logits);
    probabilities.broadcast_mul(coefficients)?.scatter_add(targets, &coefficients.neg()?, 1)
}
