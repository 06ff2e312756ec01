//! Packs: many small files in one object, since a request takes as long for a byte as for a million.
//!
//! `twdag pack 1\n` and three zero bytes, the number of contents (4 bytes), for each its digest and length (32 and 8 bytes), then
//! the contents. Numbers are little-endian.

use crate::digest::Digest;

const MAGIC: &[u8; 16] = b"twdag pack 1\n\0\0\0";
/// Smaller files go into packs.
pub(super) const SMALL: u64 = 1 << 20;
/// A pack that has come to this size is full.
pub(super) const FULL: u64 = 32 << 20;

/// Where the content of a pack with so many parts begins.
fn head(count: usize) -> u64 {
    (MAGIC.len() + 4 + 40 * count) as u64
}

/// The contents that will make a pack.
#[derive(Debug, Default)]
pub(super) struct Draft {
    contents: Vec<(Digest, u64)>,
    size: u64,
}

impl Draft {
    /// Adds a content.
    pub(super) fn add(&mut self, digest: Digest, size: u64) {
        self.contents.push((digest, size));
        self.size += size;
    }

    /// Whether no more should be added.
    pub(super) fn is_full(&self) -> bool {
        self.size >= FULL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// The contents in their order, and where each begins.
    pub(super) fn places(&self) -> impl Iterator<Item = (Digest, u64)> {
        let mut at = head(self.contents.len());
        self.contents.iter().map(move |(digest, size)| {
            let begins = at;
            at += size;
            (*digest, begins)
        })
    }

    /// The pack, of contents that `read` gives.
    pub(super) fn build<E>(&self, mut read: impl FnMut(&Digest, u64) -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
        let mut bytes = Vec::with_capacity((head(self.contents.len()) + self.size) as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.contents.len() as u32).to_le_bytes());
        for (digest, size) in &self.contents {
            bytes.extend_from_slice(digest.as_bytes());
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        for (digest, size) in &self.contents {
            bytes.extend_from_slice(&read(digest, *size)?);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_lie_where_the_draft_says() {
        let contents = [&b"one"[..], b"", b"three"];
        let mut draft = Draft::default();
        for content in contents {
            draft.add(Digest::of(content), content.len() as u64);
        }
        let find = |digest: &Digest| contents.into_iter().find(|content| Digest::of(content) == *digest);
        let pack = draft.build(|digest, _| find(digest).map(<[u8]>::to_vec).ok_or(())).unwrap();
        for ((digest, begins), content) in draft.places().zip(contents) {
            assert_eq!(digest, Digest::of(content));
            assert_eq!(&pack[begins as usize..begins as usize + content.len()], content);
        }
        assert_eq!(pack.len(), 16 + 4 + 3 * 40 + 8);
    }
}
