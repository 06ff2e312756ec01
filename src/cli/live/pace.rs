//! How fast a stage works and how long it will take, from the progress it tells.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Speed is measured over this much of the past.
const WINDOW: Duration = Duration::from_secs(15);
/// Shorter spans say nothing yet.
const SHORTEST: Duration = Duration::from_millis(500);

/// The recent progress of one stage.
#[derive(Debug, Default)]
pub(super) struct Pace {
    unit: String,
    points: VecDeque<(Instant, u64)>,
    total: u64,
}

impl Pace {
    /// Takes in a progress event. Another unit, or a count that falls, means that another phase of the work began.
    pub(super) fn on(&mut self, now: Instant, done: u64, total: u64, unit: &str) {
        if self.unit != unit || self.points.back().is_some_and(|&(_, last)| done < last) {
            self.points.clear();
            unit.clone_into(&mut self.unit);
        }
        self.total = total;
        self.points.push_back((now, done));
        // One point older than the window stays, so that there is always a span to measure.
        while self.points.get(1).is_some_and(|&(time, _)| now.duration_since(time) > WINDOW) {
            self.points.pop_front();
        }
    }

    /// Units in a second. What an earlier attempt had done does not count: the first point only starts the clock.
    pub(super) fn per_second(&self) -> Option<f64> {
        let (&(start, from), &(end, to)) = (self.points.front()?, self.points.back()?);
        let span = end.duration_since(start);
        (span >= SHORTEST && to > from).then(|| (to - from) as f64 / span.as_secs_f64())
    }

    /// Seconds to the end, if there is a known one.
    pub(super) fn seconds_left(&self) -> Option<f64> {
        let &(_, done) = self.points.back()?;
        let left = self.total.checked_sub(done).filter(|&left| left > 0)?;
        Some(left as f64 / self.per_second()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_stage_is_not_thought_faster_than_it_is() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.on(start, 300, 400, "steps");
        assert_eq!((pace.per_second(), pace.seconds_left()), (None, None));
        pace.on(start + Duration::from_secs(2), 310, 400, "steps");
        assert_eq!(pace.per_second(), Some(5.0));
        assert_eq!(pace.seconds_left(), Some(18.0));
    }

    #[test]
    fn only_the_recent_past_and_the_present_phase_count() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for second in 0..100_u64 {
            let done = if second < 50 { second } else { 50 + (second - 50) * 10 };
            pace.on(start + Duration::from_secs(second), done, 1000, "steps");
        }
        assert_eq!(pace.per_second(), Some(10.0));
        pace.on(start + Duration::from_secs(100), 0, 8, "files");
        assert_eq!(pace.per_second(), None);
    }
}
