//! Choices by a counter-based generator: the same on every machine.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// The choices that one document is made of.
pub(super) struct Choices(ChaCha8Rng);

impl Choices {
    /// The stream of document `index`: independent of all others of the same seed.
    pub(super) fn of(seed: u64, index: usize) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(index as u64);
        Self(generator)
    }

    /// A number below `bound` (which must not be 0), each equally likely: multiply and shift, the uneven rest refused
    /// (Lemire, "Fast random integer generation in an interval", 2019).
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u32;
        let uneven = bound.wrapping_neg() % bound.max(1);
        loop {
            let product = u64::from(self.0.next_u32()) * u64::from(bound);
            if product as u32 >= uneven {
                return (product >> 32) as usize;
            }
        }
    }

    /// One of some items, which must not be empty.
    pub(super) fn of_these<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Puts items into a random order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
