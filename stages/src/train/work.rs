//! The work of a training, told from its settings.

use serde_json::{Map, Value};

use super::{Lora, OptimizerPlace, Train, Weighting, run::MICRO_BATCH_TOKENS};
use crate::{
    model::{Activations, Cost, MomentStorage, Purpose},
    score::WindowPlan,
    stage::Work,
};

impl Train {
    /// The work of training on sequences of `length` tokens. Back, a matrix has two products for one forward: the gradients of
    /// what went in and of the weights, of which an adapter needs the first alone. Attention has five for two.
    pub(super) fn work(&self, config: Map<String, Value>, length: u64) -> Option<Work> {
        let cost = Cost::of(config).ok()?;
        let sequences = (self.steps as u64).saturating_mul(self.batch as u64);
        let (tokens, adapter) = (sequences.saturating_mul(length), self.lora.as_ref().map(Lora::adapter));
        let forward = if self.activations.0 == Activations::Recompute { 2.0 } else { 1.0 };
        let back = if adapter.is_some() { 1.0 } else { 2.0 };
        let of_token = (forward + back) * cost.matrices() + (forward + 2.5) * cost.attention(length);
        let (mut operations, mut forward_tokens) = (tokens as f64 * of_token, 0);
        if let Weighting::Unfrozen { windows, .. } = &self.weighting {
            let plan = WindowPlan::new(length as usize, *windows, None, "weighting.windows.").ok()?;
            // The first window is what the long side has seen already.
            forward_tokens = sequences.saturating_mul((plan.count() as u64 - 1) * plan.window() as u64);
            operations += forward_tokens as f64 * cost.forward(plan.window() as u64);
        }
        let purpose = Purpose::Train { activations: self.activations.0, moments: self.moments, adapter };
        let on_host = self.optimizer == OptimizerPlace::Host;
        let micro_batch = self.micro_batch_of(length as usize).min(self.batch) as u64;
        Some(Work {
            parameters: cost.parameters(),
            forward_tokens,
            training_tokens: tokens,
            operations,
            host_memory: if on_host { cost.parameters().saturating_mul(self.host_bytes()) } else { 0 },
            memory: cost.memory(micro_batch, length, &purpose, self.device, on_host).ok()?,
            is_on_device: !self.device.is_cpu(),
            is_bf16: self.device.precision().is_bf16(),
        })
    }

    /// Bytes for each parameter with the optimizer on the host: master, gradient and moments (docs/memory.md).
    fn host_bytes(&self) -> u64 {
        match self.moments {
            MomentStorage::F32 => 4 + 4 + 8,
            MomentStorage::Blockwise8 => 4 + 4 + 2,
        }
    }

    /// Sequences of `length` tokens that go through the model at once.
    pub(super) fn micro_batch_of(&self, length: usize) -> usize {
        self.micro_batch.unwrap_or((MICRO_BATCH_TOKENS / length).max(1))
    }
}
