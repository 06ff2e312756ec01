//! Continuing texts on a device: a prompt goes through all layers as in scoring, and leaves its keys and values; then each
//! token goes through with those of the tokens before it.

use std::sync::Arc;

use candle_core::{DType, Result as DeviceResult, Tensor};

use super::{
    DeviceModel,
    attention::{attend_one, scale},
    positions::{Positions, rotate},
    precision::converted,
    refused,
};
use crate::model::{
    ModelError,
    generation::{Generated, Generation, Prompt, continue_all},
    shape::Shape,
};

/// Rows that go through the layers together. Each sequence has its row as long as any of them goes on, and those of others stay
/// empty once they have ended: products have one shape alone, and nothing depends on when others end.
const ROWS: usize = 16;

/// What one sequence has so far.
struct Cache {
    /// Keys and values of each layer, `[key_value_heads, capacity, head_dim]` each, made in their full size: nothing is
    /// moved when the sequence grows.
    layers: Vec<[Tensor; 2]>,
    length: usize,
    positions: Arc<Positions>,
}

impl DeviceModel {
    /// Continues prompts; see [`crate::model::Model::generate`].
    pub fn generate<E: From<ModelError>>(
        &self,
        prompts: &[Prompt<'_>],
        settings: &Generation,
        watch: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<Generated>, E> {
        settings.sampling.check()?;
        for (number, prompt) in prompts.iter().enumerate() {
            self.config.check_tokens(number, 0, prompt.ids)?;
            self.config.check_length(prompt.ids.len() + settings.tokens)?;
        }
        if settings.tokens == 0 || prompts.is_empty() {
            return Ok(vec![Generated { ids: Vec::new(), stopped: None }; prompts.len()]);
        }
        let (mut caches, mut logits) = (Vec::with_capacity(prompts.len()), Vec::new());
        for prompt in prompts {
            let (cache, of_next) = self.prefill(prompt.ids, settings.tokens).map_err(refused)?;
            caches.push(cache);
            logits.extend(of_next);
            watch()?;
        }
        continue_all(prompts, settings, self.config.vocab_size, logits, &mut |next| {
            let mut logits = Vec::with_capacity(next.len() * self.config.vocab_size);
            for next in next.chunk_by(|(one, _), (other, _)| one / ROWS == other / ROWS) {
                logits.extend(self.decode(&mut caches, next).map_err(refused)?);
            }
            watch()?;
            Ok(logits)
        })
    }

    /// Reads a prompt, to which `tokens` may be appended; answers the logits of the next token, too.
    fn prefill(&self, ids: &[u32], tokens: usize) -> DeviceResult<(Cache, Vec<f32>)> {
        let (length, capacity) = (ids.len(), ids.len() + tokens);
        let shape = Shape::new(&self.config, 1, length);
        let positions = self.positions(length, capacity)?;
        let mut layers = Vec::with_capacity(self.structure.blocks.len());
        let mut stream = self.embed(ids)?;
        for block in &self.structure.blocks {
            let (output, saved) = self.block(block, &shape, &positions, stream)?;
            let rooms = [self.room(&shape, capacity)?, self.room(&shape, capacity)?];
            saved.heads.copy_to(&shape, &rooms)?;
            layers.push(rooms);
            stream = output;
        }
        let logits = of_host(&self.logits(&stream.narrow(0, length - 1, 1)?)?)?;
        Ok((Cache { layers, length, positions }, logits))
    }

    /// Room for keys, or values, of `capacity` positions.
    fn room(&self, shape: &Shape, capacity: usize) -> DeviceResult<Tensor> {
        Tensor::zeros((shape.key_value_heads, capacity, shape.head_dim), self.precision.dtype(), &self.device)
    }

    /// Appends tokens to the sequences of these numbers, which share one group of rows; answers the logits of each one's next
    /// token.
    fn decode(&self, caches: &mut [Cache], next: &[(usize, u32)]) -> DeviceResult<Vec<f32>> {
        let shape = Shape::new(&self.config, 1, 1);
        let (heads, shared, dtype) = (shape.heads, shape.key_value_heads, self.precision.dtype());
        let mut ids = [0; ROWS];
        let mut of_rows = [None; ROWS];
        for (number, id) in next {
            ids[number % ROWS] = *id;
            of_rows[number % ROWS] = Some(*number);
        }
        let angles = |of: usize| {
            let row = |number: &Option<usize>| match number {
                Some(number) => caches[*number].positions.angles(caches[*number].length),
                None => caches[next[0].0].positions.angles(0),
            };
            let rows = of_rows.iter().map(|number| Ok(row(number)?[of].clone())).collect::<DeviceResult<Vec<_>>>()?;
            Tensor::cat(&rows, 0)
        };
        let (cos, sin) = (angles(0)?, angles(1)?);
        let empty = Tensor::zeros((1, shape.attended()), DType::F32, &self.device)?;
        let mut stream = self.embed(&ids)?;
        for (layer, block) in self.structure.blocks.iter().enumerate() {
            let normalized = self.normalize(block.norm, &stream)?;
            let projected = self.apply(block.query_key_value, &normalized)?;
            let all = converted(&projected, DType::F32)?
                .reshape((1, ROWS, heads + 2 * shared, shape.head_dim))?
                .transpose(1, 2)?;
            let rotated = rotate(&all.narrow(1, 0, heads + shared)?, &cos, &sin)?;
            let queries = (rotated.narrow(1, 0, heads)? * scale(&shape))?.to_dtype(dtype)?;
            let keys = rotated.narrow(1, heads, shared)?.to_dtype(dtype)?;
            let values = all.narrow(1, heads + shared, shared)?.to_dtype(dtype)?;
            let mut rows = Vec::with_capacity(ROWS);
            for (row, number) in of_rows.iter().enumerate() {
                let Some(number) = number else {
                    rows.push(empty.clone());
                    continue;
                };
                let cache = &caches[*number];
                let of_row = |tensor: &Tensor, rows: usize| {
                    tensor.narrow(2, row, 1)?.contiguous()?.reshape((shared, rows, shape.head_dim))
                };
                for (kept, new) in cache.layers[layer].iter().zip([&keys, &values]) {
                    kept.slice_set(&of_row(new, 1)?, 1, cache.length)?;
                }
                let [keys, values] = &cache.layers[layer];
                let seen = |kept: &Tensor| kept.narrow(1, 0, cache.length + 1);
                let queries = of_row(&queries, shape.group())?;
                let attended = attend_one(self.precision, &queries, &seen(keys)?, &seen(values)?)?;
                rows.push(attended.reshape((1, shape.attended()))?);
            }
            stream = self.after_attention(block, &stream, &normalized, &Tensor::cat(&rows, 0)?)?.output;
        }
        let logits = of_host(&self.logits(&stream)?)?;
        let mut found = Vec::with_capacity(next.len() * shape.vocabulary);
        for (number, _) in next {
            caches[*number].length += 1;
            found.extend_from_slice(&logits[number % ROWS * shape.vocabulary..][..shape.vocabulary]);
        }
        Ok(found)
    }
}

/// Logits on the host.
fn of_host(logits: &Tensor) -> DeviceResult<Vec<f32>> {
    converted(logits, DType::F32)?.flatten_all()?.to_vec1()
}
