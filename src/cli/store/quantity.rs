//! Ages and sizes as users write them.

use std::time::Duration;

/// `90s`, `45min`, `12h`, `30d`, `2w`; a space between is fine.
pub(in crate::cli) fn age(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and s, min, h, d or w, such as 30d".to_owned();
    let (number, unit) = split(text).ok_or_else(expected)?;
    let seconds = match unit {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(expected()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())
}

/// `500MB`, `20GiB`; a number alone counts bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = || "expected a number and B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 20GiB".to_owned();
    let (number, unit) = split(text).ok_or_else(expected)?;
    let factor: f64 = match unit {
        "" | "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(expected()),
    };
    Ok((number * factor) as u64)
}

/// A number that is not negative, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_read_with_their_units() {
        assert_eq!(age("30d"), Ok(Duration::from_hours(720)));
        assert_eq!(age("1.5 h"), Ok(Duration::from_mins(90)));
        assert_eq!(age("0s"), Ok(Duration::ZERO));
        assert_eq!(size("20GiB"), Ok(20 << 30));
        assert_eq!(size("1.5 kB"), Ok(1500));
        assert_eq!(size("7"), Ok(7));
        for wrong in ["", "d", "30", "30 days", "-1d", "1m"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "GiB", "20Gib", "-1", "1..2B"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
