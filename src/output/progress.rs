//! A line per table that is being built, on a terminal: a spinner, the records read, the time.
//!
//! Uses nothing of the project.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What a line looks like.
const TEMPLATE: &str = "{spinner} {prefix}  {human_pos} records read  {elapsed}";

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// The lines; none of them is drawn where there is no terminal.
pub(super) struct Progress {
    lines: Option<MultiProgress>,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Progress {
    pub(super) fn new(is_shown: bool) -> Self {
        let lines = is_shown.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { lines, bars: Mutex::default() }
    }

    /// `read` records of a table until now.
    pub(super) fn show(&self, table: &str, read: u64) {
        let Some(lines) = &self.lines else { return };
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if !bars.contains_key(table) {
            bars.insert(table.to_owned(), lines.add(bar(table)));
        }
        if let Some(bar) = bars.get(table) {
            bar.set_position(read);
        }
    }

    /// A line of a table in words.
    pub(super) fn say(&self, table: &str, line: String) {
        let Some(lines) = &self.lines else { return };
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(table.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            lines.add(ProgressBar::new_spinner().with_style(style))
        });
        bar.set_message(line);
        bar.tick();
    }

    /// Writes something without cutting a line in two.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.lines {
            Some(lines) => lines.suspend(write),
            None => write(),
        }
    }

    /// Takes every line away.
    pub(super) fn clear(&self) {
        let bars = std::mem::take(&mut *self.bars.lock().unwrap_or_else(PoisonError::into_inner));
        for bar in bars.values() {
            bar.finish_and_clear();
        }
        if let Some(lines) = &self.lines {
            // A terminal that went away needs no tidying.
            let _ = lines.clear();
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("is_shown", &self.lines.is_some()).finish_non_exhaustive()
    }
}

fn bar(table: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_prefix(table.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}
