//! Differences in words.

use serde_json::Value;

use super::{Cause, Detail, Document, Metrics, UnknownMetrics};
use crate::{
    cli::{
        output::{BAD, FAINT, GOOD, NOTE, STRONG, paint},
        words::{bytes, harmless, quantity, short, stages},
    },
    compare::{
        Comparison, ElementDifferences, FileDifference, FirstByte, FirstLine, TensorDifference, TensorFacts,
        ValueDifference,
    },
    plan::Differing,
};

/// So many files, tensors and values are shown; `--json` has all.
const SHOWN: usize = 12;

/// All in which two sides differ.
pub(super) fn page(document: &Document) -> String {
    let Document {
        one,
        other,
        same,
        differ,
        unknown,
        only_in_one,
        only_in_other,
        stage,
        also,
        metrics,
        metrics_unknown,
    } = document;
    let mut lines = vec![format!("{} and {}", paint(STRONG, harmless(one)), paint(STRONG, harmless(other)))];
    let quoted =
        |names: &[String]| names.iter().map(|name| format!("`{}`", harmless(name))).collect::<Vec<_>>().join(", ");
    if same.len() + differ.len() + unknown.len() > 1 {
        let differing = if differ.is_empty() {
            paint(GOOD, "none differs")
        } else {
            let verb = if differ.len() == 1 { "differs" } else { "differ" };
            format!("{} {verb}: {}", differ.len(), quoted(differ))
        };
        let verb = if same.len() == 1 { "is" } else { "are" };
        lines.push(format!("  {} {verb} the same, {differing}", stages(same.len())));
    } else if [differ, unknown, only_in_one, only_in_other].into_iter().all(Vec::is_empty) {
        lines.push(format!("  {}", paint(GOOD, "the same")));
    }
    if !unknown.is_empty() {
        let why = "no key and no result is known of both sides";
        lines.push(format!("  {}: {}: {why}", paint(NOTE, "not compared"), quoted(unknown)));
    }
    for (names, side) in [(only_in_one, one), (only_in_other, other)] {
        if !names.is_empty() {
            lines.push(format!("  only in {}: {}", harmless(side), quoted(names)));
        }
    }
    lines.extend(stage.as_ref().into_iter().flat_map(detail));
    if !also.is_empty() {
        lines.push(format!("{}:", paint(STRONG, "also different, not only in what they read")));
        lines.extend(also.iter().flat_map(cause));
    }
    if !metrics.is_empty() {
        lines.push(format!("{}:", paint(STRONG, "metrics that differ")));
        lines.extend(metrics.iter().flat_map(self::metrics));
    }
    if !metrics_unknown.is_empty() {
        lines.push(format!("{}:", paint(NOTE, "metrics not compared")));
        let told = metrics_unknown.iter();
        lines.extend(
            told.map(|UnknownMetrics { name, problem }| format!("  `{}`: {}", harmless(name), harmless(problem))),
        );
    }
    lines.join("\n") + "\n"
}

fn cause(cause: &Cause) -> Vec<String> {
    let mut lines = vec![format!("  `{}`", harmless(&cause.name))];
    if cause.differences.is_empty() {
        lines.push("    the same settings and inputs gave another result".to_owned());
    }
    lines.extend(cause.differences.iter().map(|difference| format!("    {}", difference_in_words(difference))));
    lines
}

fn metrics(metrics: &Metrics) -> Vec<String> {
    let Metrics { name, values, differing_values } = metrics;
    // What lies in lists, such as the loss by position, is detail.
    let is_in_list = |value: &&ValueDifference| value.place.split('.').any(|part| part.parse::<usize>().is_ok());
    let (details, plain): (Vec<_>, Vec<_>) = values.iter().partition(is_in_list);
    let shown: Vec<_> = if plain.is_empty() { details } else { plain }.into_iter().take(SHOWN).collect();
    let mut lines = vec![format!("  `{}`", harmless(name))];
    lines.extend(shown.iter().map(|value| format!("    {}", value_in_words(value))));
    let left = differing_values - shown.len();
    if left > 0 {
        lines.push(format!("    {}", paint(FAINT, format!("and {left} more"))));
    }
    lines
}

fn value_in_words(value: &ValueDifference) -> String {
    let ValueDifference { place, one, other } = value;
    let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_f64);
    let change = match (number(one), number(other)) {
        (Some(one), Some(other)) => format!("  ({:+})", other - one),
        _ => String::new(),
    };
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    format!("{}{change}", harmless(&format!("{place}: {} and {}", shown(one), shown(other))))
}

fn detail(detail: &Detail) -> Vec<String> {
    let Detail { name, other_name, one, other, differences, files, problem } = detail;
    let (name, other_name) = (harmless(name), harmless(other_name));
    let name = if name == other_name { format!("`{name}`") } else { format!("`{name}` and `{other_name}`") };
    let mut lines = vec![format!("{}:", paint(STRONG, name))];
    let what = match (one.key, other.key) {
        (Some(one), Some(other)) if one == other => "the same settings and inputs",
        (Some(_), Some(_)) => "settings or inputs differ",
        _ => "settings and inputs are not known of both",
    };
    lines.push(format!("  {what}"));
    lines.extend(differences.iter().map(|difference| format!("    {}", difference_in_words(difference))));
    match (one.artifact, other.artifact) {
        (Some(one), Some(other)) if one == other => lines.push(format!("  the same result, {}", short(one))),
        (Some(one), Some(other)) => lines.push(format!("  results {} and {}", short(one), short(other))),
        _ => {}
    }
    lines.extend(problem.as_ref().map(|problem| format!("  {}: {}", paint(NOTE, "not compared"), harmless(problem))));
    lines.extend(files.iter().flat_map(comparison));
    lines
}

