//! Scores part by part; finished parts wait in the scratch folder, so that an interrupted stage goes on with the next.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Score, WindowPlan, suits};
use crate::{
    data::{ArrayKind, ArraySetWriter, ScoreWindows, TensorFile, TokenSet, part_name},
    model::Model,
    stage::{Context, StageError},
};

/// Tokens that a model is given at once: between two looks at whether to stop. Results do not depend on it.
const TOKENS_AT_ONCE: usize = 16_384;

pub(super) fn run(settings: &Score, context: &Context) -> Result<(), StageError> {
    let tokens = TokenSet::open(context.input(&settings.tokens)?)?;
    let folder = context.input(&settings.model)?;
    let model = match &settings.rope {
        Some(rope) => Model::open_with_rope(folder, rope.clone())?,
        None => Model::open(folder)?,
    };
    let plan = match settings.windows {
        Some(windows) => {
            let bos = WindowPlan::bos(settings.bos, &tokens)?;
            Some((WindowPlan::new(tokens.length(), windows, bos, "windows.")?, bos.is_some()))
        }
        None => None,
    };
    let shown = plan.map_or(tokens.length(), |(plan, _)| plan.window());
    suits(context, &settings.model, model.config(), (&settings.tokens, &tokens), shown)?;

    let windows = settings.windows.zip(plan).map(|(windows, (_, bos))| ScoreWindows {
        length: windows.length,
        step: windows.step,
        bos,
    });
    let writer = |folder: &Path| {
        let (length, digest) = (tokens.length(), tokens.digest());
        ArraySetWriter::new(folder, ArrayKind::CrossEntropy, tokens.layout().clone(), length, digest, windows)
    };
    let scratch = Scratch::open(context)?;
    let unfinished = writer(&scratch.unfinished);
    let total = (tokens.sequences() * tokens.length()) as u64;
    let mut done = 0;
    for part in 0..tokens.layout().parts() {
        let sequences = tokens.layout().range(part);
        let count = sequences.len();
        if scratch.has(part, count, tokens.length() - 1) {
            done += (count * tokens.length()) as u64;
            context.progress(done, total, "tokens", "kept from the attempt before");
            continue;
        }
        let mut losses = Vec::with_capacity(count * (tokens.length() - 1));
        let together = (TOKENS_AT_ONCE / tokens.length()).max(1);
        for start in sequences.clone().step_by(together) {
            let group = start..(start + together).min(sequences.end);
            let found = score(context, &model, &tokens, plan.map(|(plan, _)| plan), group.clone())?;
            if let Some(at) = found.iter().position(|loss| !loss.is_finite()) {
                let (sequence, target) = (group.start + at / (tokens.length() - 1), at % (tokens.length() - 1));
                return Err(StageError::Failed(format!(
                    "sequence {sequence}, target {target}: the loss is {}; model `{}` is broken or was trained too fast",
                    found[at], settings.model
                )));
            }
            losses.extend(found);
            done += (group.len() * tokens.length()) as u64;
            context.progress(done, total, "tokens", "");
        }
        unfinished.write_part(part, &losses)?;
        scratch.keep(part)?;
    }
    for part in 0..tokens.layout().parts() {
        scratch.hand_over(part, context.output())?;
    }
    writer(context.output()).finish()?;
    Ok(())
}

/// Losses of some sequences one after the other, each `[length - 1]`.
fn score(
    context: &Context,
    model: &Model,
    tokens: &TokenSet,
    plan: Option<WindowPlan>,
    sequences: std::ops::Range<usize>,
) -> Result<Vec<f32>, StageError> {
    let count = sequences.len();
    let ids = sequences.map(|sequence| tokens.sequence(sequence)).collect::<Result<Vec<_>, _>>()?;
    let mut once = |ids: &[u32], batch: usize| {
        context.check_canceled()?;
        Ok::<_, StageError>(model.score(ids, batch)?.cross_entropy)
    };
    let Some(plan) = plan else { return once(&ids.concat(), count) };
    let mut losses = vec![0.0; count * (tokens.length() - 1)];
    let mut rows: Vec<(&[u32], &mut [f32])> =
        ids.iter().map(Vec::as_slice).zip(losses.chunks_mut(tokens.length() - 1)).collect();
    plan.score(&mut rows, 0, (TOKENS_AT_ONCE / plan.window()).max(1), &mut once)?;
    Ok(losses)
}

/// Where finished parts wait.
struct Scratch {
    finished: PathBuf,
    unfinished: PathBuf,
}

impl Scratch {
    fn open(context: &Context) -> Result<Self, StageError> {
        let scratch =
            Self { finished: context.scratch().join("parts"), unfinished: context.scratch().join("unfinished") };
        for folder in [&scratch.finished, &scratch.unfinished] {
            fs::create_dir_all(folder).map_err(StageError::io("create", folder))?;
        }
        Ok(scratch)
    }

    /// Whether a part is there and whole.
    fn has(&self, part: usize, rows: usize, columns: usize) -> bool {
        let path = self.finished.join(part_name(part));
        path.exists()
            && TensorFile::open(&path)
                .and_then(|file| file.read::<f32>(ArrayKind::CrossEntropy.tensor(), columns))
                .is_ok_and(|(found, _)| found == rows)
    }

    /// Moves a part that has been written to those that are finished.
    fn keep(&self, part: usize) -> Result<(), StageError> {
        let from = self.unfinished.join(part_name(part));
        fs::File::open(&from).and_then(|file| file.sync_all()).map_err(StageError::io("flush", &from))?;
        let to = self.finished.join(part_name(part));
        fs::rename(&from, &to).map_err(StageError::io("write", &to))
    }

    /// Puts a finished part into the output. It stays here too, in case the stage is stopped before all are handed over.
    fn hand_over(&self, part: usize, output: &Path) -> Result<(), StageError> {
        let (from, to) = (self.finished.join(part_name(part)), output.join(part_name(part)));
        fs::copy(&from, &to).map(drop).map_err(StageError::io("write", &to))
    }
}
