//! Weights against values that were computed from the formulas by hand or with numpy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage_support;

use proptest::prelude::*;
use stage_support::toy;
use twdag_stages::{
    registry,
    weighting::{Compare, Normalization, Rounding, Shape, Transform, check, weigh, weighted_mean},
};

/// Scores as losses of a long side over a short side of zeros.
fn from_scores(shape: &Shape, scores: &[f32]) -> Vec<f32> {
    weigh(None, shape, scores, &vec![0.0; scores.len()], 0).expect("weights")
}

fn dense(lambda: f64) -> Shape {
    Shape::Dense { lambda }
}

fn sparse(kappa: f64) -> Shape {
    Shape::Sparse { kappa, seed: 0 }
}

fn pipeline(transforms: Vec<Transform>, normalization: Option<Normalization>) -> Shape {
    Shape::Pipeline { transforms, truncation: None, sparsification: None, normalization, interpolation: None, seed: 0 }
}

#[track_caller]
fn close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (target, (found, expected)) in found.iter().zip(expected).enumerate() {
        let tolerance = 1e-6 * expected.abs().max(1.0);
        assert!((f64::from(*found) - expected).abs() <= tolerance, "target {target}: {found}, expected {expected}");
    }
}

/// Seven targets of 0.75 (window 0 sees the same context), then these.
const FROZEN_STYLE: [f64; 8] =
    [1.14181841, 1.19322014, 0.84396720, 0.78060767, 1.99797342, 1.13176682, 1.15873769, 1.50190864];
const UNFROZEN_STYLE: [f64; 7] = [1.24493319, 0.85493089, 0.78417885, 2.14358168, 1.17630976, 1.20642747, 1.58963816];

#[test]
fn scores_and_dense_weights_of_the_toy_model() {
    let (long, mut short) = (toy::losses(&toy::LONG), toy::losses(&toy::SHORT));
    let scores = weigh(None, &pipeline(vec![Transform::Absolute], None), &long, &short, 0).expect("scores");
    let mut expected = vec![0.0; 7];
    expected.extend([0.28768207, 0.32542240, 0.06899287, 0.02247286, 0.91629073, 0.28030197, 0.30010459, 0.55206858]);
    close(&scores, &expected);

    let weights = weigh(None, &dense(0.75), &long, &short, 0).expect("weights");
    close(&weights, &[vec![0.75; 7], FROZEN_STYLE.to_vec()].concat());
    assert!((weighted_mean(&long, &weights) - 1.4038880172).abs() < 1e-6);
    assert!((weighted_mean(&long, &[1.0; 15]) - 1.4411355714).abs() < 1e-6);

    short[..8].copy_from_slice(&long[..8]);
    let weights = weigh(None, &dense(0.75), &long, &short, 0).expect("weights");
    close(&weights, &[vec![0.75; 8], UNFROZEN_STYLE.to_vec()].concat());
    assert!((weighted_mean(&long, &weights) - 1.4095331720).abs() < 1e-6);
}

#[test]
fn dense_basics() {
    let scores = [0.0, 0.5, 1.0, 2.5];
    close(&from_scores(&dense(0.0), &scores), &[0.0, 0.5, 1.0, 2.5]);
    close(&from_scores(&dense(0.75), &scores), &[0.75, 0.875, 1.0, 1.375]);
    assert_eq!(from_scores(&dense(1.0), &scores), [1.0; 4]);
    assert_eq!(from_scores(&dense(0.3), &[0.0; 4]), [1.0; 4]);
    close(&from_scores(&dense(0.0), &[1.0, 1.0, 2.0, 0.0]), &[1.0, 1.0, 2.0, 0.0]);
    close(&from_scores(&dense(0.0), &[10.0; 4]), &[1.0; 4]);
}

#[test]
fn sparse_basics() {
    close(&from_scores(&sparse(0.4), &[0.1, 0.9, 0.3, 0.9, 0.2]), &[0.0, 2.5, 0.0, 2.5, 0.0]);
    close(&from_scores(&sparse(0.5), &[0.5, 0.5, 0.5, 0.1]), &[0.0, 2.0, 2.0, 0.0]);
    close(&from_scores(&sparse(0.5), &[0.1, 0.2, 0.3, 0.4]), &[0.0, 0.0, 2.0, 2.0]);
    close(&from_scores(&sparse(0.5), &[4.0, 3.0, 2.0, 1.0]), &[2.0, 2.0, 0.0, 0.0]);
}

