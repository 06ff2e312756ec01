//! Room for packed factors.

use std::ops::{Deref, DerefMut};

use pulp::bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};

/// A line of the cache, which is a vector of AVX-512 and a row of a tile of AMX: both take longer for what lies across two.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u32; 16]);

// SAFETY: an array of numbers, which fills it.
unsafe impl Zeroable for Line {}
// SAFETY: as above, and any bits are numbers.
unsafe impl Pod for Line {}

/// Pairs of bf16 numbers, the first of which begins a line of the cache. There may be some more than were asked for.
#[derive(Debug, Default)]
pub(in crate::model) struct Pairs(Vec<Line>);

impl Pairs {
    /// Makes room for so many; new ones are zero.
    pub(in crate::model) fn resize(&mut self, count: usize) {
        self.0.resize(count.div_ceil(16), Line([0; 16]));
    }
}

impl Deref for Pairs {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        cast_slice(&self.0)
    }
}

impl DerefMut for Pairs {
    fn deref_mut(&mut self) -> &mut [u32] {
        cast_slice_mut(&mut self.0)
    }
}
