//! The subtrees of a large content's digest. BLAKE3 is a tree: the chaining values of pieces make the digest of the whole. So a
//! list of them can be checked before anything is fetched, and each piece as soon as it has come.

use base64::{Engine, engine::general_purpose::STANDARD};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use super::client::PIECE;
use crate::digest::Digest;

/// A list has at most so many chaining values; of larger contents the pieces are longer.
const MOST: u64 = 256;

/// The chaining values of all pieces of a content that has more than one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subtrees(Vec<ChainingValue>);

/// The length of the pieces of a content, but for the last one: a power of two.
pub(super) fn piece_of(size: u64) -> u64 {
    PIECE.max(size.div_ceil(MOST).next_power_of_two())
}

/// The chaining value of some bytes of a content that begin at a multiple of their length, rounded up to a power of two.
pub(super) fn subtree(offset: u64, bytes: &[u8]) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// The chaining value of `length` bytes from those of their parts, all of them `part` long but the last.
pub(super) fn join(values: &[ChainingValue], length: u64, part: u64) -> ChainingValue {
    if let [value] = values {
        return *value;
    }
    let left = left_subtree_len(length);
    let (first, second) = values.split_at((left / part) as usize);
    merge_subtrees_non_root(&join(first, left, part), &join(second, length - left, part), Mode::Hash)
}

impl Subtrees {
    /// Those of a content of more than one piece, from the chaining values of parts, into which its pieces fall.
    pub(super) fn of_parts(values: &[ChainingValue], size: u64, part: u64) -> Self {
        let piece = piece_of(size);
        let pieces = values.chunks((piece / part) as usize).zip(0..);
        Self(pieces.map(|(values, number)| join(values, piece.min(size - number * piece), part)).collect())
    }

    /// The digest of the whole.
    pub(super) fn digest(&self, size: u64) -> Digest {
        let piece = piece_of(size);
        let left = left_subtree_len(size);
        let (first, second) = self.0.split_at((left / piece) as usize);
        merge_subtrees_root(&join(first, left, piece), &join(second, size - left, piece), Mode::Hash).into()
    }

    /// Reads what [`Subtrees::to_text`] wrote; `None` if it does not belong to a content with this digest and size.
    pub(super) fn from_text(text: &str, digest: &Digest, size: u64) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let (values, rest) = bytes.as_chunks::<32>();
        let is_right = rest.is_empty() && size > piece_of(size) && values.len() as u64 == size.div_ceil(piece_of(size));
        let subtrees = Self(values.to_vec());
        (is_right && subtrees.digest(size) == *digest).then_some(subtrees)
    }

    /// The chaining values in base64.
    pub(super) fn to_text(&self) -> String {
        STANDARD.encode(self.0.as_flattened())
    }

    /// The chaining value of a piece.
    pub(super) fn piece(&self, number: u64) -> Option<&ChainingValue> {
        self.0.get(number as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_digest_of_the_whole_and_no_other_list_is_taken() {
        // Larger contents have larger pieces, which `join` makes of parts in the same way.
        for size in [PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 3 * PIECE - 1, 5 * PIECE + 4321] {
            let bytes: Vec<u8> =
                (0..size as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let part = PIECE / 4;
            let values = bytes.chunks(part as usize).zip(0..).map(|(bytes, number)| subtree(number * part, bytes));
            let subtrees = Subtrees::of_parts(&values.collect::<Vec<_>>(), size, part);
            let digest = Digest::of(&bytes);
            assert_eq!(subtrees.digest(size), digest, "{size}");
            let text = subtrees.to_text();
            assert_eq!(Subtrees::from_text(&text, &digest, size), Some(subtrees.clone()));
            assert_eq!(
                subtrees.piece(1),
                Some(&subtree(PIECE, &bytes[PIECE as usize..(2 * PIECE).min(size) as usize]))
            );
            let mut other = subtrees.clone();
            other.0[1][7] ^= 1;
            let wrong =
                [other.to_text(), text[..text.len() / 2].to_owned(), text.clone() + "AAAA", String::new(), "?".into()];
            for text in wrong {
                assert_eq!(Subtrees::from_text(&text, &digest, size), None, "{size} {text}");
            }
            assert_eq!(Subtrees::from_text(&text, &digest, PIECE), None);
            assert_eq!(Subtrees::from_text(&text, &digest, size + PIECE), None);
        }
    }

    #[test]
    fn no_list_is_long() {
        for (size, piece, count) in [(1 << 31, 8 << 20, 256), ((1 << 31) + 1, 16 << 20, 129), (1 << 40, 4 << 30, 256)] {
            assert_eq!((piece_of(size), size.div_ceil(piece_of(size))), (piece, count));
        }
    }
}
