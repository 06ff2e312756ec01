//! Why losses could not be made into weights.

use std::fmt;

use thiserror::Error;

use crate::stage::{SettingError, StageError};

/// One of the two losses that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The loss with short context.
    Short,
    /// The loss with the whole sequence as context.
    Long,
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Short => "short-context",
            Self::Long => "long-context",
        })
    }
}

/// Why losses could not be made into weights.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum WeightingError {
    /// A loss is NaN or infinite.
    #[error(
        "sequence {sequence}, target {target}: the {side} loss is {value}; losses must be finite, so look at the model that gave it"
    )]
    Loss {
        /// Number of the sequence in its token set.
        sequence: u64,
        /// Number of the target in the sequence.
        target: usize,
        /// Which of the two losses.
        side: Side,
        /// What stands there.
        value: f32,
    },
    /// A weight is NaN or infinite although the losses are finite.
    #[error(
        "sequence {sequence}, target {target}: the weight is {value}; truncate before `Exp` can overflow, or compare by Difference"
    )]
    Weight {
        /// Number of the sequence in its token set.
        sequence: u64,
        /// Number of the target in the sequence.
        target: usize,
        /// What came out.
        value: f64,
    },
    /// The share to keep is below one target.
    #[error("{kappa} of {targets} targets is less than one target; the smallest share that works is {smallest}")]
    NothingKept {
        /// The share.
        kappa: f64,
        /// How many targets there are.
        targets: usize,
        /// The smallest share that keeps one.
        smallest: f64,
    },
    /// The two sides have different numbers of targets.
    #[error("sequence {sequence} has {short} short-context losses and {long} long-context losses")]
    Lengths {
        /// Number of the sequence in its token set.
        sequence: u64,
        /// Losses with short context.
        short: usize,
        /// Losses with long context.
        long: usize,
    },
}

impl WeightingError {
    /// The error of a stage whose weighting stands at `inside` (with its dot, or nothing).
    pub fn in_stage(self, inside: &str) -> StageError {
        match self {
            Self::NothingKept { kappa, targets, smallest } => SettingError::new(
                format!("{inside}shape.kappa"),
                kappa,
                format!("at least {smallest}: of {targets} targets it must keep one or more"),
            )
            .into(),
            Self::Lengths { .. } => StageError::Bug(self.to_string()),
            Self::Loss { .. } | Self::Weight { .. } => StageError::Failed(self.to_string()),
        }
    }
}
