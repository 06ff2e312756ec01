//! Signatures: who vouches for a result. Whoever may write to a bucket can put anything there; what counts is whose key signed it.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    str::FromStr,
};

use ed25519_dalek::{Signer, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::{RemoteError, segment::Published};
use crate::digest::Digest;

const PREFIX: &str = "ed25519:";

/// What is signed. A signature of one meaning is none of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The record of a result, as text.
    Record,
    /// That somebody computes an action, as text.
    Claim,
    /// That publications have lost their bytes, as text.
    Loss,
    /// What a member keeps, as text.
    Roots,
    /// What a checkpoint says, and on whose word it rests, as text.
    Checkpoint,
}

impl Meaning {
    /// Changes with the meaning of signatures; then none that was made before counts.
    const fn context(self) -> &'static str {
        match self {
            Self::Record => "twdag 1 signed record",
            Self::Claim => "twdag 1 signed claim",
            Self::Loss => "twdag 1 signed loss",
            Self::Roots => "twdag 1 signed roots",
            Self::Checkpoint => "twdag 1 signed checkpoint",
        }
    }

    fn message(self, text: &str) -> [u8; 32] {
        blake3::derive_key(self.context(), text.as_bytes())
    }
}

/// 32 bytes that nobody can guess.
pub(super) fn random() -> io::Result<Digest> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(blake3::Hash::from_bytes(bytes).into())
}

/// A signature of a record. It stands for the result as a whole, since the record names the action and the artifact, and the
/// artifact is the digest of all bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signature {
    /// Who signed.
    pub(super) by: PublicKey,
    /// 64 bytes as hexadecimal digits.
    signature: String,
}

/// The public half of a key that signs results; written as `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", Digest::from(blake3::Hash::from_bytes(self.0.to_bytes())))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no public key: expected `{PREFIX}` and 64 hexadecimal digits");
        let digits: Digest = text.trim().strip_prefix(PREFIX).ok_or_else(wrong)?.parse().map_err(|_| wrong())?;
        VerifyingKey::from_bytes(digits.as_bytes()).map(Self).map_err(|_| wrong())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A key that signs results. Nothing shows its secret half.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// Reads the file that [`SigningKey::create`] wrote.
    pub fn read(path: &Path) -> Result<Self, RemoteError> {
        let refuse = |problem: String| RemoteError::Key { path: path.to_owned(), problem };
        let text = fs::read_to_string(path).map_err(|error| refuse(format!("it cannot be read: {error}")))?;
        let seed: Digest = text.trim().parse().map_err(|_| {
            refuse("it holds no key: expected 64 hexadecimal digits; make one with `twdag store keygen`".to_owned())
        })?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(seed.as_bytes())))
    }

    /// Makes a key and writes it into a new file that only its owner can read.
    pub fn create(path: &Path) -> Result<Self, RemoteError> {
        let create = || -> io::Result<Digest> {
            let seed = random()?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            writeln!(file, "{seed}")?;
            file.sync_all()?;
            Ok(seed)
        };
        let seed = create().map_err(|error| RemoteError::Key {
            path: path.to_owned(),
            problem: format!("it cannot be written: {error}"),
        })?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(seed.as_bytes())))
    }

    /// The half that may be told.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs bytes whose form says what they are for: no record or claim, of which a digest of 32 bytes is signed.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }

    pub(super) fn sign(&self, meaning: Meaning, text: &str) -> Signature {
        let signature = self.0.sign(&meaning.message(text)).to_bytes();
        let signature = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        Signature { by: self.public(), signature }
    }
}

impl Signature {
    /// Whether its key signed a text with that meaning.
    pub(super) fn holds(&self, meaning: Meaning, text: &str) -> bool {
        let mut bytes = [0; 64];
        if self.signature.len() != 128 || !self.signature.is_ascii() {
            return false;
        }
        for (byte, digits) in bytes.iter_mut().zip(self.signature.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            let Ok(value) = u8::from_str_radix(digits, 16) else { return false };
            *byte = value;
        }
        self.by.0.verify_strict(&meaning.message(text), &ed25519_dalek::Signature::from_bytes(&bytes)).is_ok()
    }
}

/// A text, and who vouches for it, if anybody does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statement {
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

impl Statement {
    /// Signed, if this machine signs.
    pub(super) fn new(meaning: Meaning, text: String, keys: &Keys) -> Self {
        let signature = keys.signing.as_ref().map(|key| key.sign(meaning, &text));
        Self { text, signature }
    }

    /// Whether it bears a signature that does not hold: it was changed.
    pub(super) fn is_broken(&self, meaning: Meaning) -> bool {
        self.signature.is_some() && self.signer(meaning).is_none()
    }

    /// Whose signature it bears. One that does not hold is none.
    pub(super) fn signer(&self, meaning: Meaning) -> Option<PublicKey> {
        let signature = self.signature.as_ref()?;
        signature.holds(meaning, &self.text).then_some(signature.by)
    }
}

/// Whose results are used, and who vouches for what this machine gives.
#[derive(Debug, Default)]
pub struct Keys {
    /// Whose results are used; everybody's if there is none.
    pub trusted: Vec<PublicKey>,
    /// What this machine signs with.
    pub signing: Option<SigningKey>,
}

impl Keys {
    /// Whether what somebody says counts here.
    pub(super) fn trust(&self, signer: Option<&PublicKey>) -> bool {
        self.trusted.is_empty() || signer.is_some_and(|signer| self.trusted.contains(signer))
    }

    /// Whether what this machine says counts for those who trust the same keys.
    pub(super) fn is_heard(&self) -> bool {
        self.trust(self.public().as_ref())
    }

    /// The public half of what this machine signs with.
    pub(super) fn public(&self) -> Option<PublicKey> {
        self.signing.as_ref().map(SigningKey::public)
    }

    /// A name for all who trust the same keys; none where everybody's word counts.
    pub(super) fn policy(&self) -> Option<Digest> {
        let trusted: BTreeSet<&PublicKey> = self.trusted.iter().collect();
        let mut hasher = blake3::Hasher::new();
        for key in &trusted {
            hasher.update(key.0.as_bytes());
        }
        (!trusted.is_empty()).then(|| hasher.finalize().into())
    }

    /// Whether a published result is of somebody who is trusted, whatever it says.
    pub(super) fn vouch(&self, published: &Published) -> bool {
        let holds = |signature: &Signature| {
            self.trusted.contains(&signature.by) && signature.holds(Meaning::Record, &published.record)
        };
        self.trusted.is_empty() || published.signature.as_ref().is_some_and(holds)
    }

    /// Whether a published result is used here. A signed record that stands under another action or result is none: it must
    /// not take the place of the right one.
    pub(super) fn accept(&self, published: &Published) -> bool {
        self.vouch(published) && published.read().is_ok()
    }
}
