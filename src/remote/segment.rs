//! Segments and checkpoints of the index, and what they say.
//!
//! `twdag segment 1\n`, the BLAKE3 of the rest (32 bytes), then JSON Lines packed with Zstandard: a heading, and one operation a
//! line, which apply in their order.

use std::{collections::BTreeMap, io::Read};

use serde::{Deserialize, Serialize};

use super::{
    Known, RemoteError, losses,
    signing::{PublicKey, Signature, Statement},
    understood::is_wholly_known,
};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::{Manifest, Record},
};

const MAGIC: &[u8; 16] = b"twdag segment 1\n";
/// The most bytes of a segment, packed or not: what unpacks to more is an attack. Whoever publishes more makes several.
pub(super) const MOST: u64 = 64 << 20;
/// The most bytes of a checkpoint, packed or not. A larger index is read from its segments.
pub(super) const MOST_OF_CHECKPOINT: u64 = 512 << 20;
/// The last number that has twelve digits.
pub(super) const LAST: u64 = 999_999_999_999;
/// How much work goes into packing: the usual amount.
const LEVEL: i32 = 3;

/// What a segment or checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heading {
    /// The number of the segment, or of the last one that a checkpoint covers.
    pub(super) number: u64,
    /// The BLAKE3 of the first segment; that one has none.
    pub(super) origin: Option<Digest>,
    /// The number of the last checkpoint that its writer knew of; only a hint.
    #[serde(default)]
    pub(super) checkpoint: u64,
}

/// What a segment does to the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Operation {
    /// A result is there. Of several of one action the first counts that is signed by whom the reader trusts.
    Publish(Box<Published>),
    /// The action gave another result than the one that was published.
    Differs {
        /// The action.
        key: Key,
        /// The other result.
        artifact: ArtifactId,
    },
    /// The bytes of publications are gone, or go; it counts for those who trust its signer.
    Lost(Statement),
}

/// A published result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Published {
    pub(super) key: Key,
    pub(super) artifact: ArtifactId,
    /// The record as [`Record::to_text`] writes it.
    pub(super) record: String,
    /// The list of files, unless it is large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<String>,
    /// Where a large list of files lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) list: Option<Slice>,
    /// Where those files lie that are in packs; the others are objects of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) packed: Vec<Packed>,
    /// Who vouches for the record, if anybody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signature: Option<Signature>,
    /// How often a result of the action was published before: one that is given again, since its bytes were lost, is another
    /// publication.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) again: u64,
    /// The chaining values by which the pieces of large files can be checked; see [`super::subtrees`]. They prove themselves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) subtrees: BTreeMap<Digest, String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A piece of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slice {
    pub(super) pack: Digest,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The files that lie in one pack: their numbers in the list of files, and where in the pack each begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Packed {
    pub(super) pack: Digest,
    pub(super) files: Vec<(u32, u64)>,
}

impl Published {
    /// Whose key signed it.
    pub(super) fn signer(&self) -> Option<&PublicKey> {
        self.signature.as_ref().map(|signature| &signature.by)
    }

    /// What it is told from other publications by: what is published, and where it lies.
    pub(super) fn name(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        // A list of files that is noted here, although it was published elsewhere, makes no difference.
        let told = (&self.record, &self.list, &self.packed, &self.signature, self.again);
        match serde_json::to_writer(&mut hasher, &told) {
            Ok(()) => hasher.finalize().into(),
            // Nothing of this kind can fail; the record alone is a name too.
            Err(_) => Digest::of(self.record.as_bytes()),
        }
    }

    /// Whether its bytes are told to lie where those of another publication of the same result do. What is published besides may name
    /// any other place, in good faith or not.
    pub(super) fn lies_like(&self, other: &Self) -> bool {
        let told = |published: &Self| (published.manifest.is_some(), published.list);
        self.artifact == other.artifact && told(self) == told(other) && self.packed == other.packed
    }

    /// What was published for an action; says what is wrong with it otherwise.
    pub(super) fn open(&self, key: &Key) -> Result<Known, String> {
        if self.key != *key {
            return Err(format!("it belongs to action {}", self.key));
        }
        let (record, manifest) = self.read()?;
        Ok(Known { record, manifest, published: self.clone() })
    }

    /// The record and the list of files, which must be those of the action and the result that they stand under.
    pub(super) fn read(&self) -> Result<(Record, Option<Manifest>), String> {
        let record = Record::from_text(self.record.as_bytes()).map_err(|problem| format!("the record: {problem}"))?;
        if record.key != self.key {
            return Err(format!("the record belongs to action {}", record.key));
        }
        if record.artifact != self.artifact {
            return Err("the record names another result".to_owned());
        }
        let manifest = self.manifest.as_ref().map(|text| Manifest::of_artifact(&self.artifact, text.as_bytes()));
        let manifest = manifest.transpose().map_err(|problem| format!("the list of files: {problem}"))?;
        Ok((record, manifest))
    }
}

/// A segment as bytes; an error if nobody would read so many, see [`decode`].
pub(super) fn encode<'a>(
    heading: &Heading,
    operations: impl IntoIterator<Item = &'a Operation>,
    most: u64,
) -> Result<Vec<u8>, RemoteError> {
    pack(&to_text(heading, operations)?, most)
}

/// The lines of a segment or checkpoint.
pub(super) fn to_text<'a>(
    heading: &Heading,
    operations: impl IntoIterator<Item = &'a Operation>,
) -> Result<Vec<u8>, RemoteError> {
    let unwritten = |error: serde_json::Error| self::unwritten(error.into());
    let mut text = serde_json::to_vec(heading).map_err(unwritten)?;
    for operation in operations {
        text.push(b'\n');
        serde_json::to_writer(&mut text, operation).map_err(unwritten)?;
    }
    Ok(text)
}

