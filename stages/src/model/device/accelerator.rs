//! The devices on which a stage can be told to compute.

use std::env;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{Precision, refused};
use crate::model::ModelError;

/// The variable by which CUDA, and whoever lends devices to stages, says which there are.
const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// A device other than the CPU. Which it is and how it takes products decides about the last digits of results, so both are
/// in keys, as the numeric class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Accelerator {
    /// The first of the NVIDIA devices that the stage sees.
    Cuda {
        /// In which numbers matrix products are taken.
        #[serde(default)]
        precision: Precision,
    },
}

impl Accelerator {
    /// Device kind and type of the products, as keys have it.
    pub fn numeric_class(self) -> &'static str {
        match self {
            Self::Cuda { precision: Precision::F32 } => "cuda-f32",
            Self::Cuda { precision: Precision::Bf16 } => "cuda-bf16",
        }
    }

    /// In which numbers matrix products are taken.
    pub fn precision(self) -> Precision {
        match self {
            Self::Cuda { precision } => precision,
        }
    }

    /// Opens the device, or says what is missing.
    pub fn open(self) -> Result<Device, ModelError> {
        let missing = |problem: &str| Err(ModelError::Device { problem: problem.to_owned() });
        if !cfg!(feature = "cuda") {
            return missing(
                "this program was built without CUDA; build it with `--features cuda`, or leave `device` out of the \
                 stage to compute on the CPU, which is another result",
            );
        }
        if env::var(VISIBLE_DEVICES).is_ok_and(|devices| devices.trim().is_empty()) {
            return missing(
                "CUDA_VISIBLE_DEVICES is empty, so the stage sees no device; give it one by its policy, \
                 `resources: {\"gpu\": 1}`",
            );
        }
        Device::new_cuda(0).map_err(refused)
    }
}
