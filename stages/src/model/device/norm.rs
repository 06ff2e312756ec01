//! RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450) over rows of the residual stream.

use candle_core::{Result, Tensor};
use candle_nn::ops;

use super::{DeviceGradients, DeviceModel, structure::Norm};

impl DeviceModel {
    /// Normalizes rows, `[rows, hidden]`.
    pub(super) fn normalize(&self, norm: Norm, x: &Tensor) -> Result<Tensor> {
        let epsilon = self.config.norm_epsilon as f32;
        match norm {
            Norm::Rms { weight } => ops::rms_norm(x, &self.values[weight], epsilon),
            Norm::Layer { weight, bias } => ops::layer_norm(x, &self.values[weight], &self.values[bias], epsilon),
        }
    }

    /// Adds the gradients of a norm's parameters, and gives that of the rows `x` from that of the normalized rows.
    pub(super) fn norm_backward(
        &self,
        norm: Norm,
        x: &Tensor,
        gradient: &Tensor,
        gradients: &mut DeviceGradients,
    ) -> Result<Tensor> {
        let (weight, centered) = match norm {
            Norm::Rms { weight } => (weight, x.clone()),
            Norm::Layer { weight, bias } => {
                gradients.add(bias, gradient.sum(0)?)?;
                (weight, x.broadcast_sub(&x.mean_keepdim(1)?)?)
            }
        };
        let scale = (centered.sqr()?.mean_keepdim(1)? + self.config.norm_epsilon)?.sqrt()?.recip()?;
        let unit = centered.broadcast_mul(&scale)?;
        gradients.add(weight, (gradient * &unit)?.sum(0)?)?;
        let mut inner = gradient.broadcast_mul(&self.values[weight])?;
        let along = (&inner * &unit)?.mean_keepdim(1)?;
        if let Norm::Layer { .. } = norm {
            inner = inner.broadcast_sub(&inner.mean_keepdim(1)?)?;
        }
        (inner - unit.broadcast_mul(&along)?)?.broadcast_mul(&scale)
    }
}
