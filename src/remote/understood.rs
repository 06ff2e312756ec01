//! Whether this version of twdag understands all that somebody has written. Whoever only reads takes what it knows and leaves the rest
//! to later versions. Whoever removes something must know all of it: what is left over may say that something is needed.

use serde::Serialize;
use serde_json::Value;

/// Whether all that stands in a text was taken into what was read from it.
pub(super) fn is_wholly_known(text: &[u8], read: &impl Serialize) -> bool {
    let (Ok(text), Ok(read)) = (serde_json::from_slice(text), serde_json::to_value(read)) else { return false };
    is_within(&text, &read)
}

/// Whether a value is another one, or that without some fields: those are the ones that have a default.
fn is_within(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| is_within(part, whole)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| is_within(part, whole))
        }
        (part, whole) => part == whole,
    }
}
