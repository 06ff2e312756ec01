//! A model with its parameters.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Adapter, Config, Dropout, Gradients, Layout, ModelError, Precision, Rope, Tensor, forward, head,
    rope::RopeTables,
    shape::Shape,
    workspace::{Activations, Workspace},
};

/// A language model on the CPU. Its parameters are f32.
#[derive(Debug)]
pub struct Model {
    config: Config,
    layout: Arc<Layout>,
    parameters: Vec<f32>,
    /// If there is one, it is what training changes, and `parameters` stay.
    adapter: Option<Adapter>,
    activations: Activations,
    precision: Precision,
    dropout: Option<Dropout>,
    tables: Mutex<Option<Arc<RopeTables>>>,
    /// Buffers of finished calls: those of scoring and those of training differ in size, so each keeps its own.
    scoring: Mutex<Vec<Workspace>>,
    training: Mutex<Vec<Workspace>>,
}

/// What a model says of the targets of a batch. Target `i` of a sequence is its token `i + 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Cross entropy of each target in nats, `[batch * (length - 1)]`.
    pub cross_entropy: Vec<f32>,
    /// The most probable token in each target's place.
    pub argmax: Vec<u32>,
}

/// Most rows that are scored at once; larger batches are scored in groups of sequences, which changes no bit.
const SCORED_ROWS: usize = 8192;

/// Sequences of that length that are scored at once.
pub(super) fn scored_together(length: usize) -> usize {
    (SCORED_ROWS / length).max(1)
}

impl Model {
    pub(super) fn from_parameters(config: Config, layout: Layout, parameters: Vec<f32>) -> Self {
        Self {
            config,
            layout: Arc::new(layout),
            parameters,
            adapter: None,
            activations: Activations::default(),
            precision: Precision::default(),
            dropout: None,
            tables: Mutex::default(),
            scoring: Mutex::default(),
            training: Mutex::default(),
        }
    }

    /// Shape and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where each tensor lies in [`Self::parameters`].
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The low-rank adapter beside the parameters.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Puts an adapter beside the parameters, in the place of another one if there is: from now on it takes part in all
    /// results, and it alone is trained.
    pub fn set_adapter(&mut self, adapter: Adapter) -> Result<(), ModelError> {
        adapter.fits(&self.layout)?;
        self.adapter = Some(adapter);
        Ok(())
    }

    pub(super) fn take_adapter(&mut self) -> Option<Adapter> {
        self.adapter.take()
    }

    /// Says what training leaves of each layer for its backward pass; no bit of any result depends on it.
    pub fn set_activations(&mut self, activations: Activations) {
        self.activations = activations;
        self.training = Mutex::default();
    }

    /// Says in which numbers products are taken from now on, in scoring and training. The products of an adapter, which are
    /// small, stay f32; generation is for models in f32.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Says how the passes of training drop what blocks add to the residual stream, from the next one on; scoring never does.
    /// Only a Phi has residual dropout.
    pub fn set_dropout(&mut self, dropout: Option<Dropout>) {
        self.dropout = dropout;
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// The tensors that are trained: all, or those of the adapter.
    pub(super) fn trained(&self) -> Arc<[Tensor]> {
        self.adapter.as_ref().map_or_else(|| self.layout.shared_tensors(), Adapter::shared_tensors)
    }

    /// Changes the trained parameters in place.
    pub(super) fn update_trained(&mut self, change: impl FnOnce(&mut [f32])) {
        match &mut self.adapter {
            Some(adapter) => change(adapter.values_mut()),
            None => self.update(change),
        }
    }

    /// All parameters, flat.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// The parameters of one tensor, by its Hugging Face name.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let tensor = self.layout.tensors().iter().find(|tensor| tensor.name == name)?;
        Some(&self.parameters[tensor.range.clone()])
    }

    /// Changes the parameters in place.
    pub fn update(&mut self, change: impl FnOnce(&mut [f32])) {
        change(&mut self.parameters);
    }

    /// The same parameters under another rotary embedding.
    pub fn with_rope(mut self, rope: Rope) -> Result<Self, ModelError> {
        rope.check(self.config.rotary_dim())?;
        self.config.rope = rope;
        self.tables = Mutex::default();
        Ok(self)
    }

