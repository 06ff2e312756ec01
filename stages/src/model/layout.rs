//! Where each tensor of a Llama lies in one flat buffer.

use std::ops::Range;

use super::Config;

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in Hugging Face checkpoints.
    pub name: String,
    /// Its shape, `[out, in]` for matrices and `[width]` for norms.
    pub shape: Vec<usize>,
    /// Its place in the flat buffer.
    pub range: Range<usize>,
}

impl Tensor {
    /// Whether weight decay applies: to matrices, not to norms (nor to biases, which a Llama here does not have).
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }
}

/// All parameters in the order of the flat buffer. Matrices that are applied to the same input lie side by side
/// (query, key, value; gate, up), so that each group is one matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<Tensor>,
    pub(super) embedding: Range<usize>,
    pub(super) blocks: Vec<BlockLayout>,
    pub(super) final_norm: Range<usize>,
    /// The embedding itself if the two are tied.
    pub(super) head: Range<usize>,
    len: usize,
}

/// The parts of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockLayout {
    pub(super) attention_norm: Range<usize>,
    /// `[(heads + 2 key_value_heads) * head_dim, hidden]`.
    pub(super) query_key_value: Range<usize>,
    /// `[hidden, heads * head_dim]`.
    pub(super) output: Range<usize>,
    pub(super) feed_norm: Range<usize>,
    /// `[2 * intermediate, hidden]`.
    pub(super) gate_up: Range<usize>,
    /// `[hidden, intermediate]`.
    pub(super) down: Range<usize>,
}

impl Layout {
    /// The layout of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut tensors = Vec::new();
        let mut len = 0;
        let mut add = |name: String, shape: &[usize]| {
            let range = len..len + shape.iter().product::<usize>();
            len = range.end;
            tensors.push(Tensor { name, shape: shape.to_vec(), range: range.clone() });
            range
        };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.heads * config.head_dim, config.key_value_heads * config.head_dim);
        let embedding = add("model.embed_tokens.weight".to_owned(), &[config.vocab_size, hidden]);
        let blocks = (0..config.layers)
            .map(|block| {
                let name = |rest: &str| format!("model.layers.{block}.{rest}.weight");
                let attention_norm = add(name("input_layernorm"), &[hidden]);
                let query = add(name("self_attn.q_proj"), &[queries, hidden]);
                add(name("self_attn.k_proj"), &[keys, hidden]);
                let value = add(name("self_attn.v_proj"), &[keys, hidden]);
                let output = add(name("self_attn.o_proj"), &[hidden, queries]);
                let feed_norm = add(name("post_attention_layernorm"), &[hidden]);
                let gate = add(name("mlp.gate_proj"), &[inner, hidden]);
                let up = add(name("mlp.up_proj"), &[inner, hidden]);
                let down = add(name("mlp.down_proj"), &[hidden, inner]);
                BlockLayout {
                    attention_norm,
                    query_key_value: query.start..value.end,
                    output,
                    feed_norm,
                    gate_up: gate.start..up.end,
                    down,
                }
            })
            .collect();
        let final_norm = add("model.norm.weight".to_owned(), &[hidden]);
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            add("lm_head.weight".to_owned(), &[config.vocab_size, hidden])
        };
        Self { tensors, embedding, blocks, final_norm, head, len }
    }

    /// The tensors in the order of the buffer.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none (never, for a configuration that was read).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
