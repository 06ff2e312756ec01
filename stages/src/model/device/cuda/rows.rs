//! The kernels of `rows.cu`: what stands between matrix products, in one pass each.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use super::{Launch, Number, Source};
use crate::model::{kernels::AdamWStep, shape::Shape};

const TEXT: &str = include_str!("rows.cu");

/// Threads of a block.
const THREADS: usize = 256;
/// Numbers that a thread has of a row at once.
const EIGHT: usize = 8;
/// Rows for each block of [`rms_norm_backward`].
const NORM_ROWS: usize = 32;
/// Pieces whose squares are summed, most of them.
const PIECES: usize = 1024;

fn source() -> Source {
    Source { name: "rows".to_owned(), text: TEXT, options: Vec::new() }
}

fn launch<'a>(source: &'a Source, kernel: &'a str, grid: (usize, usize)) -> Launch<'a> {
    Launch { source, kernel, grid: (grid.0, grid.1, 1), threads: THREADS as u32, memory: 0 }
}

/// One thread for each eight of `count` numbers.
fn by_eight(count: usize) -> (usize, usize) {
    (count.div_ceil(EIGHT * THREADS), 1)
}

fn int(number: usize) -> Number {
    Number::Int(number as i32)
}

/// The tensor at a place that 16 bytes can be read from at once: parts of others may start elsewhere.
fn aligned(tensor: &Tensor) -> Result<Tensor> {
    let is_whole = tensor.is_contiguous() && tensor.layout().start_offset().is_multiple_of(EIGHT);
    if is_whole { Ok(tensor.clone()) } else { tensor.force_contiguous() }
}

fn elementwise(kernel: &str, inputs: &[&Tensor], dtype: DType) -> Result<Tensor> {
    let inputs = inputs.iter().map(|input| aligned(input)).collect::<Result<Vec<_>>>()?;
    let inputs = &inputs.iter().collect::<Vec<_>>();
    let (count, source) = (inputs[0].elem_count(), source());
    // SAFETY: these are the parameters of the kernels that are called here, and inputs have as many numbers as the output.
    let [made] = unsafe {
        launch(&source, kernel, by_eight(count)).call(
            inputs,
            [(dtype, inputs[0].dims())],
            &[Number::Long(count as i64)],
        )?
    };
    Ok(made)
}

/// Numbers in bf16 as f32.
pub(in super::super) fn widen(x: &Tensor) -> Result<Tensor> {
    elementwise("widen", &[x], DType::F32)
}

/// Numbers in f32 as bf16.
pub(in super::super) fn narrow(x: &Tensor) -> Result<Tensor> {
    elementwise("narrow", &[x], DType::BF16)
}

/// `stream + added` for f32 and bf16 of the same shape.
pub(in super::super) fn add(stream: &Tensor, added: &Tensor) -> Result<Tensor> {
    if stream.shape() != added.shape() {
        candle_core::bail!("a sum of {:?} and {:?}", stream.shape(), added.shape());
    }
    elementwise("add", &[stream, added], DType::F32)
}

/// RMSNorm of rows `[rows, width]`, f32: bf16.
pub(in super::super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    let ((rows, width), source) = (x.dims2()?, source());
    // SAFETY: these are the parameters of the kernel, and there is a block for each row.
    let [made] = unsafe {
        launch(&source, "rms_norm", (rows, 1)).call(
            &[x, weight],
            [(DType::BF16, x.dims())],
            &[int(width), Number::Float(epsilon)],
        )?
    };
    Ok(made)
}

