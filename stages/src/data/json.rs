//! Small JSON files with one spelling for one value.

use std::{fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::DataError;

/// Writes `value` as indented JSON with sorted keys and a final line break.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DataError> {
    let value = serde_json::to_value(value).map_err(|error| DataError::content(path, error))?;
    let mut text = serde_json::to_string_pretty(&sorted(value)).map_err(|error| DataError::content(path, error))?;
    text.push('\n');
    fs::write(path, text).map_err(DataError::io("write", path))
}

/// Reads a JSON file; the error names line and column.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| DataError::content(path, error))
}

/// The map type of `serde_json` keeps or sorts its keys depending on a feature that any dependency may turn on.
pub(crate) fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|(left, _), (right, _)| left.cmp(right));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}
