//! Which window owns which target (method.md, section 1.4).

use std::{cmp::Reverse, ops::Range};

use super::{Bos, Rest, Windows};
use crate::{
    data::{DataError, TokenSet},
    stage::SettingError,
};

/// Losses of some windows: it gets their tokens one after the other and their number.
pub type Scorer<'a, E> = dyn FnMut(&[u32], usize) -> Result<Vec<f32>, E> + 'a;

/// The windows of sequences of one length. Window `k` covers the tokens `[k T, k T + S)`; window 0 owns the targets of
/// all its tokens but the first, each later one those of its last T tokens. With [`Rest::Shorter`] the last window may
/// end with the sequence, and owns the targets that no other window does (method.md, section 8: with S = K + d and
/// T = d these are the windows of LongCE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowPlan {
    length: usize,
    windows: Windows,
    bos: Option<u32>,
}

impl WindowPlan {
    /// The windows of sequences of `length` tokens; `bos`, if given, takes the place of the first token of each. The
    /// last window must end where the sequence ends, unless it may be shorter. `inside` is as for [`Windows::check`].
    pub fn new(length: usize, windows: Windows, bos: Option<u32>, inside: &str) -> Result<Self, SettingError> {
        windows.check(inside)?;
        let Windows { length: window, step, rest: at_end } = windows;
        if window > length {
            let expected = format!("at most {length}, the tokens of a sequence");
            return Err(SettingError::new(format!("{inside}length"), window, expected));
        }
        let rest = length - window;
        if rest.is_multiple_of(step) || at_end == Some(Rest::Shorter) {
            return Ok(Self { length, windows, bos });
        }
        let fits = |step: &usize| rest.is_multiple_of(*step);
        let below = (1..step).rev().find(fits);
        let above = (step + 1..window).find(fits);
        let nearest: Vec<String> = below.into_iter().chain(above).map(|step| step.to_string()).collect();
        let expected = format!(
            "a divisor of {rest}, which is {length} (tokens in a sequence) - {window} (tokens in a window); the nearest: {}",
            nearest.join(", ")
        );
        Err(SettingError::new(format!("{inside}step"), step, expected))
    }

    /// The id that takes the place of the first token of each window of a token set, or none to leave it.
    pub fn bos(rule: Bos, tokens: &TokenSet) -> Result<Option<u32>, DataError> {
        let (Bos::Auto, Some(bos)) = (rule, tokens.metadata().bos) else { return Ok(None) };
        for sequence in 0..tokens.sequences() {
            if tokens.sequence(sequence)?.first() != Some(&bos) {
                return Ok(None);
            }
        }
        Ok(Some(bos))
    }

    /// Tokens in each window, S; the last one may have fewer.
    pub fn window(&self) -> usize {
        self.windows.length
    }

    /// How many windows a sequence has.
    pub fn count(&self) -> usize {
        (self.length - self.windows.length).div_ceil(self.windows.step) + 1
    }

    /// The places in the sequence of the tokens of one window.
    fn places(&self, window: usize) -> Range<usize> {
        let start = window * self.windows.step;
        start..(start + self.windows.length).min(self.length)
    }

    /// The tokens of one window of a sequence.
    pub fn tokens(&self, ids: &[u32], window: usize) -> Vec<u32> {
        let mut tokens = ids[self.places(window)].to_vec();
        if let Some(bos) = self.bos {
            tokens[0] = bos;
        }
        tokens
    }

    /// The targets of the sequence that one window owns.
    pub fn targets(&self, window: usize) -> Range<usize> {
        let Windows { length, step, .. } = self.windows;
        let end = (length - 1 + window * step).min(self.length - 1);
        match window {
            0 => 0..end,
            _ => length - 1 + (window - 1) * step..end,
        }
    }

    /// Short-context losses of some sequences; `losses` has `[length - 1]` for each and gets the values of the targets
    /// that windows from `first` on own. Up to `together` windows of the same number of tokens are given to `score`
    /// at once: their tokens one after the other and their number; it answers one loss for each token but the first of
    /// each window.
    pub fn score<E>(
        &self,
        sequences: &mut [(&[u32], &mut [f32])],
        first: usize,
        together: usize,
        score: &mut Scorer<'_, E>,
    ) -> Result<(), E> {
        let mut places: Vec<(usize, usize)> = (0..sequences.len())
            .flat_map(|sequence| (first..self.count()).map(move |window| (sequence, window)))
            .collect();
        // Shorter windows behind the whole ones, each sort together.
        let tokens = |&(_, window): &(usize, usize)| self.places(window).len();
        places.sort_by_key(|place| Reverse(tokens(place)));
        for places in
            places.chunk_by(|one, two| tokens(one) == tokens(two)).flat_map(|same| same.chunks(together.max(1)))
        {
            let ids: Vec<u32> =
                places.iter().flat_map(|&(sequence, window)| self.tokens(sequences[sequence].0, window)).collect();
            let found = score(&ids, places.len())?;
            let targets = ids.len() / places.len() - 1;
            for (&(sequence, window), found) in places.iter().zip(found.chunks(targets)) {
                let owned = self.targets(window);
                let new = &found[targets - owned.len()..];
                sequences[sequence].1[owned].copy_from_slice(new);
            }
        }
        Ok(())
    }
}
