//! Low-rank adapters (LoRA, arXiv 2106.09685): beside a frozen matrix W `[outputs, inputs]` stand A `[rank, inputs]` and
//! B `[outputs, rank]`, and the product becomes `y = x W^T + scaling * (x A^T) B^T`.
//!
//! The low-rank path is kept apart from W in forward and backward passes: neither a merged copy of the weights nor a
//! gradient of W ever exists, so what training adds to the frozen model is the adapter, its gradient and its moments.

mod base;
mod files;
mod initialize;
mod merge;
mod products;

pub use base::BaseModel;
pub(super) use files::CONFIG;

use std::{ops::Range, sync::Arc};

use super::{Layout, ModelError, Tensor, gradients::numbers, linear::Linear};

/// What PEFT puts before the names of a model's own modules.
const PREFIX: &str = "base_model.model.";

/// Names of the matrices in the blocks of all architectures, as PEFT's `target_modules` has them.
pub const TARGETS: [&str; 10] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "dense", "fc1", "fc2"];

/// The form of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSettings {
    /// Rows of A, columns of B.
    pub rank: usize,
    /// The numerator of [`Self::scaling`].
    pub alpha: f64,
    /// Whether the scaling divides by the root of the rank instead of the rank (arXiv 2312.03732).
    pub rslora: bool,
    /// Last parts of the names of the adapted matrices, such as `q_proj`; all matrices of the blocks if empty.
    pub targets: Vec<String>,
}

impl AdapterSettings {
    /// The factor of the low-rank path: `alpha / rank`, or `alpha / sqrt(rank)` with `rslora`.
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// One adapted matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// Where the matrix that the forward pass reads starts among the model's parameters; several parts may share it
    /// (query, key, value).
    linear: usize,
    /// The place of this part's own matrix among the model's parameters.
    weight: Range<usize>,
    /// The first of its columns in the rows that the shared matrix gives.
    column: usize,
    inputs: usize,
    outputs: usize,
    /// The place of A in the adapter's buffer.
    a: Range<usize>,
    /// The place of B.
    b: Range<usize>,
}

/// An adapter for the matrices of one model, f32.
#[derive(Clone, Debug)]
pub struct Adapter {
    settings: AdapterSettings,
    /// In the order of the model's parameters.
    parts: Vec<Part>,
    tensors: Arc<[Tensor]>,
    values: Vec<f32>,
}

impl Adapter {
    /// One of zeros for the matrices of `layout` that `settings` name.
    fn zeros(layout: &Layout, settings: AdapterSettings) -> Result<Self, ModelError> {
        let (parts, tensors) = places(layout, &settings)?;
        let values = vec![0.0; numbers(&tensors)];
        Ok(Self { settings, parts, tensors: tensors.into(), values })
    }

    /// How many numbers one has.
    pub(super) fn size(layout: &Layout, settings: &AdapterSettings) -> Result<usize, ModelError> {
        Ok(numbers(&places(layout, settings)?.1))
    }

    /// Its form.
    pub fn settings(&self) -> &AdapterSettings {
        &self.settings
    }

    /// A and B of each adapted matrix under PEFT's names, in the order of [`Self::values`].
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub(super) fn shared_tensors(&self) -> Arc<[Tensor]> {
        Arc::clone(&self.tensors)
    }

    /// All numbers, flat.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The numbers of one tensor, by PEFT's name.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name)?;
        Some(&self.values[tensor.range.clone()])
    }

    /// For each adapted matrix: where the matrix that it is applied with starts among the model's parameters, its columns in
    /// the rows which that gives, its inputs, and the places of A and B in [`Self::values`].
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, Range<usize>, usize, [Range<usize>; 2])> {
        self.parts.iter().map(|part| {
            let columns = part.column..part.column + part.outputs;
            (part.linear, columns, part.inputs, [part.a.clone(), part.b.clone()])
        })
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Refuses a model whose matrices lie elsewhere or have other shapes.
    pub(super) fn fits(&self, layout: &Layout) -> Result<(), ModelError> {
        let own = Self::zeros(layout, self.settings.clone())?;
        if own.parts == self.parts && own.tensors == self.tensors {
            return Ok(());
        }
        let expected = format!("those of an adapter for this model, which has {}", own.values.len());
        Err(ModelError::Size { what: "numbers of the adapter", found: self.values.len(), expected })
    }
}