#[test]
fn sparse_counts_of_long_sequences() {
    let scores: Vec<f32> = (0..32767).map(|target| (target % 1009) as f32 + 1.0).collect();
    for (kappa, kept, weight) in [
        (0.2, 6553, 5.000305203723485),
        (0.4, 13106, 2.5001526018617426),
        (0.6, 19660, 1.6666836215666327),
        (0.8, 26213, 1.250028611757525),
        (1.0, 32767, 1.0),
    ] {
        let weights = from_scores(&sparse(kappa), &scores);
        let nonzero: Vec<f32> = weights.into_iter().filter(|&weight| weight != 0.0).collect();
        assert_eq!(nonzero.len(), kept, "{kappa}");
        assert!(nonzero.iter().all(|&found| (f64::from(found) - weight).abs() < 1e-6), "{kappa}");
    }
    // 0.29 * 100 is 28.999999999999996 in floating point.
    let scores: Vec<f32> = (1..=100u8).map(f32::from).collect();
    assert_eq!(from_scores(&sparse(0.29), &scores).iter().filter(|&&weight| weight != 0.0).count(), 28);
}

#[test]
fn a_share_below_one_target_is_refused() {
    let error = weigh(None, &sparse(0.2), &[1.0; 4], &[0.0; 4], 0).expect_err("an error");
    insta::assert_snapshot!(error, @"0.2 of 4 targets is less than one target; the smallest share that works is 0.25");
    insta::assert_snapshot!(error.in_stage("weighting."), @"setting `weighting.shape.kappa` is 0.2, expected at least 0.25: of 4 targets it must keep one or more");
    let error = weigh(None, &sparse(1e-5), &vec![1.0; 32767], &vec![0.0; 32767], 0).expect_err("an error");
    insta::assert_snapshot!(error, @"0.00001 of 32767 targets is less than one target; the smallest share that works is 0.00003052");
}

#[test]
fn zeros_that_fill_up_are_drawn_by_seed_and_sequence() {
    let scores = [0.0, 0.0, 0.3, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.1];
    let kept = |seed: u64, sequence: u64| -> Vec<usize> {
        let shape = Shape::Sparse { kappa: 0.4, seed };
        let weights = weigh(None, &shape, &scores, &[0.0; 10], sequence).expect("weights");
        assert!(weights.iter().all(|&weight| weight == 0.0 || weight == 2.5));
        (0..10).filter(|&target| weights[target] != 0.0).collect()
    };
    let mut drawn = std::collections::BTreeSet::new();
    for seed in 0..20 {
        for sequence in 0..20 {
            let kept = kept(seed, sequence);
            assert_eq!(kept.len(), 4);
            assert!([2, 5, 9].iter().all(|target| kept.contains(target)));
            drawn.extend(kept);
        }
    }
    assert_eq!(drawn.len(), 10, "every zero is drawn sometimes");
    assert_eq!(kept(7, 3), kept(7, 3));
    // Six zeros of ten: nothing has to be filled.
    let scores = [0.0, 0.0, 0.3, 0.0, 0.0, 0.2, 0.0, 0.0, 0.4, 0.1];
    close(&from_scores(&sparse(0.4), &scores), &[0.0, 0.0, 2.5, 0.0, 0.0, 2.5, 0.0, 0.0, 2.5, 2.5]);
}

#[test]
fn long_ce() {
    let (long, short) = ([1.0, 0.2, 3.0, 0.5], [1.0, 2.2, 2.0, 0.8]);
    let weights = weigh(None, &Shape::LongCE { gamma: 5.0 }, &long, &short, 0).expect("weights");
    close(&weights, &[1.0, 5.0, 0.36787944, 1.34985881]);
    // Not brought to a mean of 1.
    assert!((weighted_mean(&[1.0; 4], &weights) - 1.92943456).abs() < 1e-6);
    assert!((weighted_mean(&long, &weights) - 0.9446419318).abs() < 1e-6);
    let spelled_out = Shape::Pipeline {
        transforms: vec![Transform::Minus, Transform::Exp],
        truncation: Some(5.0),
        sparsification: None,
        normalization: None,
        interpolation: None,
        seed: 0,
    };
    assert_eq!(weigh(None, &spelled_out, &long, &short, 0), Ok(weights));
}