/// The gradients of its rows `x` and of its weight from that of the normalized rows, bf16.
pub(in super::super) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    gradient: &Tensor,
    epsilon: f32,
) -> Result<[Tensor; 2]> {
    let ((rows, width), source) = (x.dims2()?, source());
    let blocks = rows.div_ceil(NORM_ROWS);
    let start = Launch { memory: width * size_of::<f32>(), ..launch(&source, "rms_norm_backward", (blocks, 1)) };
    // SAFETY: these are the parameters of the kernel, there is a block for each `NORM_ROWS` rows, and shared memory for a sum
    // in each column.
    let [made, sums] = unsafe {
        start.call(
            &[x, weight, gradient],
            [(DType::F32, x.dims()), (DType::F32, &[blocks, width])],
            &[int(rows), int(width), Number::Float(epsilon)],
        )?
    };
    Ok([made, sums.sum(0)?])
}

/// Whether [`gated`] knows rows of this width of gate and up together.
pub(in super::super) fn knows_gated(width: usize) -> bool {
    width.is_multiple_of(2 * EIGHT)
}

/// `silu(gate) * up` of rows `[rows, 2 * width]`, bf16.
pub(in super::super) fn gated(raised: &Tensor) -> Result<Tensor> {
    let ((rows, twice), source, raised) = (raised.dims2()?, source(), &aligned(raised)?);
    let width = twice / 2;
    // SAFETY: these are the parameters of the kernel, and there is a thread for each eight numbers of each row.
    let [made] = unsafe {
        launch(&source, "gated", (rows, by_eight(width).0)).call(
            &[raised],
            [(DType::BF16, &[rows, width])],
            &[int(width)],
        )?
    };
    Ok(made)
}

/// The gradient of what [`gated`] was given from that of its result, `[rows, width]` bf16.
pub(in super::super) fn gated_backward(raised: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let ((rows, twice), source) = (raised.dims2()?, source());
    let (raised, gradient) = (&aligned(raised)?, &aligned(gradient)?);
    // SAFETY: these are the parameters of the kernel, and there is a thread for each eight numbers of each row.
    let [made] = unsafe {
        launch(&source, "gated_backward", (rows, by_eight(twice / 2).0)).call(
            &[raised, gradient],
            [(DType::BF16, raised.dims())],
            &[int(twice / 2)],
        )?
    };
    Ok(made)
}

fn of_heads(shape: &Shape) -> [Number; 5] {
    [shape.length, shape.heads, shape.key_value_heads, shape.head_dim, shape.rotary_dim].map(int)
}

fn by_heads<'a>(source: &'a Source, kernel: &'a str, shape: &Shape) -> Launch<'a> {
    let threads = shape.head_dim.next_multiple_of(32).min(THREADS) as u32;
    Launch { threads, ..launch(source, kernel, (shape.rows(), shape.heads + 2 * shape.key_value_heads)) }
}

/// Rotated queries and keys, and values, all rows in bf16, of rows `[batch * length, projected]`, bf16.
pub(in super::super) fn rotate_and_split(
    shape: &Shape,
    projected: &Tensor,
    [cos, sin]: [&Tensor; 2],
) -> Result<[Tensor; 2]> {
    let (rows, source) = (shape.rows(), source());
    let both = [rows, (shape.heads + shape.key_value_heads) * shape.head_dim];
    let values = [rows, shape.key_value_heads * shape.head_dim];
    // SAFETY: these are the parameters of the kernel, and there is a block for each head of each row.
    unsafe {
        by_heads(&source, "rotate_and_split", shape).call(
            &[projected, cos, sin],
            [(DType::BF16, &both), (DType::BF16, &values)],
            &of_heads(shape),
        )
    }
}

/// The gradient of such rows, bf16, from those of rotated queries, rotated keys and values, f32 rows.
pub(in super::super) fn rotate_back_and_join(
    shape: &Shape,
    [queries, keys, values]: [&Tensor; 3],
    [cos, sin]: [&Tensor; 2],
) -> Result<Tensor> {
    let (projected, source) = ([shape.rows(), shape.projected()], source());
    // SAFETY: these are the parameters of the kernel, and there is a block for each head of each row.
    let [made] = unsafe {
        by_heads(&source, "rotate_back_and_join", shape).call(
            &[queries, keys, values, cos, sin],
            [(DType::BF16, &projected)],
            &of_heads(shape),
        )?
    };
    Ok(made)
}