/// The matrices of `layout` that `settings` name, and A and B of each.
fn places(layout: &Layout, settings: &AdapterSettings) -> Result<(Vec<Part>, Vec<Tensor>), ModelError> {
    let rank = settings.rank;
    if rank == 0 {
        return Err(wrong("rank", 0, "a number above 0"));
    }
    if !(settings.alpha > 0.0 && settings.alpha.is_finite()) {
        return Err(wrong("alpha", settings.alpha, "a finite number above 0"));
    }
    let matrices = matrices(layout);
    for (index, target) in settings.targets.iter().enumerate() {
        if !matrices.iter().any(|matrix| matrix.target == *target) {
            let mut known: Vec<&str> = Vec::new();
            for matrix in &matrices {
                if !known.contains(&matrix.target) {
                    known.push(matrix.target);
                }
            }
            return Err(wrong(&format!("targets.{index}"), target, &expected_target(target, &known)));
        }
    }
    let is_target = |name: &str| settings.targets.is_empty() || settings.targets.iter().any(|target| target == name);
    let matrices: Vec<Matrix<'_>> = matrices.into_iter().filter(|matrix| is_target(matrix.target)).collect();
    // More than this adds nothing but memory.
    let sizes = |matrix: &Matrix<'_>| matrix.linear.inputs.max(matrix.tensor.range.len() / matrix.linear.inputs);
    let widest = matrices.iter().map(sizes).max().unwrap_or(0);
    if rank > widest {
        return Err(wrong("rank", rank, &format!("at most {widest}, the width of the widest matrix")));
    }
    let (mut parts, mut tensors, mut len) = (Vec::new(), Vec::new(), 0);
    for Matrix { linear, tensor, .. } in matrices {
        let (inputs, outputs) = (linear.inputs, tensor.range.len() / linear.inputs);
        let mut add = |which: &str, shape: [usize; 2]| {
            let range = len..len + shape[0] * shape[1];
            len = range.end;
            let module = tensor.name.trim_end_matches(".weight");
            let name = format!("{PREFIX}{module}.{which}.weight");
            tensors.push(Tensor { name, shape: shape.to_vec(), range: range.clone() });
            range
        };
        parts.push(Part {
            linear: linear.weight.start,
            weight: tensor.range.clone(),
            column: (tensor.range.start - linear.weight.start) / inputs,
            inputs,
            outputs,
            a: add("lora_A", [rank, inputs]),
            b: add("lora_B", [outputs, rank]),
        });
    }
    Ok((parts, tensors))
}

/// A matrix of a block that can be adapted.
struct Matrix<'a> {
    linear: &'a Linear,
    tensor: &'a Tensor,
    /// The last part of its module's name.
    target: &'a str,
}

fn matrices(layout: &Layout) -> Vec<Matrix<'_>> {
    let mut found = Vec::new();
    for linear in layout.blocks.iter().flat_map(super::layout::BlockLayout::matrices) {
        let inside = |tensor: &&Tensor| linear.weight.contains(&tensor.range.start);
        for tensor in layout.tensors().iter().filter(inside) {
            let module = tensor.name.trim_end_matches(".weight");
            found.push(Matrix { linear, tensor, target: module.rsplit('.').next().unwrap_or(module) });
        }
    }
    found
}

/// What a target module should have been: one of `known`, and which of them is nearest.
pub fn expected_target(found: &str, known: &[&str]) -> String {
    let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let similar = |name: &&&str| strsim::jaro_winkler(found, name);
    let nearest = known.iter().max_by(|a, b| similar(a).total_cmp(&similar(b))).filter(|name| similar(name) > 0.7);
    let hint = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("one of the matrices in the model's blocks: {list}{hint}")
}

fn wrong(setting: &str, found: impl ToString, expected: &str) -> ModelError {
    ModelError::Adapter { setting: setting.to_owned(), found: found.to_string(), expected: expected.to_owned() }
}
