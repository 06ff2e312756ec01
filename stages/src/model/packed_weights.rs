//! Weights rounded to bf16 beforehand, those of one layer at a time: all blocks of rows go through a layer before the next
//! one, so a copy of a layer is all that they need. For f32, products read weights from where they are.

use super::{
    Model,
    kernels::{Matrix, PANEL, PackedColumns, Pairs, Right, pack_columns},
    linear::Linear,
    workspace::ScratchPool,
};

/// Which pass reads the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pass {
    /// Rows times the transposed matrix.
    #[default]
    Forward,
    /// Rows' gradients times the matrix.
    Backward,
}

/// Matrices of a layer, packed for one pass.
#[derive(Debug, Default)]
pub(super) struct PackedWeights {
    pass: Pass,
    pairs: Pairs,
    /// For each matrix where its parameters begin, and where its pairs do.
    places: Vec<(usize, usize)>,
}

/// A model with what is packed of its weights.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) model: &'a Model,
    packed: Option<&'a PackedWeights>,
}

impl PackedWeights {
    /// Packs these matrices in the place of what was packed before, if the model's precision asks for it.
    pub(super) fn pack<'a>(
        &mut self,
        model: &Model,
        pass: Pass,
        matrices: impl Iterator<Item = &'a Linear> + Clone,
        scratch: &ScratchPool,
    ) {
        self.places.clear();
        self.pass = pass;
        if !model.precision().is_bf16() {
            return;
        }
        let mut len = 0;
        for linear in matrices.clone() {
            self.places.push((linear.weight.start, len));
            len += Self::len(pass, linear);
        }
        if self.pairs.len() < len {
            self.pairs.resize(len);
        }
        let mut rest = &mut *self.pairs;
        let mut tasks = Vec::new();
        for linear in matrices {
            let (depth, columns) = pass.size(linear);
            let panel = depth.div_ceil(2) * PANEL;
            let target = super::linear::take(&mut rest, Self::len(pass, linear));
            for (index, target) in target.chunks_mut(panel).enumerate() {
                let start = index * PANEL;
                tasks.push((linear, start..columns.min(start + PANEL), target));
            }
        }
        scratch.run(tasks, |(linear, columns, target), _| {
            let weight = &model.parameters()[linear.weight.clone()];
            let (inputs, outputs) = (linear.inputs, linear.outputs);
            let matrix = match pass {
                Pass::Forward => {
                    Matrix::new(&weight[columns.start * inputs..], columns.len(), inputs, inputs).transposed()
                }
                Pass::Backward => Matrix::new(&weight[columns.start..], outputs, columns.len(), inputs),
            };
            let stride = target.len();
            pack_columns(matrix, target, stride);
        });
    }

    /// Pairs of a matrix.
    pub(super) fn len(pass: Pass, linear: &Linear) -> usize {
        let (depth, columns) = pass.size(linear);
        PackedColumns::len(depth, columns)
    }
}

impl Pass {
    /// Inner size of a product with a matrix, and columns that it gives.
    fn size(self, linear: &Linear) -> (usize, usize) {
        match self {
            Self::Forward => (linear.inputs, linear.outputs),
            Self::Backward => (linear.outputs, linear.inputs),
        }
    }
}

impl<'a> Weights<'a> {
    /// A model of which nothing is packed.
    pub(super) fn plain(model: &'a Model) -> Self {
        Self { model, packed: None }
    }

    /// A model with some matrices packed.
    pub(super) fn new(model: &'a Model, packed: &'a PackedWeights) -> Self {
        Self { model, packed: Some(packed) }
    }

    /// A matrix as the right factor of a pass's products.
    pub(super) fn of(self, linear: &Linear, pass: Pass) -> Right<'a> {
        let packed = self.packed.filter(|packed| packed.pass == pass);
        let place = packed.and_then(|packed| {
            let (_, start) = packed.places.iter().find(|(weight, _)| *weight == linear.weight.start)?;
            Some(&packed.pairs[*start..])
        });
        let (depth, columns) = pass.size(linear);
        if let Some(pairs) = place {
            return PackedColumns::new(pairs, depth, columns).into();
        }
        let weight = &self.model.parameters()[linear.weight.clone()];
        let matrix = Matrix::new(weight, linear.outputs, linear.inputs, linear.inputs);
        match pass {
            Pass::Forward => matrix.transposed().into(),
            Pass::Backward => matrix.into(),
        }
    }
}
