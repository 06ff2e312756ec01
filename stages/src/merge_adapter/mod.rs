//! Merges a low-rank adapter into the weights of its model.

mod run;

use serde::{Deserialize, Serialize};

use crate::{
    model::model_outlook,
    stage::{Context, Estimate, Kind, Numerics, Outlooks, Reference, StageError},
};

/// Settings of a `MergeAdapter` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeAdapter {
    /// The model folder beside whose weights the adapter was trained. If the adapter says which that was, as those of
    /// `Train` do, another one is refused.
    pub model: Reference,
    /// A folder with an adapter in PEFT's format: of a `Train` stage with `lora`, or from elsewhere.
    pub adapter: Reference,
}

impl Kind for MergeAdapter {
    const NAME: &'static str = "MergeAdapter";
    const REVISION: u32 = 1;
    const SUMMARY: &'static str = "Merges a low-rank adapter (LoRA) into the weights of its model.";
    // The same bits on every machine: see `Model::merged`.
    const NUMERICS: Numerics = Numerics::Exact;

    fn estimate(&self, inputs: &Outlooks<'_>) -> Estimate {
        Estimate { outlook: model_outlook(inputs(&self.model).config), work: None }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        context.in_pool(|| run::run(self, context))
    }
}
