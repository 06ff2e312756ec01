//! Random parameters.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use rayon::prelude::*;

use super::{Config, Layout, Model};

/// Normal numbers made from one stream position at a time; each chunk of this many has a place of its own.
const CHUNK: usize = 1 << 12;

impl Model {
    /// A model with random matrices (normal numbers with standard deviation `initializer_range`), norms of one and
    /// biases of zero.
    ///
    /// Each tensor has its own stream of the generator, numbered by its place in the [`Layout`], so a tensor depends
    /// on the seed, its place and its size only.
    pub fn initialize(mut config: Config, initializer_range: f64, seed: u64) -> Self {
        config.set_other("initializer_range", serde_json::json!(initializer_range));
        let layout = Layout::new(&config);
        let mut parameters = vec![1.0; layout.len()];
        for tensor in layout.tensors().iter().filter(|tensor| tensor.is_bias()) {
            parameters[tensor.range.clone()].fill(0.0);
        }
        for (stream, tensor) in layout.tensors().iter().enumerate().filter(|(_, tensor)| tensor.decays()) {
            let target = &mut parameters[tensor.range.clone()];
            target.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, target)| {
                let mut generator = ChaCha8Rng::seed_from_u64(seed);
                generator.set_stream(stream as u64);
                // Two words of 32 bits for each number.
                generator.set_word_pos((chunk * CHUNK * 2) as u128);
                for pair in target.chunks_mut(2) {
                    let normal = normal_pair(generator.next_u64(), generator.next_u64());
                    for (value, normal) in pair.iter_mut().zip(normal) {
                        *value = (normal * initializer_range) as f32;
                    }
                }
            });
        }
        Self::from_parameters(config, layout, parameters)
    }
}

/// Two normal numbers from 128 random bits (Box and Muller's transformation).
fn normal_pair(a: u64, b: u64) -> [f64; 2] {
    const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * libm::log(((a >> 11) + 1) as f64 * UNIT)).sqrt();
    let (sin, cos) = libm::sincos((b >> 11) as f64 * UNIT * std::f64::consts::TAU);
    [radius * cos, radius * sin]
}
