//! From scores to weights (method.md, sections 1 and 2): used by the `Postprocess` stage and, live, by `Train`.

use serde::{Deserialize, Serialize};

/// How the losses of the two sides are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// |CE_long - CE_short|, in nats (the paper's).
    #[default]
    AbsoluteDifference,
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
    },
}
