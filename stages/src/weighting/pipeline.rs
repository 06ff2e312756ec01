//! The steps from two rows of losses to one row of weights, in the order of method.md, section 2.

use super::{Compare, Normalization, Shape, Side, Transform, WeightingError, select};

/// Weights of one sequence, one for each target.
pub type Weights = Vec<f32>;

/// What the shapes with names stand for.
struct Steps<'a> {
    compare: Compare,
    transforms: &'a [Transform],
    truncation: Option<f64>,
    sparsification: Option<f64>,
    normalization: Option<Normalization>,
    interpolation: Option<f64>,
    seed: u64,
}

impl<'a> Steps<'a> {
    /// None for weights that compare nothing.
    fn of(compare: Option<Compare>, shape: &'a Shape) -> Option<Self> {
        let plain = Self {
            compare: compare.unwrap_or(Compare::AbsoluteDifference),
            transforms: &[],
            truncation: None,
            sparsification: None,
            normalization: Some(Normalization::L1),
            interpolation: None,
            seed: 0,
        };
        Some(match shape {
            Shape::Uniform | Shape::Focal { .. } => return None,
            Shape::Dense { lambda } => Self { interpolation: Some(*lambda), ..plain },
            Shape::Sparse { kappa, seed } => Self { sparsification: Some(*kappa), seed: *seed, ..plain },
            Shape::LongCE { gamma } => Self {
                compare: Compare::Difference,
                transforms: &[Transform::Minus, Transform::Exp],
                truncation: Some(*gamma),
                normalization: None,
                ..plain
            },
            Shape::Pipeline { transforms, truncation, sparsification, normalization, interpolation, seed } => Self {
                compare: compare.unwrap_or(Compare::Difference),
                transforms,
                truncation: *truncation,
                sparsification: *sparsification,
                normalization: *normalization,
                interpolation: *interpolation,
                seed: *seed,
            },
        })
    }
}

/// Weights `[n]` of the targets of one sequence from its losses `[n]` in nats with long and with short context.
///
/// Computed in f64, with exponentials from libm so that every host gets the same bytes. `sequence` is the number of the sequence in its token set: it stands in errors, and it chooses
/// the random stream where `Sparse` has to fill up with targets of score 0.
pub fn weigh(
    compare: Option<Compare>,
    shape: &Shape,
    long: &[f32],
    short: &[f32],
    sequence: u64,
) -> Result<Weights, WeightingError> {
    if long.len() != short.len() {
        return Err(WeightingError::Lengths { sequence, short: short.len(), long: long.len() });
    }
    for (side, losses) in [(Side::Long, long), (Side::Short, short)] {
        if let Some(target) = losses.iter().position(|loss| !loss.is_finite()) {
            return Err(WeightingError::Loss { sequence, target, side, value: losses[target] });
        }
    }
    if let Shape::Focal { gamma } = shape {
        // A loss below 0 is rounding, and its power would be no number.
        let weight = |&loss: &f32| libm::pow((-libm::expm1(-f64::from(loss))).max(0.0), *gamma) as f32;
        return Ok(long.iter().map(weight).collect());
    }
    let Some(steps) = Steps::of(compare, shape) else { return Ok(vec![1.0; long.len()]) };
    let mut values: Vec<f64> =
        long.iter().zip(short).map(|(&long, &short)| compare_losses(steps.compare, long, short)).collect();
    for &transform in steps.transforms {
        for value in &mut values {
            *value = changed(*value, transform);
        }
    }
    if let Some(bound) = steps.truncation {
        for value in &mut values {
            *value = value.min(bound);
        }
    }
    if let Some(kappa) = steps.sparsification {
        let kept = select::top(&values, kappa, steps.seed, sequence)?;
        values.fill(0.0);
        for target in kept {
            values[target] = 1.0;
        }
    }
    if let Some(normalization) = steps.normalization {
        normalize(&mut values, normalization);
        if let Some(lambda) = steps.interpolation {
            for value in &mut values {
                *value = lambda + (1.0 - lambda) * *value;
            }
        }
    }
    if let Some(target) = values.iter().position(|value| !(*value as f32).is_finite()) {
        return Err(WeightingError::Weight { sequence, target, value: values[target] });
    }
    Ok(values.into_iter().map(|value| value as f32).collect())
}

/// The loss that training minimises: the mean of loss * weight over all targets. It is divided by the number of
/// targets, not by the sum of the weights (method.md, section 3).
pub fn weighted_mean(losses: &[f32], weights: &[f32]) -> f64 {
    let sum: f64 = losses.iter().zip(weights).map(|(&loss, &weight)| f64::from(loss) * f64::from(weight)).sum();
    sum / losses.len().max(1) as f64
}

fn compare_losses(compare: Compare, long: f32, short: f32) -> f64 {
    let (long, short) = (f64::from(long), f64::from(short));
    match compare {
        Compare::AbsoluteDifference => (long - short).abs(),
        Compare::Difference => long - short,
        Compare::Quotient => (long + 1e-5) / (short + 1e-5),
    }
}

fn changed(value: f64, transform: Transform) -> f64 {
    match transform {
        Transform::Absolute => value.abs(),
        Transform::Minus => -value,
        Transform::Exp => libm::exp(value),
        Transform::Max => value.max(0.0),
        Transform::Shift(by) => value - libm::log(by),
    }
}

/// Brings a row to a mean of 1; a row of zeros becomes a row of ones.
fn normalize(values: &mut [f64], normalization: Normalization) {
    if values.iter().all(|&value| value == 0.0) {
        values.fill(1.0);
        return;
    }
    let targets = values.len() as f64;
    if normalization == Normalization::Softmax {
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for value in values.iter_mut() {
            *value = libm::exp(*value - largest);
        }
    }
    // The bound is that of torch.nn.functional.normalize.
    let sum = values.iter().map(|value| value.abs()).sum::<f64>().max(1e-12);
    for value in values.iter_mut() {
        *value = *value * targets / sum;
    }
}
