//! The learning rate of each step.

use super::{Convention, Schedule, Train};

/// The learning rate of step `step` (the first is 1).
///
/// With c the number of steps before this one (for DeepSpeed, one less, but not below 0), W the warm-up and N all
/// steps: rate * c / W during warm-up, then rate, or rate times (N - c) / (N - W), or rate times
/// (1 + cos(pi (c - W) / (N - W))) / 2.
pub fn learning_rate(settings: &Train, step: usize) -> f64 {
    let before = match settings.convention {
        Convention::HuggingFace => step.saturating_sub(1),
        Convention::DeepSpeed => step.saturating_sub(2),
    };
    let Train { learning_rate, warmup, steps, .. } = *settings;
    if before < warmup {
        return learning_rate * before as f64 / warmup as f64;
    }
    let span = steps.saturating_sub(warmup).max(1) as f64;
    let gone = (before - warmup) as f64 / span;
    match settings.schedule {
        Schedule::Constant => learning_rate,
        Schedule::Linear => learning_rate * (1.0 - gone).max(0.0),
        Schedule::Cosine => learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * gone.min(1.0)).cos()),
    }
}