/// Products of attention's outputs and their gradients, rows in bf16: `[batch, heads, length]`.
pub(in super::super) fn deltas(shape: &Shape, outputs: &Tensor, gradients: &Tensor) -> Result<Tensor> {
    let (made, source) = ([shape.batch, shape.heads, shape.length], source());
    // SAFETY: these are the parameters of the kernel, and there is a block for each row.
    let [made] = unsafe {
        launch(&source, "deltas", (shape.rows(), 1)).call(
            &[outputs, gradients],
            [(DType::F32, &made)],
            &[int(shape.length), int(shape.heads), int(shape.head_dim)],
        )?
    };
    Ok(made)
}

/// Of logits `[rows, vocabulary]`, bf16, for targets `[rows, 1]`: the logarithm of the sum of exponentials, the loss, both f32
/// in nats, and the first of the most probable tokens, `[rows, 1]` each.
pub(in super::super) fn read_logits(logits: &Tensor, targets: &Tensor) -> Result<[Tensor; 3]> {
    let ((rows, width), source) = (logits.dims2()?, source());
    let column = [rows, 1];
    // SAFETY: these are the parameters of the kernel, and there is a block for each row.
    unsafe {
        launch(&source, "read_logits", (rows, 1)).call(
            &[logits, targets],
            [(DType::F32, &column), (DType::F32, &column), (DType::U32, &column)],
            &[int(width)],
        )
    }
}

/// The gradient of logits, bf16: coefficient * (soft-max - 1 at the target).
pub(in super::super) fn logit_gradients(
    logits: &Tensor,
    log_sums: &Tensor,
    targets: &Tensor,
    coefficients: &Tensor,
) -> Result<Tensor> {
    let ((rows, width), source) = (logits.dims2()?, source());
    // SAFETY: these are the parameters of the kernel, and there is a thread for each number.
    let [made] = unsafe {
        launch(&source, "logit_gradients", (rows, width.div_ceil(THREADS))).call(
            &[logits, log_sums, targets, coefficients],
            [(DType::BF16, logits.dims())],
            &[int(width)],
        )?
    };
    Ok(made)
}

/// Sums of squares of pieces of f32 numbers.
pub(in super::super) fn squares(x: &Tensor) -> Result<Tensor> {
    let (count, source) = (x.elem_count(), source());
    let pieces = count.div_ceil(EIGHT * THREADS).min(PIECES);
    // SAFETY: these are the parameters of the kernel, and there is a block for each piece.
    let [made] = unsafe {
        launch(&source, "squares", (pieces, 1)).call(&[x], [(DType::F32, &[pieces])], &[Number::Long(count as i64)])?
    };
    Ok(made)
}

/// One step of AdamW on the parameters `range` of a tensor, in place: `[master, first, second]` are flat f32, `value` is the
/// tensor in bf16 as products take it.
pub(in super::super) fn adamw(
    step: AdamWStep,
    gradient: &Tensor,
    [master, first, second]: [&Tensor; 3],
    value: &Tensor,
    range: Range<usize>,
) -> Result<()> {
    let source = source();
    let part = |tensor: &Tensor| tensor.flatten_all()?.narrow(0, range.start, range.len());
    let inputs = [part(gradient)?, part(master)?, part(first)?, part(second)?, part(value)?];
    let float = Number::Float;
    // SAFETY: these are the parameters of the kernel, there is a thread for each number, and what it changes belongs to the
    // optimizer and the model in training, which nobody else reads meanwhile.
    let [] = unsafe {
        launch(&source, "adamw", (range.len().div_ceil(THREADS), 1)).call(
            &inputs.each_ref(),
            [],
            &[
                Number::Long(range.len() as i64),
                float(step.clip_factor),
                float(step.beta1),
                float(step.beta2),
                float(step.epsilon),
                float(step.keep),
                float(step.step_size),
                float(step.inverse_root_correction),
            ],
        )?
    };
    Ok(())
}