    /// Cosines and sines for at least `length` positions.
    pub(super) fn tables(&self, length: usize) -> Arc<RopeTables> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let exact = self.config.rope.depends_on_length();
        match &*tables {
            Some(found) if found.length == length || (!exact && found.length > length) => Arc::clone(found),
            _ => {
                let made = Arc::new(self.config.rope.tables(self.config.rotary_dim(), length));
                *tables = Some(Arc::clone(&made));
                made
            }
        }
    }

    /// Cross entropy and most probable token of every target; `ids` is `[batch, length]`.
    ///
    /// Logits exist for a block of rows at a time. The result for a sequence does not depend on what else is in the
    /// batch. Sequences may be longer than [`Config::context`], but not than [`Rope::longest`].
    pub fn score(&self, ids: &[u32], batch: usize) -> Result<Predictions, ModelError> {
        let length = self.config.check_batch(ids, batch)?;
        let tables = self.tables(length);
        let mut predictions = Predictions { cross_entropy: Vec::new(), argmax: Vec::new() };
        let group = scored_together(length) * length;
        let mut workspace = taken(&self.scoring);
        for ids in ids.chunks(group) {
            let shape = Shape::new(&self.config, ids.len() / length, length);
            workspace.prepare(&shape, self.precision, self.config.layers, None);
            forward::forward(self, &shape, ids, &tables, &mut workspace);
            head::forward(self, &shape, ids, &mut workspace, false);
            workspace.head.targets(&shape, &mut predictions);
        }
        returned(&self.scoring, workspace);
        Ok(predictions)
    }

    /// Cross entropy of every target, and the gradient of a loss that depends on these by the trained parameters, added
    /// to `gradients`.
    ///
    /// `coefficients` gets the cross entropy of each target (nats, `[batch * (length - 1)]`) and answers the
    /// derivative of the loss by each of them; for a mean, that is one over their number. Weights that were computed
    /// from the cross entropies are thereby constants of the derivative.
    #[allow(clippy::type_complexity)]
    pub fn forward_backward<E: From<ModelError>>(
        &self,
        ids: &[u32],
        batch: usize,
        coefficients: &mut dyn FnMut(&[f32]) -> Result<Vec<f32>, E>,
        gradients: &mut Gradients,
    ) -> Result<Vec<f32>, E> {
        let (shape, tables, mut workspace) = self.training_forward(ids, batch, gradients)?;
        let forward = head::forward(self, &shape, ids, &mut workspace, true);
        let cross_entropy = workspace.head.cross_entropy(&shape);
        let coefficients = coefficients(&cross_entropy)?;
        expect_size(&coefficients, cross_entropy.len())?;
        super::backward::backward(self, &shape, ids, &tables, &coefficients, forward, &mut workspace, gradients);
        returned(&self.training, workspace);
        Ok(cross_entropy)
    }

    /// As [`Self::forward_backward`], with the same bits, where the derivative by each cross entropy does not depend on
    /// any: the logits need to be computed only once then.
    pub fn forward_backward_fixed(
        &self,
        ids: &[u32],
        batch: usize,
        coefficients: &[f32],
        gradients: &mut Gradients,
    ) -> Result<Vec<f32>, ModelError> {
        let (shape, tables, mut workspace) = self.training_forward(ids, batch, gradients)?;
        expect_size(coefficients, ids.len() - batch)?;
        let forward = head::Forward::Due;
        super::backward::backward(self, &shape, ids, &tables, coefficients, forward, &mut workspace, gradients);
        let cross_entropy = workspace.head.cross_entropy(&shape);
        returned(&self.training, workspace);
        Ok(cross_entropy)
    }

    /// Checks, and the forward pass up to the output layer, kept for the backward pass.
    fn training_forward(
        &self,
        ids: &[u32],
        batch: usize,
        gradients: &Gradients,
    ) -> Result<(Shape, Arc<RopeTables>, Workspace), ModelError> {
        let length = self.config.check_batch(ids, batch)?;
        gradients.check(self)?;
        let tables = self.tables(length);
        let shape = Shape { dropout: self.dropout, ..Shape::new(&self.config, batch, length) };
        let mut workspace = taken(&self.training);
        workspace.prepare(&shape, self.precision, self.config.layers, Some(self.activations));
        forward::forward(self, &shape, ids, &tables, &mut workspace);
        Ok((shape, tables, workspace))
    }
}

fn expect_size(coefficients: &[f32], expected: usize) -> Result<(), ModelError> {
    if coefficients.len() == expected {
        return Ok(());
    }
    let (found, expected) = (coefficients.len(), expected.to_string());
    Err(ModelError::Size { what: "number of coefficients", found, expected })
}

fn taken(pool: &Mutex<Vec<Workspace>>) -> Workspace {
    pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
}

fn returned(pool: &Mutex<Vec<Workspace>>, workspace: Workspace) {
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
}
