//! Single elements of tensors.

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Number, Value};

/// The value of an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Element {
    Whole(i128),
    Float(f64),
}

impl Element {
    /// Reads one element; nothing for types that no stage writes.
    pub(super) fn read(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        macro_rules! number {
            ($variant:ident, $type:ty) => {
                Self::$variant(<$type>::from_le_bytes(bytes.try_into().ok()?).into())
            };
        }
        Some(match dtype {
            Dtype::BOOL | Dtype::U8 => number!(Whole, u8),
            Dtype::I8 => number!(Whole, i8),
            Dtype::U16 => number!(Whole, u16),
            Dtype::I16 => number!(Whole, i16),
            Dtype::U32 => number!(Whole, u32),
            Dtype::I32 => number!(Whole, i32),
            Dtype::U64 => number!(Whole, u64),
            Dtype::I64 => number!(Whole, i64),
            Dtype::F16 => number!(Float, f16),
            Dtype::BF16 => number!(Float, bf16),
            Dtype::F32 => number!(Float, f32),
            Dtype::F64 => number!(Float, f64),
            _ => return None,
        })
    }

    fn float(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    /// The magnitude, by which relative tolerance is measured.
    pub(super) fn magnitude(self) -> f64 {
        self.float().abs()
    }

    /// The absolute difference; infinite if it is no number.
    pub(super) fn difference(self, other: Self) -> f64 {
        let difference = match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one.abs_diff(other) as f64,
            (one, other) => (one.float() - other.float()).abs(),
        };
        // Two equal infinities are no difference, though infinity less infinity is no number.
        if self == other {
            0.0
        } else if difference.is_nan() {
            f64::INFINITY
        } else {
            difference
        }
    }

    /// The value in JSON; `null` if it is no finite number.
    pub(super) fn json(self) -> Value {
        match self {
            Self::Whole(number) => Number::from_i128(number).map_or(Value::Null, Value::Number),
            Self::Float(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        }
    }
}
