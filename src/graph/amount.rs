//! Amounts of resources and spans of time, as graphs, workspace files and command lines spell them.

use std::{fmt, time::Duration};

use jiff::SignedDuration;

/// The resource whose amount is the number of threads of a stage.
pub const CPU: &str = "cpu";
/// The resource that is counted in bytes.
pub const MEMORY: &str = "memory";
/// The resource whose units are devices with names, of which each is lent to one stage at a time.
pub const GPU: &str = "gpu";

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A size in bytes, such as `4 GiB`, `1.5GB` or `500 MB`.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let border = text.find(|next: char| !next.is_ascii_digit() && !matches!(next, '.' | '_'))?;
    let (number, unit) = text.split_at(border);
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit.trim_start())?;
    let number: f64 = number.replace('_', "").parse().ok()?;
    let bytes = number * factor as f64;
    // Beyond this a float no longer counts single bytes, and no machine has so many.
    (bytes < (1_u64 << 53) as f64).then_some(bytes.round() as u64)
}

/// What [`bytes()`] reads, for messages.
pub const BYTES: &str = "a size with its unit in quotes, such as \"4 GiB\" or \"500 MB\"";

/// A span of time, such as `90s`, `15min`, `1h 30min` or `500ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let span: SignedDuration = text.trim().parse().ok()?;
    Duration::try_from(span).ok().filter(|span| !span.is_zero())
}

/// What [`duration`] reads, for messages.
pub const DURATION: &str = "a time with its unit in quotes, such as \"90s\", \"15min\" or \"1h 30min\"";

/// An amount of a resource as it is shown and can be read again: `2`, `4 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str, pub u64);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, amount) = *self;
        if name != MEMORY {
            return write!(formatter, "{amount}");
        }
        let binary = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match binary.into_iter().find(|(_, factor)| amount >= *factor) {
            None => write!(formatter, "{amount} B"),
            Some((unit, factor)) if amount.is_multiple_of(factor) => write!(formatter, "{} {unit}", amount / factor),
            Some((unit, factor)) => write!(formatter, "{:.1} {unit}", amount as f64 / factor as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_are_shown_as_they_are_read() {
        let read: Vec<_> = ["4 GiB", "1.5GB", "500 MB", "2_000 kB", "12 B"].into_iter().map(bytes).collect();
        assert_eq!(read, [Some(4 << 30), Some(1_500_000_000), Some(500_000_000), Some(2_000_000), Some(12)]);
        for wrong in ["", "4", "4 G", "4 gib", "GiB", "-1 GiB", "1.2.3 GB", "9999999 TiB", "4 GiB more"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        for text in ["4 GiB", "3 KiB", "12 B", "0 B"] {
            assert_eq!(Shown(MEMORY, bytes(text).unwrap()).to_string(), text);
        }
        assert_eq!(Shown(MEMORY, 500_000_000).to_string(), "476.8 MiB");
        assert_eq!(Shown(CPU, 4).to_string(), "4");
    }

    #[test]
    fn times_need_a_unit_and_are_longer_than_nothing() {
        let seconds = |text| duration(text).map(|span| span.as_secs_f64());
        assert_eq!(seconds("2h"), Some(7200.0));
        assert_eq!(seconds("1h 30min"), Some(5400.0));
        assert_eq!(seconds("15 min"), Some(900.0));
        assert_eq!(seconds("250ms"), Some(0.25));
        for wrong in ["", "90", "0s", "-5s", "soon", "1 fortnight"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
