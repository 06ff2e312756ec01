//! The backward pass, written out: candle's own keeps every intermediate tensor alive, and loses gradients without a word
//! at its fused operations.

use candle_core::{DType, Result as DeviceResult, Tensor};

use super::{
    DeviceGradients, DeviceModel, activation,
    block::Saved,
    gradients::sum_by_id,
    head::{chunks, logit_gradients, of_targets, read},
    positions::Positions,
    precision::converted,
    refused,
    structure::{Block, Feed, Linear},
};
use crate::model::{Activations, ModelError, shape::Shape};

/// What is kept of a block until its backward pass.
enum Kept {
    All(Saved),
    /// The rest is computed again.
    Input(Tensor),
}

impl DeviceModel {
    /// Cross entropy of every target, and the gradients of a loss that depends on these, added to `gradients`; see
    /// [`crate::model::Model::forward_backward`].
    pub fn forward_backward<E: From<ModelError>>(
        &self,
        ids: &[u32],
        batch: usize,
        activations: Activations,
        coefficients: impl FnOnce(&[f32]) -> Result<Vec<f32>, E>,
        gradients: &mut DeviceGradients,
    ) -> Result<Vec<f32>, E> {
        let (shape, positions, kept, output) = self.training_forward(ids, batch, activations)?;
        let losses = self.cross_entropy(&shape, ids, &output).map_err(refused)?;
        let coefficients = coefficients(&losses)?;
        self.backward(&shape, &positions, ids, &coefficients, kept, &output, gradients)?;
        Ok(losses)
    }

    /// As [`Self::forward_backward`] where the derivative by each cross entropy is known beforehand: the logits are
    /// computed once.
    pub fn forward_backward_fixed(
        &self,
        ids: &[u32],
        batch: usize,
        activations: Activations,
        coefficients: &[f32],
        gradients: &mut DeviceGradients,
    ) -> Result<Vec<f32>, ModelError> {
        let (shape, positions, kept, output) = self.training_forward(ids, batch, activations)?;
        self.backward(&shape, &positions, ids, coefficients, kept, &output, gradients)
    }

