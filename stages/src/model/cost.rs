//! What work with a model costs, counted from its configuration alone. Sources: docs/long-context.md for operations,
//! docs/memory.md for memory.

use std::{num::NonZero, path::Path, thread};

use serde_json::{Map, Value};

use super::{ComputeDevice, Config, Layout, MemoryBudget, ModelError, Precision, Purpose, device::device_memory};
use crate::stage::{Outlook, Work};

/// A model of which the configuration is known.
#[derive(Debug)]
pub struct Cost {
    config: Config,
    parameters: u64,
}

impl Cost {
    /// Of the model with this `config.json`.
    ///
    /// # Errors
    /// A configuration that no model can be made of.
    pub fn of(config: Map<String, Value>) -> Result<Self, ModelError> {
        let config = Config::from_json(Path::new("config.json"), config)?;
        let parameters = Layout::new(&config).len() as u64;
        Ok(Self { config, parameters })
    }

    /// All parameters.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Floating-point operations for a token that goes forward with `length` tokens at once.
    pub fn forward(&self, length: u64) -> f64 {
        self.matrices() + self.attention(length)
    }

    /// Those of the matrices: 2 P, where P are the parameters that are multiplied with (the embedding only if it is the output
    /// layer, too).
    pub fn matrices(&self) -> f64 {
        let Config { vocab_size, hidden_size, tie_word_embeddings, .. } = self.config;
        let looked_up = if tie_word_embeddings { 0 } else { (vocab_size * hidden_size) as u64 };
        2.0 * (self.parameters - looked_up) as f64
    }

    /// Those of attention with `length` tokens at once: 2 L a T, where L are the layers, a the width of all heads; a token
    /// looks back half of T on average.
    pub fn attention(&self, length: u64) -> f64 {
        let Config { layers, heads, head_dim, .. } = self.config;
        2.0 * (layers * heads * head_dim) as f64 * length as f64
    }

    /// Bytes at the peak with `batch` sequences of `length` tokens at a time, in the memory of the device if it is not the CPU.
    /// Products in f32 on a device are counted as on the CPU: operations are candle's there, with more rows at a time.
    ///
    /// # Errors
    /// An adapter that does not fit the model.
    pub fn memory(
        &self,
        batch: u64,
        length: u64,
        purpose: &Purpose,
        device: ComputeDevice,
        is_optimizer_on_host: bool,
    ) -> Result<u64, ModelError> {
        if !device.is_cpu() && device.precision().is_bf16() {
            return Ok(device_memory(&self.config, batch as usize, length as usize, purpose, is_optimizer_on_host));
        }
        // Of the buffers that each thread has a device has one.
        let threads = if device.is_cpu() { threads() } else { 1 };
        let (batch, length) = (batch as usize, length as usize);
        let precision = if device.is_cpu() { device.precision() } else { Precision::F32 };
        let mut budget = MemoryBudget::new(&self.config, batch, length, threads, precision, purpose)?;
        if !device.is_cpu() {
            budget.process = 0;
            if is_optimizer_on_host {
                budget.moments = 0;
            }
        }
        Ok(budget.total())
    }
}

/// Sequences that a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// How many.
    pub sequences: u64,
    /// Tokens in each.
    pub length: u64,
}

/// The work of scoring with the model of this `config.json`; nothing where no model can be made of it, which is told when
/// it is opened.
pub fn scoring_work(config: Map<String, Value>, scorings: &[Scoring], device: ComputeDevice) -> Option<Work> {
    let cost = Cost::of(config).ok()?;
    let mut work = Work {
        parameters: cost.parameters(),
        is_on_device: !device.is_cpu(),
        is_bf16: device.precision().is_bf16(),
        ..Work::default()
    };
    for &Scoring { sequences, length } in scorings {
        let tokens = sequences.saturating_mul(length);
        work.forward_tokens = work.forward_tokens.saturating_add(tokens);
        work.operations += tokens as f64 * cost.forward(length);
        let memory = cost.memory(sequences, length, &Purpose::Score, device, false).ok()?;
        work.memory = work.memory.max(memory);
    }
    Some(work)
}

/// What a stage that writes this model leaves: it is saved in f32.
pub fn model_outlook(config: Option<Map<String, Value>>) -> Outlook {
    let cost = config.clone().and_then(|config| Cost::of(config).ok());
    let bytes = cost.map(|cost| size_of::<f32>() as u64 * cost.parameters());
    Outlook { config, bytes, ..Outlook::default() }
}

/// As many as a stage has that is alone on this machine.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
