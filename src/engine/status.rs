//! `status`: how far every target is, from the lake alone, while it runs or not.
//!
//! Floor 6: uses `sql`, `log`, `delta`, `report`, `clock`, `error`.

use std::sync::Arc;

use super::fill::log_folder;
use super::{Engine, RunOptions};
use crate::clock::Stopwatch;
use crate::error::Result;
use crate::log::EpochLog;
use crate::report::{Position, Status, StatusSummary, TableStatus};
use crate::sql::catalog::target_of;
use crate::sql::statement::Kind;

impl Engine {
    /// How far every target of the named files is. Reads the lake and nothing else, and writes nothing.
    pub async fn status(&mut self) -> StatusSummary {
        let watch = Stopwatch::start();
        let mut tables = Vec::new();
        let error = self.statuses(&mut tables).await.err().map(Arc::new);
        let status = if error.is_some() { Status::Failed } else { Status::Ok };
        StatusSummary { command: "status", status, elapsed_ms: watch.elapsed_ms(), tables, error }
    }

    async fn statuses(&self, tables: &mut Vec<TableStatus>) -> Result<()> {
        for step in self.selected_steps(&RunOptions::default())? {
            let Some(target) = target_of(&step.statement.kind) else { continue };
            if matches!(step.statement.kind, Kind::TableAs(_)) {
                continue;
            }
            let name = &target.name.value;
            let table = self.catalog.table(name).await?;
            let folder = log_folder(&table, name, None);
            let mut found = TableStatus {
                table: name.clone(),
                location: table.location().to_string(),
                version: table.version().await,
                ..TableStatus::default()
            };
            let slots = EpochLog::slots(&folder).await?;
            let logs = if slots.is_empty() { vec![folder] } else { slots };
            for log in logs {
                let log = EpochLog::open(log).await?;
                let Some(entry) = log.last() else { continue };
                found.epoch = found.epoch.max(Some(entry.epoch.0));
                found.at = found.at.max(Some(entry.at));
                found.lag += entry.counts.lag;
                found.behind_ms = found.behind_ms.max(entry.counts.behind_ms);
                let positions = entry.sources.iter();
                found.sources.extend(
                    positions
                        .map(|(source, at)| Position { source: source.clone(), position: at.committed.in_words() }),
                );
            }
            tables.push(found);
        }
        Ok(())
    }
}
