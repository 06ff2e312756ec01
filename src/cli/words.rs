//! Numbers and paths as people read them.

use std::path::Path;

use super::output::{NOTE, paint};
use crate::digest::{ArtifactId, Key};

/// `0.4 s`, `45 s`, `2 min 05 s`, `1 h 02 min`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// That a result took the place of another one, whose bytes a remote store had lost.
pub(super) fn replacement(key: &Key, published: &ArtifactId, found: &ArtifactId, store: &str) -> String {
    format!(
        "action {key} gave {found} here, and {published} before, whose bytes {store} has lost: it is not reproducible, and the new \
         result counts there from now on"
    )
}

/// A count of something: `12,345 tokens`, `3.2 MB`.
pub(super) fn quantity(count: u64, unit: &str) -> String {
    if unit == "bytes" { bytes(count as f64) } else { format!("{} {unit}", grouped(count)) }
}

/// How far something is: `120/400 steps`, `1.0 MB of 3.2 MB`; without a total, only what is done.
pub(super) fn share(done: u64, total: u64, unit: &str) -> String {
    match (total, unit) {
        (0, _) => quantity(done, unit),
        (_, "bytes") => format!("{} of {}", bytes(done as f64), bytes(total as f64)),
        _ => format!("{}/{} {unit}", grouped(done), grouped(total)),
    }
}

/// `3.2 steps/s`, `12,345 tokens/s`, `4.1 MB/s`.
pub(super) fn rate(per_second: f64, unit: &str) -> String {
    if unit == "bytes" {
        format!("{}/s", bytes(per_second))
    } else if per_second < 99.95 {
        format!("{per_second:.1} {unit}/s")
    } else {
        format!("{} {unit}/s", grouped(per_second.round() as u64))
    }
}

/// A size in decimal units: `812 B`, `3.2 MB`.
pub(super) fn bytes(count: f64) -> String {
    let mut value = count;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// `one stage`, `3 stages`.
pub(super) fn stages(count: usize) -> String {
    if count == 1 { "1 stage".to_owned() } else { format!("{count} stages") }
}

/// The first digits of a digest: enough to tell artifacts apart at a glance.
pub(super) fn short(digest: impl ToString) -> String {
    let mut text = digest.to_string();
    text.truncate(12);
    text
}

/// Text that came from elsewhere, without what would be an order to a terminal.
pub(super) fn harmless(text: &str) -> String {
    let is_order = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|letter| if is_order(letter) { letter.escape_default().to_string() } else { letter.to_string() })
        .collect()
}

/// A path as short as it can be from where the user is.
pub(super) fn path(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).ok().filter(|below| !below.as_os_str().is_empty()).unwrap_or(path).display().to_string()
}

/// A damaged file of the store and what became of it.
pub(super) fn damage(at: &Path, problem: &str, quarantine: Option<&Path>) -> String {
    // Most problems name the file themselves.
    let place = at.display().to_string();
    let named = if problem.contains(&place) { String::new() } else { format!("{place}: ") };
    let moved = quarantine.map_or_else(
        || "it could not be set aside and is not used".to_owned(),
        |quarantine| format!("set aside in {}", path(quarantine)),
    );
    format!("{}: damaged: {named}{problem}; {moved}\n", paint(NOTE, "warning"))
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_before_they_choose_their_unit() {
        let text: Vec<_> = [0.04, 9.94, 9.96, 59.4, 59.6, 125.0, 3599.7, 3720.0].into_iter().map(duration).collect();
        assert_eq!(text, ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 00 s", "2 min 05 s", "1 h 00 min", "1 h 02 min"]);
    }

    #[test]
    fn counts_are_grouped_and_bytes_scaled() {
        assert_eq!(share(999, 1_234_567, "tokens"), "999/1,234,567 tokens");
        assert_eq!(share(1_000_000, 3_200_000, "bytes"), "1.0 MB of 3.2 MB");
        assert_eq!(share(12, 0, "files"), "12 files");
        assert_eq!(rate(99.94, "steps"), "99.9 steps/s");
        assert_eq!(rate(12345.4, "tokens"), "12,345 tokens/s");
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(999_960.0), "1.0 MB");
    }
}
