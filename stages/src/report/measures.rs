//! The numbers that variants are compared by: the columns of the table.

use serde::Serialize;

use super::metrics::{Metrics, Task};

/// Which direction is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Lower,
    Higher,
}

/// What a column measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Measure {
    Recall,
    LossFar,
    MeanLoss,
    LossAtEnd,
    LossOther,
    NeedleAccuracy,
    ChoiceAccuracy,
    AreaUnderCurve,
    LongPerplexity,
    Perplexity,
}

impl Measure {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Recall => "recall of planted facts",
            Self::LossFar => "loss on far tokens",
            Self::MeanLoss => "mean loss",
            Self::LossAtEnd => "loss at the end",
            Self::LossOther => "loss on other tokens",
            Self::NeedleAccuracy => "needles found",
            Self::ChoiceAccuracy => "right answers",
            Self::AreaUnderCurve => "far tokens found, AUC",
            Self::LongPerplexity => "LongPPL",
            Self::Perplexity => "perplexity",
        }
    }

    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::Recall => {
                "share of planted facts whose value the model predicts when the text needs it again far away"
            }
            Self::LossFar => "mean loss on the tokens that only a fact planted far back can tell",
            Self::MeanLoss => "mean loss over all positions",
            Self::LossAtEnd => "mean loss in the last bucket of positions, where the context is longest",
            Self::LossOther => "mean loss on all tokens that need no planted fact",
            Self::NeedleAccuracy => "share of hidden sentences that the model gives back when asked",
            Self::ChoiceAccuracy => "share of multiple-choice questions whose right answer has the highest likelihood",
            Self::AreaUnderCurve => {
                "area under the ROC curve when the scores pick out the tokens that need far context (0.5 is chance)"
            }
            Self::LongPerplexity => {
                "perplexity on the key tokens, which an evaluator model knows by long context alone"
            }
            Self::Perplexity => "perplexity on all tokens: the exponential of the mean loss",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        if self.is_share() {
            "%"
        } else if matches!(self, Self::AreaUnderCurve | Self::LongPerplexity | Self::Perplexity) {
            ""
        } else {
            "nats"
        }
    }

    pub(super) fn better(self) -> Better {
        match self {
            Self::LossFar
            | Self::MeanLoss
            | Self::LossAtEnd
            | Self::LossOther
            | Self::LongPerplexity
            | Self::Perplexity => Better::Lower,
            _ => Better::Higher,
        }
    }

    /// Whether the number is a share of samples, so that chance alone moves it.
    pub(super) fn is_share(self) -> bool {
        matches!(self, Self::Recall | Self::NeedleAccuracy | Self::ChoiceAccuracy)
    }
}

/// A number and, for shares, of how many samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Value {
    pub(super) value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) samples: Option<u64>,
}

/// A column of the table: one measure of one task, for each variant.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Column {
    pub(super) task: String,
    pub(super) measure: Measure,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    /// In the order of the variants; `null` where a variant lacks it.
    pub(super) values: Vec<Option<Value>>,
    /// The variants that no other beats.
    pub(super) best: Vec<usize>,
}

impl Column {
    /// By how much a variant differs from the first.
    pub(super) fn difference(&self, variant: usize) -> Option<f64> {
        let first = self.values.first()?.as_ref()?.value;
        (variant > 0).then_some(self.values.get(variant)?.as_ref()?.value - first)
    }
}

/// The measures of a task, in the order in which a reader wants them.
fn measures(task: &Task) -> Vec<(Measure, Option<f64>, Option<u64>)> {
    match task {
        Task::LossByPosition { mean, buckets } => {
            let at_end = buckets.last().and_then(|bucket| bucket.loss);
            vec![(Measure::MeanLoss, *mean, None), (Measure::LossAtEnd, at_end, None)]
        }
        Task::PlantedFacts { facts, recall, loss_far, loss_other, .. } => vec![
            (Measure::Recall, *recall, Some(*facts)),
            (Measure::LossFar, *loss_far, None),
            (Measure::LossOther, *loss_other, None),
        ],
        Task::Needles { accuracy, samples, .. } => vec![(Measure::NeedleAccuracy, *accuracy, Some(*samples))],
        Task::MultipleChoice { accuracy, questions } => vec![(Measure::ChoiceAccuracy, *accuracy, Some(*questions))],
        Task::FarTokenDetection { area_under_curve, .. } => vec![(Measure::AreaUnderCurve, *area_under_curve, None)],
        Task::LongPpl { long_perplexity, perplexity } => {
            vec![(Measure::LongPerplexity, *long_perplexity, None), (Measure::Perplexity, *perplexity, None)]
        }
        Task::Other => Vec::new(),
    }
}

/// The columns in the order in which the tasks first appear.
pub(super) fn columns(variants: &[Metrics]) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for (index, metrics) in variants.iter().enumerate() {
        for (name, task) in &metrics.tasks {
            for (measure, value, samples) in measures(task) {
                let known = columns.iter().position(|column| column.task == *name && column.measure == measure);
                let place = known.unwrap_or_else(|| {
                    columns.push(Column {
                        task: name.clone(),
                        measure,
                        unit: measure.unit(),
                        better: measure.better(),
                        values: vec![None; variants.len()],
                        best: Vec::new(),
                    });
                    columns.len() - 1
                });
                let value = value.filter(|value| value.is_finite());
                columns[place].values[index] = value.map(|value| Value { value, samples });
            }
        }
    }
    for column in &mut columns {
        let sign = if column.better == Better::Lower { -1.0 } else { 1.0 };
        let best = column.values.iter().flatten().map(|value| value.value * sign).reduce(f64::max);
        let is_best = |value: &Option<Value>| value.is_some_and(|value| Some(value.value * sign) == best);
        column.best = (0..column.values.len()).filter(|&variant| is_best(&column.values[variant])).collect();
    }
    columns
}
