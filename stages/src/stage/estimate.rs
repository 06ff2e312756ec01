//! What can be told of a stage before anything that it reads is there.

use serde_json::{Map, Value};

use super::Reference;

/// What a stage's result will be, as far as settings tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlook {
    /// The `config.json` of the model in it.
    pub config: Option<Map<String, Value>>,
    /// How many token sequences are in it.
    pub sequences: Option<u64>,
    /// Tokens in each of them.
    pub length: Option<u64>,
    /// Bytes on the disk.
    pub bytes: Option<u64>,
}

/// What a stage computes with a model, as far as settings tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Parameters of the model.
    pub parameters: u64,
    /// Tokens that go forward through the model, and no gradient comes back.
    pub forward_tokens: u64,
    /// Tokens that the model is trained on.
    pub training_tokens: u64,
    /// Floating-point operations, a multiplication and an addition being two.
    pub operations: f64,
    /// Bytes at the peak, in the memory of the device if it computes on one.
    pub memory: u64,
    /// Bytes at the peak in the memory of the host beside a device, of what is kept there on purpose.
    pub host_memory: u64,
    /// Whether it computes on a device other than the CPU.
    pub is_on_device: bool,
    /// Whether products are taken in bf16.
    pub is_bf16: bool,
}

/// What is told of a stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Its result.
    pub outlook: Outlook,
    /// Its work with a model; nothing where there is none, or where it is not known.
    pub work: Option<Work>,
}

/// What is known of the results that a stage reads.
pub type Outlooks<'a> = dyn Fn(&Reference) -> Outlook + 'a;
