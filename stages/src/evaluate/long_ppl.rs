//! Perplexity over the tokens that only long context tells (method.md, section 8; LongPPL, arXiv 2410.23771).

use serde_json::json;

use super::{
    position::{Mean, open, score_all},
    run::{Bench, Findings},
};
use crate::{
    data::{ArrayKind, ArraySet},
    stage::{Reference, StageError},
};

/// Whether a token is a key token: the evaluator's loss, in nats, falls by more than `alpha` from short to long context
/// and is below `-beta` with long context.
pub fn is_key(short: f32, long: f32, alpha: f64, beta: f64) -> bool {
    let (short, long) = (f64::from(short), f64::from(long));
    short - long > alpha && long < -beta
}

/// The exponential of the mean of some losses in nats; `None` of no losses.
pub fn perplexity(losses: impl IntoIterator<Item = f32>) -> Option<f64> {
    let mut mean = Mean::default();
    for loss in losses {
        mean.add(loss);
    }
    mean.perplexity()
}

impl Mean {
    fn perplexity(self) -> Option<f64> {
        self.get().map(libm::exp)
    }
}

pub(super) fn measure(
    bench: &Bench<'_>,
    name: &str,
    (short, long): (&Reference, &Reference),
    tokens: &Reference,
    (alpha, beta): (f64, f64),
) -> Result<Findings, StageError> {
    let set = open(bench, name, tokens)?;
    let short = ArraySet::open(bench.context.input(short)?, ArrayKind::CrossEntropy)?;
    let long = ArraySet::open(bench.context.input(long)?, ArrayKind::CrossEntropy)?;
    short.check_tokens(&set)?;
    long.check_tokens(&set)?;
    let (mut key, mut all) = (Mean::default(), Mean::default());
    let mut predictions = Vec::new();
    score_all(bench, (tokens, &set), |sequence, _, losses, _| {
        let (short, long) = (short.row(sequence)?, long.row(sequence)?);
        let (mut own_key, mut own) = (Mean::default(), Mean::default());
        for (target, &loss) in losses.iter().enumerate() {
            all.add(loss);
            own.add(loss);
            if is_key(short[target], long[target], alpha, beta) {
                key.add(loss);
                own_key.add(loss);
            }
        }
        predictions.push(json!({
            "task": name, "sequence": sequence, "key_tokens": own_key.count,
            "loss_key": own_key.get(), "loss": own.get(),
        }));
        Ok(())
    })?;
    if key.count == 0 {
        return Err(StageError::Failed(format!(
            "task `{name}`: none of {} tokens of `{tokens}` is a key token: with long context the evaluator's loss must \
             be below {} nats and more than {alpha} nats below that with short context; lower `alpha` or `beta`, or \
             take a better evaluator",
            all.count, -beta
        )));
    }
    Ok(Findings {
        metrics: json!({
            "kind": "LongPpl", "long_perplexity": key.perplexity(), "perplexity": all.perplexity(),
            "key_tokens": key.count, "tokens": all.count,
        }),
        predictions,
    })
}
