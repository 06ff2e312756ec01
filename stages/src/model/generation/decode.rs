//! One more token for each of some sequences.
//!
//! A step reads every weight once, so memory sets its pace: all threads read parts of a matrix, straight from where it
//! lies. Each number is a sum in an order of its own, which neither the threads nor the other sequences change.

use rayon::prelude::*;

use super::{
    super::{
        Model,
        feed::Feed,
        kernels::{self, ExponentialSum},
        layout::BlockLayout,
        linear::Linear,
        shape::{BLOCK, Shape},
    },
    cache::{Cache, Page},
    prefill::rotate_and_keep,
};

/// Pages whose keys one task attends to. Results depend on it, so it is fixed.
const PAGES: usize = 4;

/// Buffers of a step, for all sequences.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Residual stream, `[sequences, hidden]`.
    pub(super) stream: Vec<f32>,
    normalized: Vec<f32>,
    projected: Vec<f32>,
    attended: Vec<f32>,
    raised: Vec<f32>,
    activation: Vec<f32>,
    /// `[outputs, sequences]`.
    pub(super) products: Vec<f32>,
}

/// Attention of one group of query heads to a part of the keys.
struct Part<'a> {
    sequence: usize,
    key_value_head: usize,
    pages: &'a [Page],
    /// Keys in these pages.
    keys: usize,
}

impl Decoder {
    /// Runs all layers for one token of each sequence and appends it to the cache; [`Self::stream`] then is the input of
    /// the final norm.
    pub(super) fn step(&mut self, model: &Model, shape: &Shape, sequences: &mut [(&mut Cache, u32)]) {
        let parameters = model.parameters();
        let rows = sequences.len();
        let embedding = &parameters[model.layout().embedding.clone()];
        self.stream.clear();
        for (cache, id) in sequences.iter_mut() {
            cache.reserve(shape, 1);
            self.stream.extend_from_slice(&embedding[*id as usize * shape.hidden..][..shape.hidden]);
        }
        for (index, layer) in model.layout().blocks.iter().enumerate() {
            self.normalized.resize(rows * shape.hidden, 0.0);
            layer.norm.apply(parameters, shape.epsilon, &self.stream, &mut self.normalized);
            self.projected.resize(rows * shape.projected(), 0.0);
            apply(&layer.query_key_value, model, &self.normalized, &mut self.projected, &mut self.products, false);
            for ((cache, _), projected) in sequences.iter_mut().zip(self.projected.chunks_exact_mut(shape.projected()))
            {
                let page = &mut cache.layers[index][cache.length / BLOCK];
                rotate_and_keep(shape, &cache.tables, cache.length, projected, page);
            }
            self.attend(shape, index, sequences);
            self.feed(model, layer, shape);
        }
        for (cache, _) in sequences.iter_mut() {
            cache.length += 1;
        }
    }

    /// Attention of each sequence's token to all positions up to its own. Long sequences are attended to in parts,
    /// whose results are weighted by their shares of the sum of exponentials.
    fn attend(&mut self, shape: &Shape, layer: usize, sequences: &[(&mut Cache, u32)]) {
        let (width, head_dim, group) = (shape.projected(), shape.head_dim, shape.group());
        let mut parts = Vec::new();
        for (sequence, (cache, _)) in sequences.iter().enumerate() {
            let keys = cache.length + 1;
            for key_value_head in 0..shape.key_value_heads {
                for (index, pages) in cache.layers[layer].chunks(PAGES).enumerate() {
                    let keys = (keys - index * PAGES * BLOCK).min(PAGES * BLOCK);
                    parts.push(Part { sequence, key_value_head, pages, keys });
                }
            }
        }
        let projected = &self.projected;
        // For each query head of a part its output, then the logarithm of its sum of exponentials.
        let results: Vec<Vec<f32>> = parts
            .par_iter()
            .map(|part| {
                let start = part.key_value_head * group * head_dim;
                let queries = &projected[part.sequence * width + start..][..group * head_dim];
                part.attend(head_dim, queries)
            })
            .collect();
        self.attended.clear();
        self.attended.resize(sequences.len() * shape.attended(), 0.0);
        let mut results = parts.iter().zip(results).peekable();
        while let Some((part, first)) = results.next() {
            let mut all = vec![first];
            while let Some((_, next)) = results
                .next_if(|(other, _)| (other.sequence, other.key_value_head) == (part.sequence, part.key_value_head))
            {
                all.push(next);
            }
            let start = part.sequence * shape.attended() + part.key_value_head * group * head_dim;
            for (query, output) in self.attended[start..][..group * head_dim].chunks_exact_mut(head_dim).enumerate() {
                let log_sum = |result: &Vec<f32>| f64::from(result[group * head_dim + query]);
                let highest = all.iter().map(log_sum).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = all.iter().map(|result| libm::exp(log_sum(result) - highest)).sum();
                for result in &all {
                    let share = (libm::exp(log_sum(result) - highest) / sum) as f32;
                    for (output, value) in output.iter_mut().zip(&result[query * head_dim..]) {
                        *output = share.mul_add(*value, *output);
                    }
                }
            }
        }
    }

