//! A language model that can be computed by hand: p(x | context) = (count of x in the context + 1) / (length of the
//! context + 4), over four tokens of which 0 is BOS.

/// A sequence.
pub const TOKENS: [u32; 16] = [0, 1, 2, 1, 3, 2, 2, 1, 1, 3, 3, 2, 1, 2, 3, 1];

/// The probabilities of its targets with all of the context.
pub const LONG: [(u32, u32); 15] = [
    (1, 5),
    (1, 6),
    (2, 7),
    (1, 8),
    (2, 9),
    (3, 10),
    (3, 11),
    (1, 3),
    (2, 13),
    (3, 14),
    (4, 15),
    (5, 16),
    (5, 17),
    (2, 9),
    (6, 19),
];

/// In windows of 8 tokens every 4, the first one of each replaced by BOS.
pub const SHORT: [(u32, u32); 15] = [
    (1, 5),
    (1, 6),
    (2, 7),
    (1, 8),
    (2, 9),
    (3, 10),
    (3, 11),
    (1, 4),
    (1, 9),
    (1, 5),
    (3, 11),
    (1, 8),
    (2, 9),
    (3, 10),
    (2, 11),
];

/// In the same windows as they are.
pub const SHORT_WITHOUT_BOS: [(u32, u32); 15] = [
    (1, 5),
    (1, 6),
    (2, 7),
    (1, 8),
    (2, 9),
    (3, 10),
    (3, 11),
    (1, 4),
    (2, 9),
    (3, 10),
    (3, 11),
    (1, 4),
    (2, 9),
    (3, 10),
    (3, 11),
];

/// The losses, in nats, of probabilities that are fractions.
pub fn losses(probabilities: &[(u32, u32)]) -> Vec<f32> {
    probabilities.iter().map(|&(part, whole)| (f64::from(whole) / f64::from(part)).ln() as f32).collect()
}

/// The losses that the model has in some windows of the same length, one after the other.
pub fn score(ids: &[u32], windows: usize) -> Vec<f32> {
    let length = ids.len() / windows;
    let mut losses = Vec::new();
    for window in ids.chunks(length) {
        for at in 1..length {
            let count = window[..at].iter().filter(|&&id| id == window[at]).count();
            losses.push((((at + 4) as f64) / ((count + 1) as f64)).ln() as f32);
        }
    }
    losses
}
