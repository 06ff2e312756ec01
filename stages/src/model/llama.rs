//! A Llama's block: `middle = x + attention(norm(x))`, `y = middle + down(silu(gate(norm(middle))) * up(norm(middle)))`.

use super::{
    Config,
    feed::{Feed as AnyFeed, FeedGradients, FeedOutput},
    kernels,
    layout::{BlockLayout, Builder},
    linear::{Applied, Linear},
    norm::Norm,
    packed_weights::Weights,
    shape::{Place, Shape},
    workspace::{Backward, Saved, Scratch},
};

/// The gated unit and its norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feed {
    pub(super) norm: Norm,
    /// `[2 * intermediate, hidden]`.
    pub(super) gate_up: Linear,
    /// `[hidden, intermediate]`.
    pub(super) down: Linear,
}

/// Lays out the block of a number.
pub(super) fn layout(
    config: &Config,
    attention_bias: bool,
    mlp_bias: bool,
    number: usize,
    builder: &mut Builder,
) -> BlockLayout {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.key_value_heads * config.head_dim);
    let name = |rest: &str| format!("model.layers.{number}.{rest}");
    let attention = |rest: &str, outputs| (name(&format!("self_attn.{rest}_proj")), outputs);
    let unit = |rest: &str, outputs| (name(&format!("mlp.{rest}_proj")), outputs);
    BlockLayout {
        number,
        norm: builder.rms_norm(&name("input_layernorm"), hidden),
        query_key_value: builder.linear(
            &[attention("q", queries), attention("k", keys), attention("v", keys)],
            hidden,
            attention_bias,
        ),
        output: builder.linear(&[attention("o", hidden)], queries, attention_bias),
        feed: AnyFeed::Llama(Feed {
            norm: builder.rms_norm(&name("post_attention_layernorm"), hidden),
            gate_up: builder.linear(&[unit("gate", inner), unit("up", inner)], hidden, mlp_bias),
            down: builder.linear(&[unit("down", hidden)], inner, mlp_bias),
        }),
    }
}

impl Feed {
    /// Output projection, residual, norm, gated unit, residual.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward(
        &self,
        weights: Weights<'_>,
        layer: &BlockLayout,
        shape: &Shape,
        input: &[f32],
        attended: &[f32],
        output: FeedOutput<'_>,
        scratch: &mut Scratch,
    ) {
        let FeedOutput { middle, raised, output } = output;
        let rows = input.len() / shape.hidden;
        let sizes = [rows * shape.hidden, rows * shape.inner, rows * shape.hidden, 0];
        let [normalized, activation, branch, _] = scratch.get(sizes);
        middle.copy_from_slice(input);
        // A chain that began with the stream would be rounded to its size at each step.
        layer.output.apply(weights, attended, branch, false);
        kernels::add(middle, branch);
        self.norm.apply(weights.model.parameters(), shape.epsilon, middle, normalized);
        self.gate_up.apply(weights, normalized, raised, false);
        kernels::gated(raised, shape.inner, activation);
        output.copy_from_slice(middle);
        self.down.apply(weights, activation, branch, false);
        kernels::add(output, branch);
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
        let (rows, hidden, inner) = (place.rows, shape.hidden, shape.inner);
        let [activation_gradient, normalized_gradient, ..] = scratch.get([rows * inner, rows * hidden, 0, 0]);
        let parameters = weights.model.parameters();
        let FeedGradients { middle, raised, activation, normalized, attended, norm, .. } = gradients;
        self.down.input_gradient(weights, output, activation_gradient, false);
        kernels::gated_backward(place.of(&saved.raised, 2 * inner), inner, activation_gradient, raised, activation);
        self.gate_up.input_gradient(weights, raised, normalized_gradient, false);
        middle.copy_from_slice(output);
        let before = place.of(&saved.middle, hidden);
        self.norm.backward(parameters, shape.epsilon, before, normalized_gradient, middle, norm, normalized);
        layer.output.input_gradient(weights, middle, attended, false);
    }

    /// See [`AnyFeed::applied`].
    pub(super) fn applied<'a>(
        &'a self,
        layer: &'a BlockLayout,
        saved: &'a Saved,
        buffers: &'a Backward,
    ) -> [Applied<'a>; 3] {
        [
            Applied { linear: &layer.output, inputs: &saved.attended, gradients: &buffers.middle },
            Applied { linear: &self.gate_up, inputs: &buffers.feed_normalized, gradients: &buffers.raised },
            Applied { linear: &self.down, inputs: &buffers.activation, gradients: &buffers.output },
        ]
    }
}
