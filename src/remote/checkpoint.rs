//! Checkpoints: all that the segments up to a number say, in one object, and on whose word.
//!
//! Which segment is the next is settled by its creation, for every reader. A checkpoint only says what its writer has read, and whoever
//! may create objects can write one that leaves lines out, or has them in another order. So its last line is a statement that holds the
//! BLAKE3 of the others and says on whose word they rest: those who signed the checkpoints that its writer began with. Who names keys
//! believes it if all of them, and whoever signed it, are among these.

use serde::{Deserialize, Serialize};

use super::{
    RemoteError,
    segment::{Heading, MOST_OF_CHECKPOINT, Operation, Reading, from_text, pack, to_text, unpack},
    signing::{Keys, Meaning, PublicKey, Statement},
};
use crate::digest::Digest;

/// On whose word it rests what is known of a log, besides the segments that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// These have signed it; nobody, if all segments were read.
    Signers(Vec<PublicKey>),
    /// Somebody who has signed nothing.
    Anybody,
}

impl Default for Basis {
    fn default() -> Self {
        Self::Signers(Vec::new())
    }
}

impl Basis {
    /// Whether it is enough for somebody with these keys.
    pub(super) fn suffices(&self, keys: &Keys) -> bool {
        match self {
            Self::Signers(signers) => signers.iter().all(|signer| keys.trust(Some(signer))),
            Self::Anybody => keys.trust(None),
        }
    }

    /// The key by which a checkpoint on this basis is signed, if it is: one that rests on nobody's word would not be believed.
    pub(super) fn signer(&self, keys: &Keys) -> Option<PublicKey> {
        if *self == Self::Anybody { None } else { keys.public() }
    }
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    signed: Statement,
}

/// What it states.
#[derive(Serialize, Deserialize)]
struct Content {
    /// The BLAKE3 of all lines before it.
    lines: Digest,
    rests_on: Vec<PublicKey>,
}

/// What a checkpoint says.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) heading: Heading,
    pub(super) operations: Vec<Operation>,
    pub(super) basis: Basis,
}

/// Who wrote a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// This machine, for itself.
    Own,
    /// Somebody with access to the store.
    Anybody,
}

impl Checkpoint {
    /// As bytes, signed if these keys sign; an error if nobody would read so many.
    pub(super) fn to_bytes(&self, keys: &Keys) -> Result<Vec<u8>, RemoteError> {
        let mut text = to_text(&self.heading, &self.operations)?;
        if let Basis::Signers(signers) = &self.basis {
            let unwritten = |error: serde_json::Error| RemoteError::Encoding {
                what: "a checkpoint of the index",
                source: error.into(),
            };
            let content = Content { lines: Digest::of(&text), rests_on: signers.clone() };
            let content = serde_json::to_string(&content).map_err(unwritten)?;
            let signed = Statement::new(Meaning::Checkpoint, content, keys);
            text.push(b'\n');
            serde_json::to_writer(&mut text, &Signed { signed }).map_err(unwritten)?;
        }
        pack(&text, MOST_OF_CHECKPOINT)
    }

    /// Reads one; says what is wrong otherwise. That nobody vouches for it is not wrong.
    pub(super) fn from_bytes(bytes: &[u8], writer: Writer) -> Result<Self, String> {
        let text = unpack(bytes, MOST_OF_CHECKPOINT)?;
        let split = text.rsplit_once('\n').and_then(|(lines, last)| Some((lines, serde_json::from_str(last).ok()?)));
        let (lines, basis) = match split {
            Some((lines, Signed { signed })) => (lines, basis(lines, &signed, writer)),
            None => (&*text, Basis::Anybody),
        };
        let decoded = from_text(lines, Reading::Known)?;
        Ok(Self { heading: decoded.heading, operations: decoded.operations, basis })
    }
}

/// On whose word the lines rest, as a statement says.
fn basis(lines: &str, signed: &Statement, writer: Writer) -> Basis {
    let content = serde_json::from_str::<Content>(&signed.text).ok();
    let content = content.filter(|content| content.lines == Digest::of(lines.as_bytes()));
    let signer = signed.signer(Meaning::Checkpoint);
    match (content, signer, writer) {
        (Some(content), None, Writer::Own) => Basis::Signers(content.rests_on),
        (Some(Content { mut rests_on, .. }), Some(signer), Writer::Anybody) => {
            rests_on.push(signer);
            rests_on.sort();
            rests_on.dedup();
            Basis::Signers(rests_on)
        }
        _ => Basis::Anybody,
    }
}
