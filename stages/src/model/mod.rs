//! Models in training form: configuration, checkpoints, forward and backward on the CPU, in f32 or with products of factors
//! that are rounded to bf16.
//!
//! A [`Model`] keeps all its parameters in one flat buffer ([`Layout`] says where each tensor lies), computes the
//! cross entropy of every target ([`Model::score`]) and its gradient ([`Model::forward_backward`]) without a tape:
//! each block of 64 rows of a sequence goes through a whole layer as one task over reused buffers.
//!
//! The architectures share attention, products, norms, rotary embeddings and the head; `llama` and `phi` say how a block
//! of theirs is laid out and what follows its attention.
//!
//! Every sum has an order that depends on shapes alone, so results are the same bytes for any number of threads and with
//! any instruction set, and the cross entropy of a sequence is the same alone and in a batch. What the standard library
//! takes from the host's C library (logarithms, powers, sines) differs between hosts, so these come from `libm`.

mod adamw;
mod adapter;
mod architecture;
mod attention;
mod backward;
mod batch;
mod checkpoint;
mod companions;
mod compute_device;
mod config;
mod cost;
mod device;
mod dropout;
mod error;
mod feed;
mod forward;
mod generation;
mod gradients;
mod head;
mod initialize;
mod kernels;
mod keys_values;
mod language_model;
mod layout;
mod linear;
mod llama;
mod memory;
mod moments;
mod norm;
mod packed_weights;
mod phi;
mod placed_model;
mod precision;
mod rope;
mod safetensors_file;
mod shape;
mod shards;
mod workspace;

pub use adamw::{AdamW, AdamWSettings};
pub use adapter::{Adapter, AdapterSettings, BaseModel, TARGETS, expected_target};
pub use architecture::Architecture;
pub use companions::{Companions, copy_companions};
pub use compute_device::ComputeDevice;
pub use config::Config;
pub use cost::{Cost, Scoring, model_outlook, scoring_work};
pub use device::{DeviceGradients, DeviceModel, DeviceTraining};
pub use dropout::Dropout;
pub use error::ModelError;
pub use generation::{Cache, Generated, Generation, Prompt, Sampling};
pub use gradients::Gradients;
pub use language_model::{Model, Predictions};
pub use layout::{Layout, Tensor};
pub use memory::{MemoryBudget, Purpose};
pub use moments::MomentStorage;
pub use placed_model::PlacedModel;
pub use precision::Precision;
pub use rope::Rope;
pub use workspace::Activations;
