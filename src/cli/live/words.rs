//! Events in words: pure functions from event to text.

use super::pace::Pace;
use crate::{
    cli::{
        output::{BAD, FAINT, GOOD, NOTE, STRONG, paint, table},
        words::{bytes, damage, duration, path, rate, replacement, share, short, stages as count_stages},
    },
    run::{
        event::{Announced, AnnouncedStatus, RunEvent, RunOutcome, StageOutcome, StageSummary},
        sharing::{Differing, RemoteSummary},
    },
};

/// What will happen and why: a head line, and a row for each stage that is not cached.
pub(super) fn announcement(event: &RunEvent) -> String {
    let RunEvent::RunStarted { graph, folder, jobs, threads, stages, .. } = event else { return String::new() };
    let open: Vec<&Announced> = stages.iter().filter(|stage| stage.status != AnnouncedStatus::Cached).collect();
    if open.is_empty() {
        return all_cached(graph, stages.len());
    }
    let rows: Vec<Vec<String>> = open
        .iter()
        .map(|stage| {
            let status = match stage.status {
                AnnouncedStatus::Cached => paint(GOOD, "cached"),
                AnnouncedStatus::Run => paint(NOTE, "run"),
                AnnouncedStatus::Waits => paint(FAINT, "waits"),
            };
            vec![status, stage.name.clone(), stage.kind.clone(), paint(FAINT, &stage.reason)]
        })
        .collect();
    let plural = |count: &usize, word: &str| format!("{count} {word}{}", if *count == 1 { "" } else { "s" });
    format!(
        "{}: {}\n{}{}\n",
        paint(STRONG, graph),
        tally(stages),
        table(&rows),
        paint(
            FAINT,
            format!(
                "{} at a time, {} each; logs in {}",
                plural(jobs, "stage"),
                plural(threads, "thread"),
                path(folder)
            )
        )
    )
}

/// That there is nothing to do.
pub(in crate::cli) fn all_cached(graph: &str, stages: usize) -> String {
    let all = if stages == 1 { "its only stage is".to_owned() } else { format!("all {stages} stages are") };
    format!("{}: {all} {}, nothing to run\n", paint(STRONG, graph), paint(GOOD, "cached"))
}

/// `4 cached, 5 run, 3 wait`.
fn tally(stages: &[Announced]) -> String {
    let count = |status| stages.iter().filter(|stage| stage.status == status).count();
    crate::cli::plan::tally(count(AnnouncedStatus::Cached), count(AnnouncedStatus::Run), count(AnnouncedStatus::Waits))
}

/// An event that goes to standard output as a line.
pub(super) fn line(event: &RunEvent) -> Option<String> {
    let line = match event {
        RunEvent::StageCached { stage, artifact } => {
            format!("  {} {stage}  {}", paint(GOOD, "cached "), paint(FAINT, short(artifact)))
        }
        RunEvent::StageWaiting { stage, owner, part } => {
            let part = part.map(|part| format!(", part {part},")).unwrap_or_default();
            format!("  {} {stage}{part}  for {owner}", paint(NOTE, "waits  "))
        }
        RunEvent::StageSplit { stage, parts, cached } => {
            format!("  {} {stage}  {parts} parts, {cached} of them cached", paint(NOTE, "splits "))
        }
        RunEvent::StageStarted { stage, kind, .. } => {
            format!("  {} {stage}  {}", paint(NOTE, "starts "), paint(FAINT, kind))
        }
        RunEvent::StageFinished { stage, outcome: StageOutcome::Ran, artifact, seconds, parts } => {
            let artifact = artifact.map(short).unwrap_or_default();
            let parts = parts.map(|parts| format!("{} of {} parts  ", parts.ran, parts.total)).unwrap_or_default();
            format!("  {} {stage}  {}  {parts}{}", paint(GOOD, "done   "), duration(*seconds), paint(FAINT, artifact))
        }
        RunEvent::StageFinished { stage, seconds, .. } => {
            format!("  {} {stage}  after {}", paint(NOTE, "stopped"), duration(*seconds))
        }
        RunEvent::RemoteSummary(summary) => return Some(remote(summary)),
        _ => return None,
    };
    Some(line + "\n")
}

