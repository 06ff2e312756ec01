//! A permutation that depends on the seed and the number of elements alone.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// The order in which `count` sequences are taken: a Fisher-Yates shuffle by ChaCha8.
pub(super) fn permutation(count: usize, seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, below(&mut random, last as u64 + 1) as usize);
    }
    order
}

/// A uniform number below `bound` (Lemire 2019, "Fast random integer generation in an interval").
fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    let threshold = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(random.next_u64()) * u128::from(bound);
        if product as u64 >= threshold {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_three_comes_about_equally_often() {
        let mut seen = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            *seen.entry(permutation(3, seed)).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 6);
        // Six cells of 1000 expected, standard deviation 29.
        assert!(seen.values().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }

    #[test]
    fn a_seed_always_gives_the_same_order() {
        assert_eq!(permutation(10, 42), [9, 7, 2, 5, 0, 1, 4, 3, 8, 6]);
        assert!(permutation(0, 42).is_empty());
    }
}
