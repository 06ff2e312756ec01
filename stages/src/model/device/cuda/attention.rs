//! The kernels of `attention.cu`: no scores leave the device's processors.

use candle_core::{
    DType, Device, Result, Tensor, bail,
    cuda_backend::{WrapErr, cudarc::driver::sys::CUdevice_attribute_enum},
};

use super::{Launch, Number, Source};
use crate::model::shape::Shape;

const TEXT: &str = include_str!("attention.cu");

/// Threads of a block.
const THREADS: u32 = 128;

/// What a block of a kernel has in shared memory.
struct Block {
    kernel: &'static str,
    /// Rows of which it computes results.
    rows: usize,
    /// How many times it has as many of factors.
    tiles: usize,
    /// Rows of factors that come step by step, half as many where memory is little.
    steps: usize,
}

const FORWARD: Block = Block { kernel: "attention_forward", rows: 128, tiles: 1, steps: 4 * 64 };
const QUERIES: Block = Block { kernel: "attention_backward_queries", rows: 128, tiles: 2, steps: 4 * 32 };
const KEYS: Block = Block { kernel: "attention_backward_keys", rows: 64, tiles: 2, steps: 4 * 64 };

/// Bytes of the numbers that stand beside the rows of [`KEYS`]: two of each query, for two steps.
const NUMBERS: usize = 4 * 64 * size_of::<f32>();

impl Block {
    fn memory(&self, head_dim: usize, has_little: bool) -> usize {
        let steps = if has_little { self.steps / 2 } else { self.steps };
        // Rows are eight numbers longer than they need to be.
        (self.rows * self.tiles + steps) * (head_dim + 8) * DType::BF16.size_in_bytes() + NUMBERS
    }

    /// How it starts for one block for each so many rows of each of so many heads.
    fn launch<'a>(&self, source: &'a (Source, bool), shape: &Shape, heads: usize) -> Launch<'a> {
        Launch {
            source: &source.0,
            kernel: self.kernel,
            grid: (shape.length.div_ceil(self.rows), heads, shape.batch),
            threads: THREADS,
            memory: self.memory(shape.head_dim, source.1),
        }
    }
}

/// Whether there are kernels for heads of this width: sums of two rows of it must fit a thread's registers.
pub(in super::super) fn knows(head_dim: usize) -> bool {
    head_dim.is_multiple_of(16) && head_dim <= 128
}

/// The kernels for heads of this width, and whether they are those for little memory.
fn source(device: &Device, head_dim: usize) -> Result<(Source, bool)> {
    let Device::Cuda(device) = device else { bail!("kernels for CUDA devices on another device") };
    let limit = CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let limit = device.cuda_stream().context().attribute(limit).w()? as usize;
    let has_little = [FORWARD, QUERIES, KEYS].iter().any(|block| block.memory(head_dim, false) > limit);
    let mut options = vec![format!("-DHEAD_DIM={head_dim}")];
    options.extend(has_little.then(|| "-DLITTLE_MEMORY".to_owned()));
    Ok((Source { name: format!("attention {}", options.join(" ")), text: TEXT, options }, has_little))
}

fn numbers(shape: &Shape) -> [Number; 4] {
    let int = |number: usize| Number::Int(number as i32);
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    [int(shape.length), int(shape.heads), int(shape.key_value_heads), Number::Float(scale)]
}

/// Outputs, `[batch * length, heads * head_dim]` bf16, and logarithms of sums, `[batch, heads, length]` f32, of rotated
/// queries and keys `[batch * length, (heads + key_value_heads) * head_dim]` and values `[batch * length, key_value_heads *
/// head_dim]`, bf16.
pub(in super::super) fn forward(shape: &Shape, both: &Tensor, values: &Tensor) -> Result<[Tensor; 2]> {
    let source = source(both.device(), shape.head_dim)?;
    let outputs = [
        (DType::BF16, &[shape.rows(), shape.attended()][..]),
        (DType::F32, &[shape.batch, shape.heads, shape.length][..]),
    ];
    // SAFETY: these are the parameters of the kernel, and there is a block for each row of each head.
    unsafe { FORWARD.launch(&source, shape, shape.heads).call(&[both, values], outputs, &numbers(shape)) }
}

/// Gradients of rotated queries, of rotated keys, and of values, f32 rows, from that of the outputs, bf16, and from `deltas`,
/// its products with the outputs, `[batch, heads, length]` f32.
pub(in super::super) fn backward(
    shape: &Shape,
    [both, values]: [&Tensor; 2],
    output: &Tensor,
    log_sums: &Tensor,
    deltas: &Tensor,
) -> Result<[Tensor; 3]> {
    let source = source(both.device(), shape.head_dim)?;
    let inputs = [both, values, output, log_sums, deltas];
    let (rows, width) = (shape.rows(), shape.key_value_heads * shape.head_dim);
    let queries = [(DType::F32, &[rows, shape.attended()][..])];
    let keys = [(DType::F32, &[rows, width][..]), (DType::F32, &[rows, width][..])];
    // SAFETY: these are the parameters of the kernels, and there is a block for each row of each head.
    let ([queries], [keys, values]) = unsafe {
        (
            QUERIES.launch(&source, shape, shape.heads).call(&inputs, queries, &numbers(shape))?,
            KEYS.launch(&source, shape, shape.key_value_heads).call(&inputs, keys, &numbers(shape))?,
        )
    };
    Ok([queries, keys, values])
}