    /// Checks, and the forward pass up to the last block's output.
    #[allow(clippy::type_complexity)]
    fn training_forward(
        &self,
        ids: &[u32],
        batch: usize,
        activations: Activations,
    ) -> Result<(Shape, std::sync::Arc<Positions>, Vec<Kept>, Tensor), ModelError> {
        let length = self.config.check_batch(ids, batch)?;
        let shape = Shape::new(&self.config, batch, length);
        let forward = || {
            let positions = self.positions(length, length)?;
            let mut kept = Vec::with_capacity(self.structure.blocks.len());
            let mut stream = self.embed(ids)?;
            for block in &self.structure.blocks {
                let (output, saved) = self.block(block, &shape, &positions, stream)?;
                kept.push(match activations {
                    Activations::Keep => Kept::All(saved),
                    Activations::Recompute => Kept::Input(saved.input),
                });
                stream = output;
            }
            Ok((shape, positions, kept, stream))
        };
        forward().map_err(refused)
    }

    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        shape: &Shape,
        positions: &Positions,
        ids: &[u32],
        coefficients: &[f32],
        kept: Vec<Kept>,
        output: &Tensor,
        gradients: &mut DeviceGradients,
    ) -> Result<Vec<f32>, ModelError> {
        let targets = shape.batch * (shape.length - 1);
        if coefficients.len() != targets {
            let expected = targets.to_string();
            return Err(ModelError::Size { what: "number of coefficients", found: coefficients.len(), expected });
        }
        let backward = || {
            let (losses, mut gradient) = self.head_backward(shape, ids, coefficients, output, gradients)?;
            for (block, kept) in self.structure.blocks.iter().zip(kept).rev() {
                let saved = match kept {
                    Kept::All(saved) => saved,
                    Kept::Input(input) => self.block(block, shape, positions, input)?.1,
                };
                gradient = self.block_backward(block, shape, positions, saved, gradient, gradients)?;
            }
            if self.adapter.is_none() {
                let (sums, picks) = sum_by_id(&gradient, ids, shape.vocabulary)?;
                gradients.add_rows(self.structure.embedding, &sums, &picks)?;
            }
            Ok(losses)
        };
        backward().map_err(refused)
    }

    /// Losses of all targets, and the gradient of the last block's output.
    fn head_backward(
        &self,
        shape: &Shape,
        ids: &[u32],
        coefficients: &[f32],
        output: &Tensor,
        gradients: &mut DeviceGradients,
    ) -> DeviceResult<(Vec<f32>, Tensor)> {
        let targets = self.targets(shape, ids)?;
        // The last row of a sequence has no target.
        let of_rows = |sequence: &[f32]| sequence.iter().copied().chain([0.0]).collect::<Vec<_>>();
        let coefficients: Vec<f32> = match shape.length {
            1 => vec![0.0; shape.batch],
            length => coefficients.chunks_exact(length - 1).flat_map(of_rows).collect(),
        };
        let coefficients = Tensor::from_vec(coefficients, (shape.rows(), 1), &self.device)?;
        let (head, norm) = (self.structure.head, self.structure.final_norm);
        let (mut losses, mut outputs) = (Vec::new(), Vec::new());
        for rows in chunks(shape, self.precision.row_dtype(&self.device)) {
            let part = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.len());
            let (output, targets, coefficients) = (part(output)?, part(&targets)?, part(&coefficients)?);
            let normalized = self.normalize(norm, &output)?;
            let logits = self.apply(head, &normalized)?;
            let reading = read(&logits, &targets)?;
            let gradient = logit_gradients(logits, &reading, &targets, &coefficients)?;
            losses.push(reading.cross_entropy);
            let gradient = self.linear_backward(head, &normalized, &gradient, gradients)?;
            outputs.push(self.norm_backward(norm, &output, &gradient, gradients)?);
        }
        Ok((of_targets(shape, &losses)?, Tensor::cat(&outputs, 0)?))
    }

    /// Adds the gradients of a matrix that was applied to rows `x`, or of the adapter beside it, and gives that of the rows, in the type of rows.
    fn linear_backward(
        &self,
        linear: Linear,
        x: &Tensor,
        gradient: &Tensor,
        gradients: &mut DeviceGradients,
    ) -> DeviceResult<Tensor> {
        let weight = &self.values[linear.weight];
        if let Some(adapter) = &self.adapter {
            let gradient = converted(gradient, self.precision.row_dtype(&self.device))?;
            let Some(added) = adapter.backward(linear.weight, self.precision, x, &gradient, gradients)? else {
                return self.precision.row_product(&gradient, weight);
            };
            let sum = (self.precision.product(&gradient, weight)? + added)?;
            return converted(&sum, self.precision.row_dtype(&self.device));
        }
        if let Some(bias) = linear.bias {
            gradients.add(bias, converted(gradient, DType::F32)?.sum(0)?)?;
        }
        let gradient = converted(gradient, self.precision.row_dtype(&self.device))?;
        gradients.add(linear.weight, self.precision.factors_product(&gradient.t()?, x)?)?;
        self.precision.row_product(&gradient, weight)
    }

    /// From the gradient of a block's output to that of its input.
    fn block_backward(
        &self,
        block: &Block,
        shape: &Shape,
        positions: &Positions,
        saved: Saved,
        output: Tensor,
        gradients: &mut DeviceGradients,
    ) -> DeviceResult<Tensor> {
        let Saved { heads, attended, input, middle, raised } = saved;
        let normalized = self.normalize(block.norm, &input)?;
        // What reaches the residual stream before the rest of the block, and the normalized rows past attention.
        let (stream, past) = match (block.feed, middle) {
            (Feed::Llama { norm, gate_up, down }, Some(middle)) => {
                let inner = self.linear_backward(down, &activation::gated(&raised)?, &output, gradients)?;
                let inner = activation::gated_backward(&raised, &inner)?;
                let inner = self.linear_backward(gate_up, &self.normalize(norm, &middle)?, &inner, gradients)?;
                ((output + self.norm_backward(norm, &middle, &inner, gradients)?)?, None)
            }
            (Feed::Phi { up, down }, _) => {
                let inner = self.linear_backward(down, &activation::gelu(&raised)?, &output, gradients)?;
                let inner = activation::gelu_backward(&raised, &inner)?;
                (output, Some(self.linear_backward(up, &normalized, &inner, gradients)?))
            }
            (Feed::Llama { .. }, None) => candle_core::bail!("a gated unit without its input"),
        };
        let inner = self.linear_backward(block.output, &attended.rows(shape)?, &stream, gradients)?;
        let projected = heads.backward(shape, positions, self.precision, &attended, &inner)?;
        drop((heads, attended));
        let mut inner = self.linear_backward(block.query_key_value, &normalized, &projected, gradients)?;
        if let Some(past) = past {
            inner = (converted(&inner, DType::F32)? + converted(&past, DType::F32)?)?;
        }
        stream + self.norm_backward(block.norm, &input, &inner, gradients)?
    }
}
