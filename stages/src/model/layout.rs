//! Where each tensor of a model lies in one flat buffer.

use std::{ops::Range, sync::Arc};

use super::{Architecture, Config, feed::Feed, linear::Linear, llama, norm::Norm, phi};

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in Hugging Face checkpoints.
    pub name: String,
    /// Its shape, `[out, in]` for matrices and `[width]` for norms and biases.
    pub shape: Vec<usize>,
    /// Its place in the flat buffer.
    pub range: Range<usize>,
}

impl Tensor {
    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }

    /// Whether it is added (a bias of a matrix or a norm) rather than multiplied with.
    pub fn is_bias(&self) -> bool {
        self.name.rsplit('.').next() == Some("bias")
    }
}

/// All parameters in the order of the flat buffer. Matrices that are applied to the same input lie side by side
/// (query, key, value; gate, up), so that each group is one matrix; the biases of a group follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Arc<[Tensor]>,
    pub(super) embedding: Range<usize>,
    pub(super) blocks: Vec<BlockLayout>,
    pub(super) final_norm: Norm,
    /// Its matrix is the embedding itself if the two are tied.
    pub(super) head: Linear,
    len: usize,
}

/// The parts of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockLayout {
    /// Its place among the blocks.
    pub(super) number: usize,
    /// Before attention, and in a parallel block before all.
    pub(super) norm: Norm,
    /// `[(heads + 2 key_value_heads) * head_dim, hidden]`.
    pub(super) query_key_value: Linear,
    /// `[hidden, heads * head_dim]`.
    pub(super) output: Linear,
    /// The rest of the block.
    pub(super) feed: Feed,
}

impl BlockLayout {
    /// Its matrices in the order of the buffer.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Linear> + Clone {
        [&self.query_key_value].into_iter().chain(self.after_attention())
    }

    /// Those past the projection to queries, keys and values.
    pub(super) fn after_attention(&self) -> impl Iterator<Item = &Linear> + Clone {
        [&self.output].into_iter().chain(self.feed.matrices())
    }
}

/// Puts one tensor after another.
#[derive(Default)]
pub(super) struct Builder {
    tensors: Vec<Tensor>,
    len: usize,
}

impl Builder {
    fn add(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        self.tensors.push(Tensor { name, shape: shape.to_vec(), range: range.clone() });
        range
    }

    /// Matrices that read the same input of width `inputs`, as one: names (without `.weight`) and widths of outputs.
    pub(super) fn linear(&mut self, matrices: &[(String, usize)], inputs: usize, bias: bool) -> Linear {
        let start = self.len;
        for (name, outputs) in matrices {
            self.add(format!("{name}.weight"), &[*outputs, inputs]);
        }
        let weight = start..self.len;
        for (name, outputs) in matrices.iter().filter(|_| bias) {
            self.add(format!("{name}.bias"), &[*outputs]);
        }
        let outputs = matrices.iter().map(|(_, outputs)| outputs).sum();
        Linear { bias: bias.then_some(weight.end..self.len), weight, inputs, outputs }
    }

    /// RMSNorm.
    pub(super) fn rms_norm(&mut self, name: &str, width: usize) -> Norm {
        Norm::Rms { weight: self.add(format!("{name}.weight"), &[width]) }
    }

    /// LayerNorm.
    pub(super) fn layer_norm(&mut self, name: &str, width: usize) -> Norm {
        let weight = self.add(format!("{name}.weight"), &[width]);
        Norm::Layer { weight, bias: self.add(format!("{name}.bias"), &[width]) }
    }
}

impl Layout {
    /// The layout of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut builder = Builder::default();
        let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = builder.add("model.embed_tokens.weight".to_owned(), &[vocabulary, hidden]);
        let blocks = (0..config.layers)
            .map(|block| match config.architecture {
                Architecture::Llama { attention_bias, mlp_bias } => {
                    llama::layout(config, attention_bias, mlp_bias, block, &mut builder)
                }
                Architecture::Phi => phi::layout(config, block, &mut builder),
            })
            .collect();
        let final_norm = match config.architecture {
            Architecture::Llama { .. } => builder.rms_norm("model.norm", hidden),
            Architecture::Phi => builder.layer_norm("model.final_layernorm", hidden),
        };
        let bias = config.architecture == Architecture::Phi;
        let head = if config.tie_word_embeddings {
            let bias = bias.then(|| builder.add("lm_head.bias".to_owned(), &[vocabulary]));
            Linear { weight: embedding.clone(), bias, inputs: hidden, outputs: vocabulary }
        } else {
            builder.linear(&[("lm_head".to_owned(), vocabulary)], hidden, bias)
        };
        let Builder { tensors, len } = builder;
        Self { tensors: tensors.into(), embedding, blocks, final_norm, head, len }
    }

    /// The tensors in the order of the buffer.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub(super) fn shared_tensors(&self) -> Arc<[Tensor]> {
        Arc::clone(&self.tensors)
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