    /// What follows attention, residual stream included.
    fn feed(&mut self, model: &Model, layer: &BlockLayout, shape: &Shape) {
        let rows = self.stream.len() / shape.hidden;
        self.raised.resize(rows * shape.raised, 0.0);
        self.activation.resize(rows * shape.inner, 0.0);
        let Self { stream, normalized, attended, raised, activation, products, .. } = self;
        match &layer.feed {
            Feed::Llama(feed) => {
                apply(&layer.output, model, attended, stream, products, true);
                feed.norm.apply(model.parameters(), shape.epsilon, stream, normalized);
                apply(&feed.gate_up, model, normalized, raised, products, false);
                kernels::gated(raised, shape.inner, activation);
                apply(&feed.down, model, activation, stream, products, true);
            }
            Feed::Phi(feed) => {
                apply(&feed.up, model, normalized, raised, products, false);
                kernels::gelu(raised, activation);
                apply(&layer.output, model, attended, stream, products, true);
                apply(&feed.down, model, activation, stream, products, true);
            }
        }
    }
}

impl Part<'_> {
    /// Output of each query, normalized within the part, then the logarithm of each one's sum of exponentials (nats).
    fn attend(&self, head_dim: usize, queries: &[f32]) -> Vec<f32> {
        let group = queries.len() / head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let start = self.key_value_head * head_dim * BLOCK;
        let size = head_dim * BLOCK;
        let mut scores = [0.0; PAGES * BLOCK];
        let mut result = vec![0.0; group * head_dim + group];
        let (outputs, log_sums) = result.split_at_mut(group * head_dim);
        let heads = queries.chunks_exact(head_dim).zip(outputs.chunks_exact_mut(head_dim)).zip(log_sums);
        for ((query, output), log_sum) in heads {
            for (scores, page) in scores.chunks_exact_mut(BLOCK).zip(self.pages) {
                kernels::weighted_rows(query, &page.keys[start..start + size], scores);
            }
            let mut sum = [ExponentialSum::default()];
            let (keys, last) = (self.keys, self.keys - 1);
            kernels::attention_probabilities(&mut scores, PAGES * BLOCK, keys, last, scale, &mut sum, &mut [0.0]);
            let [sum] = sum;
            *log_sum = sum.logarithm() as f32;
            for (scores, page) in scores[..self.keys].chunks(BLOCK).zip(self.pages) {
                kernels::weighted_rows(scores, &page.values[start..start + size], output);
            }
            kernels::scale(output, 1.0 / sum.sum());
            scores.fill(0.0);
        }
        result
    }
}

/// `output = input * weight^T + bias`, or added to what is in `output`; `input` is `[rows, inputs]`, `output`
/// `[rows, outputs]`. Unlike [`Linear::apply`] it runs on all threads and gives each row the same bits whatever the
/// number of rows. `products` is a buffer.
pub(super) fn apply(
    linear: &Linear,
    model: &Model,
    input: &[f32],
    output: &mut [f32],
    products: &mut Vec<f32>,
    accumulate: bool,
) {
    let Linear { weight, bias, inputs, outputs } = linear;
    let rows = input.len() / inputs;
    let parameters = model.parameters();
    products.resize(rows * outputs, 0.0);
    parameters[weight.clone()]
        .par_chunks(TASK * inputs)
        .zip(products.par_chunks_mut(TASK * rows))
        .for_each(|(weight, products)| kernels::products_of_rows(weight, *inputs, input, products));
    let bias = bias.as_ref().map(|bias| &parameters[bias.clone()]);
    for (row, output) in output.chunks_exact_mut(*outputs).enumerate() {
        if !accumulate {
            output.fill(0.0);
        }
        if let Some(bias) = bias {
            kernels::add(output, bias);
        }
        for (output, products) in output.iter_mut().zip(products.chunks_exact(rows)) {
            *output += products[row];
        }
    }
    if let Some(adapter) = model.adapter() {
        adapter.apply(linear, input, output);
    }
}

/// Rows of a matrix that are multiplied as one task; no bit depends on it.
const TASK: usize = 32;
