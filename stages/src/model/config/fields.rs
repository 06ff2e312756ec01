//! Typed access to the fields of one object of `config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::model::ModelError;

/// One object of the file; every answer is a value of the wanted type or an error that names the field.
#[derive(Clone, Copy)]
pub(in crate::model) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
    /// Where the object lies in the file, with a dot at its end.
    pub(super) prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// The outermost object of a file; `path` is for messages.
    pub(in crate::model) fn of(path: &'a Path, object: &'a Map<String, Value>) -> Self {
        Self { path, object, prefix: "" }
    }
}

impl Fields<'_> {
    pub(in crate::model) fn error(&self, field: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.path.to_owned(),
            field: format!("{}{field}", self.prefix),
            problem: problem.into(),
        }
    }

    pub(in crate::model) fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, field: &str, expected: &str) -> Result<&Value, ModelError> {
        self.get(field).ok_or_else(|| self.error(field, format!("missing, expected {expected}")))
    }

    pub(in crate::model) fn count(&self, field: &str) -> Result<usize, ModelError> {
        let expected = "a positive whole number";
        let value = self.required(field, expected)?;
        match value.as_u64() {
            Some(number) if number > 0 && number < 1 << 40 => Ok(number as usize),
            _ => Err(self.error(field, format!("found {value}, expected {expected}"))),
        }
    }

    pub(super) fn optional_count(&self, field: &str) -> Result<Option<usize>, ModelError> {
        self.get(field).map(|_| self.count(field)).transpose()
    }

    pub(in crate::model) fn number(&self, field: &str) -> Result<f64, ModelError> {
        let expected = "a positive number";
        let value = self.required(field, expected)?;
        positive(value).ok_or_else(|| self.error(field, format!("found {value}, expected {expected}")))
    }

    pub(in crate::model) fn optional_number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        self.get(field).map(|_| self.number(field)).transpose()
    }

    /// A list of exactly `count` positive numbers.
    pub(super) fn numbers(&self, field: &str, count: usize) -> Result<Vec<f64>, ModelError> {
        let expected = format!("a list of {count} positive numbers, one for each pair that is rotated");
        let value = self.required(field, &expected)?;
        let found = value.as_array().map(|values| values.iter().map(positive).collect::<Option<Vec<_>>>());
        match found {
            Some(Some(numbers)) if numbers.len() == count => Ok(numbers),
            Some(Some(numbers)) => {
                Err(self.error(field, format!("found {} numbers, expected {expected}", numbers.len())))
            }
            _ => Err(self.error(field, format!("found {value}, expected {expected}"))),
        }
    }

    pub(in crate::model) fn flag(&self, field: &str) -> Result<Option<bool>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.error(field, format!("found {value}, expected true or false"))),
        }
    }

    pub(super) fn ids(&self, field: &str) -> Result<Vec<u32>, ModelError> {
        let wrong = |value: &Value| self.error(field, format!("found {value}, expected a token id or a list of them"));
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(value));
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    /// Refuses a feature that changes the arithmetic.
    pub(in crate::model) fn only(&self, field: &str, supported: &Value) -> Result<(), ModelError> {
        match self.get(field) {
            Some(value) if value != supported => {
                Err(self.error(field, format!("found {value}, only {supported} is supported")))
            }
            _ => Ok(()),
        }
    }
}

fn positive(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| *number > 0.0 && number.is_finite())
}
