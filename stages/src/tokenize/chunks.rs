//! Where the sequences of a document start and end.

use std::ops::Range;

use super::Chunking;

/// The windows of a document of `ids`, as ranges of them; BOS, if there is one, is still to be put before each.
///
/// Source: section 4 of the method's specification (the authors' `windowed` over the ids without their first).
pub(super) fn windows(ids: &[u32], length: usize, bos: Option<u32>, chunking: Chunking) -> Vec<Range<usize>> {
    let (first, width, step) = match (bos, chunking) {
        (None, _) => (0, length, length),
        (Some(_), Chunking::Official) => (1, length - 1, length),
        (Some(bos), Chunking::Lossless) => (usize::from(ids.first() == Some(&bos)), length - 1, length - 1),
    };
    (first..ids.len()).step_by(step).map(|start| start..start + width).take_while(|w| w.end <= ids.len()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Chunking::*, *};

    const B: u32 = 0;

    fn cut(ids: &[u32], length: usize, bos: Option<u32>, chunking: Chunking) -> Vec<Vec<u32>> {
        windows(ids, length, bos, chunking).into_iter().map(|window| ids[window].to_vec()).collect()
    }

    /// Golden test G16 of the method's specification.
    #[test]
    fn official_chunks_are_those_of_the_authors() {
        let ids: Vec<u32> = (0..=12).collect();
        assert_eq!(cut(&ids, 5, Some(B), Official), [[1, 2, 3, 4], [6, 7, 8, 9]]);
        assert!(cut(&[B, 1, 2], 5, Some(B), Official).is_empty());
    }

    #[test]
    fn official_drops_the_first_token_of_tokenizers_without_bos_and_lossless_does_not() {
        let ids: Vec<u32> = (1..=9).collect();
        assert_eq!(cut(&ids, 5, Some(B), Official), [[2, 3, 4, 5]]);
        assert_eq!(cut(&ids, 5, Some(B), Lossless), [[1, 2, 3, 4], [5, 6, 7, 8]]);
        assert_eq!(cut(&ids, 4, None, Official), [[1, 2, 3, 4], [5, 6, 7, 8]]);
    }

    proptest! {
        #[test]
        fn lossless_skips_nothing_but_an_incomplete_tail(count in 0_u32..60, length in 2_usize..9) {
            let ids: Vec<u32> = (B..=count).collect();
            let kept: Vec<u32> = cut(&ids, length, Some(B), Lossless).concat();
            let whole = count as usize / (length - 1) * (length - 1);
            prop_assert_eq!(&kept[..], &ids[1..=whole]);
        }
    }
}
