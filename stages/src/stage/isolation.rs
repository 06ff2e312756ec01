//! How far a program that a stage starts is kept from what the stage does not declare.

use serde::{Deserialize, Serialize};

/// How far a program that a stage starts is kept from what the stage does not declare. It says how a run works and is no part of a
/// key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Not at all.
    #[default]
    Off,
    /// It is told what the program reads, writes and reaches beyond that.
    Warn,
    /// The program is refused that, and the stage fails.
    Enforce,
}

impl Isolation {
    /// All, as users write them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Warn, Self::Enforce];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Enforce => "enforce",
        }
    }
}

/// What a program may do beyond what its stage declares, because the stage's policy allows it. No part of a key, as isolation is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Files and folders that it may read, and Unix sockets there that it may connect to: whole, from the workspace on, or from the home
    /// folder on (`~/…`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// Whether it may use the network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network: bool,
}

impl Allowed {
    /// Whether nothing is allowed.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Each thing that is allowed, in words.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.read.iter().map(String::as_str).chain(self.network.then_some("the network"))
    }
}
