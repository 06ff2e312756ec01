//! RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450) over rows of the residual stream.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops;

#[cfg(feature = "cuda")]
use super::cuda::rows;
use super::{DeviceGradients, DeviceModel, precision::converted, structure::Norm};

impl DeviceModel {
    /// Normalizes rows of the residual stream, `[rows, hidden]` f32, to the type of rows.
    pub(super) fn normalize(&self, norm: Norm, x: &Tensor) -> Result<Tensor> {
        let epsilon = self.config.norm_epsilon as f32;
        let dtype = self.precision.row_dtype(&self.device);
        let normalized = match norm {
            #[cfg(feature = "cuda")]
            Norm::Rms { weight } if dtype == DType::BF16 => return rows::rms_norm(x, &self.values[weight], epsilon),
            Norm::Rms { weight } => ops::rms_norm(x, &self.values[weight], epsilon)?,
            Norm::Layer { weight, bias } => ops::layer_norm(x, &self.values[weight], &self.values[bias], epsilon)?,
        };
        converted(&normalized, dtype)
    }

    /// Adds the gradients of a norm's parameters, unless they are frozen, and gives that of the rows `x`, f32, from that of the normalized rows.
    pub(super) fn norm_backward(
        &self,
        norm: Norm,
        x: &Tensor,
        gradient: &Tensor,
        gradients: &mut DeviceGradients,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let (Norm::Rms { weight }, DType::BF16) = (norm, gradient.dtype()) {
            let epsilon = self.config.norm_epsilon as f32;
            let [inner, of_weight] = rows::rms_norm_backward(x, &self.values[weight], gradient, epsilon)?;
            if self.adapter.is_none() {
                gradients.add(weight, of_weight)?;
            }
            return Ok(inner);
        }
        let gradient = &converted(gradient, DType::F32)?;
        let (weight, centered) = match norm {
            Norm::Rms { weight } => (weight, x.clone()),
            Norm::Layer { weight, bias } => {
                if self.adapter.is_none() {
                    gradients.add(bias, gradient.sum(0)?)?;
                }
                (weight, x.broadcast_sub(&x.mean_keepdim(1)?)?)
            }
        };
        let scale = (centered.sqr()?.mean_keepdim(1)? + self.config.norm_epsilon)?.sqrt()?.recip()?;
        let unit = centered.broadcast_mul(&scale)?;
        if self.adapter.is_none() {
            gradients.add(weight, (gradient * &unit)?.sum(0)?)?;
        }
        let mut inner = gradient.broadcast_mul(&self.values[weight])?;
        let along = (&inner * &unit)?.mean_keepdim(1)?;
        if let Norm::Layer { .. } = norm {
            inner = inner.broadcast_sub(&inner.mean_keepdim(1)?)?;
        }
        (inner - unit.broadcast_mul(&along)?)?.broadcast_mul(&scale)
    }
}
