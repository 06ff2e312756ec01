//! What a person sees of a run: the event stream in words, with bars on a terminal.

mod bars;
mod pace;
pub(super) mod words;

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use self::{bars::Bars, pace::Pace};
use super::output;
use crate::run::event::{AnnouncedStatus, RunEvent, StageOutcome};

/// Without a terminal, a running stage tells of its progress this often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the events of one run.
pub(super) struct Live {
    bars: Option<Bars>,
    announced: BTreeMap<String, AnnouncedStatus>,
    running: BTreeMap<String, Running>,
    started: Instant,
}

struct Running {
    pace: Pace,
    told: Instant,
}

impl Live {
    /// Bars if standard output and standard error are both a terminal that can move its cursor, lines otherwise.
    pub(super) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal() && !dumb;
        Self {
            bars: terminal.then(Bars::new),
            announced: BTreeMap::new(),
            running: BTreeMap::new(),
            started: Instant::now(),
        }
    }

    /// Shows one event.
    pub(super) fn on(&mut self, event: &RunEvent) {
        match event {
            RunEvent::RunStarted { stages, .. } => {
                self.announced = stages.iter().map(|stage| (stage.name.clone(), stage.status)).collect();
                self.out(&words::announcement(event));
            }
            RunEvent::StageStarted { stage, .. } => {
                let now = Instant::now();
                self.running.insert(stage.clone(), Running { pace: Pace::default(), told: now });
                if let Some(bars) = &mut self.bars {
                    bars.start(stage);
                } else {
                    self.tell(event);
                }
            }
            RunEvent::StageProgress { stage, done, total, unit, detail } => {
                let now = Instant::now();
                let Some(running) = self.running.get_mut(stage) else { return };
                running.pace.on(now, *done, *total, unit);
                let text = words::progress(*done, *total, unit, detail, &running.pace);
                if let Some(bars) = &mut self.bars {
                    bars.progress(stage, *done, *total, text);
                } else if now.duration_since(running.told) >= LINE_INTERVAL {
                    running.told = now;
                    output::out(words::progress_line(stage, *done, *total, &text));
                }
            }
            // What the announcement has said already.
            RunEvent::StageCached { stage, .. } if self.announced.get(stage) == Some(&AnnouncedStatus::Cached) => {}
            // One part of many: the stage goes on.
            RunEvent::StageRetrying { part: Some(_), .. } => self.tell(event),
            RunEvent::StageFinished { stage, .. }
            | RunEvent::StageRetrying { stage, .. }
            | RunEvent::StageFailed { stage, .. } => {
                self.running.remove(stage);
                if let Some(bars) = &mut self.bars {
                    bars.end(stage);
                }
                self.tell(event);
            }
            RunEvent::RunFinished { outcome, stages } => {
                if let Some(bars) = &mut self.bars {
                    bars.clear();
                }
                let nothing_done = stages.iter().all(|stage| stage.outcome == StageOutcome::Cached);
                let foreseen = self.announced.values().all(|status| *status == AnnouncedStatus::Cached);
                if !(nothing_done && foreseen) {
                    self.out(&words::account(*outcome, stages, self.started.elapsed().as_secs_f64()));
                }
            }
            _ => self.tell(event),
        }
    }

    fn tell(&self, event: &RunEvent) {
        if let Some(line) = words::line(event) {
            self.out(&line);
        }
        if let Some(complaint) = words::complaint(event) {
            self.aside(|| output::err(&complaint));
        }
    }

    fn out(&self, text: &str) {
        self.aside(|| output::out(text));
    }

    /// Takes the bars away while something is written.
    fn aside(&self, write: impl FnOnce()) {
        match &self.bars {
            Some(bars) => bars.aside(write),
            None => write(),
        }
    }
}
