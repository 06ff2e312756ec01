//! Continues texts: prompts are read in blocks into a cache of keys and values, then one token after the other is chosen.
//!
//! What a sequence gets depends on its own tokens, the sampling and its stream alone: neither its neighbours nor the
//! number of threads change a bit. The logits are those of the full forward pass but for the order of sums.

mod cache;
mod decode;
mod prefill;
mod sampling;

pub use cache::Cache;
pub use sampling::Sampling;

use super::{Model, ModelError, shape::Shape};
use decode::Decoder;

/// What is asked of [`Model::generate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Most tokens to append to each prompt.
    pub tokens: usize,
    /// Ids that end a continuation, such as [`super::Config::eos_token_id`].
    pub stop: Vec<u32>,
    /// How each token is chosen.
    pub sampling: Sampling,
}

/// A text to continue.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// Its tokens, at least one.
    pub ids: &'a [u32],
    /// Which of the seed's random streams chooses its tokens; nothing to a greedy choice.
    pub stream: u64,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Its tokens, without the one that ended it.
    pub ids: Vec<u32>,
    /// The token of [`Generation::stop`] that ended it; none if it was cut at [`Generation::tokens`].
    pub stopped: Option<u32>,
}

impl Model {
    /// Continues prompts, which may differ in length. `watch` is called now and then and may end it.
    ///
    /// Each sequence needs memory for the keys and values of its prompt and its continuation. Where the rotary embedding
    /// depends on the length of a sequence, that of prompt and [`Generation::tokens`] together counts ([`Self::cache`]).
    pub fn generate<E: From<ModelError>>(
        &self,
        prompts: &[Prompt<'_>],
        settings: &Generation,
        watch: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<Generated>, E> {
        settings.sampling.check()?;
        let mut caches = Vec::with_capacity(prompts.len());
        for (number, prompt) in prompts.iter().enumerate() {
            self.config().check_tokens(number, 0, prompt.ids)?;
            caches.push(self.cache(prompt.ids.len() + settings.tokens)?);
        }
        if settings.tokens == 0 || prompts.is_empty() {
            return Ok(vec![Generated { ids: Vec::new(), stopped: None }; prompts.len()]);
        }
        let mut sequences: Vec<_> = caches.iter_mut().zip(prompts).map(|(cache, prompt)| (cache, prompt.ids)).collect();
        let logits = self.prefill(&mut sequences, watch)?;
        let mut decoder = Decoder::default();
        continue_all(prompts, settings, self.config().vocab_size, logits, &mut |next| {
            let mut wanted = next.iter().peekable();
            let mut sequences: Vec<_> = caches
                .iter_mut()
                .enumerate()
                .filter_map(|(number, cache)| Some((cache, wanted.next_if(|(next, _)| *next == number)?.1)))
                .collect();
            let logits = self.decode_with(&mut decoder, &mut sequences);
            watch()?;
            Ok(logits)
        })
    }

    /// Reads on in sequences; answers the logits of each one's next token, `[sequences, vocabulary]`.
    ///
    /// At most 1024 rows are on their way through the layers at once, and logits exist for last rows alone. `watch` is
    /// called after so many rows and may end it, whereupon the caches are as they were.
    pub fn prefill<E: From<ModelError>>(
        &self,
        sequences: &mut [(&mut Cache, &[u32])],
        watch: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        for (number, (cache, ids)) in sequences.iter().enumerate() {
            self.config().check_tokens(number, cache.len(), ids)?;
            check_room(cache, ids.len())?;
        }
        let shape = Shape::new(self.config(), 1, 1);
        let outputs = prefill::prefill(self, &shape, sequences, watch)?;
        Ok(self.logits(&outputs, &mut Vec::new()))
    }

    /// Appends one token to each sequence; answers the logits of each one's next token, `[sequences, vocabulary]`.
    pub fn decode(&self, sequences: &mut [(&mut Cache, u32)]) -> Result<Vec<f32>, ModelError> {
        for (number, (cache, id)) in sequences.iter().enumerate() {
            self.config().check_tokens(number, cache.len(), std::slice::from_ref(id))?;
            check_room(cache, 1)?;
        }
        Ok(self.decode_with(&mut Decoder::default(), sequences))
    }

    fn decode_with(&self, decoder: &mut Decoder, sequences: &mut [(&mut Cache, u32)]) -> Vec<f32> {
        decoder.step(self, &Shape::new(self.config(), 1, 1), sequences);
        self.logits(&decoder.stream, &mut decoder.products)
    }

    /// Final norm and output layer for rows of the residual stream.
    fn logits(&self, stream: &[f32], products: &mut Vec<f32>) -> Vec<f32> {
        let layout = self.layout();
        let mut normalized = vec![0.0; stream.len()];
        layout.final_norm.apply(self.parameters(), self.config().norm_epsilon as f32, stream, &mut normalized);
        let mut logits = vec![0.0; stream.len() / layout.head.inputs * layout.head.outputs];
        decode::apply(&layout.head, self, &normalized, &mut logits, products, false);
        logits
    }
}

/// Chooses token after token from the logits of the first ones, `[prompts, vocabulary]`, on. `step` appends a token to each
/// of the sequences with these numbers, which ascend, and answers the logits of their next tokens.
#[allow(clippy::type_complexity)]
pub(super) fn continue_all<E: From<ModelError>>(
    prompts: &[Prompt<'_>],
    settings: &Generation,
    vocabulary: usize,
    mut logits: Vec<f32>,
    step: &mut dyn FnMut(&[(usize, u32)]) -> Result<Vec<f32>, E>,
) -> Result<Vec<Generated>, E> {
    let mut generated = vec![Generated { ids: Vec::new(), stopped: None }; prompts.len()];
    let mut running: Vec<usize> = (0..prompts.len()).collect();
    loop {
        let mut next = Vec::new();
        for (&number, logits) in running.iter().zip(logits.chunks_exact(vocabulary)) {
            let index = generated[number].ids.len();
            if let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
                let position = prompts[number].ids.len() + index;
                return Err(ModelError::Logit { logit: logits[id], id, sequence: number, position }.into());
            }
            let id = settings.sampling.choose(logits, prompts[number].stream, index);
            if settings.stop.contains(&id) {
                generated[number].stopped = Some(id);
                continue;
            }
            generated[number].ids.push(id);
            if index + 1 < settings.tokens {
                next.push((number, id));
            }
        }
        if next.is_empty() {
            return Ok(generated);
        }
        running = next.iter().map(|(number, _)| *number).collect();
        logits = step(&next)?;
    }
}

fn check_room(cache: &Cache, count: usize) -> Result<(), ModelError> {
    let room = cache.capacity() - cache.len();
    if count <= room {
        return Ok(());
    }
    let expected = format!("{room} at most, for a cache that has {} of {}", cache.len(), cache.capacity());
    Err(ModelError::Size { what: "number of tokens to append", found: count, expected })
}
