//! Mean loss by position in the sequence.

use serde_json::json;

use super::run::{Bench, Findings};
use crate::{
    data::TokenSet,
    score::suits,
    stage::{Reference, SettingError, StageError},
};

/// Tokens that the model is given at once; no result depends on it.
const TOKENS_AT_ONCE: usize = 16_384;

/// Calls `take` with each sequence's number, ids, losses and most probable tokens, in order.
pub(super) fn score_all(
    bench: &Bench<'_>,
    tokens: (&Reference, &TokenSet),
    mut take: impl FnMut(usize, &[u32], &[f32], &[u32]) -> Result<(), StageError>,
) -> Result<(), StageError> {
    let (reference, model) = bench.model()?;
    let set = tokens.1;
    suits(bench.context, reference, model.config(), tokens, set.length())?;
    let together = (TOKENS_AT_ONCE / set.length()).max(1);
    let targets = set.length() - 1;
    for start in (0..set.sequences()).step_by(together) {
        let group = start..(start + together).min(set.sequences());
        bench.advance(start, set.sequences())?;
        let ids = group.clone().map(|sequence| set.sequence(sequence)).collect::<Result<Vec<_>, _>>()?;
        let found = model.score(&ids.concat(), ids.len())?;
        for (index, ids) in ids.iter().enumerate() {
            let row = index * targets..(index + 1) * targets;
            let losses = &found.cross_entropy[row.clone()];
            if let Some(at) = losses.iter().position(|loss| !loss.is_finite()) {
                return Err(StageError::Failed(format!(
                    "sequence {}, target {at}: the loss is {}; model `{reference}` is broken or was trained too fast",
                    start + index,
                    losses[at]
                )));
            }
            take(start + index, ids, losses, &found.argmax[row])?;
        }
    }
    Ok(())
}

/// Refuses a token set without any target.
pub(super) fn open(bench: &Bench<'_>, name: &str, tokens: &Reference) -> Result<TokenSet, StageError> {
    let set = TokenSet::open(bench.context.input(tokens)?)?;
    if set.sequences() == 0 || set.length() < 2 {
        let found = format!("{} sequences of {} tokens", set.sequences(), set.length());
        let expected = "at least one sequence of two or more tokens";
        return Err(SettingError::new(format!("tasks.{name}.tokens"), found, expected).into());
    }
    Ok(set)
}

/// The mean of some numbers; they are added in f64 one after the other.
#[derive(Clone, Copy, Default)]
pub(super) struct Mean {
    sum: f64,
    pub(super) count: usize,
}

impl Mean {
    pub(super) fn add(&mut self, value: impl Into<f64>) {
        self.sum += value.into();
        self.count += 1;
    }

    /// `None` of no numbers.
    pub(super) fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Half-open ranges of (nearly) equal width that cover `from..to`; never more than there are numbers.
pub(super) fn buckets(from: usize, to: usize, count: usize) -> Vec<std::ops::Range<usize>> {
    let count = count.min(to - from).max(1);
    let edge = |index: usize| from + (to - from) * index / count;
    (0..count).map(|index| edge(index)..edge(index + 1)).collect()
}

pub(super) fn measure(bench: &Bench<'_>, name: &str, tokens: &Reference, count: usize) -> Result<Findings, StageError> {
    let set = open(bench, name, tokens)?;
    // Position p is that of the predicted token; the first token is predicted by nobody.
    let buckets = buckets(1, set.length(), count);
    let mut means = vec![Mean::default(); buckets.len()];
    let mut all = Mean::default();
    let mut predictions = Vec::new();
    score_all(bench, (tokens, &set), |sequence, _, losses, _| {
        let mut own = Mean::default();
        for (bucket, mean) in buckets.iter().zip(&mut means) {
            for &loss in &losses[bucket.start - 1..bucket.end - 1] {
                mean.add(loss);
                own.add(loss);
                all.add(loss);
            }
        }
        predictions.push(json!({ "task": name, "sequence": sequence, "loss": own.get() }));
        Ok(())
    })?;
    let buckets: Vec<_> = buckets
        .iter()
        .zip(means)
        .map(|(range, mean)| json!({ "from": range.start, "to": range.end, "loss": mean.get(), "count": mean.count }))
        .collect();
    Ok(Findings { metrics: json!({ "kind": "LossByPosition", "mean": all.get(), "buckets": buckets }), predictions })
}