#[test]
fn positive_and_negative_mutual_information() {
    let (long, short) = ([0.5, 2.0, 1.0, 3.0], [2.0, 2.5, 0.5, 3.2]);
    let run = |transforms: Vec<Transform>, normalization| {
        weigh(None, &pipeline(transforms, normalization), &long, &short, 0).expect("weights")
    };
    let positive = vec![Transform::Minus, Transform::Shift(1.2), Transform::Max];
    close(&run(positive.clone(), None), &[1.31767844, 0.31767844, 0.0, 0.01767844]);
    close(&run(positive, Some(Normalization::L1)), &[3.18850643, 0.76871544, 0.0, 0.04277814]);
    let negative = vec![Transform::Shift(1.2), Transform::Max];
    close(&run(negative.clone(), None), &[0.0, 0.0, 0.31767844, 0.0]);
    close(&run(negative, Some(Normalization::L1)), &[0.0, 0.0, 4.0, 0.0]);
}

#[test]
fn the_loss_is_divided_by_the_count() {
    assert_eq!(weighted_mean(&[2.0, 1.0, 0.5, 4.0], &[0.0, 2.0, 2.0, 0.0]), 0.75);
    assert_eq!(weighted_mean(&[2.0, 1.0, 0.5, 4.0], &[1.0, 5.0, 0.5, 1.5]), 3.3125);
}

#[test]
fn excess_loss_selects_like_rho_1() {
    let (model, reference) = ([3.0, 1.0, 2.0, 4.0], [1.0, 0.9, 2.5, 3.8]);
    let weights = weigh(Some(Compare::Difference), &sparse(0.5), &model, &reference, 0).expect("weights");
    assert_eq!(weights, [2.0, 0.0, 0.0, 2.0]);
    assert!((weighted_mean(&model, &weights) - 3.5).abs() < 1e-6);
}

#[test]
fn the_first_table_of_the_paper() {
    let long = [8.75, 0.20, 0.58, 7.82, 1.32, 4.54, 0.02, 3.76, 0.02, 0.01, 0.01, 0.04, 0.26];
    let short = [8.49, 0.21, 0.64, 8.82, 1.03, 4.40, 0.02, 4.84, 0.63, 0.01, 0.00, 0.72, 0.46];
    let printed = [0.26, 0.01, 0.07, 1.00, 0.29, 0.14, 0.01, 1.08, 0.61, 0.01, 0.01, 0.68, 0.20];
    let scores = weigh(Some(Compare::AbsoluteDifference), &pipeline(vec![], None), &long, &short, 0).expect("scores");
    for (score, printed) in scores.iter().zip(printed) {
        assert!((score - printed).abs() <= 0.011, "{score}, printed {printed}");
    }
}

#[test]
fn losses_are_rounded_to_bf16_on_request() {
    let (mut long, mut short) = ([8.75, 4.54, 3.76], [8.49, 4.40, 4.84]);
    Rounding::Long.apply(&mut long, &mut short);
    assert_eq!((long, short), ([8.75, 4.53125, 3.765625], [8.49, 4.40, 4.84]));
    Rounding::Both.apply(&mut long, &mut short);
    assert_eq!((long, short), ([8.75, 4.53125, 3.765625], [8.5, 4.40625, 4.84375]));
    // Nothing in between rounds again.
    assert_eq!(
        weigh(Some(Compare::AbsoluteDifference), &pipeline(vec![], None), &long, &short, 0),
        Ok(vec![0.25, 0.125, 1.078125])
    );
    let refused =
        Rounding::check(Some(Rounding::Both), &Shape::Focal { gamma: 2.0 }, "weighting.").expect_err("an error");
    insta::assert_snapshot!(refused, @"setting `weighting.rounding` is Both, expected nothing: `Uniform` and `Focal` compare no losses");
    let train = "(model: \"model\", tokens: \"tokens\", steps: 1, batch: 1, weighting: Unfrozen(windows: (length: 32, step: 24), \
                 rounding: Long, shape: Dense(lambda: 0.5)))";
    let train = registry::find("Train").and_then(|kind| kind.from_ron(&registry::ron_options(), train).ok());
    let refused = train.expect("settings").check().expect_err("an error");
    insta::assert_snapshot!(refused, @"setting `weighting.rounding` is Long, expected Both, or nothing: both sides are the model in training");
}

