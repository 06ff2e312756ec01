//! From metrics and training logs to everything that the page shows.

use indexmap::IndexMap;
use serde::Serialize;

use super::{
    chart::{Axis, Chart, Series},
    findings,
    measures::{Column, columns},
    metrics::{Metrics, Step, Task},
};

/// Points that a training curve keeps; more would only make the page heavy.
const TRAINING_POINTS: usize = 160;

/// `report.json`: the data of every sentence, table and plot of the page.
#[derive(Debug, Serialize)]
pub(super) struct Contents {
    pub(super) title: String,
    pub(super) findings: String,
    pub(super) notes: Vec<String>,
    pub(super) variants: Vec<String>,
    pub(super) table: Vec<Column>,
    pub(super) plots: Vec<Chart>,
}

pub(super) fn contents(
    title: &str,
    notes: &[String],
    evaluations: IndexMap<String, Metrics>,
    training: IndexMap<String, Vec<Step>>,
) -> Contents {
    let styles = Styles::of(evaluations.keys().chain(training.keys()));
    let (variants, metrics): (Vec<String>, Vec<Metrics>) = evaluations.into_iter().unzip();
    let table = columns(&metrics);
    let findings = findings::sentence(&variants, &table);
    let mut plots = task_charts(&variants, &metrics, &styles);
    let curves = training.iter().map(|(label, steps)| (label.as_str(), thinned(steps)));
    let curves = styles.series(curves);
    if !curves.is_empty() {
        let last = training.values().flatten().map(|step| step.step).fold(1.0, f64::max);
        let x = Axis::from_to("optimizer step", 0.0, last);
        let y = Axis::free("unweighted training loss, nats");
        plots.push(Chart { title: "Training".to_owned(), x, y, chance_diagonal: false, series: curves });
    }
    Contents { title: title.to_owned(), findings, notes: notes.to_vec(), variants, table, plots }
}

/// Gives each label one style for the whole page.
struct Styles(Vec<String>);

impl Styles {
    fn of<'a>(labels: impl Iterator<Item = &'a String>) -> Self {
        let mut known = Vec::new();
        for label in labels {
            if !known.contains(label) {
                known.push(label.clone());
            }
        }
        Self(known)
    }

    /// The lines that have points, in the order given.
    fn series<'a>(&self, lines: impl Iterator<Item = (&'a str, Vec<[f64; 2]>)>) -> Vec<Series> {
        lines
            .filter(|(_, points)| !points.is_empty())
            .map(|(label, points)| Series {
                label: label.to_owned(),
                style: self.0.iter().position(|known| known == label).unwrap_or(0),
                points,
            })
            .collect()
    }
}

/// What can be plotted of a task.
#[derive(Clone, Copy)]
enum Plot {
    LossByPosition,
    RecallByDistance,
    LossByDistance,
    NeedlesByLength,
    Detection,
}

impl Plot {
    const ALL: [Self; 5] =
        [Self::LossByPosition, Self::RecallByDistance, Self::LossByDistance, Self::NeedlesByLength, Self::Detection];

    fn frame(self) -> (&'static str, Axis, Axis) {
        let share = |label: &str| Axis::from_to(label, 0.0, 1.0);
        match self {
            Self::LossByPosition => {
                ("Loss by position", Axis::free("position in the sequence, tokens"), Axis::free("loss, nats"))
            }
            Self::RecallByDistance => (
                "Recall of planted facts by distance",
                Axis::free("distance back to the fact, tokens"),
                share("share recalled"),
            ),
            Self::LossByDistance => (
                "Loss on far tokens by distance",
                Axis::free("distance back to the fact, tokens"),
                Axis::free("loss, nats"),
            ),
            Self::NeedlesByLength => {
                ("Needles found by length", Axis::free("length of the context, tokens"), share("share found"))
            }
            Self::Detection => {
                ("How well scores find far tokens", share("false positive rate"), share("true positive rate"))
            }
        }
    }

