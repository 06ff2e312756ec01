//! Losses as the authors' training has them.

use half::bf16;
use serde::{Deserialize, Serialize};

use super::Shape;
use crate::stage::SettingError;

/// Which losses are rounded to bf16 before they are compared. The authors' training computes in bf16, where a loss has 8
/// significant bits: the losses of the model in training come out so, those of a frozen scorer do not (method.md, section
/// 1.6). It makes many scores equal or 0, and leaves the loss that is trained on alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rounding {
    /// Those of the long side, as in the authors' frozen mode.
    Long,
    /// Those of both sides, as in their unfrozen mode.
    Both,
}

impl Rounding {
    /// Rounds losses of the long and the short side in place, to nearest, ties to even.
    pub fn apply(self, long: &mut [f32], short: &mut [f32]) {
        let round = |losses: &mut [f32]| losses.iter_mut().for_each(|loss| *loss = bf16::from_f32(*loss).to_f32());
        round(long);
        if self == Self::Both {
            round(short);
        }
    }

    /// Refuses it where nothing is compared. `inside` is the place of the weighting in the stage, with its dot, or nothing.
    pub fn check(rounding: Option<Self>, shape: &Shape, inside: &str) -> Result<(), SettingError> {
        match (rounding, shape) {
            (Some(rounding), Shape::Uniform | Shape::Focal { .. }) => {
                let expected = "nothing: `Uniform` and `Focal` compare no losses";
                Err(SettingError::new(format!("{inside}rounding"), format!("{rounding:?}"), expected))
            }
            _ => Ok(()),
        }
    }
}
