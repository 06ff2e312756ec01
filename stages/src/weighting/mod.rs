//! From scores to weights (method.md, sections 1 and 2): used by the `Postprocess` stage and, live, by `Train`.

mod check;
mod error;
mod pipeline;
mod rounding;
mod select;

pub use check::{check, focal};
pub use error::{Side, WeightingError};
pub use pipeline::{Weights, weigh, weighted_mean};
pub use rounding::Rounding;

use serde::{Deserialize, Serialize};

/// How the losses of the two sides are compared. Where a setting of this type is left out, the shape chooses:
/// `AbsoluteDifference` for `Dense` and `Sparse`, `Difference` for `LongCE` and `Pipeline`; `Uniform` and `Focal`
/// compare nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// |CE_long - CE_short|, in nats (the paper's).
    #[default]
    AbsoluteDifference,
    /// CE_long - CE_short, in nats: negative where long context helps.
    Difference,
    /// (CE_long + 1e-5) / (CE_short + 1e-5).
    Quotient,
}

/// The form of the weights of one sequence of n targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Shape {
    /// Every weight is 1.
    Uniform,
    /// lambda + (1 - lambda) * n * score / sum of scores.
    Dense {
        /// 1 is uniform, 0 is the scores alone.
        lambda: f64,
    },
    /// The floor(kappa * n) targets of the highest score weigh n / floor(kappa * n), the others 0.
    Sparse {
        /// The share that is kept.
        kappa: f64,
        /// Chooses among targets of score 0 where there are too few others.
        #[serde(default)]
        seed: u64,
    },
    /// min(exp(CE_short - CE_long), gamma), not normalised (LongCE, arXiv 2410.23771).
    LongCE {
        /// The largest weight.
        #[serde(default = "gamma")]
        gamma: f64,
    },
    /// (1 - p)^gamma, where p = exp(-CE_long) is the probability of the target; not normalised, and no gradient flows
    /// through it. The short side is not looked at (focal loss, arXiv 1708.02002, without its factor alpha).
    Focal {
        /// 0 is uniform; the larger, the less a token weighs that is known already.
        #[serde(default = "focusing")]
        gamma: f64,
    },
    /// Any combination of the steps, in this order: transforms, truncation, sparsification, normalization,
    /// interpolation.
    Pipeline {
        /// Applied one after the other to the compared losses.
        #[serde(default)]
        transforms: Vec<Transform>,
        /// Values above it become it.
        #[serde(default)]
        truncation: Option<f64>,
        /// The share of targets that become 1; the others become 0.
        #[serde(default)]
        sparsification: Option<f64>,
        /// How weights are brought to a mean of 1; they stay as they are if absent.
        #[serde(default)]
        normalization: Option<Normalization>,
        /// lambda + (1 - lambda) * weight; needs a normalization.
        #[serde(default)]
        interpolation: Option<f64>,
        /// Chooses among targets of score 0 where sparsification has too few others.
        #[serde(default)]
        seed: u64,
    },
}

fn gamma() -> f64 {
    5.0
}

/// The default of focal loss.
pub(crate) fn focusing() -> f64 {
    2.0
}

/// One change of every compared value d.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Transform {
    /// |d|.
    Absolute,
    /// -d.
    Minus,
    /// e^d.
    Exp,
    /// 0 where d is negative.
    Max,
    /// d - ln(s).
    Shift(f64),
}

/// How weights are brought to a mean of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Normalization {
    /// n * d / sum of |d|; the mean is 1 only where no d is negative.
    L1,
    /// n * softmax(d).
    Softmax,
}
