//! How well the score of token weighting finds the tokens that need far context.

use serde_json::json;

use super::{
    facts::truth,
    run::{Bench, Findings},
};
use crate::{
    data::{ArrayKind, ArraySet, TokenSet},
    stage::{Reference, StageError},
};

/// Most points of the curve.
const POINTS: usize = 101;

pub(super) fn measure(
    bench: &Bench<'_>,
    name: &str,
    short: &Reference,
    long: &Reference,
    tokens: &Reference,
) -> Result<Findings, StageError> {
    let set = TokenSet::open(bench.context.input(tokens)?)?;
    let short = ArraySet::open(bench.context.input(short)?, ArrayKind::CrossEntropy)?;
    let long = ArraySet::open(bench.context.input(long)?, ArrayKind::CrossEntropy)?;
    let digest = set.digest();
    short.check_digest(set.length(), &digest)?;
    long.check_digest(set.length(), &digest)?;
    let mut scores = Vec::new();
    let mut predictions = Vec::new();
    for sequence in 0..set.sequences() {
        bench.advance(sequence, set.sequences())?;
        let truth = truth(&set, sequence, tokens)?;
        let (short, long) = (short.row(sequence)?, long.row(sequence)?);
        let (mut far, mut other) = ((0.0, 0), (0.0, 0));
        for (target, (short, long)) in short.iter().zip(&long).enumerate() {
            let score = (f64::from(*long) - f64::from(*short)).abs();
            let positive = truth.far[target + 1] != 0;
            let side = if positive { &mut far } else { &mut other };
            *side = (side.0 + score, side.1 + 1);
            scores.push((score, positive));
        }
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        predictions.push(json!({
            "task": name, "sequence": sequence, "positives": far.1,
            "mean_score_far": mean(far), "mean_score_other": mean(other),
        }));
    }
    let positives = scores.iter().filter(|(_, positive)| *positive).count();
    let negatives = scores.len() - positives;
    if positives == 0 || negatives == 0 {
        return Err(StageError::Failed(format!(
            "`{tokens}` has {positives} tokens that need far context and {negatives} others; both are needed to tell them apart"
        )));
    }
    let (area, curve) = receiver(scores, positives, negatives);
    Ok(Findings {
        metrics: json!({
            "kind": "FarTokenDetection", "area_under_curve": area,
            "positives": positives, "negatives": negatives, "curve": curve,
        }),
        predictions,
    })
}

/// The area under the receiver operating characteristic (exact, ties counted half: the statistic of Mann and Whitney
/// over the number of pairs), and its corners, thinned out: (false positive rate, true positive rate).
fn receiver(mut scores: Vec<(f64, bool)>, positives: usize, negatives: usize) -> (f64, Vec<[f64; 2]>) {
    scores.sort_by(|left, right| right.0.total_cmp(&left.0));
    let mut corners = vec![(0_u64, 0_u64)];
    // Twice the number of won pairs, so that ties stay whole numbers.
    let (mut hits, mut alarms, mut won) = (0_u64, 0_u64, 0_u128);
    for group in scores.chunk_by(|left, right| left.0 == right.0) {
        let positive = group.iter().filter(|(_, positive)| *positive).count() as u64;
        let negative = group.len() as u64 - positive;
        won += u128::from(negative) * u128::from(2 * hits + positive);
        hits += positive;
        alarms += negative;
        corners.push((alarms, hits));
    }
    let area = won as f64 / (2.0 * positives as f64 * negatives as f64);
    let last = corners.len() - 1;
    let steps = last.min(POINTS - 1);
    let curve = (0..=steps)
        .map(|step| {
            // Corners that are spread evenly over the false positive rate.
            let place = if steps == last {
                step
            } else {
                let rate = negatives as u64 * step as u64 / steps as u64;
                corners.partition_point(|corner| corner.0 <= rate) - 1
            };
            let (alarms, hits) = corners[place];
            [alarms as f64 / negatives as f64, hits as f64 / positives as f64]
        })
        .collect();
    (area, curve)
}

#[cfg(test)]
mod tests {
    use super::receiver;

    fn run(positive: &[f64], negative: &[f64]) -> (f64, Vec<[f64; 2]>) {
        let scores = positive.iter().map(|&score| (score, true)).chain(negative.iter().map(|&score| (score, false)));
        receiver(scores.collect(), positive.len(), negative.len())
    }

    #[test]
    fn areas_of_known_cases() {
        assert_eq!(run(&[3.0, 4.0], &[1.0, 2.0]).0, 1.0);
        assert_eq!(run(&[1.0, 2.0], &[3.0, 4.0]).0, 0.0);
        assert_eq!(run(&[1.0; 5], &[1.0; 7]).0, 0.5);
        // Pairs: 0.8 > all three, 0.4 > 0.1 and ties 0.4, loses to 0.6: (3 + 1.5) / 6.
        assert_eq!(run(&[0.8, 0.4], &[0.1, 0.4, 0.6]).0, 0.75);
        assert_eq!(run(&[0.8, 0.4], &[0.1, 0.4, 0.6]).1.last(), Some(&[1.0, 1.0]));
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_ends() {
        let positive: Vec<f64> = (0..500).map(|at| f64::from(at * 7 % 500) + 120.5).collect();
        let negative: Vec<f64> = (0..900).map(|at| f64::from(at * 7 % 900) * 0.6).collect();
        let (area, curve) = run(&positive, &negative);
        let won = positive.iter().flat_map(|p| negative.iter().map(move |n| u32::from(p > n))).sum::<u32>();
        let tied = positive.iter().flat_map(|p| negative.iter().map(move |n| u32::from(p == n))).sum::<u32>();
        assert_eq!(area, (f64::from(won) + f64::from(tied) / 2.0) / (500.0 * 900.0));
        assert_eq!(curve.len(), 101);
        assert_eq!(curve[100], [1.0, 1.0]);
        assert!(curve.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
    }
}
