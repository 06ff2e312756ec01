//! Writes the merged model folder.

use super::MergeAdapter;
use crate::{
    model::{Adapter, BaseModel, Companions, Model, copy_companions},
    stage::{Context, StageError},
};

pub(super) fn run(settings: &MergeAdapter, context: &Context) -> Result<(), StageError> {
    let (folder, adapter) = (context.input(&settings.model)?, context.input(&settings.adapter)?);
    if let Some(base) = BaseModel::beside(adapter)? {
        base.check(adapter, folder)?;
    }
    let mut model = Model::open(folder)?;
    let layout = model.layout();
    let adapter = Adapter::open(adapter, layout)?;
    model.set_adapter(adapter)?;
    copy_companions(folder, context.output(), Companions::Tokenizer)?;
    Ok(model.merged().save(context.output())?)
}
