//! One sentence on what the numbers say, computed from them and from nothing else.

use super::{
    measures::{Better, Column, Measure},
    number,
};

/// The measures that the sentence speaks of, the most telling first.
const TELLING: [Measure; 5] =
    [Measure::Recall, Measure::LossFar, Measure::MeanLoss, Measure::NeedleAccuracy, Measure::ChoiceAccuracy];

/// What one measure says.
enum Finding {
    /// These variants beat the first.
    Won { winners: String, are_several: bool, what: String },
    /// No variant does.
    Lost { what: String },
}

/// The findings as one sentence.
pub(super) fn sentence(variants: &[String], columns: &[Column]) -> String {
    let [first, _, ..] = variants else {
        return "There is one variant, so there is nothing to compare.".to_owned();
    };
    let first = quoted(first);
    let findings: Vec<Finding> =
        TELLING.iter().filter_map(|&measure| finding(variants, &first, measure, columns)).collect();
    if findings.is_empty() {
        return format!("No measure was taken of both {first} and another variant, so there is nothing to compare.");
    }

    // Those who won more than once are named once.
    let mut clauses: Vec<(&str, bool, Vec<&str>)> = Vec::new();
    let mut lost = Vec::new();
    for finding in &findings {
        match finding {
            Finding::Lost { what } => lost.push(what.as_str()),
            Finding::Won { winners, are_several, what } => {
                match clauses.iter_mut().find(|(names, ..)| names == winners) {
                    Some((.., whats)) => whats.push(what),
                    None => clauses.push((winners, *are_several, vec![what])),
                }
            }
        }
    }
    let mut clauses: Vec<String> = clauses
        .into_iter()
        .map(|(winners, are_several, whats)| {
            format!("{winners} {} {}", if are_several { "have" } else { "has" }, listed(&whats, "and"))
        })
        .collect();
    if !lost.is_empty() {
        let start = if clauses.is_empty() { "No" } else { "no" };
        clauses.push(format!("{start} variant beats {first} in {}", listed(&lost, "or")));
    }
    format!("{}.", clauses.join("; "))
}

fn finding(variants: &[String], first: &str, measure: Measure, columns: &[Column]) -> Option<Finding> {
    let mut of_measure = columns.iter().filter(|column| column.measure == measure);
    let column = of_measure.next()?;
    let name = match of_measure.next() {
        // The first task speaks for the others, which stand in the table.
        Some(_) => format!("{} of “{}”", measure.name(), column.task),
        None => measure.name().to_owned(),
    };
    let baseline = column.values.first()?.as_ref()?;
    if column.values.iter().skip(1).flatten().count() == 0 {
        return None;
    }
    // Equal as printed is equal: nobody should read a finding into a digit that is not shown.
    let shown = |variant: usize| column.values[variant].map(|value| number::value(measure, value.value));
    let best = column.best.first().copied()?;
    let at_baseline = number::with_unit(measure, baseline.value);
    if shown(best) == shown(0) {
        return Some(Finding::Lost { what: format!("{name} ({at_baseline})") });
    }
    let value = column.values[best].as_ref()?;
    let winners: Vec<String> = (1..variants.len())
        .filter(|&variant| shown(variant) == shown(best))
        .map(|variant| quoted(&variants[variant]))
        .collect();
    let chance = match (value.samples, baseline.samples) {
        (Some(samples), Some(of_baseline)) if !is_clear(value.value, samples, baseline.value, of_baseline) => {
            format!(", a difference that chance alone can make with {samples} samples")
        }
        _ => String::new(),
    };
    let extreme = if measure.better() == Better::Lower { "lowest" } else { "highest" };
    let at_winner = number::with_unit(measure, value.value);
    Some(Finding::Won {
        are_several: winners.len() > 1,
        winners: listed(&winners.iter().map(String::as_str).collect::<Vec<_>>(), "and"),
        what: format!("the {extreme} {name} ({at_winner} against {at_baseline} of {first}{chance})"),
    })
}

fn quoted(label: &str) -> String {
    format!("“{label}”")
}

/// `a`, `a and b`, `a, b and c`.
fn listed(items: &[&str], word: &str) -> String {
    match items {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} {word} {last}", most.join(", ")),
    }
}

/// Whether two shares differ by more than two standard errors of their difference (normal approximation of two
/// independent binomial shares; the same samples in both make it err on the careful side).
fn is_clear(one: f64, samples: u64, two: f64, of_two: u64) -> bool {
    let variance = |share: f64, count: u64| share * (1.0 - share) / count.max(1) as f64;
    (one - two).abs() > 2.0 * (variance(one, samples) + variance(two, of_two)).sqrt()
}
