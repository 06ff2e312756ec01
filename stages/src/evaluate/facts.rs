//! Recall of facts that were planted far back in the same sequence.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    position::{Mean, buckets, open, score_all},
    run::{Bench, Findings},
};
use crate::{
    data::{GroundTruth, TokenSet},
    stage::{Reference, StageError},
};

/// Which tokens need far context, or what to do if nobody knows.
pub(super) fn truth(set: &TokenSet, sequence: usize, tokens: &Reference) -> Result<GroundTruth, StageError> {
    set.truth(sequence)?.ok_or_else(|| {
        StageError::Failed(format!(
            "`{tokens}` does not say which tokens need far context; tokenize a corpus with facts, such as one of `Synthesize`"
        ))
    })
}

pub(super) fn measure(bench: &Bench<'_>, name: &str, tokens: &Reference, count: usize) -> Result<Findings, StageError> {
    let set = open(bench, name, tokens)?;
    let ranges = buckets(1, set.length(), count);
    let mut by_distance = vec![(Mean::default(), Mean::default()); ranges.len()];
    let (mut recall, mut far, mut other) = (Mean::default(), Mean::default(), Mean::default());
    let mut predictions = Vec::new();
    score_all(bench, (tokens, &set), |sequence, ids, losses, argmax| {
        let truth = truth(&set, sequence, tokens)?;
        let mut facts: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (target, &loss) in losses.iter().enumerate() {
            let token = target + 1;
            if truth.far[token] == 0 {
                other.add(loss);
                continue;
            }
            far.add(loss);
            facts.entry(truth.fact[token]).or_default().push(token);
        }
        for (fact, places) in facts {
            let correct = places.iter().all(|&token| argmax[token - 1] == ids[token]);
            let mut loss = Mean::default();
            for &token in &places {
                loss.add(losses[token - 1]);
            }
            let distance = truth.distance[places[0]] as usize;
            recall.add(u8::from(correct));
            if let Some(at) = ranges.iter().position(|range| range.contains(&distance)) {
                by_distance[at].0.add(u8::from(correct));
                by_distance[at].1.add(loss.get().unwrap_or_default());
            }
            predictions.push(json!({
                "task": name, "sequence": sequence, "fact": fact, "distance": distance,
                "correct": correct, "loss": loss.get(),
            }));
        }
        Ok(())
    })?;
    let by_distance: Vec<_> = ranges
        .iter()
        .zip(by_distance)
        .filter(|(_, (recall, _))| recall.count > 0)
        .map(|(range, (recall, loss))| {
            json!({
                "from": range.start, "to": range.end, "recall": recall.get(), "loss": loss.get(), "facts": recall.count,
            })
        })
        .collect();
    if recall.count == 0 {
        return Err(StageError::Failed(format!(
            "`{tokens}` has no fact whose planted sentence lies in the same sequence; use longer sequences or nearer facts"
        )));
    }
    Ok(Findings {
        metrics: json!({
            "kind": "PlantedFacts", "facts": recall.count, "recall": recall.get(),
            "loss_far": far.get(), "loss_other": other.get(), "by_distance": by_distance,
        }),
        predictions,
    })
}
