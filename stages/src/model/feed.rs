//! What follows attention in a block: the part in which the architectures differ.

use std::ops::Range;

use super::{
    layout::BlockLayout,
    linear::{Applied, Linear},
    llama,
    packed_weights::Weights,
    phi,
    shape::{Place, Shape},
    workspace::{Backward, Saved, Scratch},
};

/// The rest of a block after attention, by architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    Llama(llama::Feed),
    Phi(phi::Feed),
}

/// What the rest of a block leaves for the backward pass, for a block of rows, and what it gives.
pub(super) struct FeedOutput<'a> {
    /// See [`Saved::middle`].
    pub(super) middle: &'a mut [f32],
    /// See [`Saved::raised`].
    pub(super) raised: &'a mut [f32],
    /// The block's output, `[rows, hidden]`.
    pub(super) output: &'a mut [f32],
}

/// What [`Feed::backward`] writes for a block of rows: gradients, and in `activation` and `normalized` values of the
/// forward pass again. Buffers that an architecture has no use for are empty.
pub(super) struct FeedGradients<'a> {
    pub(super) middle: &'a mut [f32],
    pub(super) raised: &'a mut [f32],
    pub(super) activation: &'a mut [f32],
    pub(super) normalized: &'a mut [f32],
    pub(super) attended: &'a mut [f32],
    /// A partial sum of the gradients of the part's own norm.
    pub(super) norm: &'a mut [f32],
    /// What dropout leaves of the output's gradient, for attention and the rest; empty without dropout.
    pub(super) dropped: [&'a mut [f32]; 2],
}

impl Feed {
    /// Its matrices in the order of the buffer.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Linear> + Clone {
        match self {
            Self::Llama(feed) => [&feed.gate_up, &feed.down].into_iter(),
            Self::Phi(feed) => [&feed.up, &feed.down].into_iter(),
        }
    }

    /// The place of the parameters of a norm of its own.
    pub(super) fn norm(&self) -> Option<Range<usize>> {
        match self {
            Self::Llama(feed) => Some(feed.norm.range()),
            Self::Phi(_) => None,
        }
    }

    /// From attention's output and the block's input to the block's output.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward(
        &self,
        weights: Weights<'_>,
        layer: &BlockLayout,
        shape: &Shape,
        place: Place,
        input: &[f32],
        attended: &[f32],
        output: FeedOutput<'_>,
        scratch: &mut Scratch,
    ) {
        match self {
            Self::Llama(feed) => feed.forward(weights, layer, shape, input, attended, output, scratch),
            Self::Phi(feed) => feed.forward(weights, layer, shape, place, input, attended, output, scratch),
        }
    }

    /// From the gradient of the block's output to that of attention's output.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward(
        &self,
        weights: Weights<'_>,
        layer: &BlockLayout,
        shape: &Shape,
        place: Place,
        saved: &Saved,
        output: &[f32],
        gradients: &mut FeedGradients<'_>,
        scratch: &mut Scratch,
    ) {
        match self {
            Self::Llama(feed) => feed.backward(weights, layer, shape, place, saved, output, gradients, scratch),
            Self::Phi(feed) => feed.backward(weights, layer, shape, place, saved, output, gradients, scratch),
        }
    }

    /// For a block of rows, the gradient of the block's input as far as it does not go through the block's norm, written
    /// to `input`; what reaches the normalized rows past attention is added to `normalized`.
    pub(super) fn input_gradient(
        &self,
        weights: Weights<'_>,
        shape: &Shape,
        place: Place,
        buffers: &FeedBuffers<'_>,
        input: &mut [f32],
        normalized: &mut [f32],
    ) {
        match self {
            Self::Llama(_) => input.copy_from_slice(place.of(buffers.middle, shape.hidden)),
            Self::Phi(feed) => {
                input.copy_from_slice(place.of(buffers.output, shape.hidden));
                let raised = place.of(buffers.raised, shape.raised);
                feed.up.input_gradient(weights, raised, normalized, true);
            }
        }
    }

    /// The block's own matrices past the projection to queries, keys and values, each with what it was applied to, in
    /// the order of the buffer.
    pub(super) fn applied<'a>(
        &'a self,
        layer: &'a BlockLayout,
        saved: &'a Saved,
        buffers: &'a Backward,
    ) -> [Applied<'a>; 3] {
        match self {
            Self::Llama(feed) => feed.applied(layer, saved, buffers),
            Self::Phi(feed) => feed.applied(layer, saved, buffers),
        }
    }
}

/// Gradients of all rows that [`Feed::backward`] was given and has written.
pub(super) struct FeedBuffers<'a> {
    pub(super) output: &'a [f32],
    pub(super) middle: &'a [f32],
    pub(super) raised: &'a [f32],
}
