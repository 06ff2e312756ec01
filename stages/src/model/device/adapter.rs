//! Low-rank adapters on a device (see [`crate::model::Adapter`]): what they add to products, and their gradients. The model
//! beside them is frozen, so no other gradient exists; masters and optimizer are the host's.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::{DeviceGradients, precision::converted, structure::Slot};
use crate::model::{Adapter, ModelError, Precision};

/// An adapter in the type of the products.
#[derive(Debug)]
pub(super) struct DeviceAdapter {
    scaling: f64,
    parts: Vec<Part>,
    /// Of the adapter's flat buffer: A and B of each part.
    slots: Vec<Slot>,
    /// One for each slot.
    values: Vec<Tensor>,
}

/// One adapted matrix.
#[derive(Debug)]
struct Part {
    /// The slot of the matrix that is applied as one, of which this is a part.
    weight: usize,
    /// Its columns in the rows that the shared matrix gives.
    columns: Range<usize>,
}

impl DeviceAdapter {
    /// `slots` are those of the model.
    pub(super) fn new(
        adapter: &Adapter,
        slots: &[Slot],
        device: &Device,
        precision: Precision,
    ) -> std::result::Result<Self, ModelError> {
        let (mut parts, mut own) = (Vec::new(), Vec::new());
        let rank = adapter.settings().rank;
        for (linear, columns, inputs, [a, b]) in adapter.places() {
            let weight = slots.iter().position(|slot| slot.range.start == linear && slot.is_matrix());
            let Some(weight) = weight else {
                let expected = "a matrix of the model for each of its own".to_owned();
                return Err(ModelError::Size { what: "adapter", found: linear, expected });
            };
            own.push(Slot { range: a, shape: vec![rank, inputs] });
            own.push(Slot { range: b, shape: vec![columns.len(), rank] });
            parts.push(Part { weight, columns });
        }
        let mut made = Self { scaling: adapter.settings().scaling(), parts, slots: own, values: Vec::new() };
        made.set(adapter.values(), device, precision)?;
        Ok(made)
    }

    /// Takes other numbers.
    pub(super) fn set(
        &mut self,
        numbers: &[f32],
        device: &Device,
        precision: Precision,
    ) -> std::result::Result<(), ModelError> {
        let value = |slot: &Slot| super::tensor(slot, &numbers[slot.range.clone()], precision, device);
        self.values = self.slots.iter().map(value).collect::<std::result::Result<_, _>>()?;
        Ok(())
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Which parts a matrix has, by number.
    fn parts_of(&self, weight: usize) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().enumerate().filter(move |(_, part)| part.weight == weight)
    }

    /// `x A^T`, `[rows, rank]`, in the type of rows.
    fn low(&self, part: usize, precision: Precision, x: &Tensor) -> Result<Tensor> {
        precision.row_product(x, &self.values[2 * part].t()?)
    }

    /// Adds `scaling * (x A^T) B^T` to what a matrix gave for rows `x`, `[rows, outputs]`; of the same type as that.
    pub(super) fn add_to(&self, weight: usize, precision: Precision, x: &Tensor, product: Tensor) -> Result<Tensor> {
        let (dtype, outputs) = (product.dtype(), product.dim(1)?);
        let (mut pieces, mut at) = (Vec::new(), 0);
        let sum = |pieces: &mut Vec<Tensor>, columns: Range<usize>, added: Option<Tensor>| {
            if columns.is_empty() {
                return Ok(());
            }
            let before = product.narrow(1, columns.start, columns.len())?;
            let piece = match added {
                Some(added) => converted(&(before.to_dtype(DType::F32)? + added)?, dtype)?,
                None => before,
            };
            pieces.push(piece);
            Ok::<_, candle_core::Error>(())
        };
        for (number, part) in self.parts_of(weight) {
            let low = self.low(number, precision, x)?;
            let added = (precision.product(&low, &self.values[2 * number + 1].t()?)? * self.scaling)?;
            sum(&mut pieces, at..part.columns.start, None)?;
            sum(&mut pieces, part.columns.clone(), Some(added))?;
            at = part.columns.end;
        }
        if at == 0 {
            return Ok(product);
        }
        sum(&mut pieces, at..outputs, None)?;
        Tensor::cat(&pieces, 1)
    }

    /// Adds the gradients of the parts of a matrix that was applied to rows `x`, and gives what they add to the gradient of
    /// these, f32.
    pub(super) fn backward(
        &self,
        weight: usize,
        precision: Precision,
        x: &Tensor,
        gradient: &Tensor,
        gradients: &mut DeviceGradients,
    ) -> Result<Option<Tensor>> {
        let mut of_rows: Option<Tensor> = None;
        for (number, part) in self.parts_of(weight) {
            let [a, b] = [&self.values[2 * number], &self.values[2 * number + 1]];
            let own = gradient.narrow(1, part.columns.start, part.columns.len())?.contiguous()?;
            let low = self.low(number, precision, x)?;
            gradients.add(2 * number + 1, (precision.product(&own.t()?, &low)? * self.scaling)?)?;
            let back = (precision.product(&own, b)? * self.scaling)?;
            gradients.add(2 * number, precision.product(&back.t()?, x)?)?;
            let added = precision.product(&back, a)?;
            of_rows = Some(match of_rows {
                Some(before) => (before + added)?,
                None => added,
            });
        }
        Ok(of_rows)
    }
}