fn difference_in_words(difference: &Differing) -> String {
    let Differing { words, reads, from, to, .. } = difference;
    let digest = |digest: &Option<String>| digest.as_ref().map_or_else(|| "nothing".to_owned(), short);
    match reads {
        Some(reads) => harmless(&format!("{words}: {reads}, {} → {}", digest(from), digest(to))),
        None => harmless(words),
    }
}

/// What differs between two results, a line each.
pub(in crate::cli) fn comparison(comparison: &Comparison) -> Vec<String> {
    let Comparison { same, files } = comparison;
    let mut lines = vec![format!("  {} of {} files differ", files.len(), files.len() + same)];
    for file in files.iter().take(SHOWN) {
        lines.extend(self::file(file).into_iter().map(|line| format!("    {line}")));
    }
    lines.extend(more(files.len()).map(|more| format!("    {more} files")));
    lines
}

fn more(count: usize) -> Option<String> {
    (count > SHOWN).then(|| paint(FAINT, format!("and {} more", count - SHOWN)))
}

fn file(file: &FileDifference) -> Vec<String> {
    let FileDifference {
        path,
        one,
        other,
        first_byte,
        first_line,
        same_tensors,
        tensors,
        header_differs,
        values,
        differing_values,
        values_outside,
        problem,
    } = file;
    let name = paint(STRONG, harmless(path));
    let mut lines = match (one, other) {
        (Some(one), Some(other)) if one.digest == other.digest => {
            let which = if one.executable { "one" } else { "other" };
            vec![format!("{name}: only the {which} may be run")]
        }
        (Some(one), Some(other)) if one.size == other.size => {
            vec![format!("{name}: {} in both", bytes(one.size as f64))]
        }
        (Some(one), Some(other)) => {
            vec![format!("{name}: {} and {}", quantity(one.size, "B"), quantity(other.size, "B"))]
        }
        (Some(_), None) => vec![format!("{name}: only in the one")],
        (None, _) => vec![format!("{name}: only in the other")],
    };
    if *header_differs {
        lines.push("  the headers differ: `__metadata__`, or the order of tensors".to_owned());
    }
    if !tensors.is_empty() {
        lines.push(format!("  {} of {} tensors differ", tensors.len(), tensors.len() + same_tensors));
        lines.extend(tensors.iter().take(SHOWN).flat_map(tensor).map(|line| format!("  {line}")));
        lines.extend(more(tensors.len()).map(|more| format!("  {more} tensors")));
    } else if !values.is_empty() {
        let plural = if *differing_values == 1 { "value differs" } else { "values differ" };
        lines.push(format!("  {differing_values} {plural}"));
        lines.extend(values_outside.map(|outside| format!("  {outside} of them outside the tolerance")));
        lines.extend(values.iter().take(SHOWN).map(|value| format!("    {}", value_in_words(value))));
        lines.extend(more(*differing_values).map(|more| format!("    {more} values")));
    } else if let Some(FirstLine { number, one, other }) = first_line {
        let shown =
            |line: &Option<String>| line.as_ref().map_or_else(|| "nothing".to_owned(), |line| format!("{line:?}"));
        lines.push(format!("  line {number}: {}", shown(one)));
        lines.push(format!("  {}  {}", " ".repeat(4 + number.to_string().len()), shown(other)));
    }
    if let Some(FirstByte { offset, one, other }) = first_byte {
        let shown = |byte: &Option<u8>| byte.map_or_else(|| "the end".to_owned(), |byte| format!("0x{byte:02x}"));
        let place = format!("first byte that differs: {offset}, {} and {}", shown(one), shown(other));
        lines.push(format!("  {}", paint(FAINT, place)));
    }
    lines.extend(
        problem.as_ref().map(|problem| format!("  {}: {}", paint(NOTE, "only bytes compared"), harmless(problem))),
    );
    lines
}

fn tensor(tensor: &TensorDifference) -> Vec<String> {
    let TensorDifference { name, one, other, elements } = tensor;
    let name = &harmless(name);
    let facts = |facts: &TensorFacts| format!("{} {:?}", facts.dtype, facts.shape);
    let mut lines = match (one, other) {
        (Some(one), Some(other)) if one == other => vec![format!("{} {}", paint(STRONG, name), facts(one))],
        (Some(one), Some(other)) => {
            vec![format!("{} {} and {}", paint(STRONG, name), paint(BAD, facts(one)), paint(BAD, facts(other)))]
        }
        (Some(one), None) => vec![format!("{} {}: only in the one", paint(STRONG, name), facts(one))],
        (None, other) => {
            let other = other.as_ref().map(facts).unwrap_or_default();
            vec![format!("{} {other}: only in the other", paint(STRONG, name))]
        }
    };
    if let Some(ElementDifferences { count, differing, greatest, mean, outside, first }) = elements {
        lines.push(format!(
            "  {} of {} differ, at most by {greatest:.3e}, on average by {mean:.3e}",
            quantity(*differing, "").trim_end(),
            quantity(*count, "elements"),
        ));
        lines.extend(outside.map(|outside| format!("  {} outside the tolerance", quantity(outside, "elements"))));
        if let Some(first) = first {
            let meaning = first.meaning.as_ref().map(|meaning| format!(" ({})", harmless(meaning))).unwrap_or_default();
            let shown = |value: &Value| if value.is_null() { "no finite number".to_owned() } else { value.to_string() };
            lines.push(format!(
                "  first at {:?}: {} and {}{meaning}",
                first.index,
                shown(&first.one),
                shown(&first.other)
            ));
        }
    }
    lines
}
