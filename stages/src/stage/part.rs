//! Parts: pieces of a stage's work that stand alone.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Reference, StageError};

/// A piece of a stage's work that can be computed, kept and tried again alone. Its result depends on the kind, its
/// revision, `settings` and the content of `inputs`, and on nothing else: `name` and `place` may differ between two
/// parts that are the same to the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is, for people, such as `treasure-island.txt`.
    pub name: String,
    /// What the result depends on, as JSON text: the settings that matter, and the digests of the content that is read
    /// from inputs which are not read whole.
    pub settings: String,
    /// The inputs that are read whole; their content counts.
    pub inputs: Vec<Reference>,
    /// Where that content lies in the inputs, as JSON text. It does not count.
    pub place: String,
    /// How much work it is, in the unit of its [`Split`].
    pub size: u64,
}

impl Part {
    /// Puts a part together; `settings` and `place` are whatever its kind reads back.
    pub fn new(
        name: impl Into<String>,
        settings: &impl Serialize,
        inputs: &[Reference],
        place: &impl Serialize,
        size: u64,
    ) -> Result<Self, StageError> {
        Ok(Self {
            name: name.into(),
            settings: serde_json::to_string(settings).map_err(unreadable)?,
            inputs: inputs.to_vec(),
            place: serde_json::to_string(place).map_err(unreadable)?,
            size,
        })
    }

    /// Reads settings and place back.
    pub fn read<S: DeserializeOwned, P: DeserializeOwned>(&self) -> Result<(S, P), StageError> {
        let settings = serde_json::from_str(&self.settings).map_err(unreadable)?;
        Ok((settings, serde_json::from_str(&self.place).map_err(unreadable)?))
    }
}

// Both texts are written and read by one build of the program.
#[allow(clippy::needless_pass_by_value, reason = "the signature that `map_err` wants")]
fn unreadable(error: serde_json::Error) -> StageError {
    StageError::Bug(format!("a part cannot be handed over: {error}"))
}

/// How a stage's work falls into parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// What the sizes of the parts count, in the plural: `bytes`, `tokens`.
    pub unit: String,
    /// The parts, in the order in which they are joined.
    pub parts: Vec<Part>,
}

/// A part and the read-only folder of its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedPart {
    /// The part.
    pub part: Part,
    /// What [`super::Kind::run_part`] has written.
    pub folder: PathBuf,
}
