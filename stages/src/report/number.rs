//! How numbers are printed.

use super::measures::Measure;

/// A value of a measure, without its unit: shares as percentages.
pub(super) fn value(measure: Measure, value: f64) -> String {
    if measure.is_share() { format!("{:.1}", value * 100.0) } else { format!("{value:.3}") }
}

/// A difference with its sign; `±0` if nothing is left after rounding.
pub(super) fn difference(measure: Measure, difference: f64) -> String {
    let text = value(measure, difference.abs());
    if !text.contains(|digit: char| ('1'..='9').contains(&digit)) {
        return "±0".to_owned();
    }
    format!("{}{text}", if difference < 0.0 { '−' } else { '+' })
}

/// A value with its unit, as it stands in a sentence.
pub(super) fn with_unit(measure: Measure, number: f64) -> String {
    let text = value(measure, number);
    match measure.unit() {
        "" => text,
        // No line may break between a number and its unit.
        unit => format!("{text}\u{a0}{unit}"),
    }
}

/// A short plain number for ticks: no digits that say nothing.
pub(super) fn tick(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    // A zero that was reached from below.
    if text.trim_start_matches('-').chars().all(|letter| matches!(letter, '0' | '.')) {
        text.trim_start_matches('-').to_owned()
    } else {
        text.replace('-', "−")
    }
}
