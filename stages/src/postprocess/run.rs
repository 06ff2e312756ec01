//! Joins the losses of the two sides by content and writes one weight for each target.

use rayon::prelude::*;

use super::Postprocess;
use crate::{
    data::{ArrayKind, ArraySet, ArraySetWriter},
    stage::{Context, StageError},
    weighting::weigh,
};

pub(super) fn run(settings: &Postprocess, context: &Context) -> Result<(), StageError> {
    let short = ArraySet::open(context.input(&settings.short)?, ArrayKind::CrossEntropy)?;
    let long = ArraySet::open(context.input(&settings.long)?, ArrayKind::CrossEntropy)?;
    let about = short.metadata();
    // The digest is over all ids in order, so equal digests mean the same sequences in the same places.
    long.check_digest(about.length, &about.tokens)?;
    if about.windows.is_none() && long.metadata().windows.is_some() {
        context.warn(format!(
            "`short: {}` was scored with full context and `long: {}` in windows: are they swapped?",
            settings.short, settings.long
        ));
    }
    let writer = ArraySetWriter::new(
        context.output(),
        ArrayKind::Weights,
        short.layout().clone(),
        about.length,
        about.tokens.clone(),
        None,
    );
    let total = short.sequences() as u64;
    for part in 0..writer.layout().parts() {
        context.check_canceled()?;
        let sequences = writer.layout().range(part);
        let done = sequences.end as u64;
        let rows = sequences
            .into_par_iter()
            .map(|sequence| {
                let (mut long, mut short) = (long.row(sequence)?, short.row(sequence)?);
                if let Some(rounding) = settings.rounding {
                    rounding.apply(&mut long, &mut short);
                }
                weigh(settings.compare, &settings.shape, &long, &short, sequence as u64)
                    .map_err(|error| error.in_stage(""))
            })
            .collect::<Result<Vec<_>, StageError>>()?;
        writer.write_part(part, &rows.concat())?;
        context.progress(done, total, "sequences", "");
    }
    writer.finish()?;
    Ok(())
}
