//! In which numbers matrix products are taken.

use serde::{Deserialize, Serialize};

use super::kernels::{
    Left, Matrix, Order, PANEL, PackedColumns, Right, as_pairs, multiply, multiply_bf16, pack_columns,
};

/// In which numbers matrix products are taken. Everything else (norms, soft-max, activations, sums, the residual stream,
/// losses, gradients, parameters in training, the optimizer) is f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// f32, without TF32.
    #[default]
    F32,
    /// Factors rounded to bf16, their products summed in f32. On an accelerator each result is rounded to bf16 too, which is
    /// what PyTorch's autocast does; on the CPU it stays f32.
    Bf16,
    /// As `Bf16`, with sums in the order of AMX, Intel's tile instructions: the choice for processors that have them (Xeon from
    /// Sapphire Rapids on). Others compute the same bytes, several times slower than `Bf16`. On the CPU alone.
    Bf16Amx,
}

impl Precision {
    /// Whether factors are rounded to bf16.
    pub fn is_bf16(self) -> bool {
        self != Self::F32
    }

    /// A matrix as the right factor of many products: packed into `room`, of [`PackedColumns::len`] numbers, or as it is.
    pub(super) fn right<'a>(self, matrix: Matrix<'a>, room: &'a mut [f32]) -> Right<'a> {
        if !self.is_bf16() {
            return matrix.into();
        }
        let pairs = as_pairs(room);
        pack_columns(matrix, pairs, matrix.rows().div_ceil(2) * PANEL);
        PackedColumns::new(pairs, matrix.rows(), matrix.columns()).into()
    }

    /// `output = left * right` on the CPU, or added to what is in `output`; rows of `output` are `stride` apart. The order
    /// of each number's sum depends on nothing but the inner size. Factors of bf16 may be packed.
    pub(super) fn multiply<'a>(
        self,
        output: &mut [f32],
        stride: usize,
        left: impl Into<Left<'a>>,
        right: impl Into<Right<'a>>,
        accumulate: bool,
    ) {
        match (self, left.into(), right.into()) {
            (Self::F32, Left::Plain(left), Right::Plain(right)) => multiply(output, stride, left, right, accumulate),
            (Self::F32, ..) => unreachable!("factors are packed for products of bf16 alone"),
            (Self::Bf16, left, right) => multiply_bf16(Order::Chain, output, stride, left, right, accumulate),
            (Self::Bf16Amx, left, right) => multiply_bf16(Order::Groups, output, stride, left, right, accumulate),
        }
    }
}
