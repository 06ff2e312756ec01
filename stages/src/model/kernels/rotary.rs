//! Rotation of query and key pairs by their position (half-split pairing, as in Hugging Face checkpoints).

use super::vectorized;

vectorized! {
    /// Rotates the first `rotary_dim` numbers of each of the first `heads` heads of rows of `stride` numbers; `cos` and
    /// `sin` hold `rotary_dim / 2` numbers for each row. `direction` is 1, or -1 for the transposed rotation (the gradient).
    fn rotate<'a>(
        rows: &'a mut [f32],
        stride: usize,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        cos: &'a [f32],
        sin: &'a [f32],
        direction: f32,
    ) {
        let half = rotary_dim / 2;
        for ((row, cos), sin) in rows.chunks_exact_mut(stride).zip(cos.chunks_exact(half)).zip(sin.chunks_exact(half)) {
            for head in row[..heads * head_dim].chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (a, b, s) = (first[i], second[i], sin[i] * direction);
                    first[i] = a.mul_add(cos[i], -b * s);
                    second[i] = b.mul_add(cos[i], a * s);
                }
            }
        }
    }
}
