//! The two kinds of setting that point outside the stage. Both serialise as named newtypes, so that whoever
//! computes a key can tell them from plain strings and put the *content* they point to in their place.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names the stage whose artifact is read here: `"stage"`, or `"stage/path/inside"` for a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename = "Reference", from = "String")]
pub struct Reference(String);

impl Reference {
    /// The name under which serde announces this newtype.
    pub const SERDE_NAME: &'static str = "Reference";

    /// The whole text as it stands in the graph.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the stage.
    pub fn stage(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(stage, _)| stage)
    }

    /// The path inside the stage's artifact, if only a part of it is meant.
    pub fn path(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, path)| path)
    }
}

impl From<String> for Reference {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Reference {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A file or folder outside the graph, relative to the workspace. Its content enters the key, its path does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename = "SourcePath", from = "String")]
pub struct SourcePath(String);

impl SourcePath {
    /// The name under which serde announces this newtype.
    pub const SERDE_NAME: &'static str = "SourcePath";

    /// The path as it stands in the graph.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A path below this one; an empty `below` is this path itself.
    #[must_use]
    pub fn join(&self, below: &str) -> Self {
        if below.is_empty() { self.clone() } else { Self(format!("{}/{below}", self.0.trim_end_matches('/'))) }
    }
}

impl From<String> for SourcePath {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for SourcePath {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for SourcePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
