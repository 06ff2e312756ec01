//! Progress bars on a terminal, one for each running stage.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a bar turns its spinner while its stage tells nothing.
const TICK: Duration = Duration::from_millis(200);

/// The bars of the running stages.
pub(super) struct Bars {
    all: MultiProgress,
    stages: BTreeMap<String, ProgressBar>,
    counting: ProgressStyle,
    spinning: ProgressStyle,
}

impl Bars {
    /// Draws on standard error.
    pub(super) fn new() -> Self {
        let style = |template| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─")
        };
        Self {
            all: MultiProgress::new(),
            stages: BTreeMap::new(),
            counting: style("  {spinner:.cyan} {prefix:.bold} {bar:20.cyan/dim} {percent:>3}%  {wide_msg}"),
            spinning: style("  {spinner:.cyan} {prefix:.bold} {elapsed:.dim}  {wide_msg}"),
        }
    }

    /// A stage has started.
    pub(super) fn start(&mut self, stage: &str) {
        let bar =
            self.all.add(ProgressBar::no_length().with_style(self.spinning.clone()).with_prefix(stage.to_owned()));
        bar.enable_steady_tick(TICK);
        self.stages.insert(stage.to_owned(), bar);
    }

    /// A stage has told how far it is.
    pub(super) fn progress(&mut self, stage: &str, done: u64, total: u64, text: String) {
        let Some(bar) = self.stages.get(stage) else { return };
        if total == 0 {
            if bar.length().is_some() {
                bar.unset_length();
                bar.set_style(self.spinning.clone());
            }
        } else {
            if bar.length().is_none() {
                bar.set_style(self.counting.clone());
            }
            bar.set_length(total);
        }
        bar.set_position(done);
        bar.set_message(text);
    }

    /// A stage is over.
    pub(super) fn end(&mut self, stage: &str) {
        if let Some(bar) = self.stages.remove(stage) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    /// The run is over.
    pub(super) fn clear(&mut self) {
        self.stages.clear();
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }

    /// Takes the bars away while something else is written.
    pub(super) fn aside(&self, write: impl FnOnce()) {
        self.all.suspend(write);
    }
}
