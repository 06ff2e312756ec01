//! Digests that a remote file must have.

use std::fmt::{self, Write};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::stage::SettingError;

/// An algorithm and the digest that it must give, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Blake3,
    /// SHA-1 of `blob SIZE`, a zero byte and the content: how git names the content of a file.
    GitBlob(u64),
}

impl Pin {
    /// From the hexadecimal digits alone.
    pub(super) fn sha256(hex: &str) -> Option<Self> {
        is_hex(hex, 64).then(|| Self { algorithm: Algorithm::Sha256, hex: hex.to_ascii_lowercase() })
    }

    /// From git's name of a content of so many bytes.
    pub(super) fn git_blob(hex: &str, size: u64) -> Option<Self> {
        is_hex(hex, 40).then(|| Self { algorithm: Algorithm::GitBlob(size), hex: hex.to_ascii_lowercase() })
    }

    /// The digits, without the algorithm.
    pub(super) fn hex(&self) -> &str {
        &self.hex
    }

    pub(super) fn parse(path: &str, text: &str) -> Result<Self, SettingError> {
        let wrong = || {
            let expected = "`sha256:` or `blake3:` and 64 hexadecimal digits (`sha256sum FILE` prints them)";
            SettingError::new(path, format!("`{text}`"), expected)
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(wrong)?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "blake3" => Algorithm::Blake3,
            _ => return Err(wrong()),
        };
        if !is_hex(hex, 64) {
            return Err(wrong());
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    pub(super) fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Blake3 => Hasher::Blake3(Box::new(blake3::Hasher::new())),
            Algorithm::GitBlob(size) => Hasher::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0")), size),
        }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

impl fmt::Display for Pin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Blake3 => "blake3",
            Algorithm::GitBlob(_) => "git-sha1",
        };
        write!(formatter, "{algorithm}:{}", self.hex)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
    GitBlob(Sha1, u64),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher, _) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    pub(super) fn finish(self) -> Pin {
        match self {
            Self::Sha256(hasher) => Pin { algorithm: Algorithm::Sha256, hex: hex(&hasher.finalize()) },
            Self::GitBlob(hasher, size) => Pin { algorithm: Algorithm::GitBlob(size), hex: hex(&hasher.finalize()) },
            Self::Blake3(hasher) => Pin { algorithm: Algorithm::Blake3, hex: hasher.finalize().to_hex().to_string() },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing into a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
