//! Where a stage can be told to compute.

use std::env;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{ModelError, Precision, device::refused, kernels::uses_amx};
use crate::stage::{CPU_F32, SettingError};

/// The variable by which CUDA, and whoever lends devices to stages, says which there are.
const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// Where a stage computes. Which device it is and how it takes products decides about the last digits of results, so both
/// are in keys, as the numeric class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ComputeDevice {
    /// The processor.
    Cpu {
        /// In which numbers matrix products are taken.
        #[serde(default)]
        precision: Precision,
    },
    /// The first of the NVIDIA devices that the stage sees.
    Cuda {
        /// In which numbers matrix products are taken.
        #[serde(default)]
        precision: Precision,
    },
}

impl Default for ComputeDevice {
    fn default() -> Self {
        Self::Cpu { precision: Precision::F32 }
    }
}

impl ComputeDevice {
    /// Whether it is what a stage that says nothing computes on. Keys leave it out, as if nothing had been said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses an order of sums that the device does not have.
    ///
    /// # Errors
    /// The setting, as it is found and as it could be.
    pub fn check(self) -> Result<(), SettingError> {
        if self == (Self::Cuda { precision: Precision::Bf16Amx }) {
            let expected = "`F32` or `Bf16` with `Cuda`: AMX is the processor's";
            return Err(SettingError::new("device.precision", "Bf16Amx", expected));
        }
        Ok(())
    }

    /// What a user should know before a stage computes with it, if anything.
    pub fn notice(self) -> Option<&'static str> {
        let is_slow = self == (Self::Cpu { precision: Precision::Bf16Amx }) && !uses_amx();
        is_slow.then_some(
            "this processor has no AMX, or the system does not let it be used: products have the same bytes, and take several \
             times as long as with `precision: Bf16`",
        )
    }

    /// Whether it is the processor.
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu { .. })
    }

    /// Device kind and type of the products, as keys have it.
    pub fn numeric_class(self) -> &'static str {
        match self {
            Self::Cpu { precision: Precision::F32 } => CPU_F32,
            Self::Cpu { precision: Precision::Bf16 } => "cpu-bf16",
            Self::Cpu { precision: Precision::Bf16Amx } => "cpu-bf16-amx",
            Self::Cuda { precision: Precision::F32 } => "cuda-f32",
            // The last one is refused.
            Self::Cuda { precision: Precision::Bf16 | Precision::Bf16Amx } => "cuda-bf16",
        }
    }

    /// In which numbers matrix products are taken.
    pub fn precision(self) -> Precision {
        match self {
            Self::Cpu { precision } | Self::Cuda { precision } => precision,
        }
    }

    /// Opens the device, or says what is missing.
    pub fn open(self) -> Result<Device, ModelError> {
        if self.is_cpu() {
            return Ok(Device::Cpu);
        }
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
