//! The work of a `Report` stage.

use std::fs;

use indexmap::IndexMap;

use super::{
    Report, collect,
    metrics::{read_metrics, read_training},
    page,
};
use crate::{
    data::write_json,
    stage::{Context, StageError},
};

pub(super) fn run(settings: &Report, context: &Context) -> Result<(), StageError> {
    let mut evaluations = IndexMap::new();
    for (label, reference) in &settings.evaluations {
        evaluations.insert(label.clone(), read_metrics(context.input(reference)?)?);
    }
    let mut training = IndexMap::new();
    for (label, reference) in &settings.training {
        training.insert(label.clone(), read_training(context.input(reference)?)?);
    }
    let contents = collect::contents(&settings.title, &settings.notes, evaluations, training);
    write_json(&context.output().join("report.json"), &contents)?;
    let path = context.output().join("report.html");
    fs::write(&path, page::page(&contents).into_string()).map_err(StageError::io("write", &path))
}
