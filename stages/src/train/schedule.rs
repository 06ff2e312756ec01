//! The learning rate of each step.

use super::{Convention, Schedule, Train, WarmupShape};

/// The share of the learning rate that is left at the end of DeepSpeed's cosine (`cos_min_ratio`).
const COSINE_MIN_RATIO: f64 = 0.0001;

/// The learning rate of step `step` (the first is 1).
///
/// With c the number of updates counted (for transformers those before this one, for DeepSpeed one less, and its first
/// update has a rate of 0), W the warm-up and N all steps:
///
/// | | transformers 4.48 (`get_…_schedule_with_warmup`) | DeepSpeed 0.16 |
/// |---|---|---|
/// | warm-up, c < W | rate * c / W | that, or rate * ln(c + 1) / ln(W) |
/// | then, constant | rate | rate (`WarmupLR`) |
/// | linear | rate * (N - c) / (N - W) | the same (`WarmupDecayLR`) |
/// | cosine | rate * (1 + cos(pi (c - W) / (N - W))) / 2 | r + (1 - r) times that with c + 1, r = 0.0001 (`WarmupCosineLR`) |
pub fn learning_rate(settings: &Train, step: usize) -> f64 {
    let Train { learning_rate, warmup, steps, convention, .. } = *settings;
    let counted = match convention {
        Convention::HuggingFace => Some(step.saturating_sub(1)),
        Convention::DeepSpeed => step.checked_sub(2),
    };
    let Some(before) = counted else { return 0.0 };
    if before < warmup {
        return match settings.warmup_shape {
            WarmupShape::Linear => learning_rate * before as f64 / warmup as f64,
            WarmupShape::Log => learning_rate * (libm::log((before + 1) as f64) / libm::log(warmup as f64)),
        };
    }
    let span = steps.saturating_sub(warmup).max(1) as f64;
    let gone = (before - warmup) as f64 / span;
    let half_wave = |gone: f64| 0.5 * (1.0 + libm::cos(std::f64::consts::PI * gone.min(1.0)));
    match (settings.schedule, convention) {
        (Schedule::Constant, _) => learning_rate,
        (Schedule::Linear, _) => learning_rate * (1.0 - gone).max(0.0),
        (Schedule::Cosine, Convention::HuggingFace) => learning_rate * half_wave(gone),
        (Schedule::Cosine, Convention::DeepSpeed) => {
            learning_rate * (COSINE_MIN_RATIO + (1.0 - COSINE_MIN_RATIO) * half_wave(gone + 1.0 / span))
        }
    }
}
