//! From facts in bytes of a text to tokens of a sequence.

use std::ops::Range;

use crate::data::Fact;

/// A token that only a fact planted in the same sequence can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needed {
    /// The place of the token in the sequence.
    pub(super) position: usize,
    /// The number of the fact within the sequence.
    pub(super) fact: i32,
    /// Tokens back to the last token of the planted range.
    pub(super) distance: u32,
}

/// A fact in tokens of its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenFact {
    planted: Range<usize>,
    needed: Range<usize>,
}

/// Finds the tokens of each fact; `offsets` are the byte ranges of the tokens in `text`. Facts that are needed before
/// they are planted tell nothing of far context and are left out.
pub(super) fn locate(text: &str, offsets: &[(usize, usize)], facts: &[Fact]) -> Vec<TokenFact> {
    facts
        .iter()
        .map(|fact| TokenFact {
            planted: covered(text, offsets, fact.planted),
            needed: covered(text, offsets, fact.needed),
        })
        .filter(|fact| !fact.planted.is_empty() && fact.needed.start >= fact.planted.end)
        .collect()
}

/// The tokens that share at least one byte with the range that is no white space: a token that takes in the space
/// before a word does not count for what ends there.
fn covered(text: &str, offsets: &[(usize, usize)], [from, to]: [usize; 2]) -> Range<usize> {
    let shares = |&(start, end): &(usize, usize)| {
        let shared = text.as_bytes().get(start.max(from)..end.min(to)).unwrap_or_default();
        shared.iter().any(|byte| !byte.is_ascii_whitespace())
    };
    let first = offsets.iter().position(shares).unwrap_or(0);
    let count = offsets[first.min(offsets.len())..].iter().take_while(|offset| shares(offset)).count();
    first..first + count
}

/// The needed tokens of one window of the document. `shift` is where the window's first token stands in the sequence
/// (1 after BOS).
pub(super) fn in_window(facts: &[TokenFact], window: &Range<usize>, shift: usize) -> Vec<Needed> {
    let mut found = Vec::new();
    let mut number = 0;
    for fact in facts {
        let inside = fact.needed.start.max(window.start)..fact.needed.end.min(window.end);
        if fact.planted.start < window.start || fact.planted.end > window.end || inside.is_empty() {
            continue;
        }
        found.extend(inside.map(|token| Needed {
            position: token - window.start + shift,
            fact: number,
            distance: (token - (fact.planted.end - 1)) as u32,
        }));
        number += 1;
    }
    found
}
