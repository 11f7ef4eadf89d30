//! The only writer to standard output and standard error.
//!
//! Floor 7: uses `stream`, `report`, `error`. [`Output`] is the [`Reporter`] of every command. Results, and all of `--json`, go to
//! standard output; progress, notices, the summary for people, logs and errors go to standard error. The writers are
//! given, so a test can look at what was written. How things look is in [`render`] (errors), [`summary`], `table` with
//! `cells` (results), and `progress`.

mod cells;
mod live;
mod progress;
pub mod render;
pub mod summary;
mod table;
mod text;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::SecondsFormat;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

use self::live::Live;
use self::progress::Progress;
use self::table::ResultTable;
use crate::clock;
use crate::error::{Error, Place, Result};
use crate::report::{Condition, EpochReport, Reporter, StatusSummary, Summary, TableReport};

/// How things are shown.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each one is a flag of the command line or of the terminal")]
pub struct Look {
    /// Lines of JSON on standard output.
    pub json: bool,
    /// Only errors on standard error.
    pub quiet: bool,
    /// Colours on standard error.
    pub colors: bool,
    /// A progress bar on standard error.
    pub progress: bool,
    /// The causes of an error below it.
    pub causes: bool,
    /// Lines on standard error are JSON, as those of the log.
    pub json_log: bool,
}

impl Look {
    /// What the flags and the terminal allow.
    pub fn of_terminal(json: bool, quiet: bool, causes: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            json,
            quiet,
            colors: is_terminal && may_color(),
            progress: is_terminal && !quiet && !json,
            causes,
            json_log: false,
        }
    }
}

/// Whether the user wants colours at all: by the convention, any `NO_COLOR` that is not empty says no.
fn may_color() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::env::var_os("TERM").as_deref() != Some(OsStr::new("dumb"))
}

type Writer = Box<dyn Write + Send>;

/// Standard output, and what came of writing to it.
struct Results {
    writer: Writer,
    /// The first failure; nothing is written after it.
    failure: Option<io::Error>,
    table: ResultTable,
}

/// The two streams, and what is drawn on them.
pub struct Output {
    look: Look,
    results: Mutex<Results>,
    messages: Mutex<Writer>,
    progress: Progress,
    live: Mutex<Live>,
    is_closed: AtomicBool,
    closing: Notify,
}

impl Output {
    /// Writes to the process's own streams.
    pub fn standard(look: Look) -> Self {
        Self::new(look, Box::new(io::stdout()), Box::new(io::stderr()))
    }

    /// Writes to these: results to the first, everything else to the second.
    pub fn new(look: Look, results: Writer, messages: Writer) -> Self {
        Self {
            look,
            results: Mutex::new(Results { writer: results, failure: None, table: ResultTable::new(look.json) }),
            messages: Mutex::new(messages),
            progress: Progress::new(look.progress),
            live: Mutex::default(),
            is_closed: AtomicBool::new(false),
            closing: Notify::new(),
        }
    }

    /// How things are shown.
    pub fn look(&self) -> Look {
        self.look
    }

    /// Shows an error.
    pub fn error(&self, error: &Error) {
        self.message(&render::error(error, self.look.colors, self.look.causes));
    }

    /// Shows a line on standard error, unless only errors are wanted.
    pub fn line(&self, text: &str) {
        if !self.look.quiet {
            self.log("INFO", text);
        }
    }

    /// Shows a line on standard error, in the form of the log's lines where that is JSON.
    fn log(&self, level: &str, text: &str) {
        if !self.look.json_log {
            return self.message(&format!("{text}\n"));
        }
        let at = clock::system().now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let fields = json!({ "message": text });
        let line = json!({ "timestamp": at, "level": level, "fields": fields, "target": "pinsql" });
        self.message(&format!("{line}\n"));
    }

    /// Writes text to standard output as it is: `--help` and `--version`.
    pub fn text(&self, text: &str) {
        self.write(&mut locked(&self.results), text.as_bytes());
    }

    /// Forgets the rest of a result whose statement failed or was left.
    fn abandon_rows(&self) {
        locked(&self.results).table.abandon();
    }

    /// Writes text to standard error as it is: what is wrong with the command line.
    pub fn message(&self, text: &str) {
        self.progress.suspend(|| {
            let mut writer = locked(&self.messages);
            // There is no other place left to say that this one does not take what is written.
            let _ = writer.write_all(text.as_bytes()).and_then(|()| writer.flush());
        });
    }

    /// Ends a command: its errors, and the summary, for people or as the last line of `--json`.
    pub fn summary(&self, summary: &Summary) {
        self.progress.clear();
        self.abandon_rows();
        if !self.look.json && !self.look.quiet {
            self.message(&summary::tables(summary.command, &summary.tables));
        }
        for error in summary::errors(summary) {
            self.error(error);
        }
        if self.look.json {
            self.json_line(summary);
        } else if let Some(total) = summary::total(summary) {
            self.line(&total);
        }
    }

    /// Whether a table of a stream has failed.
    pub fn has_failed(&self) -> bool {
        locked(&self.live).has_failed()
    }

