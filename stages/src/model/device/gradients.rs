//! Gradients on the device.

use candle_core::{D, DType, Result as DeviceResult, Tensor};

#[cfg(feature = "cuda")]
use super::cuda::{self, rows};
use super::{
    DeviceModel,
    adapter::DeviceAdapter,
    precision::{converted, sum},
    refused,
    structure::Slot,
};
use crate::model::ModelError;

/// One gradient for each trained parameter of a [`DeviceModel`], f32 on its device.
#[derive(Debug)]
pub struct DeviceGradients {
    slots: Vec<Slot>,
    /// By slot; none stands for zeros.
    tensors: Vec<Option<Tensor>>,
}

/// Rows of a matrix that change in one go when rows are added to it.
const ROWS: usize = 4096;

impl DeviceGradients {
    /// Zeros for each parameter of a model, or of its adapter.
    pub fn zeros_like(model: &DeviceModel) -> Self {
        let slots = model.adapter.as_ref().map_or(&model.structure.slots[..], DeviceAdapter::slots).to_vec();
        Self { tensors: vec![None; slots.len()], slots }
    }

    /// Sets all to zero.
    pub fn zero(&mut self) {
        self.tensors.fill(None);
    }

    /// Root of the sum of all squares; rows or pieces of a tensor are summed on the device, what they give in f64.
    pub fn global_norm(&self) -> Result<f64, ModelError> {
        let squares = |tensor: &Tensor| -> DeviceResult<f64> {
            #[cfg(feature = "cuda")]
            if tensor.device().is_cuda() {
                let pieces = rows::squares(&tensor.contiguous()?)?.to_vec1::<f32>()?;
                return Ok(pieces.into_iter().map(f64::from).sum());
            }
            let rows = if tensor.rank() > 1 { tensor.sqr()?.sum(D::Minus1)? } else { tensor.sqr()? };
            Ok(rows.to_vec1::<f32>()?.into_iter().map(f64::from).sum())
        };
        let sums = self.tensors.iter().flatten().map(squares).collect::<DeviceResult<Vec<_>>>();
        Ok(sums.map_err(refused)?.iter().sum::<f64>().sqrt())
    }

    /// All gradients on the host, in the order of the [`crate::model::Layout`], or of the adapter.
    pub fn values(&self) -> Result<Vec<f32>, ModelError> {
        let len = self.slots.iter().map(|slot| slot.range.end).max().unwrap_or(0);
        let mut values = vec![0.0; len];
        self.read(&mut values)?;
        Ok(values)
    }

    /// Brings all gradients to the host, in the order of the [`crate::model::Layout`].
    pub(super) fn read(&self, values: &mut [f32]) -> Result<(), ModelError> {
        for (slot, tensor) in self.slots.iter().zip(&self.tensors) {
            let values = &mut values[slot.range.clone()];
            match tensor {
                #[cfg(feature = "cuda")]
                Some(tensor) if tensor.device().is_cuda() => cuda::read(tensor, values).map_err(refused)?,
                Some(tensor) => {
                    let found = tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>()).map_err(refused)?;
                    values.copy_from_slice(&found);
                }
                None => values.fill(0.0),
            }
        }
        Ok(())
    }

    /// That of a slot.
    pub(super) fn of(&self, slot: usize) -> Option<&Tensor> {
        self.tensors[slot].as_ref()
    }

    /// Adds to the gradient of a slot, which is f32 whatever comes.
    pub(super) fn add(&mut self, slot: usize, gradient: Tensor) -> DeviceResult<()> {
        let before = self.tensors[slot].take();
        self.tensors[slot] = Some(match before {
            Some(before) => sum(&before, &gradient)?,
            None => converted(&gradient, DType::F32)?,
        });
        Ok(())
    }

    /// Adds a row to the gradient of each row of the matrix in a slot: row `picks[i]` of `rows` to row `i`.
    pub(super) fn add_rows(&mut self, slot: usize, rows: &Tensor, picks: &[u32]) -> DeviceResult<()> {
        let pick = |picks: &[u32]| {
            let picks = Tensor::from_slice(picks, picks.len(), rows.device())?;
            rows.index_select(&picks, 0)
        };
        let Some(before) = &self.tensors[slot] else {
            self.tensors[slot] = Some(pick(picks)?);
            return Ok(());
        };
        // In place and part by part: the embedding is the largest tensor of many models.
        for (part, picks) in picks.chunks(ROWS).enumerate() {
            let sum = (before.narrow(0, part * ROWS, picks.len())? + pick(picks)?)?;
            before.slice_set(&sum, 0, part * ROWS)?;
        }
        Ok(())
    }
}

/// Sums rows `[rows, width]` that have the same id, and gives sums `[sums, width]` with the number of the sum for each of
/// `vocabulary` ids; those without any row have the number of a row of zeros.
///
/// Pairs are summed until each id has one row, all ids at once, in an order that depends on the ids alone: candle's
/// `index_add` goes through all rows one by one on CUDA.
pub(super) fn sum_by_id(rows: &Tensor, ids: &[u32], vocabulary: usize) -> DeviceResult<(Tensor, Vec<u32>)> {
    let mut places: Vec<Vec<u32>> = vec![Vec::new(); vocabulary];
    for (row, id) in ids.iter().enumerate() {
        places[*id as usize].push(row as u32);
    }
    let width = rows.dim(1)?;
    // Zeros stand in the last row, for whatever has no partner.
    let mut sums = Tensor::cat(&[rows, &Tensor::zeros((1, width), DType::F32, rows.device())?], 0)?;
    while places.iter().any(|places| places.len() > 1) {
        let zeros = sums.dim(0)? as u32 - 1;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for places in &mut places {
            let first = left.len() as u32;
            for pair in places.chunks(2) {
                left.push(pair[0]);
                right.push(pair.get(1).copied().unwrap_or(zeros));
            }
            *places = (first..left.len() as u32).collect();
        }
        left.push(zeros);
        right.push(zeros);
        let pick = |rows: Vec<u32>| {
            let count = rows.len();
            sums.index_select(&Tensor::from_vec(rows, count, sums.device())?, 0)
        };
        sums = (pick(left)? + pick(right)?)?;
    }
    let zeros = sums.dim(0)? as u32 - 1;
    let picks = places.iter().map(|places| places.first().copied().unwrap_or(zeros)).collect();
    Ok((sums, picks))
}
