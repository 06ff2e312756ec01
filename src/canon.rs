//! The canonical encoding of settings for keys.
//!
//! Every value starts with a tag byte; whatever has a length says it first, so no two values share an encoding and
//! none is the beginning of another.
//!
//! | value | bytes |
//! |---|---|
//! | `None`, unit | `N`, `U` |
//! | `Some(x)`, a newtype struct | as `x` |
//! | `false`, `true` | `F`, `T` |
//! | an integer of any width | `I` and its 16 bytes as an i128, little-endian |
//! | a float of any width | `D` and the 8 bytes of the f64, little-endian; `-0.0` as `0.0`; NaN is refused |
//! | text, a char, bytes | `S` (bytes: `B`), the length as u64, the bytes |
//! | a sequence, a tuple | `L`, the number of elements as u64, the elements |
//! | a map | `M`, the number of entries, keys and values in the order of iteration |
//! | a struct | `R`, the number of fields, names and values sorted by name; fields that are `None` are left out |
//! | an enum variant | `V`, the name of the variant, and its contents as unit, value, tuple or struct |
//! | a `Reference`, a `SourcePath` | `@`, `/`: what they point to is keyed by its content, apart |
//! | a `Manner` | `N`, whatever its value: as a field, it is left out |
//!
//! So neither the order of a struct's fields nor a new field that is `None` changes a key, nor does the name of a
//! Rust type. The order of a map does: serde cannot tell an `IndexMap`, whose order may show in a result (the rows of
//! a report), from a `BTreeMap`, which is sorted anyway. Settings hold no `HashMap` and no `#[serde(flatten)]`.

mod encoder;

use serde::Serialize;
use thiserror::Error;

/// Settings that have no canonical encoding.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CanonError {
    /// NaN differs from itself, so a key that contains it would mean nothing.
    #[error("a setting is NaN (not a number), which no key can hold; give a number")]
    NotANumber,
    /// More than 127 bits.
    #[error("the integer {0} is too large for a key")]
    TooLarge(u128),
    /// What a type's own `Serialize` says.
    #[error("{0}")]
    Custom(String),
}

impl serde::ser::Error for CanonError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

/// The canonical bytes of some settings; see the module for the format.
pub fn encode(settings: &dyn erased_serde::Serialize) -> Result<Vec<u8>, CanonError> {
    let mut bytes = Vec::new();
    settings.serialize(encoder::Encoder { bytes: &mut bytes })?;
    Ok(bytes)
}

/// The settings as JSON: for people, records and differences, never for keys. References and source paths stay.
pub fn display(settings: &dyn erased_serde::Serialize) -> serde_json::Value {
    serde_json::to_value(settings)
        .unwrap_or_else(|error| serde_json::Value::String(format!("settings that JSON cannot show: {error}")))
}

#[cfg(test)]
mod tests;