    /// Shows how a stream is getting on: in place on a terminal, else in lines; `--json` and `-q` have no use for it.
    pub fn glance(&self) {
        for (table, line) in locked(&self.live).glance() {
            if self.look.progress {
                self.progress.say(&table, line);
            } else if !self.look.json {
                self.line(&line);
            }
        }
    }

    /// What `status` found.
    pub fn status(&self, found: &StatusSummary) {
        if let Some(error) = &found.error {
            self.error(error);
        }
        if self.look.json {
            self.json_line(found);
        } else {
            self.text(&summary::status(&found.tables));
        }
    }

    /// The summary as a line of `--json`, where its error is on standard error already.
    pub fn json_summary(&self, summary: &Summary) {
        self.json_line(summary);
    }

    /// Ends a statement of the shell, and says what it built.
    pub fn tables(&self, tables: &[TableReport]) {
        self.progress.clear();
        self.abandon_rows();
        if !self.look.quiet && !self.look.json {
            self.message(&summary::tables("sql", tables));
        }
    }

    /// One record of a result below the other, a line per column, as `\x` of psql.
    pub fn expand(&self, is_expanded: bool) {
        locked(&self.results).table.set_expanded(is_expanded);
    }

    /// Comes back once nobody reads standard output any more, or it cannot be written.
    pub async fn closed(&self) {
        while !self.is_closed.load(Ordering::Acquire) {
            self.closing.notified().await;
        }
    }

    /// Whether [`Self::closed`] would come back at once.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Whether everything could be written. A reader that went away, as `head` does, had what it wanted.
    pub fn finish(&self) -> Result<()> {
        let mut results = locked(&self.results);
        if results.failure.is_none()
            && let Err(error) = results.writer.flush()
        {
            self.fail(&mut results, error);
        }
        match &results.failure {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::world(format!("standard output cannot be written: {error}"))
                    .hint("is the disk full, or the file that it goes to not writable?"))
            }
            _ => Ok(()),
        }
    }

    fn json_line(&self, value: &impl Serialize) {
        match serde_json::to_vec(value) {
            Ok(mut line) => {
                line.push(b'\n');
                self.write(&mut locked(&self.results), &line);
            }
            Err(error) => self.error(&Error::internal(format!("a report cannot be written as JSON: {error}"))),
        }
    }

    fn write(&self, results: &mut Results, bytes: &[u8]) {
        if results.failure.is_some() || bytes.is_empty() {
            return;
        }
        let written = self.progress.suspend(|| results.writer.write_all(bytes).and_then(|()| results.writer.flush()));
        if let Err(error) = written {
            self.fail(results, error);
        }
    }

    fn fail(&self, results: &mut Results, error: io::Error) {
        results.failure = Some(error);
        self.is_closed.store(true, Ordering::Release);
        self.closing.notify_one();
    }

    /// Lets the table make its bytes, and writes them.
    fn show(&self, make: impl FnOnce(&mut ResultTable) -> Result<Vec<u8>>) {
        let mut results = locked(&self.results);
        if results.failure.is_some() {
            return;
        }
        match make(&mut results.table) {
            Ok(bytes) => self.write(&mut results, &bytes),
            Err(error) => {
                drop(results);
                self.error(&error);
            }
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("look", &self.look).finish_non_exhaustive()
    }
}

/// A panic elsewhere must not silence what is left to say.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An epoch as a line of `--json`.
#[derive(Serialize)]
struct EpochLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a EpochReport,
}

impl Reporter for Output {
    fn epoch(&self, report: &EpochReport) {
        locked(&self.live).epoch(report);
        if self.look.json {
            self.json_line(&EpochLine { event: "epoch", report });
        }
        tracing::info!(
            table = report.table,
            epoch = report.epoch,
            read = report.read,
            written = report.written,
            quarantined = report.quarantined,
            version = report.version,
            lag = report.lag,
            behind_ms = report.behind_ms,
            elapsed_ms = report.elapsed_ms,
            "epoch committed"
        );
    }

    fn notice(&self, message: &str, place: Option<&Place>) {
        if self.look.json_log {
            self.line(&place.map_or_else(|| message.to_owned(), |place| format!("{place}: {message}")));
        } else if !self.look.quiet {
            self.message(&render::notice(message, place, self.look.colors));
        }
    }

    fn condition(&self, table: &str, condition: &Condition<'_>) {
        locked(&self.live).condition(table, condition);
        let line = summary::condition(table, condition);
        match condition {
            // The others go on, perhaps for weeks: this is an error now.
            Condition::Failed(_) => self.log("ERROR", &line),
            Condition::Waiting { .. } if !self.look.quiet => self.log("WARN", &line),
            _ => self.line(&line),
        }
    }

    fn progress(&self, table: &str, read: u64) {
        self.progress.show(table, read);
    }

    fn rows(&self, schema: &SchemaRef, rows: &[RecordBatch]) {
        self.show(|table| table.rows(schema, rows));
    }

    fn end_of_rows(&self) {
        self.show(|table| Ok(table.end()));
    }
}

/// Logs go through [`Output`] too, so that they never cut a progress bar in two.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Output>);

impl LogWriter {
    /// Writes to this one's standard error.
    pub fn new(output: Arc<Output>) -> Self {
        Self(output)
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.message(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