#[test]
fn softmax_and_quotient() {
    let softmax = pipeline(vec![], Some(Normalization::Softmax));
    close(&from_scores(&softmax, &[0.0, 1.0, 2.0]), &[0.27009172, 0.73418541, 1.99572287]);
    let quotient = weigh(Some(Compare::Quotient), &pipeline(vec![], None), &[1.0, 0.2], &[2.0, 0.0], 0);
    close(&quotient.expect("quotients"), &[0.5000025, 20001.0]);
}

#[test]
fn focal() {
    let losses = [0.9f64, 0.5, 0.1].map(|probability| -probability.ln() as f32);
    let focal = |gamma| Shape::Focal { gamma };
    // Whatever the short side says.
    let weights = weigh(None, &focal(2.0), &losses, &[0.0, 7.0, 1.0], 0).expect("weights");
    close(&weights, &[0.01, 0.25, 0.81]);
    assert!((weighted_mean(&losses, &weights) - 0.6798114419).abs() < 1e-6);
    close(&from_scores(&focal(1.0), &losses), &[0.1, 0.5, 0.9]);
    assert_eq!(from_scores(&focal(0.0), &losses), [1.0; 3]);
    // A token that is certain, one whose loss is below zero by rounding, one that is impossible.
    assert_eq!(from_scores(&focal(2.0), &[0.0, -1e-7, 1e4]), [0.0, 0.0, 1.0]);
    // Where 1 - p cannot be had by subtraction.
    let weights = from_scores(&focal(0.5), &[1e-12]);
    assert!((f64::from(weights[0]) - 1e-6).abs() < 1e-12, "{weights:?}");
}

#[test]
fn bad_losses_are_named() {
    let error = weigh(None, &dense(0.5), &[1.0, f32::NAN], &[1.0, 1.0], 12).expect_err("an error");
    insta::assert_snapshot!(error, @"sequence 12, target 1: the long-context loss is NaN; losses must be finite, so look at the model that gave it");
    let error = weigh(None, &Shape::Uniform, &[1.0], &[f32::INFINITY], 0).expect_err("an error");
    insta::assert_snapshot!(error, @"sequence 0, target 0: the short-context loss is inf; losses must be finite, so look at the model that gave it");
    let error = weigh(None, &pipeline(vec![Transform::Exp], None), &[900.0], &[0.0], 4).expect_err("an error");
    insta::assert_snapshot!(error, @"sequence 4, target 0: the weight is inf; truncate before `Exp` can overflow, or compare by Difference");
}

#[test]
fn impossible_settings_are_refused_with_their_place() {
    let refused = |compare, shape: Shape| check(compare, &shape, "weighting.").expect_err("an error").to_string();
    insta::assert_snapshot!(refused(None, dense(1.5)), @"setting `weighting.shape.lambda` is 1.5, expected a number from 0 (the scores alone) to 1 (uniform weights)");
    insta::assert_snapshot!(refused(None, sparse(0.0)), @"setting `weighting.shape.kappa` is 0, expected a share of the targets above 0 and up to 1 (all of them)");
    insta::assert_snapshot!(refused(Some(Compare::Quotient), Shape::LongCE { gamma: 5.0 }), @"setting `weighting.compare` is Quotient, expected Difference, or nothing: LongCE is defined on CE_long - CE_short");
    insta::assert_snapshot!(refused(None, Shape::Focal { gamma: f64::NAN }), @"setting `weighting.shape.gamma` is NaN, expected a finite number, 0 (uniform weights) or more");
    insta::assert_snapshot!(refused(Some(Compare::Difference), Shape::Focal { gamma: 2.0 }), @"setting `weighting.compare` is Difference, expected nothing: focal weights depend on the long-context loss alone");
    insta::assert_snapshot!(refused(None, pipeline(vec![Transform::Minus, Transform::Shift(0.0)], None)), @"setting `weighting.shape.transforms.1` is 0, expected a finite number above 0");
    for bad in [dense(f64::NAN), dense(-0.1), sparse(1.1), sparse(f64::NAN), Shape::LongCE { gamma: 0.0 }] {
        assert!(check(None, &bad, "").is_err(), "{bad:?}");
    }
    let lost = Shape::Pipeline {
        transforms: vec![],
        truncation: None,
        sparsification: None,
        normalization: None,
        interpolation: Some(0.5),
        seed: 0,
    };
    assert_eq!(check(None, &lost, "").expect_err("an error").path, "shape.interpolation");
    for good in [Shape::Uniform, dense(0.0), dense(1.0), sparse(1.0), sparse(0.01), Shape::LongCE { gamma: 5.0 }] {
        assert_eq!(check(None, &good, ""), Ok(()));
    }
}

