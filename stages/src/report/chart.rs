//! What the plots show, before anything is drawn.

use serde::Serialize;

/// A line chart.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// Whether the diagonal is drawn as the line of chance.
    pub(super) chance_diagonal: bool,
    pub(super) series: Vec<Series>,
}

/// An axis.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Axis {
    /// What is measured, with its unit.
    pub(super) label: String,
    /// The ends of the axis; found from the points if absent.
    pub(super) range: Option<[f64; 2]>,
}

/// A line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Series {
    pub(super) label: String,
    /// The number of its colour, dashes and marker: the same for a label in every chart.
    pub(super) style: usize,
    pub(super) points: Vec<[f64; 2]>,
}

impl Axis {
    pub(super) fn free(label: &str) -> Self {
        Self { label: label.to_owned(), range: None }
    }

    pub(super) fn from_to(label: &str, from: f64, to: f64) -> Self {
        Self { label: label.to_owned(), range: Some([from, to]) }
    }
}

/// Ticks at round numbers and the digits that they need.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticks {
    pub(super) at: Vec<f64>,
    pub(super) digits: usize,
}

/// Multiples of 1, 2 or 5 times a power of ten within a range, fewer than `most` + 1.
pub(super) fn ticks([from, to]: [f64; 2], most: usize) -> Ticks {
    let (mantissa, exponent) = (-12_i32..=12)
        .flat_map(|exponent| [1.0, 2.0, 5.0].map(|mantissa| (mantissa, exponent)))
        .find(|&(mantissa, exponent)| to - from < scale(mantissa, exponent) * most as f64)
        .unwrap_or((5.0, 12));
    let unit = scale(mantissa, exponent);
    // A hair of tolerance, so that a tick at the very end is not lost to rounding.
    let first = (from / unit - 1e-9).ceil() as i64;
    let last = (to / unit + 1e-9).floor() as i64;
    let at = (first..=last).map(|index| scale(index as f64 * mantissa, exponent)).collect();
    Ticks { at, digits: (-exponent).max(0) as usize }
}

/// `number` times ten to the power `exponent`; a division keeps 6 / 10 the nearest number to 0.6.
fn scale(number: f64, exponent: i32) -> f64 {
    let power = (0..exponent.abs()).fold(1.0, |power, _| power * 10.0);
    if exponent < 0 { number / power } else { number * power }
}

/// The range of the points along one axis, widened so that no point lies on the edge.
pub(super) fn range(axis: &Axis, values: impl Iterator<Item = f64>) -> [f64; 2] {
    if let Some(range) = axis.range {
        return range;
    }
    let (least, most) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    if least > most {
        return [0.0, 1.0];
    }
    let pad = if most > least { (most - least) * 0.06 } else { (most.abs() * 0.05).max(0.05) };
    [least - pad, most + pad]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(from: f64, to: f64) -> (Vec<f64>, usize) {
        let ticks = ticks([from, to], 6);
        (ticks.at, ticks.digits)
    }

    #[test]
    fn ticks_stand_at_round_numbers() {
        assert_eq!(at(0.0, 1024.0), (vec![0.0, 200.0, 400.0, 600.0, 800.0, 1000.0], 0));
        assert_eq!(at(0.0, 1.0), (vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 1));
        assert_eq!(at(-0.07, 0.11), (vec![-0.05, 0.0, 0.05, 0.1], 2));
        assert_eq!(at(0.0, 100.0), (vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0], 0));
        assert_eq!(at(1.003, 1.0041), (vec![1.003, 1.0032, 1.0034, 1.0036, 1.0038, 1.004], 4));
    }

    #[test]
    fn a_range_holds_all_points_inside() {
        let free = Axis::free("x");
        assert_eq!(range(&free, [2.0, 3.0, 2.5].into_iter()), [1.94, 3.06]);
        assert_eq!(range(&free, [2.0].into_iter()), [1.9, 2.1]);
        assert_eq!(range(&free, std::iter::empty()), [0.0, 1.0]);
        assert_eq!(range(&Axis::from_to("x", 0.0, 5.0), [9.0].into_iter()), [0.0, 5.0]);
    }
}