    /// The far end of the last bucket, where the axis is one of buckets.
    fn end(self, task: &Task) -> Option<f64> {
        let ends: Vec<f64> = match (self, task) {
            (Self::LossByPosition, Task::LossByPosition { buckets, .. }) => {
                buckets.iter().map(|bucket| bucket.to).collect()
            }
            (Self::RecallByDistance | Self::LossByDistance, Task::PlantedFacts { by_distance, .. }) => {
                by_distance.iter().filter(|bucket| bucket.loss.is_some()).map(|bucket| bucket.to).collect()
            }
            _ => Vec::new(),
        };
        ends.into_iter().reduce(f64::max)
    }

    fn points(self, task: &Task) -> Vec<[f64; 2]> {
        let middle = |from: f64, to: f64, value: Option<f64>| value.map(|value| [f64::midpoint(from, to), value]);
        match (self, task) {
            (Self::LossByPosition, Task::LossByPosition { buckets, .. }) => {
                buckets.iter().filter_map(|bucket| middle(bucket.from, bucket.to, bucket.loss)).collect()
            }
            (Self::RecallByDistance, Task::PlantedFacts { by_distance, .. }) => {
                by_distance.iter().filter_map(|bucket| middle(bucket.from, bucket.to, bucket.recall)).collect()
            }
            (Self::LossByDistance, Task::PlantedFacts { by_distance, .. }) => {
                by_distance.iter().filter_map(|bucket| middle(bucket.from, bucket.to, bucket.loss)).collect()
            }
            (Self::NeedlesByLength, Task::Needles { grid, .. }) => {
                // Depths are averaged, each by its samples.
                let mut lengths: Vec<(f64, f64, f64)> = Vec::new();
                for cell in grid {
                    let Some(accuracy) = cell.accuracy else { continue };
                    let found = cell.samples * accuracy;
                    match lengths.iter_mut().find(|(length, ..)| *length == cell.length) {
                        Some((_, sum, samples)) => (*sum, *samples) = (*sum + found, *samples + cell.samples),
                        None => lengths.push((cell.length, found, cell.samples)),
                    }
                }
                lengths.into_iter().map(|(length, sum, samples)| [length, sum / samples.max(1.0)]).collect()
            }
            (Self::Detection, Task::FarTokenDetection { curve, .. }) => curve.clone(),
            _ => Vec::new(),
        }
    }
}

/// One chart for each kind of plot and name of a task that has points for it.
fn task_charts(variants: &[String], metrics: &[Metrics], styles: &Styles) -> Vec<Chart> {
    let mut names: Vec<&str> = Vec::new();
    for name in metrics.iter().flat_map(|metrics| metrics.tasks.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut charts = Vec::new();
    for plot in Plot::ALL {
        for name in &names {
            let lines = variants.iter().zip(metrics).filter_map(|(label, metrics)| {
                let mut points = plot.points(metrics.tasks.get(*name)?);
                points.retain(|point| point.iter().all(|number| number.is_finite()));
                Some((label.as_str(), points))
            });
            let series = styles.series(lines);
            if !series.is_empty() {
                let (title, mut x, y) = plot.frame();
                let tasks = metrics.iter().filter_map(|metrics| metrics.tasks.get(*name));
                if let Some(end) = tasks.filter_map(|task| plot.end(task)).reduce(f64::max) {
                    x.range = Some([0.0, end]);
                }
                let title = format!("{title} ({name})");
                charts.push(Chart { title, x, y, chance_diagonal: matches!(plot, Plot::Detection), series });
            }
        }
    }
    charts
}

/// The unweighted loss by step; means over equal numbers of steps if there are many.
fn thinned(steps: &[Step]) -> Vec<[f64; 2]> {
    let points: Vec<[f64; 2]> = steps
        .iter()
        .filter_map(|step| Some([step.step, step.unweighted_loss?]))
        .filter(|point| point[1].is_finite())
        .collect();
    let width = points.len().div_ceil(TRAINING_POINTS).max(1);
    let mean =
        |group: &[[f64; 2]], axis: usize| group.iter().map(|point| point[axis]).sum::<f64>() / group.len() as f64;
    points.chunks(width).map(|group| [mean(group, 0), mean(group, 1)]).collect()
}
