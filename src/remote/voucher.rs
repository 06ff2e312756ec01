//! Who vouches for a result of this machine's store. A machine signs what it has computed; what it got from others keeps the
//! signature that it came with, or none, however often it is passed on.

use serde::{Deserialize, Serialize};

use super::{
    Address, Known,
    signing::{Keys, Meaning, PublicKey, Signature},
};
use crate::store::{Origin, Record, Store, StoreError};

/// What is noted of a result that is taken in from a remote store.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Brought {
    /// Where from.
    store: String,
    /// The record as it stood there, which the signature is of.
    record: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

impl Brought {
    pub(super) fn new(address: &Address, known: &Known) -> Self {
        let published = &known.published;
        Self { store: address.to_string(), record: published.record.clone(), signature: published.signature.clone() }
    }

    /// The signature of the record as it came, if it is that of this action and result, and holds.
    fn signer(&self, record: &Record) -> Option<&Signature> {
        let signature = self.signature.as_ref()?;
        let is_it = Record::from_text(self.record.as_bytes())
            .is_ok_and(|signed| signed.key == record.key && signed.artifact == record.artifact);
        (is_it && signature.holds(Meaning::Record, &self.record)).then_some(signature)
    }
}

/// Where a result of this machine's store comes from, and who has signed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attribution {
    /// The shared store it was fetched from; none if this machine has computed it.
    pub fetched_from: Option<String>,
    /// Whose signature it came with, and which holds. What this machine has computed is signed when it is given to others.
    pub signed_by: Option<PublicKey>,
    /// Why less is known than was noted, in plain words.
    pub attribution_problem: Option<String>,
}

impl Attribution {
    /// Where a result of this machine's store comes from.
    pub fn of(store: &Store, record: &Record) -> Result<Self, StoreError> {
        Ok(match store.origin::<Brought>(record)? {
            Origin::Here => Self::default(),
            Origin::Unknown => Self {
                attribution_problem: Some(
                    "it was fetched from elsewhere, and what was noted of that cannot be read".to_owned(),
                ),
                ..Self::default()
            },
            Origin::Elsewhere(brought) => {
                let signer = brought.signer(record);
                let is_wrong = brought.signature.is_some() && signer.is_none();
                Self {
                    signed_by: signer.map(|signature| signature.by),
                    attribution_problem: is_wrong.then_some("the signature that it came with does not hold".to_owned()),
                    fetched_from: Some(brought.store),
                }
            }
        })
    }
}

/// Who vouches for a result.
#[derive(Debug)]
pub(super) enum Voucher {
    /// This machine, which has computed it.
    Own,
    /// Who has signed its record as it came.
    Signer {
        /// The record as text.
        record: String,
        signature: Box<Signature>,
    },
    /// Nobody.
    Nobody,
}

impl Voucher {
    /// Who vouches for a result. Who joins a result from parts that others have computed cannot vouch for it.
    pub(super) fn of(store: &Store, record: &Record) -> Result<Self, StoreError> {
        match store.origin::<Brought>(record)? {
            Origin::Here => {}
            Origin::Elsewhere(brought) => {
                return Ok(match brought.signer(record).cloned() {
                    Some(signature) => Self::Signer { record: brought.record, signature: Box::new(signature) },
                    None => Self::Nobody,
                });
            }
            Origin::Unknown => return Ok(Self::Nobody),
        }
        for part in record.parts.iter().filter(|part| part.cached) {
            let is_own = match store.record(&part.key)? {
                Some(part) => matches!(store.origin::<Brought>(&part)?, Origin::Here),
                None => false,
            };
            if !is_own {
                return Ok(Self::Nobody);
            }
        }
        Ok(Self::Own)
    }

    /// Why a result is not given to others by a machine with these keys, if it is not: they would take it for vouched for, or
    /// this machine would not use it itself.
    pub(super) fn refusal(&self, keys: &Keys) -> Option<String> {
        match self {
            Self::Own => None,
            Self::Signer { signature, .. } if keys.trusted.is_empty() || keys.trusted.contains(&signature.by) => None,
            Self::Signer { signature, .. } => Some(format!(
                "it was fetched from elsewhere, and {}, who has signed it, is not trusted here; compute it on this machine to \
                 vouch for it",
                signature.by
            )),
            Self::Nobody if keys.trusted.is_empty() && keys.signing.is_none() => None,
            Self::Nobody => Some(
                "it, or a part of it, was fetched from elsewhere, and nobody has signed it; compute it on this machine to vouch \
                 for it"
                    .to_owned(),
            ),
        }
    }
}
