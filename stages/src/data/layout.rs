//! How sequences are spread over part files.

use std::ops::Range;

/// The most sequences that one part file holds.
pub const PART_SEQUENCES: usize = 256;

/// The file name of a part.
pub fn part_name(part: usize) -> String {
    format!("part-{part:05}.safetensors")
}

/// Which sequences each part holds, in order and without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartLayout {
    starts: Vec<usize>,
    sequences: usize,
}

impl PartLayout {
    /// Full parts of [`PART_SEQUENCES`] and a rest.
    pub fn even(sequences: usize) -> Self {
        Self { starts: (0..sequences).step_by(PART_SEQUENCES).collect(), sequences }
    }

    /// The layout of parts with these numbers of sequences.
    pub fn of(parts: impl IntoIterator<Item = usize>) -> Self {
        let mut sequences = 0;
        let starts = parts
            .into_iter()
            .map(|count| {
                sequences += count;
                sequences - count
            })
            .collect();
        Self { starts, sequences }
    }

    /// The number of parts.
    pub fn parts(&self) -> usize {
        self.starts.len()
    }

    /// The number of sequences in all parts.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// The sequences of one part; empty if there is no such part.
    pub fn range(&self, part: usize) -> Range<usize> {
        let start = self.starts.get(part).copied().unwrap_or(self.sequences);
        start..self.starts.get(part + 1).copied().unwrap_or(self.sequences)
    }

    /// The part of a sequence and its row there.
    pub fn locate(&self, sequence: usize) -> Option<(usize, usize)> {
        if sequence >= self.sequences {
            return None;
        }
        let part = self.starts.partition_point(|&start| start <= sequence).checked_sub(1)?;
        Some((part, sequence - self.starts[part]))
    }
}