/// Lines as bytes; an error if nobody would read so many.
pub(super) fn pack(text: &[u8], most: u64) -> Result<Vec<u8>, RemoteError> {
    let packed = zstd::bulk::compress(text, LEVEL).map_err(unwritten)?;
    let bytes = [&MAGIC[..], Digest::of(&packed).as_bytes(), &packed].concat();
    let size = text.len().max(bytes.len()) as u64;
    if size > most {
        return Err(unwritten(std::io::Error::other(format!("it has {size} bytes, and {most} at most are read"))));
    }
    Ok(bytes)
}

fn unwritten(source: std::io::Error) -> RemoteError {
    RemoteError::Encoding { what: "a segment of the index", source }
}

/// How much of a segment is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// What this version knows. What later versions say besides is theirs.
    Known,
    /// All of it, by whoever removes something.
    Whole,
}

/// What a segment or checkpoint says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) heading: Heading,
    pub(super) operations: Vec<Operation>,
    /// Those among them, by their numbers, that say more than this version knows, if it was read for that.
    pub(super) partly_known: Vec<usize>,
    /// How many other lines this version does not know. They do nothing here, but mean something to somebody.
    pub(super) unknown: usize,
}

/// Reads what [`encode`] wrote, if it unpacks to so many bytes at most; says what is wrong otherwise.
#[cfg(test)]
pub(super) fn decode(bytes: &[u8], most: u64) -> Result<(Heading, Vec<Operation>), String> {
    decode_all(bytes, most, Reading::Known).map(|decoded| (decoded.heading, decoded.operations))
}

/// The same, and how much of it is not understood.
pub(super) fn decode_all(bytes: &[u8], most: u64, reading: Reading) -> Result<Decoded, String> {
    from_text(&unpack(bytes, most)?, reading)
}

/// The lines that [`pack`] made bytes of.
pub(super) fn unpack(bytes: &[u8], most: u64) -> Result<String, String> {
    let content = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(32));
    let Some((_, packed)) = content.filter(|(check, packed)| *check == Digest::of(packed).as_bytes()) else {
        return Err("it is damaged (cut short or changed), or was written by another version of twdag".to_owned());
    };
    let mut text = String::new();
    zstd::stream::read::Decoder::new(packed)
        .and_then(|unpacked| unpacked.take(most + 1).read_to_string(&mut text))
        .map_err(|error| format!("it cannot be unpacked: {error}"))?;
    if text.len() as u64 > most {
        return Err(format!("it unpacks to more than {most} bytes"));
    }
    Ok(text)
}

/// Reads the lines of a segment or checkpoint.
pub(super) fn from_text(text: &str, reading: Reading) -> Result<Decoded, String> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let heading: Heading =
        serde_json::from_str(first).map_err(|error| format!("its heading cannot be read: {error}"))?;
    if heading.number > LAST || heading.checkpoint > LAST {
        return Err(format!("its heading bears a number beyond {LAST}"));
    }
    let says_more = |line: &str, operation: &Operation| {
        let is_loss_unknown = || matches!(operation, Operation::Lost(statement) if !losses::is_wholly_known(statement));
        reading == Reading::Whole && (!is_wholly_known(line.as_bytes(), operation) || is_loss_unknown())
    };
    let (mut operations, mut partly_known) = (Vec::new(), Vec::new());
    let mut unknown = usize::from(reading == Reading::Whole && !is_wholly_known(first.as_bytes(), &heading));
    for line in lines {
        match serde_json::from_str(line) {
            Ok(operation) => {
                if says_more(line, &operation) {
                    partly_known.push(operations.len());
                }
                operations.push(operation);
            }
            Err(_) => unknown += 1,
        }
    }
    Ok(Decoded { heading, operations, partly_known, unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_reads_back_and_shows_every_change() {
        let key: Key = Digest::of(b"key").into();
        let heading = Heading { number: 7, origin: Some(Digest::of(b"first")), checkpoint: 0 };
        let differs = |other: &[u8]| Operation::Differs { key, artifact: Digest::of(other).into() };
        let operations = [differs(b"other"), differs(b"third")];
        let bytes = encode(&heading, &operations, MOST).unwrap();
        assert_eq!(decode(&bytes, MOST), Ok((heading, operations.to_vec())));
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            assert!(decode(&changed, MOST).is_err() && decode(&bytes[..position], MOST).is_err(), "{position}");
        }
    }

    #[test]
    fn what_unpacks_to_too_much_or_bears_no_number_is_refused() {
        let bomb = zstd::bulk::compress(&vec![b'\n'; MOST as usize + 1], LEVEL).unwrap();
        let bomb = [&MAGIC[..], Digest::of(&bomb).as_bytes(), &bomb].concat();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(decode(&bomb, MOST).unwrap_err(), format!("it unpacks to more than {MOST} bytes"));
        for (number, checkpoint) in [(u64::MAX, 0), (1, u64::MAX)] {
            let bytes = encode(&Heading { number, origin: None, checkpoint }, [], MOST).unwrap();
            assert!(decode(&bytes, MOST).is_err());
        }
        // Nor is it written.
        let heading = Heading { number: 1, origin: None, checkpoint: 0 };
        let length = encode(&heading, [], MOST).unwrap().len() as u64;
        let problem = encode(&heading, [], length - 1).unwrap_err().to_string();
        assert!(
            encode(&heading, [], length).is_ok() && problem.contains(&format!("it has {length} bytes")),
            "{problem}"
        );
    }
}
