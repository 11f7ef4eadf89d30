//! A stream at a glance: a line per table, every second on a terminal, every minute elsewhere.
//!
//! Uses `report`, `clock`. Pure but for its memory: texts come out, and somebody else writes them.

use std::collections::BTreeMap;

use super::text::{counted, duration, thousands, width};
use crate::clock::Stopwatch;
use crate::report::{Condition, EpochReport};

/// What is known of one table.
#[derive(Debug)]
struct Row {
    read: u64,
    written: u64,
    quarantined: u64,
    lag: u64,
    behind_ms: Option<u64>,
    version: Option<u64>,
    condition: &'static str,
    /// Records at the last glance.
    before: u64,
    glance: Stopwatch,
}

/// What is known of a stream.
#[derive(Debug, Default)]
pub(super) struct Live {
    rows: BTreeMap<String, Row>,
}

impl Live {
    fn row(&mut self, table: &str) -> &mut Row {
        self.rows.entry(table.to_owned()).or_insert_with(|| Row {
            read: 0,
            written: 0,
            quarantined: 0,
            lag: 0,
            behind_ms: None,
            version: None,
            condition: "starting",
            before: 0,
            glance: Stopwatch::start(),
        })
    }

    /// A table has come into another condition.
    pub(super) fn condition(&mut self, table: &str, condition: &Condition<'_>) {
        self.row(table).condition = match condition {
            Condition::Running => "running",
            Condition::Waiting { .. } => "waiting",
            Condition::Failed(_) => "failed",
            Condition::Stopped => "stopped",
        };
    }

    /// Whether any table has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.rows.values().any(|row| row.condition == "failed")
    }

    /// An epoch is committed.
    pub(super) fn epoch(&mut self, report: &EpochReport) {
        let row = self.row(&report.table);
        row.read += report.read;
        row.written += report.written;
        row.quarantined += report.quarantined;
        row.lag = report.lag;
        row.behind_ms = report.behind_ms;
        row.version = report.version.or(row.version);
    }

    /// A line per table that is followed; rates are since the last glance.
    pub(super) fn glance(&mut self) -> Vec<(String, String)> {
        let name_width = self.rows.keys().map(|name| width(name)).max().unwrap_or(0);
        let lines = self.rows.iter_mut().map(|(name, row)| {
            let millis = row.glance.elapsed_ms().max(1);
            let rate = (row.read - row.before) * 1000 / millis;
            (row.before, row.glance) = (row.read, Stopwatch::start());
            let indent = " ".repeat(name_width - width(name));
            let mut line = format!(
                "{name}{indent}  {}  {}/s  {}  {} waiting",
                row.condition,
                counted(rate, "record"),
                counted(row.written, "row"),
                thousands(row.lag)
            );
            if let Some(behind_ms) = row.behind_ms.filter(|ms| *ms > 0) {
                line += &format!("  {} behind", duration(behind_ms));
            }
            if let Some(version) = row.version {
                line += &format!("  version {version}");
            }
            if row.quarantined > 0 {
                line += &format!("  {} quarantined", thousands(row.quarantined));
            }
            (name.clone(), line)
        });
        lines.collect()
    }
}
