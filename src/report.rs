//! What a command tells: epochs as they commit, notices, rows, and the summary at the end.
//!
//! Floor 1: plain data; uses `error`. Engines report to a [`Reporter`]; how it looks is the business of `output`.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, Place};

/// One committed epoch.
#[derive(Debug, Clone, Serialize)]
pub struct EpochReport {
    /// The table.
    pub table: String,
    /// Its number.
    pub epoch: u64,
    /// Source records.
    pub read: u64,
    /// Rows that the commit added.
    pub written: u64,
    /// Rows of the quarantine.
    pub quarantined: u64,
    /// The table's version.
    pub version: Option<u64>,
    /// Records, or objects, known to be waiting.
    pub lag: u64,
    /// How far the sources were behind their tips, in milliseconds, where they say so: Kinesis does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
    /// From choosing the input to the commit.
    pub elapsed_ms: u64,
}

/// What became of one table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// Where it lies.
    pub location: String,
    /// Epochs that were committed.
    pub epochs: u64,
    /// Source records.
    pub read: u64,
    /// Rows added.
    pub written: u64,
    /// Rows and records that the SQL asked to leave out.
    pub dropped: u64,
    /// Rows of the quarantine.
    pub quarantined: u64,
    /// The quarantine's name.
    #[serde(skip)]
    pub quarantine: String,
    /// Rows behind the watermark.
    pub late: u64,
    /// Records that the source no longer had; None where it cannot tell.
    pub lost: Option<u64>,
    /// The table's version.
    pub version: Option<u64>,
    /// Violations of constraints whose rows stayed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub expectations: BTreeMap<String, u64>,
    /// Why it failed or was left out.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_json")]
    pub error: Option<std::sync::Arc<Error>>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything was done.
    Ok,
    /// Something failed.
    Failed,
    /// It was stopped by a signal.
    Stopped,
}

/// What a command did: the last line of `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// `run`, `check`, `sql`, …
    pub command: &'static str,
    /// How it ended.
    pub status: Status,
    /// The whole command.
    pub elapsed_ms: u64,
    /// Every selected table, in the order they were built.
    pub tables: Vec<TableReport>,
    /// The first error that is not one table's alone; else the worst of the tables'.
    #[serde(serialize_with = "as_json")]
    pub error: Option<std::sync::Arc<Error>>,
}

impl Summary {
    /// Whether nothing was new for any table.
    pub fn nothing_new(&self) -> bool {
        self.tables.iter().all(|table| table.epochs == 0)
    }
}

/// How far a source is read.
#[derive(Debug, Clone, Serialize)]
pub struct Position {
    /// The source.
    pub source: String,
    /// How far, for people.
    pub position: String,
}

/// How far one target is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub table: String,
    /// Where it lies.
    pub location: String,
    /// Its last epoch; None where it has none.
    pub epoch: Option<u64>,
    /// When that was committed.
    pub at: Option<DateTime<Utc>>,
    /// Its version.
    pub version: Option<u64>,
    /// Records that were known to be waiting then.
    pub lag: u64,
    /// How far the sources were behind their tips, in milliseconds, where they say so: Kinesis does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
    /// How far its sources are read.
    pub sources: Vec<Position>,
}

/// What `status` found: its last line of `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct StatusSummary {
    /// `status`
    pub command: &'static str,
    /// How it ended.
    pub status: Status,
    /// The whole command.
    pub elapsed_ms: u64,
    /// Every target, in the order of their building.
    pub tables: Vec<TableStatus>,
    /// Why it failed.
    #[serde(serialize_with = "as_json")]
    pub error: Option<std::sync::Arc<Error>>,
}

/// An error as `--json` shows it.
pub fn error_json(error: &Error) -> Value {
    let place = error.place();
    json!({
        "kind": error.kind().name(),
        "message": error.message(),
        "hint": error.hint_text(),
        "file": place.map(|place| place.file.as_str()),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
    })
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn as_json<S: serde::Serializer>(error: &Option<std::sync::Arc<Error>>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_deref().map(error_json).serialize(serializer)
}

/// How it stands with a table that is followed.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'a> {
    /// Its epochs run.
    Running,
    /// Something failed that passes; it is tried again.
    Waiting {
        /// What failed.
        error: &'a Error,
        /// When it is tried again.
        pause: Duration,
    },
    /// It has ended by an error.
    Failed(&'a Error),
    /// It has ended as it was asked to.
    Stopped,
}

/// Who is told.
pub trait Reporter: std::fmt::Debug + Send + Sync {
    /// An epoch is committed.
    fn epoch(&self, report: &EpochReport);

    /// Something that the user should know and that is no error.
    fn notice(&self, message: &str, place: Option<&Place>);

    /// A table that is followed has come into another condition.
    fn condition(&self, table: &str, condition: &Condition<'_>);

    /// A table is being built: `read` records until now.
    fn progress(&self, table: &str, read: u64);

    /// Rows of a result; a result may come in several calls, and has at least one.
    fn rows(&self, schema: &SchemaRef, rows: &[RecordBatch]);

    /// A result is complete.
    fn end_of_rows(&self);
}