/// What came of the remote store.
pub(in crate::cli) fn remote(summary: &RemoteSummary) -> String {
    let count = |count: usize| if count == 1 { "1 result".to_owned() } else { format!("{count} results") };
    let mut parts = vec![
        format!("{} from there ({} fetched)", count(summary.hits), bytes(summary.fetched_bytes as f64)),
        format!("{} stored ({})", count(summary.stored), bytes(summary.stored_bytes as f64)),
    ];
    if summary.failed > 0 {
        parts.push(paint(BAD, format!("{} not stored", count(summary.failed))));
    }
    format!("{}: {}; {} requests\n", paint(STRONG, &summary.store), parts.join(", "), summary.requests)
}

/// An event that goes to standard error.
pub(in crate::cli) fn complaint(event: &RunEvent) -> Option<String> {
    let text = match event {
        RunEvent::StageFailed { stage, message, log, .. } => {
            let log = log.as_ref().map(|log| format!("\n  log: {}", path(log))).unwrap_or_default();
            format!("{}: stage `{stage}` failed: {message}{log}\n", paint(BAD, "error"))
        }
        RunEvent::StageRetrying { stage, message, log, attempt, retries_left, pause, part, .. } => {
            let log = log.as_ref().map(|log| format!("\n  log: {}", path(log))).unwrap_or_default();
            let of = u64::from(*attempt) + u64::from(*retries_left);
            let pause = duration(*pause);
            let part = part.map(|part| format!("part {part} of ")).unwrap_or_default();
            format!(
                "{}: {part}stage `{stage}` failed, attempt {attempt} of {of}, next in {pause}: {message}{log}\n",
                paint(NOTE, "retry")
            )
        }
        RunEvent::StageWarning { stage, message } => {
            format!("{}: stage `{stage}`: {message}\n", paint(NOTE, "warning"))
        }
        RunEvent::StoreDamaged { path: at, problem, quarantine } => damage(at, problem, quarantine.as_deref()),
        RunEvent::RemoteSummary(RemoteSummary { store, conflicts, replaced, problem, failed, .. }) => {
            let differing = conflicts.iter().map(|Differing { key, published, found }| {
                format!(
                    "{}: action {key} gave {found} here, and {published} in {store}, which stays there\n",
                    paint(BAD, "not reproducible")
                )
            });
            let replaced = replaced.iter().map(|Differing { key, published, found }| {
                format!("{}: {}\n", paint(NOTE, "warning"), replacement(key, published, found, store))
            });
            let problem = problem.iter().map(|problem| match failed {
                0 => format!("{}: {problem}\n", paint(NOTE, "warning")),
                _ => format!(
                    "{}: not stored: {problem}; give it later with `twdag store push`\n",
                    paint(NOTE, "warning")
                ),
            });
            return Some(differing.chain(replaced).chain(problem).collect()).filter(|text: &String| !text.is_empty());
        }
        RunEvent::RunWarning { message } => format!("{}: {message}\n", paint(NOTE, "warning")),
        RunEvent::RunStopping { signal, waiting_for, kill } if *kill => {
            format!("{}: {signal} again: ending {} at once\n", paint(NOTE, "stopping"), names(waiting_for))
        }
        RunEvent::RunStopping { signal, waiting_for, .. } if waiting_for.is_empty() => {
            format!("{}: {signal}\n", paint(NOTE, "stopping"))
        }
        RunEvent::RunStopping { signal, waiting_for, .. } => format!(
            "{}: {signal}: waiting for {} to keep what is done; once more ends it at once\n",
            paint(NOTE, "stopping"),
            names(waiting_for)
        ),
        _ => return None,
    };
    Some(text)
}

fn names(stages: &[String]) -> String {
    let quoted: Vec<String> = stages.iter().map(|stage| format!("`{stage}`")).collect();
    quoted.join(", ")
}

/// The state of a running stage: share, speed, time left, detail.
pub(super) fn progress(done: u64, total: u64, unit: &str, detail: &str, pace: &Pace) -> String {
    let mut parts = vec![share(done, total, unit)];
    parts.extend(pace.per_second().map(|speed| rate(speed, unit)));
    parts.extend(pace.seconds_left().map(|seconds| format!("{} left", duration(seconds))));
    // Last, since a narrow terminal cuts the end off.
    if !detail.is_empty() {
        parts.push(detail.to_owned());
    }
    parts.join(", ")
}

