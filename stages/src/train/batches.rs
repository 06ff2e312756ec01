//! Which sequences each step sees.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// Gives the sequences of one step after another: epoch by epoch, each in an order of its own. Any step can be asked
/// for directly, so nothing of it stands in a checkpoint.
pub(super) struct Batches {
    sequences: usize,
    batch: usize,
    seed: u64,
    epoch: Option<(usize, Vec<usize>)>,
}

impl Batches {
    /// Over `sequences` (more than none) sequences, `batch` in each step.
    pub(super) fn new(sequences: usize, batch: usize, seed: u64) -> Self {
        Self { sequences, batch, seed, epoch: None }
    }

    /// The sequences of a step (the first is 1). A batch may reach over the end of an epoch.
    pub(super) fn of_step(&mut self, step: usize) -> Vec<usize> {
        let start = (step - 1) * self.batch;
        (start..start + self.batch)
            .map(|place| {
                let epoch = place / self.sequences;
                if self.epoch.as_ref().is_none_or(|(found, _)| *found != epoch) {
                    self.epoch = Some((epoch, permutation(self.sequences, self.seed, epoch)));
                }
                self.epoch.as_ref().map_or(0, |(_, order)| order[place % self.sequences])
            })
            .collect()
    }
}

/// Fisher-Yates from a generator whose stream is the epoch.
fn permutation(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch as u64);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // The high half of a product maps 64 random bits to 0..=last; the bias is below 2^-40.
        let pick = ((u128::from(random.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        order.swap(last, pick);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_sequence_once_and_its_own_order() {
        let mut batches = Batches::new(10, 4, 7);
        let seen: Vec<usize> = (1..=10).flat_map(|step| batches.of_step(step)).collect();
        let epochs: Vec<&[usize]> = seen.chunks(10).collect();
        assert_eq!(epochs.len(), 4);
        for epoch in &epochs {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert!(epochs.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_step_is_the_same_however_it_is_reached() {
        let mut all = Batches::new(7, 5, 1);
        let in_order: Vec<_> = (1..=9).map(|step| all.of_step(step)).collect();
        for step in [9, 3, 1] {
            assert_eq!(Batches::new(7, 5, 1).of_step(step), in_order[step - 1]);
        }
        assert_ne!(Batches::new(7, 5, 2).of_step(1), in_order[0]);
    }
}
