//! Settings that say how a stage works and not what it makes.

use serde::{Deserialize, Serialize};

/// A setting that changes no byte of the result, such as how often a training is saved on its way: no key contains it.
/// It serialises as a named newtype, so that whoever computes a key can tell it from the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Manner")]
pub struct Manner<T>(pub T);

impl Manner<()> {
    /// The name under which serde announces this newtype.
    pub const SERDE_NAME: &'static str = "Manner";
}
