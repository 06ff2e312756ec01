//! The weights of the targets of a micro-batch, in all modes.

use super::{Train, Weighting};
use crate::{
    data::{ArrayKind, ArraySet, TokenSet},
    score::{Scorer, WindowPlan},
    stage::{Context, StageError},
    weighting::{Shape, weigh},
};

/// Tokens that go through the model at once in the pass over short windows; no result depends on it.
const TOKENS_AT_ONCE: usize = 8192;

/// Gives weights to targets.
pub(super) enum Targets<'a> {
    Uniform,
    Static { weights: ArraySet },
    Focal { shape: Shape },
    Frozen { settings: &'a Weighting, short: ArraySet },
    Unfrozen { settings: &'a Weighting, plan: WindowPlan, overwritten: usize },
}

impl<'a> Targets<'a> {
    /// Opens what the weighting needs and checks that it belongs to the tokens.
    pub(super) fn open(settings: &'a Train, context: &Context, tokens: &TokenSet) -> Result<Self, StageError> {
        Ok(match &settings.weighting {
            Weighting::Uniform => Self::Uniform,
            Weighting::Static { weights } => {
                let weights = ArraySet::open(context.input(weights)?, ArrayKind::Weights)?;
                weights.check_tokens(tokens)?;
                Self::Static { weights }
            }
            Weighting::Focal { gamma } => Self::Focal { shape: Shape::Focal { gamma: *gamma } },
            settings @ Weighting::Frozen { short, .. } => {
                let short = ArraySet::open(context.input(short)?, ArrayKind::CrossEntropy)?;
                short.check_tokens(tokens)?;
                Self::Frozen { settings, short }
            }
            settings @ Weighting::Unfrozen { windows, bos, compat_overwrite, .. } => {
                let bos = WindowPlan::bos(*bos, tokens)?;
                let plan = WindowPlan::new(tokens.length(), *windows, bos, "weighting.windows.")?;
                let overwritten = if *compat_overwrite { windows.length } else { windows.length - 1 };
                Self::Unfrozen { settings, plan, overwritten: overwritten.min(tokens.length() - 1) }
            }
        })
    }

    /// The short-context losses of some sequences under the model as it is now, where the mode needs them; empty
    /// otherwise. `ids` is `[sequences, length]`; `score` is the model.
    pub(super) fn short_pass(
        &self,
        ids: &[Vec<u32>],
        score: &mut Scorer<'_, StageError>,
    ) -> Result<Vec<f32>, StageError> {
        let Self::Unfrozen { plan, .. } = self else { return Ok(Vec::new()) };
        let targets = ids.first().map_or(0, |ids| ids.len() - 1);
        let mut losses = vec![0.0; ids.len() * targets];
        let mut rows: Vec<(&[u32], &mut [f32])> =
            ids.iter().map(Vec::as_slice).zip(losses.chunks_mut(targets)).collect();
        // Window 0 sees what the long side sees; its targets are overwritten below.
        plan.score(&mut rows, 1, (TOKENS_AT_ONCE / plan.window()).max(1), score)?;
        Ok(losses)
    }

    /// The weights of the targets of some sequences where they do not depend on any loss, `[sequences * targets]`.
    pub(super) fn fixed(&self, sequences: &[usize], targets: usize) -> Result<Option<Vec<f32>>, StageError> {
        match self {
            Self::Uniform => Ok(Some(vec![1.0; sequences.len() * targets])),
            Self::Static { weights } => {
                let rows = sequences.iter().map(|&sequence| weights.row(sequence)).collect::<Result<Vec<_>, _>>()?;
                Ok(Some(rows.concat()))
            }
            Self::Focal { .. } | Self::Frozen { .. } | Self::Unfrozen { .. } => Ok(None),
        }
    }

    /// Weights `[sequences * (length - 1)]` from the losses of the long side and what [`Self::short_pass`] gave.
    pub(super) fn weights(&self, sequences: &[usize], long: &[f32], short: &[f32]) -> Result<Vec<f32>, StageError> {
        let targets = long.len() / sequences.len();
        let mut all = Vec::with_capacity(long.len());
        for (index, (&sequence, long)) in sequences.iter().zip(long.chunks(targets)).enumerate() {
            match self {
                Self::Uniform => all.resize(all.len() + targets, 1.0),
                Self::Static { weights } => all.extend(weights.row(sequence)?),
                Self::Focal { shape } => {
                    let weights = weigh(None, shape, long, long, sequence as u64);
                    all.extend(weights.map_err(|error| error.in_stage("weighting."))?);
                }
                Self::Frozen { settings, short } => {
                    all.extend(shaped(settings, long, short.row(sequence)?, sequence)?);
                }
                Self::Unfrozen { settings, overwritten, .. } => {
                    let mut short = short[index * targets..(index + 1) * targets].to_vec();
                    short[..*overwritten].copy_from_slice(&long[..*overwritten]);
                    all.extend(shaped(settings, long, short, sequence)?);
                }
            }
        }
        Ok(all)
    }
}

fn shaped(settings: &Weighting, long: &[f32], mut short: Vec<f32>, sequence: usize) -> Result<Vec<f32>, StageError> {
    match settings {
        Weighting::Frozen { compare, rounding, shape, .. } | Weighting::Unfrozen { compare, rounding, shape, .. } => {
            let mut long = long.to_vec();
            if let Some(rounding) = rounding {
                rounding.apply(&mut long, &mut short);
            }
            weigh(*compare, shape, &long, &short, sequence as u64).map_err(|error| error.in_stage("weighting."))
        }
        Weighting::Uniform | Weighting::Static { .. } | Weighting::Focal { .. } => Ok(vec![1.0; long.len()]),
    }
}
