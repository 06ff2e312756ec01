//! Which tensors the device holds: the layout's, but with the matrices that read the same input as one tensor.

use std::ops::Range;

use crate::model::{Layout, feed, layout::BlockLayout, linear, norm};

/// One tensor on the device: a parameter tensor, or several that lie side by side and are applied as one.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Its place in the flat buffer of the [`Layout`].
    pub(super) range: Range<usize>,
    /// `[outputs, inputs]` for matrices and `[width]` for norms and biases.
    pub(super) shape: Vec<usize>,
}

impl Slot {
    /// Whether rows are multiplied with it. These are also the tensors to which weight decay applies.
    pub(super) fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }
}

/// A matrix with or without a bias, by the numbers of their slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) weight: usize,
    pub(super) bias: Option<usize>,
}

/// A norm, by the numbers of its slots.
#[derive(Clone, Copy, Debug)]
pub(super) enum Norm {
    Rms { weight: usize },
    Layer { weight: usize, bias: usize },
}

/// One block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) norm: Norm,
    pub(super) query_key_value: Linear,
    pub(super) output: Linear,
    pub(super) feed: Feed,
}

/// What follows attention.
#[derive(Clone, Copy, Debug)]
pub(super) enum Feed {
    Llama { norm: Norm, gate_up: Linear, down: Linear },
    Phi { up: Linear, down: Linear },
}

/// All slots, and which part of the model each belongs to.
#[derive(Debug)]
pub(super) struct Structure {
    /// In the order of the flat buffer.
    pub(super) slots: Vec<Slot>,
    pub(super) embedding: usize,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: Norm,
    /// Its matrix is the embedding itself if the two are tied.
    pub(super) head: Linear,
}

impl Structure {
    /// That of a layout; `hidden` is the width of the residual stream.
    pub(super) fn new(layout: &Layout, hidden: usize) -> Self {
        let mut slots = Slots::default();
        let vocabulary = layout.embedding.len() / hidden;
        let embedding = slots.add(&layout.embedding, vec![vocabulary, hidden]);
        let blocks = layout.blocks.iter().map(|block| slots.block(block)).collect();
        let final_norm = slots.norm(&layout.final_norm);
        let head = if layout.head.weight == layout.embedding {
            let bias = layout.head.bias.as_ref().map(|bias| slots.add(bias, vec![vocabulary]));
            Linear { weight: embedding, bias }
        } else {
            slots.linear(&layout.head)
        };
        Self { slots: slots.0, embedding, blocks, final_norm, head }
    }
}

#[derive(Default)]
struct Slots(Vec<Slot>);

impl Slots {
    fn add(&mut self, range: &Range<usize>, shape: Vec<usize>) -> usize {
        self.0.push(Slot { range: range.clone(), shape });
        self.0.len() - 1
    }

    fn linear(&mut self, linear: &linear::Linear) -> Linear {
        let weight = self.add(&linear.weight, vec![linear.outputs, linear.inputs]);
        Linear { weight, bias: linear.bias.as_ref().map(|bias| self.add(bias, vec![linear.outputs])) }
    }

    fn norm(&mut self, norm: &norm::Norm) -> Norm {
        match norm {
            norm::Norm::Rms { weight } => Norm::Rms { weight: self.add(weight, vec![weight.len()]) },
            norm::Norm::Layer { weight, bias } => {
                let weight = self.add(weight, vec![weight.len()]);
                Norm::Layer { weight, bias: self.add(bias, vec![bias.len()]) }
            }
        }
    }

    fn block(&mut self, block: &BlockLayout) -> Block {
        Block {
            norm: self.norm(&block.norm),
            query_key_value: self.linear(&block.query_key_value),
            output: self.linear(&block.output),
            feed: match &block.feed {
                feed::Feed::Llama(feed) => Feed::Llama {
                    norm: self.norm(&feed.norm),
                    gate_up: self.linear(&feed.gate_up),
                    down: self.linear(&feed.down),
                },
                feed::Feed::Phi(feed) => Feed::Phi { up: self.linear(&feed.up), down: self.linear(&feed.down) },
            },
        }
    }
}
