//! Digests that a remote file must have.

use std::fmt::{self, Write};

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
}

impl Pin {
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
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    pub(super) fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Blake3 => Hasher::Blake3(Box::new(blake3::Hasher::new())),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Blake3 => "blake3",
        };
        write!(formatter, "{algorithm}:{}", self.hex)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    pub(super) fn finish(self) -> Pin {
        match self {
            Self::Sha256(hasher) => {
                let hex = hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
                    // Writing into a string cannot fail.
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
                Pin { algorithm: Algorithm::Sha256, hex }
            }
            Self::Blake3(hasher) => Pin { algorithm: Algorithm::Blake3, hex: hasher.finalize().to_hex().to_string() },
        }
    }
}
