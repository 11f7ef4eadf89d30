//! A table of the lake as a stream: what each version added.
//!
//! Floor 3: uses `delta`, `epoch`, `source`, `error`. The table is its only partition, a version is a position. From the
//! beginning it is read as it is now; from then on by what the versions' commits added, so a compaction is not seen.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::execution::runtime_env::RuntimeEnv;
use serde::{Deserialize, Serialize};

use super::{Committed, Cursor, Finished, Input, Limits, MetadataColumn, Opening, Source, Tap, own};
use crate::delta::{Table, VersionRange};
use crate::epoch::{Position, Positions, Span};
use crate::error::{Error, Result};

/// The one partition.
const PARTITION: &str = "versions";

/// What the log keeps: the versions read, and whose they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Saved {
    table: String,
    positions: Positions,
}

/// A table that is read as a stream.
#[derive(Debug)]
pub struct TableStream {
    table: Arc<Table>,
    runtime: Arc<RuntimeEnv>,
    schema: SchemaRef,
    id: String,
}

impl TableStream {
    /// A stream of the versions of a table that exists.
    pub async fn new(table: Arc<Table>, runtime: Arc<RuntimeEnv>) -> Result<Self> {
        let missing = || {
            Error::world(format!("table `{}` has never been built", table.location()))
                .hint("run the file that declares it first, or run the whole folder")
        };
        let schema = table.schema().await.ok_or_else(missing)?;
        let id = table.id().await.ok_or_else(missing)?;
        Ok(Self { table, runtime, schema, id })
    }
}

#[async_trait]
impl Source for TableStream {
    fn columns(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn metadata(&self) -> Option<DataType> {
        None
    }

    async fn fingerprint(&self) -> Result<Committed> {
        Ok(Committed(serde_json::json!({ "table": self.id, "version": self.table.version().await })))
    }

    async fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn Cursor>> {
        let saved = match opening.committed {
            None => Saved { table: self.id.clone(), positions: Positions::default() },
            Some(Committed(saved)) => serde_json::from_value(saved.clone())
                .map_err(|error| Error::internal(format!("the log's position in a table cannot be read: {error}")))?,
        };
        if saved.table != self.id {
            return Err(Error::data(format!(
                "table `{}` was deleted and made anew since it was read",
                self.table.location()
            ))
            .hint("rebuild the table that reads it with `--full-refresh`"));
        }
        let end = self.table.version().await.unwrap_or_default();
        Ok(Box::new(Versions { table: Arc::clone(&self.table), runtime: Arc::clone(&self.runtime), saved, end }))
    }
}

struct Versions {
    table: Arc<Table>,
    runtime: Arc<RuntimeEnv>,
    saved: Saved,
    end: u64,
}

#[async_trait]
impl Cursor for Versions {
    async fn look(&mut self) -> Result<()> {
        self.table.follow().await?;
        self.end = self.table.version().await.unwrap_or(self.end);
        Ok(())
    }

    async fn next(&mut self, _limits: &Limits) -> Result<Option<Arc<dyn Input>>> {
        let from = self.saved.positions.of(PARTITION);
        if from.number().is_some_and(|read| read >= self.end) {
            return Ok(None);
        }
        let added = self.table.added(VersionRange { after: from.number(), to: self.end }).await?;
        let span = Span { from, to: Position::at(added.to()) };
        let rows = added.rows();
        let provider = self.table.added_provider(&self.runtime, &added).await?;
        Ok(Some(Arc::new(VersionsInput { provider, rows, span })))
    }

    async fn finish(&mut self, input: Arc<dyn Input>) -> Result<Finished> {
        let input = own::<VersionsInput>(input)?;
        self.saved.positions.advance(PARTITION, &input.span)?;
        let committed = serde_json::to_value(&self.saved).map_err(|error| Error::internal(error.to_string()))?;
        let lag = self.end - input.span.to.number().unwrap_or(self.end);
        Ok(Finished { committed: Committed(committed), lost: Some(0), lag, behind_ms: None })
    }
}

#[derive(Debug)]
struct VersionsInput {
    provider: Arc<dyn TableProvider>,
    rows: u64,
    span: Span,
}

impl Input for VersionsInput {
    fn table(&self, tap: Arc<Tap>, _visible: MetadataColumn) -> Result<Arc<dyn TableProvider>> {
        tap.count_read(self.rows);
        Ok(Arc::clone(&self.provider))
    }
}
