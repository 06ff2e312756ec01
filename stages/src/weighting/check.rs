//! What can be said against a weighting before any loss is known.

use super::{Compare, Shape, Transform};
use crate::stage::SettingError;

/// Refuses a weighting that cannot work. `inside` is the place of the weighting in the stage, such as `weighting.`
/// (with its dot) or nothing.
pub fn check(compare: Option<Compare>, shape: &Shape, inside: &str) -> Result<(), SettingError> {
    let place = |field: &str| format!("{inside}shape.{field}");
    match shape {
        Shape::Uniform => Ok(()),
        Shape::Dense { lambda } => between_0_and_1(place("lambda"), *lambda),
        Shape::Sparse { kappa, .. } => share(place("kappa"), *kappa),
        Shape::LongCE { gamma } => {
            if compare.is_some_and(|compare| compare != Compare::Difference) {
                return Err(SettingError::new(
                    format!("{inside}compare"),
                    format!("{:?}", compare.unwrap_or_default()),
                    "Difference, or nothing: LongCE is defined on CE_long - CE_short",
                ));
            }
            positive(place("gamma"), *gamma)
        }
        Shape::Focal { gamma } => {
            if let Some(compare) = compare {
                return Err(SettingError::new(
                    format!("{inside}compare"),
                    format!("{compare:?}"),
                    "nothing: focal weights depend on the long-context loss alone",
                ));
            }
            focal(place("gamma"), *gamma)
        }
        Shape::Pipeline { transforms, truncation, sparsification, normalization, interpolation, .. } => {
            for (index, transform) in transforms.iter().enumerate() {
                if let Transform::Shift(by) = transform {
                    positive(place(&format!("transforms.{index}")), *by)?;
                }
            }
            if let Some(bound) = truncation
                && !bound.is_finite()
            {
                return Err(SettingError::new(place("truncation"), bound, "a finite number"));
            }
            if let Some(kappa) = sparsification {
                share(place("sparsification"), *kappa)?;
            }
            if let Some(lambda) = interpolation {
                between_0_and_1(place("interpolation"), *lambda)?;
                if normalization.is_none() {
                    return Err(SettingError::new(
                        place("interpolation"),
                        lambda,
                        "nothing where `normalization` is absent: interpolation is between uniform and normalised weights",
                    ));
                }
            }
            Ok(())
        }
    }
}

/// Refuses an exponent of focal weights, which stands at `path`, that cannot work.
pub fn focal(path: String, gamma: f64) -> Result<(), SettingError> {
    if gamma >= 0.0 && gamma.is_finite() {
        Ok(())
    } else {
        Err(SettingError::new(path, gamma, "a finite number, 0 (uniform weights) or more"))
    }
}

fn between_0_and_1(path: String, value: f64) -> Result<(), SettingError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(SettingError::new(path, value, "a number from 0 (the scores alone) to 1 (uniform weights)"))
    }
}

fn share(path: String, value: f64) -> Result<(), SettingError> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        Err(SettingError::new(path, value, "a share of the targets above 0 and up to 1 (all of them)"))
    }
}

fn positive(path: String, value: f64) -> Result<(), SettingError> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(SettingError::new(path, value, "a finite number above 0"))
    }
}
