//! Bringing an adapter into the weights.

use rayon::prelude::*;

use crate::model::Model;

impl Model {
    /// The model whose matrices are `W + scaling * B A`, without an adapter.
    ///
    /// Each weight is `f32(W + scaling * sum)` where the sum over the rank and all else is computed in f64, products
    /// rounded, terms added in the order of the rank: the same bits on every machine.
    #[must_use]
    pub fn merged(mut self) -> Self {
        let Some(adapter) = self.take_adapter() else { return self };
        let (rank, scaling) = (adapter.settings.rank, adapter.settings.scaling());
        self.update(|parameters| {
            for part in &adapter.parts {
                let (a, b) = (&adapter.values[part.a.clone()], &adapter.values[part.b.clone()]);
                let rows = parameters[part.weight.clone()].par_chunks_mut(part.inputs);
                rows.zip(b.par_chunks(rank)).for_each(|(row, b)| {
                    let mut sums = vec![0.0_f64; part.inputs];
                    for (b, a) in b.iter().zip(a.chunks_exact(part.inputs)) {
                        for (sum, a) in sums.iter_mut().zip(a) {
                            *sum += f64::from(*b) * f64::from(*a);
                        }
                    }
                    for (weight, sum) in row.iter_mut().zip(sums) {
                        *weight = (f64::from(*weight) + scaling * sum) as f32;
                    }
                });
            }
        });
        self
    }
}
