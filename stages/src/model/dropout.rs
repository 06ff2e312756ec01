//! Residual dropout, as a Phi has it: numbers that a part of a block adds to the residual stream become zero at random, and the
//! others are raised so that their mean stays.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use super::shape::Place;

/// Residual dropout of one pass. The random numbers are those of a counter-based generator, so a number's fate depends on
/// `seed`, `step`, its sequence, its layer and its place alone: not on threads, on how a batch is cut, or on whether a layer is
/// computed again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// How often a number becomes zero, 0 to below 1.
    pub probability: f64,
    /// Chooses the random numbers.
    pub seed: u64,
    /// The step of the training.
    pub step: u64,
    /// The number, within the step, of the first sequence of the pass.
    pub first_sequence: u64,
}

/// The part of a block whose output is dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Branch {
    Attention,
    Feed,
}

impl Dropout {
    /// Drops numbers of rows `[rows, hidden]`, or of their gradient, in place.
    pub(super) fn apply(&self, layer: usize, branch: Branch, place: Place, rows: &mut [f32]) {
        let sequence = self.first_sequence + place.sequence as u64;
        let mut key = [0; 32];
        let words = [self.seed, self.step, sequence, 2 * layer as u64 + branch as u64];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut generator = ChaCha8Rng::from_seed(key);
        let hidden = rows.len() / place.rows;
        generator.set_word_pos((place.first * hidden) as u128);
        let dropped = (self.probability * 2.0_f64.powi(32)) as u64;
        let factor = (1.0 / (1.0 - self.probability)) as f32;
        for number in rows {
            *number = if u64::from(generator.next_u32()) < dropped { 0.0 } else { *number * factor };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: usize = 100;

    fn place(sequence: usize, first: usize) -> Place {
        Place { sequence, block: 0, first, rows: 64, row: 0 }
    }

    fn dropped(dropout: Dropout, layer: usize, branch: Branch, place: Place) -> Vec<f32> {
        let mut rows = vec![1.0; place.rows * HIDDEN];
        dropout.apply(layer, branch, place, &mut rows);
        rows
    }

    #[test]
    fn numbers_are_dropped_as_often_as_they_should_and_the_mean_stays() {
        for probability in [0.1, 0.5, 0.9] {
            let dropout = Dropout { probability, seed: 3, step: 1, first_sequence: 0 };
            let rows: Vec<f32> = (0..16).flat_map(|layer| dropped(dropout, layer, Branch::Feed, place(0, 0))).collect();
            let count = rows.len() as f64;
            let zeros = rows.iter().filter(|number| **number == 0.0).count() as f64;
            let deviation = (probability * (1.0 - probability) / count).sqrt();
            assert!((zeros / count - probability).abs() < 4.0 * deviation, "{zeros} of {count} for {probability}");
            let others = rows.iter().filter(|number| **number != 0.0);
            assert!(others.copied().all(|number| (f64::from(number) * (1.0 - probability) - 1.0).abs() < 1e-6));
        }
        let none = Dropout { probability: 0.0, seed: 3, step: 1, first_sequence: 0 };
        assert!(dropped(none, 0, Branch::Feed, place(0, 0)).iter().all(|number| *number == 1.0));
    }

    #[test]
    fn a_number_has_a_fate_of_its_own_however_the_batch_is_cut() {
        let dropout = Dropout { probability: 0.5, seed: 3, step: 7, first_sequence: 4 };
        let numbers = dropped(dropout, 2, Branch::Attention, place(1, 64));
        // The same sequence, counted from another one on; rows alone.
        let elsewhere = Dropout { first_sequence: 5, ..dropout };
        assert_eq!(dropped(elsewhere, 2, Branch::Attention, place(0, 64)), numbers);
        let one = Place { rows: 1, ..place(1, 70) };
        assert_eq!(dropped(dropout, 2, Branch::Attention, one), numbers[6 * HIDDEN..7 * HIDDEN]);
        let others = [
            dropped(Dropout { seed: 4, ..dropout }, 2, Branch::Attention, place(1, 64)),
            dropped(Dropout { step: 8, ..dropout }, 2, Branch::Attention, place(1, 64)),
            dropped(dropout, 3, Branch::Attention, place(1, 64)),
            dropped(dropout, 2, Branch::Feed, place(1, 64)),
            dropped(dropout, 2, Branch::Attention, place(0, 64)),
            dropped(dropout, 2, Branch::Attention, place(1, 0)),
        ];
        for other in others {
            let same = other.iter().zip(&numbers).filter(|(a, b)| a == b).count();
            assert!(same * 10 < numbers.len() * 6, "{same} of {}", numbers.len());
        }
    }
}