#[test]
fn shapes_are_written_as_users_would() {
    let read = |text: &str| -> Shape { twdag_stages::registry::ron_options().from_str(text).expect(text) };
    assert_eq!(read("LongCE()"), Shape::LongCE { gamma: 5.0 });
    assert_eq!(read("Focal()"), Shape::Focal { gamma: 2.0 });
    assert_eq!(read("Sparse(kappa: 0.2)"), sparse(0.2));
    assert_eq!(
        read("Pipeline(transforms: [Minus, Shift(1.2), Max], normalization: L1, sparsification: 0.5)"),
        Shape::Pipeline {
            transforms: vec![Transform::Minus, Transform::Shift(1.2), Transform::Max],
            truncation: None,
            sparsification: Some(0.5),
            normalization: Some(Normalization::L1),
            interpolation: None,
            seed: 0,
        }
    );
}

fn two_rows() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (1usize..200).prop_flat_map(|targets| {
        (prop::collection::vec(0f32..12.0, targets), prop::collection::vec(0f32..12.0, targets))
    })
}

proptest! {
    #[test]
    fn dense_weights_average_one_and_stay_above_lambda((long, short) in two_rows(), lambda in 0f64..=1.0) {
        let weights = weigh(None, &dense(lambda), &long, &short, 0).expect("weights");
        let mean = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() / weights.len() as f64;
        prop_assert!((mean - 1.0).abs() < 1e-5, "{mean}");
        prop_assert!(weights.iter().all(|&weight| f64::from(weight) >= lambda - 1e-6));
        let uniform = weigh(None, &dense(1.0), &long, &short, 0).expect("weights");
        prop_assert!(uniform.iter().all(|&weight| weight == 1.0));
    }

    #[test]
    fn dense_weights_move_with_their_targets((long, short) in two_rows(), turn in 0usize..200) {
        let turn = turn % long.len();
        let weights = weigh(None, &dense(0.25), &long, &short, 0).expect("weights");
        let (mut turned_long, mut turned_short, mut expected) = (long, short, weights);
        turned_long.rotate_left(turn);
        turned_short.rotate_left(turn);
        expected.rotate_left(turn);
        let found = weigh(None, &dense(0.25), &turned_long, &turned_short, 0).expect("weights");
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0));
        }
    }

    #[test]
    fn sparse_weights_keep_exactly_the_best((long, short) in two_rows(), kappa in 0.01f64..=1.0, seed: u64) {
        let targets = long.len();
        let keep = (kappa * targets as f64).floor() as usize;
        let result = weigh(None, &Shape::Sparse { kappa, seed }, &long, &short, 3);
        prop_assert_eq!(result.is_err(), keep == 0);
        if let Ok(weights) = result {
            let (kept, dropped): (Vec<usize>, Vec<usize>) = (0..targets).partition(|&target| weights[target] != 0.0);
            prop_assert_eq!(kept.len(), keep);
            let score = |target: usize| (f64::from(long[target]) - f64::from(short[target])).abs();
            for &kept in &kept {
                prop_assert!((weights[kept] - targets as f32 / keep as f32).abs() < 1e-4);
                prop_assert!(dropped.iter().all(|&dropped| score(dropped) <= score(kept)));
            }
        }
    }

    #[test]
    fn equal_scores_are_kept_from_the_end(targets in 1usize..100, kappa in 0.01f64..=1.0) {
        let keep = (kappa * targets as f64).floor() as usize;
        prop_assume!(keep > 0);
        let weights = from_scores(&sparse(kappa), &vec![0.5; targets]);
        prop_assert!(weights[..targets - keep].iter().all(|&weight| weight == 0.0));
        prop_assert!(weights[targets - keep..].iter().all(|&weight| weight > 0.0));
    }
}
