//! Scores part by part; finished parts wait in the scratch folder, so that an interrupted stage goes on with the next.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Score, WindowPlan, suits};
use crate::{
    data::{ArrayKind, ArraySetWriter, ScoreWindows, TensorFile, TokenSet, part_name},
    model::{Config, PlacedModel},
    stage::{Context, StageError},
};

/// Tokens that a model is given at once: between two looks at whether to stop. Results do not depend on it.
const TOKENS_AT_ONCE: usize = 16_384;

/// What to score, and in which windows.
pub(super) struct Work {
    pub(super) tokens: TokenSet,
    /// The windows, if not the whole sequence is seen at once.
    pub(super) plan: Option<WindowPlan>,
    /// The id that takes the place of the first token of each window, if one does.
    pub(super) bos: Option<u32>,
}

impl Work {
    pub(super) fn open(settings: &Score, context: &Context) -> Result<Self, StageError> {
        let tokens = TokenSet::open(context.input(&settings.tokens)?)?;
        let (plan, bos) = match settings.windows {
            Some(windows) => {
                let bos = WindowPlan::bos(settings.bos, &tokens)?;
                (Some(WindowPlan::new(tokens.length(), windows, bos, "windows.")?), bos)
            }
            None => (None, None),
        };
        Ok(Self { tokens, plan, bos })
    }

    /// Refuses a model that cannot read the tokens.
    pub(super) fn check(&self, settings: &Score, config: &Config, context: &Context) -> Result<(), StageError> {
        let shown = self.plan.map_or(self.tokens.length(), |plan| plan.window());
        suits(context, &settings.model, config, (&settings.tokens, &self.tokens), shown)
    }

    /// Writes all scores of the stage into a folder.
    pub(super) fn writer(&self, settings: &Score, folder: &Path) -> ArraySetWriter {
        let windows = settings.windows.map(|windows| ScoreWindows {
            length: windows.length,
            step: windows.step,
            bos: self.bos.is_some(),
        });
        let (layout, length, digest) = (self.tokens.layout().clone(), self.tokens.length(), self.tokens.digest());
        ArraySetWriter::new(folder, ArrayKind::CrossEntropy, layout, length, digest, windows)
    }
}

/// Opens the model where it is to run.
pub(super) fn open_model(settings: &Score, context: &Context) -> Result<PlacedModel, StageError> {
    settings.device.notice().into_iter().for_each(|notice| context.warn(notice));
    Ok(PlacedModel::open(context.input(&settings.model)?, settings.rope.clone(), settings.device)?)
}

pub(super) fn run(settings: &Score, context: &Context) -> Result<(), StageError> {
    let model = open_model(settings, context)?;
    let work = Work::open(settings, context)?;
    work.check(settings, model.config(), context)?;
    let tokens = &work.tokens;
    let scratch = Scratch::open(context)?;
    let unfinished = work.writer(settings, &scratch.unfinished);
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
        let sequences: Vec<usize> = sequences.collect();
        let before = done;
        let losses = score_all(settings, context, (&model, tokens, work.plan), &sequences, |scored| {
            done = before + scored;
            context.progress(done, total, "tokens", "");
        })?;
        unfinished.write_part(part, &losses)?;
        scratch.keep(part)?;
    }
    for part in 0..tokens.layout().parts() {
        scratch.hand_over(part, context.output())?;
    }
    work.writer(settings, context.output()).finish()?;
    Ok(())
}

/// Losses of some sequences one after the other, each `[length - 1]`, in nats, all finite. `tell` hears how many tokens
/// are done.
pub(super) fn score_all(
    settings: &Score,
    context: &Context,
    (model, tokens, plan): (&PlacedModel, &TokenSet, Option<WindowPlan>),
    sequences: &[usize],
    mut tell: impl FnMut(u64),
) -> Result<Vec<f32>, StageError> {
    let (length, targets) = (tokens.length(), tokens.length() - 1);
    let mut losses = Vec::with_capacity(sequences.len() * targets);
    for group in sequences.chunks((TOKENS_AT_ONCE / length).max(1)) {
        let found = score(context, model, tokens, plan, group)?;
        if let Some(at) = found.iter().position(|loss| !loss.is_finite()) {
            return Err(StageError::Failed(format!(
                "sequence {}, target {}: the loss is {}; model `{}` is broken or was trained too fast",
                group[at / targets],
                at % targets,
                found[at],
                settings.model
            )));
        }
        losses.extend(found);
        tell((losses.len() / targets * length) as u64);
    }
    Ok(losses)
}

fn score(
    context: &Context,
    model: &PlacedModel,
    tokens: &TokenSet,
    plan: Option<WindowPlan>,
    sequences: &[usize],
) -> Result<Vec<f32>, StageError> {
    let count = sequences.len();
    let ids = sequences.iter().map(|&sequence| tokens.sequence(sequence)).collect::<Result<Vec<_>, _>>()?;
    let mut once = |ids: &[u32], batch: usize| {
        context.check_canceled()?;
        Ok::<_, StageError>(model.cross_entropy(ids, batch)?)
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