/// The same as a line of its own.
pub(super) fn progress_line(stage: &str, done: u64, total: u64, text: &str) -> String {
    let percent =
        (done.min(total) * 100).checked_div(total).map(|percent| format!(" {percent:>3}%")).unwrap_or_default();
    format!("  {}{percent} {stage}  {text}\n", paint(FAINT, "..."))
}

/// What became of every stage, and how long it took.
pub(super) fn account(outcome: RunOutcome, stages: &[StageSummary], seconds: f64) -> String {
    let count = |outcome| stages.iter().filter(|stage| stage.outcome == outcome).count();
    let counts: Vec<String> = [
        (StageOutcome::Cached, "cached"),
        (StageOutcome::Ran, "ran"),
        (StageOutcome::Failed, "failed"),
        (StageOutcome::Skipped, "skipped"),
        (StageOutcome::Canceled, "canceled"),
    ]
    .into_iter()
    .filter(|(outcome, _)| count(*outcome) > 0)
    .map(|(outcome, word)| format!("{} {word}", count(outcome)))
    .collect();
    let (style, word) = match outcome {
        RunOutcome::Succeeded => (GOOD, "succeeded"),
        RunOutcome::Failed => (BAD, "failed"),
        RunOutcome::Interrupted => (NOTE, "interrupted"),
    };
    let rows: Vec<Vec<String>> = stages
        .iter()
        .filter(|stage| stage.outcome != StageOutcome::Cached)
        .map(|stage| {
            let word = match stage.outcome {
                StageOutcome::Cached => paint(GOOD, "cached"),
                StageOutcome::Ran => paint(GOOD, "ran"),
                StageOutcome::Failed => paint(BAD, "failed"),
                StageOutcome::Skipped => paint(FAINT, "skipped"),
                StageOutcome::Canceled => paint(NOTE, "canceled"),
            };
            let time = if stage.seconds > 0.0 { duration(stage.seconds) } else { String::new() };
            let parts = stage.parts.map(|parts| paint(FAINT, format!("{} of {} parts", parts.ran, parts.total)));
            [word, stage.name.clone(), time].into_iter().chain(parts).collect()
        })
        .collect();
    let resume = if outcome == RunOutcome::Interrupted {
        "the same command goes on from what is done; nothing finished is lost\n"
    } else {
        ""
    };
    format!(
        "{} after {}: {} ({})\n{}{resume}",
        paint(style, word),
        duration(seconds),
        count_stages(stages.len()),
        counts.join(", "),
        table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn progress_tells_share_speed_state_and_time_left() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        pace.on(start, 100, 400, "steps");
        assert_eq!(progress(100, 400, "steps", "", &pace), "100/400 steps");
        pace.on(start + Duration::from_secs(10), 130, 400, "steps");
        let text = progress(130, 400, "steps", "loss 2.314", &pace);
        assert_eq!(text, "130/400 steps, 3.0 steps/s, 1 min 30 s left, loss 2.314");
        let line = anstream::adapter::strip_str(&progress_line("train", 130, 400, &text)).to_string();
        assert_eq!(line, format!("  ...  32% train  {text}\n"));
        let unknown = anstream::adapter::strip_str(&progress_line("fetch", 12, 0, "12 files")).to_string();
        assert_eq!(unknown, "  ... fetch  12 files\n");
    }

    #[test]
    fn stopping_says_for_whom_and_how_to_hurry() {
        let event = |kill, waiting: &[&str]| RunEvent::RunStopping {
            signal: "SIGINT".to_owned(),
            waiting_for: waiting.iter().map(ToString::to_string).collect(),
            kill,
        };
        let text = |event| anstream::adapter::strip_str(&complaint(&event).unwrap()).to_string();
        assert_eq!(
            text(event(false, &["a", "b"])),
            "stopping: SIGINT: waiting for `a`, `b` to keep what is done; once more ends it at once\n"
        );
        assert_eq!(text(event(true, &["a"])), "stopping: SIGINT again: ending `a` at once\n");
        assert_eq!(text(event(false, &[])), "stopping: SIGINT\n");
    }
}
