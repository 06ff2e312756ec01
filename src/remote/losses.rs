//! What the log says of publications whose bytes are gone: they were collected, or found damaged. It counts for those who trust
//! who says so, and for nobody else: otherwise whoever could write a line could take away what the trusted have published.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    RemoteError,
    segment::Published,
    signing::{Keys, Meaning, PublicKey, Statement},
    understood,
};
use crate::digest::Digest;

/// So many publications are named in one statement.
pub(super) const AT_ONCE: usize = 50_000;

/// What a statement says.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// The first segment of the log that it belongs to, so that it says nothing of another one.
    origin: Option<Digest>,
    /// Publications, by their names.
    lost: Vec<Digest>,
    why: Why,
}

/// Why publications have no bytes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Why {
    /// Nobody keeps them, or bytes are gone. Should somebody keep them after all while all bytes are there, they come back.
    Collected,
    /// Bytes, a list of files or a record are not what they must be.
    Damaged,
}

/// Who says so.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    signer: Option<PublicKey>,
    why: Why,
}

/// All that a log says of it.
#[derive(Debug, Default)]
pub(super) struct Losses {
    statements: Vec<Statement>,
    /// For each publication, who says that it is lost.
    said: HashMap<Digest, Vec<Said>>,
}

/// A statement about publications of a log.
pub(super) fn statement(
    origin: Option<Digest>,
    lost: Vec<Digest>,
    why: Why,
    keys: &Keys,
) -> Result<Statement, RemoteError> {
    let text = serde_json::to_string(&Content { origin, lost, why })
        .map_err(|error| RemoteError::Encoding { what: "what is lost", source: error.into() })?;
    Ok(Statement::new(Meaning::Loss, text, keys))
}

/// The publications that a statement names.
pub(super) fn named(statement: &Statement) -> Vec<Digest> {
    serde_json::from_str(&statement.text).map_or_else(|_| Vec::new(), |content: Content| content.lost)
}

/// Whether this version knows all that a statement says.
pub(super) fn is_wholly_known(statement: &Statement) -> bool {
    let text = statement.text.as_bytes();
    serde_json::from_slice::<Content>(text).is_ok_and(|content| understood::is_wholly_known(text, &content))
}

impl Losses {
    /// Takes a statement in, if it is one about this log.
    pub(super) fn take(&mut self, statement: Statement, origin: Option<Digest>) {
        let Ok(content) = serde_json::from_str::<Content>(&statement.text) else { return };
        if content.origin != origin || self.statements.contains(&statement) {
            return;
        }
        let signer = statement.signer(Meaning::Loss);
        for name in content.lost {
            let said = self.said.entry(name).or_default();
            let new = Said { signer, why: content.why };
            if !said.contains(&new) {
                said.push(new);
            }
        }
        self.statements.push(statement);
    }

    /// Whether a publication is lost, as far as somebody with these keys is concerned.
    pub(super) fn has(&self, published: &Published, keys: &Keys) -> bool {
        self.said_of(published, keys).next().is_some()
    }

    /// Whether it is since it was found to be damaged.
    pub(super) fn is_damaged(&self, published: &Published, keys: &Keys) -> bool {
        self.said_of(published, keys).any(|said| said.why == Why::Damaged)
    }

    fn said_of<'a>(&'a self, published: &Published, keys: &'a Keys) -> impl Iterator<Item = &'a Said> {
        let said = if self.said.is_empty() { None } else { self.said.get(&published.name()) };
        said.into_iter().flatten().filter(|said| keys.trust(said.signer.as_ref()))
    }

    /// Grows with each statement.
    pub(super) fn count(&self) -> usize {
        self.statements.len()
    }

    pub(super) fn statements(&self) -> &[Statement] {
        &self.statements
    }
}
