//! Reads tables: a version as a whole, or what a run of versions added.
//!
//! Floor 2: uses `error`, `store`.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::delta_datafusion::DeltaScanNext;
use deltalake::kernel::{Add, EagerSnapshot};
use serde_json::Value;

use super::Table;
use super::commit::live;
use crate::error::{Error, Result};

/// Versions behind `after`, up to and including `to`. None reads from the first row that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// Exclusive.
    pub after: Option<u64>,
    /// Inclusive.
    pub to: u64,
}

/// What a run of versions added.
#[derive(Debug)]
pub struct Added {
    files: Vec<Add>,
    to: u64,
}

impl Added {
    /// The version up to which the range was taken.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// Rows, as the files' statistics count them.
    pub fn rows(&self) -> u64 {
        rows_of(&self.files)
    }
}

fn rows_of(files: &[Add]) -> u64 {
    let count = |add: &Add| {
        let stats = serde_json::from_str::<Value>(add.stats.as_deref().unwrap_or("{}"));
        stats.ok().and_then(|stats| stats["numRecords"].as_u64()).unwrap_or(0)
    };
    files.iter().map(count).sum()
}

impl Table {
    /// The newest version as a table to plan over; None where there is no table.
    pub async fn provider(&self, runtime: &RuntimeEnv) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(snapshot) = self.snapshot(None).await? else { return Ok(None) };
        self.plan_over(runtime, snapshot, None).await.map(Some)
    }

    /// Rows of the newest version, as the files' statistics count them.
    pub async fn rows(&self) -> Result<u64> {
        Ok(rows_of(&self.live().await?))
    }

    /// What the versions of a range added to the table. A compaction ends the range early, before it: the files that it replaced
    /// are no longer there behind it.
    ///
    /// # Errors
    /// A version deleted or changed rows: then "what was added" no longer says what is there.
    pub async fn added(&self, range: VersionRange) -> Result<Added> {
        let Some(after) = range.after else {
            let snapshot = self.snapshot(Some(range.to)).await?;
            let files = snapshot.as_ref().map(live);
            return Ok(Added { files: files.unwrap_or_default(), to: range.to });
        };
        let mut files = Vec::new();
        for version in after + 1..=range.to {
            let actions = self.actions(version).await?.ok_or_else(|| self.log_is_cut(version))?;
            for mut action in actions {
                let changes = |action: &Value| action["dataChange"].as_bool().unwrap_or(true);
                if action.get("remove").is_some_and(changes) {
                    return Err(self.not_appended(version));
                }
                if action.get("remove").is_some() && !files.is_empty() {
                    return Ok(Added { files, to: version - 1 });
                }
                if action.get("add").is_some_and(changes) {
                    let add = serde_json::from_value(action["add"].take());
                    files.push(add.map_err(|error| {
                        Error::world(format!("version {version} of `{}`: {error}", self.location()))
                    })?);
                }
            }
        }
        Ok(Added { files, to: range.to })
    }

    /// The rows of some added files as a table to plan over.
    pub async fn added_provider(&self, runtime: &RuntimeEnv, added: &Added) -> Result<Arc<dyn TableProvider>> {
        let Some(snapshot) = self.snapshot(Some(added.to)).await? else {
            return Err(Error::world(format!("table `{}` vanished while it was read", self.location())));
        };
        self.plan_over(runtime, snapshot, Some(added.files.clone())).await
    }

    /// Some live files as a table to plan over.
    pub async fn files_provider(&self, runtime: &RuntimeEnv, files: Vec<Add>) -> Result<Arc<dyn TableProvider>> {
        let to = self.version().await.unwrap_or_default();
        self.added_provider(runtime, &Added { files, to }).await
    }

    async fn plan_over(
        &self,
        runtime: &RuntimeEnv,
        snapshot: EagerSnapshot,
        files: Option<Vec<Add>>,
    ) -> Result<Arc<dyn TableProvider>> {
        let root = self.location().url()?;
        runtime.register_object_store(&root, Arc::clone(self.location().store()));
        let mut builder =
            DeltaScanNext::builder().with_log_store(Arc::clone(&self.log)).with_eager_snapshot(Arc::new(snapshot));
        if let Some(files) = files {
            builder = builder.with_adds(files);
        }
        let scan = builder
            .build()
            .await
            .map_err(|error| Error::world(format!("cannot read table `{}`: {error}", self.location())))?;
        Ok(Arc::new(scan))
    }

    fn log_is_cut(&self, version: u64) -> Error {
        Error::world(format!("version {version} of table `{}` is gone from its log", self.location()))
            .hint("its log was cleaned up before it was read; rebuild the table that reads it with `--full-refresh`")
    }

    fn not_appended(&self, version: u64) -> Error {
        Error::data(format!("version {version} of table `{}` removed or changed rows", self.location()))
            .hint("a stream reads what is appended: read the table without STREAM, or rebuild with `--full-refresh`")
    }
}
