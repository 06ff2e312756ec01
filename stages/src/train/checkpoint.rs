//! What an interrupted training goes on from: model, optimizer and log, whole or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::log::{self, TrainingStep};
use crate::{
    data::{read_json, write_json},
    model::{AdamW, AdamWSettings, Adapter, Model},
    stage::{Context, StageError},
};

/// The file that describes a checkpoint.
const ABOUT: &str = "checkpoint.json";
const UNFINISHED: &str = "checkpoint.unfinished";

/// How many checkpoints are kept: the one before the newest is there in case the newest is damaged.
const KEPT: usize = 2;

#[derive(Serialize, Deserialize)]
struct About {
    step: usize,
    /// BLAKE3 of each file: a checkpoint that does not match is as good as none.
    files: BTreeMap<String, String>,
}

/// The state of a training after some steps.
pub(super) struct State {
    pub(super) model: Model,
    pub(super) optimizer: AdamW,
    pub(super) log: Vec<TrainingStep>,
}

/// Writes a checkpoint under a temporary name, flushes it to the disk, and names it.
pub(super) fn save(scratch: &Path, state: &State) -> Result<(), StageError> {
    let step = state.log.len();
    let name = folder(scratch, step);
    if name.exists() {
        return Ok(());
    }
    let unfinished = scratch.join(UNFINISHED);
    remove(&unfinished)?;
    fs::create_dir_all(&unfinished).map_err(StageError::io("create", &unfinished))?;
    match state.model.adapter() {
        Some(adapter) => adapter.save(&unfinished)?,
        None => state.model.save(&unfinished)?,
    }
    state.optimizer.save(&unfinished.join("optimizer.safetensors"))?;
    log::write(&unfinished.join(log::FILE), &state.log)?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&unfinished).map_err(StageError::io("read", &unfinished))? {
        let entry = entry.map_err(StageError::io("read", &unfinished))?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), digest(&entry.path())?);
        sync(&entry.path())?;
    }
    write_json(&unfinished.join(ABOUT), &About { step, files })?;
    sync(&unfinished.join(ABOUT))?;
    sync(&unfinished)?;
    fs::rename(&unfinished, &name).map_err(StageError::io("write", &name))?;
    sync(scratch)?;
    for old in found(scratch)?.iter().rev().skip(KEPT) {
        remove(&folder(scratch, *old))?;
    }
    Ok(())
}

/// The newest whole checkpoint; damaged ones are told of and removed. Checkpoints of an adapter hold nothing of the frozen
/// model, which is taken from `base`.
pub(super) fn newest(
    context: &Context,
    settings: AdamWSettings,
    base: &mut Option<Model>,
) -> Result<Option<State>, StageError> {
    let scratch = context.scratch();
    remove(&scratch.join(UNFINISHED))?;
    for step in found(scratch)?.into_iter().rev() {
        let folder = folder(scratch, step);
        match load(&folder, step, settings, base) {
            Ok(state) => return Ok(Some(state)),
            Err(problem) => {
                context.warn(format!("the checkpoint of step {step} is damaged and not used ({problem})"));
                remove(&folder)?;
            }
        }
    }
    Ok(None)
}

fn load(folder: &Path, step: usize, settings: AdamWSettings, base: &mut Option<Model>) -> Result<State, StageError> {
    let about: About = read_json(&folder.join(ABOUT))?;
    for (file, expected) in &about.files {
        let path = folder.join(file);
        if *expected != digest(&path)? {
            return Err(StageError::input(path, "another content than when it was written"));
        }
    }
    let log = log::read(&folder.join(log::FILE))?;
    if about.step != step || log.len() != step {
        return Err(StageError::input(folder, format!("a log of {} steps", log.len())));
    }
    let frozen = base.is_some();
    let mut model = base.take().map_or_else(|| Model::open(folder), Ok)?;
    match trained(folder, &mut model, frozen, settings) {
        Ok(optimizer) => Ok(State { model, optimizer, log }),
        Err(error) => {
            // An older checkpoint may need it.
            *base = frozen.then_some(model);
            Err(error)
        }
    }
}

/// The optimizer of a checkpoint, and its adapter put beside the model if that is frozen.
fn trained(folder: &Path, model: &mut Model, frozen: bool, settings: AdamWSettings) -> Result<AdamW, StageError> {
    if frozen {
        let adapter = Adapter::open(folder, model.layout())?;
        model.set_adapter(adapter)?;
    }
    Ok(AdamW::load(&folder.join("optimizer.safetensors"), model, settings)?)
}

fn folder(scratch: &Path, step: usize) -> PathBuf {
    scratch.join(format!("checkpoint-{step:08}"))
}

/// The steps that have a checkpoint, in order.
fn found(scratch: &Path) -> Result<Vec<usize>, StageError> {
    let mut steps = Vec::new();
    for entry in fs::read_dir(scratch).map_err(StageError::io("read", scratch))? {
        let name = entry.map_err(StageError::io("read", scratch))?.file_name();
        let step: Option<usize> =
            name.to_str().and_then(|name| name.strip_prefix("checkpoint-")).and_then(|step| step.parse().ok());
        steps.extend(step);
    }
    steps.sort_unstable();
    Ok(steps)
}

fn digest(path: &Path) -> Result<String, StageError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(StageError::io("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn sync(path: &Path) -> Result<(), StageError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(StageError::io("flush", path))
}

fn remove(folder: &Path) -> Result<(), StageError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StageError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}
