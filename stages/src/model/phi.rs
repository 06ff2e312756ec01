//! A Phi's block, whose two parts read the same normalized rows: `y = x + attention(n) + down(gelu(up(n)))` with
//! `n = norm(x)`.

use super::{
    Config,
    dropout::Branch,
    feed::{Feed as AnyFeed, FeedGradients, FeedOutput},
    kernels,
    layout::{BlockLayout, Builder},
    linear::{Applied, Linear},
    packed_weights::Weights,
    shape::{Place, Shape},
    workspace::{Backward, Saved, Scratch},
};

/// The GELU unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feed {
    /// `[intermediate, hidden]`.
    pub(super) up: Linear,
    /// `[hidden, intermediate]`.
    pub(super) down: Linear,
}

/// Lays out the block of a number.
pub(super) fn layout(config: &Config, number: usize, builder: &mut Builder) -> BlockLayout {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.key_value_heads * config.head_dim);
    let name = |rest: &str| format!("model.layers.{number}.{rest}");
    let attention = |rest: &str, outputs| (name(&format!("self_attn.{rest}")), outputs);
    BlockLayout {
        number,
        norm: builder.layer_norm(&name("input_layernorm"), hidden),
        query_key_value: builder.linear(
            &[attention("q_proj", queries), attention("k_proj", keys), attention("v_proj", keys)],
            hidden,
            true,
        ),
        output: builder.linear(&[attention("dense", hidden)], queries, true),
        feed: AnyFeed::Phi(Feed {
            up: builder.linear(&[(name("mlp.fc1"), inner)], hidden, true),
            down: builder.linear(&[(name("mlp.fc2"), hidden)], inner, true),
        }),
    }
}

impl Feed {
    /// Norm again (cheaper than keeping it), GELU unit, both residuals.
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
        let FeedOutput { raised, output, .. } = output;
        let (numbers, dropout) = (input.len(), shape.dropout);
        let [normalized, activation, branch, _] = scratch.get([numbers, place.rows * shape.inner, numbers, 0]);
        layer.norm.apply(weights.model.parameters(), shape.epsilon, input, normalized);
        self.up.apply(weights, normalized, raised, false);
        kernels::gelu(raised, activation);
        output.copy_from_slice(input);
        let parts = [(&layer.output, attended, Branch::Attention), (&self.down, &*activation, Branch::Feed)];
        for (linear, rows, which) in parts {
            linear.apply(weights, rows, branch, false);
            if let Some(dropout) = dropout {
                dropout.apply(layer.number, which, place, branch);
            }
            // A chain that began with the stream would be rounded to its size at each step.
            kernels::add(output, branch);
        }
    }

    /// See [`AnyFeed::backward`].
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
        let FeedGradients { raised, activation, attended, dropped: [of_attention, of_feed], .. } = gradients;
        let (mut after_attention, mut after_feed) = (output, output);
        if let Some(dropout) = shape.dropout {
            for (branch, dropped) in [(Branch::Attention, &mut *of_attention), (Branch::Feed, &mut *of_feed)] {
                dropped.copy_from_slice(output);
                dropout.apply(layer.number, branch, place, dropped);
            }
            (after_attention, after_feed) = (of_attention, of_feed);
        }
        let [activation_gradient, ..] = scratch.get([activation.len(), 0, 0, 0]);
        self.down.input_gradient(weights, after_feed, activation_gradient, false);
        kernels::gelu_backward(place.of(&saved.raised, self.up.outputs), activation_gradient, raised, activation);
        layer.output.input_gradient(weights, after_attention, attended, false);
    }

    /// See [`AnyFeed::applied`].
    pub(super) fn applied<'a>(
        &'a self,
        layer: &'a BlockLayout,
        saved: &'a Saved,
        buffers: &'a Backward,
    ) -> [Applied<'a>; 3] {
        let [attention, feed] = buffers.dropped.each_ref().map(|dropped| match dropped.as_slice() {
            [] => &buffers.output,
            dropped => dropped,
        });
        [
            Applied { linear: &layer.output, inputs: &saved.attended, gradients: attention },
            Applied { linear: &self.up, inputs: &buffers.normalized, gradients: &buffers.raised },
            Applied { linear: &self.down, inputs: &buffers.activation, gradients: feed },
        ]
    }
}
