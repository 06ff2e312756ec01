//! The top share of a row, exactly: how many, which, and what fills up where scores are missing.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::WeightingError;

/// How many of `targets` a share of `kappa` keeps: the product in floating point, rounded down, as the authors'
/// code has it (0.29 of 100 is 28).
pub(super) fn count(kappa: f64, targets: usize) -> usize {
    (kappa * targets as f64).floor() as usize
}

/// Numbers of the kept targets, in no particular order. Among equal scores later targets win; where scores of 0
/// are needed to fill up, those are drawn by `seed` and `sequence` instead.
pub(super) fn top(scores: &[f64], kappa: f64, seed: u64, sequence: u64) -> Result<Vec<usize>, WeightingError> {
    let targets = scores.len();
    let keep = count(kappa, targets);
    if keep == 0 {
        return Err(WeightingError::NothingKept { kappa, targets, smallest: smallest(targets) });
    }
    let mut order: Vec<usize> = (0..targets).collect();
    order.sort_by(|&left, &right| scores[left].total_cmp(&scores[right]).then(left.cmp(&right)));
    // -0.0 sorts below 0.0 but is the same score, so zeros are found by value.
    let first = order.iter().position(|&target| scores[target] >= 0.0).unwrap_or(targets);
    let zeros = order[first..].iter().take_while(|&&target| scores[target] == 0.0).count();
    let end = first + zeros;
    order[first..end].sort_unstable();
    if end > targets - keep && first < targets - keep {
        shuffle(&mut order[first..end], seed, sequence);
    }
    Ok(order.split_off(targets - keep))
}

/// The smallest share, of few digits, that keeps one target.
fn smallest(targets: usize) -> f64 {
    let exact = 1.0 / targets as f64;
    let digits = 4 - exact.log10().ceil() as i32;
    let scale = 10f64.powi(digits);
    let rounded = (exact * scale).ceil() / scale;
    if count(rounded, targets) >= 1 && rounded <= 1.0 { rounded } else { exact.next_up().min(1.0) }
}

/// Fisher-Yates from a generator whose seed is `seed` and whose stream is `sequence`.
fn shuffle(targets: &mut [usize], seed: u64, sequence: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(sequence);
    for last in (1..targets.len()).rev() {
        // The high half of a product maps 64 random bits to 0..=last; the bias is below 2^-40.
        let pick = ((u128::from(random.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        targets.swap(last, pick);
    }
}
