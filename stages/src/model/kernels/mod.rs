//! Arithmetic on slices: no tensors, no threads. Callers split the work into fixed blocks.
//!
//! Loops are plain Rust over fixed numbers of lanes, compiled once for each instruction set and chosen at run time
//! ([`vectorized`]). Sums run over [`LANES`] interleaved partial sums whatever the width of a vector register, and
//! multiply-adds are fused, so these loops give the same bytes on every machine.

// A loop is only compiled for an instruction set if it is inlined into the function that was dispatched to.
#![allow(clippy::inline_always)]

mod activation;
mod dispatch;
mod elementwise;
mod exponential;
mod few_rows;
mod matrix;
mod normalize;
mod rotary;
mod softmax;
mod transpose;

pub(super) use activation::{gated, gated_backward, gelu, gelu_backward};
use dispatch::dispatch;
pub(super) use elementwise::{
    AdamWStep, adamw_step, add, add_column_sums, add_row_sums, scale, scale_rows, sum_of_squares,
};
pub(super) use few_rows::{products_of_rows, weighted_rows};
pub(super) use matrix::{
    Left, Matrix, Order, PANEL, PackedColumns, PackedRows, Pairs, Right, as_pairs, multiply, multiply_bf16,
    pack_columns, pack_rows, pairs, uses_amx,
};
pub(super) use normalize::{layer_normalize, layer_normalize_backward, normalize, normalize_backward};
pub(super) use rotary::rotate;
pub(super) use softmax::{
    ExponentialSum, HeadRow, argmax, attention_gradient, attention_probabilities, head_gradient, head_rows,
    row_products,
};
pub(super) use transpose::transpose;

/// Partial sums of a reduction.
const LANES: usize = 32;

/// Defines a function whose body is compiled for several instruction sets and dispatched at run time.
macro_rules! vectorized {
    ($(#[$meta:meta])* fn $name:ident<$life:lifetime>($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub(in crate::model) fn $name<$life>($($argument: $type),*) $(-> $output)? {
            struct Call<$life> {
                $($argument: $type),*
            }
            impl<$life> pulp::WithSimd for Call<$life> {
                type Output = $crate::model::kernels::vectorized!(@output $($output)?);
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
                    let Self { $($argument),* } = self;
                    $body
                }
            }
            $crate::model::kernels::dispatch(Call { $($argument),* })
        }
    };
    (@output) => { () };
    (@output $output:ty) => { $output };
}
use vectorized;

/// Sum of the lanes in a fixed tree.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum over `f(index)` for `index` in `0..len`, in interleaved lanes: `f(index, partial)` adds one term.
#[inline(always)]
fn reduce(len: usize, mut term: impl FnMut(usize, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, partial) in lanes.iter_mut().enumerate() {
            *partial = term(start + lane, *partial);
        }
    }
    for index in whole..len {
        lanes[index - whole] = term(index, lanes[index - whole]);
    }
    fold(lanes)
}
