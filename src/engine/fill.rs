//! Fills streaming tables and materialized views: from a statement to a query that runs epochs.
//!
//! Floor 6: uses `stream`, `sql`, `delta`, `log`, `source`, `options`, `report`, `error`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use serde_json::json;

use super::Engine;
use super::prepare::{Preparation, Prepared, quarantine_name, refuse_stream, require_stream};
use crate::delta::Table;
use crate::error::{Error, Result};
use crate::log::{EpochLog, SourceEntry};
use crate::report::TableReport;
use crate::source::records::RecordsTable;
use crate::source::{Committed, Limits};
use crate::sql::catalog::{Leaves, Readings};
use crate::sql::lineage;
use crate::sql::statement::{Action, CreateTarget, Statement};
use crate::stream::write::{Target, plan_error};
use crate::stream::{self, Planned, Planner, Query, Stream, quarantine};

/// A table, its quarantine and its log.
struct Home {
    table: Arc<Table>,
    quarantine: Arc<Table>,
    log: EpochLog,
}

impl Engine {
    /// Catches a streaming table up.
    pub(super) async fn fill_stream(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        over: bool,
        limits: Limits,
        report: &mut TableReport,
    ) -> Result<()> {
        let home = self.home(target).await?;
        let Some(prepared) = self.prepared(statement, target, Some(&home.log), over).await? else { return Ok(()) };
        require_stream(target, &prepared)?;
        let limits = Limits { records: limits.records.or(prepared.max_records), ..limits };
        stream::recover(
            &home.log,
            &home.table,
            &prepared.spec,
            &home.quarantine,
            &quarantine::spec(&target.name.value),
        )
        .await?;
        if !over {
            self.compare(statement, target, &home, &prepared).await?;
        }
        let planner = self.planner(statement, target, &prepared, true).await?;
        let mut query = self.query(statement, target, home, &prepared, &planner);
        if over {
            query.start_over().await?;
        }
        query.catch_up(limits, &self.stop, report).await
    }

    /// Computes a materialized view anew if anything that it reads has changed.
    pub(super) async fn refresh_view(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        over: bool,
        report: &mut TableReport,
    ) -> Result<()> {
        let home = self.home(target).await?;
        let Some(prepared) = self.prepared(statement, target, None, over).await? else { return Ok(()) };
        refuse_stream(target)?;
        stream::recover(
            &home.log,
            &home.table,
            &prepared.spec,
            &home.quarantine,
            &quarantine::spec(&target.name.value),
        )
        .await?;
        let inputs = fingerprints(&prepared.readings).await?;
        report.version = home.table.version().await;
        let fingerprint = self.fingerprint(statement);
        let same = home.log.last().is_some_and(|entry| entry.sources == inputs && entry.fingerprint == fingerprint);
        if same && !over && !is_volatile(&prepared.plan) {
            return Ok(());
        }
        let planner = self.planner(statement, target, &prepared, false).await?;
        let mut query = self.query(statement, target, home, &prepared, &planner);
        for table in prepared.readings.tables.values() {
            query.table_rows += table.rows().await?;
        }
        query.refresh(inputs, report).await
    }

    /// Opens what belongs to a target.
    ///
    /// # Errors
    /// A table lies there that pinsql did not write.
    async fn home(&self, target: &CreateTarget) -> Result<Home> {
        let name = &target.name.value;
        let table = self.catalog.table(name).await?;
        let log = EpochLog::open(table.location().join(&format!("_pinsql/{name}"))).await?;
        if log.last().is_none() && table.version().await.is_some() {
            return Err(Error::conflict(format!(
                "table `{}` exists and was not made by this statement",
                table.location()
            ))
            .at(target.name.place.clone())
            .hint("give the table another name or LOCATION, or move the one that is there away"));
        }
        if log.last().is_some() && table.version().await.is_none() {
            // Another instance may have made it after it was opened here.
            table.refresh().await?;
        }
        let quarantine = self.catalog.table(&quarantine_name(target)?).await?;
        Ok(Home { table, quarantine, log })
    }

    async fn prepared(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        log: Option<&EpochLog>,
        over: bool,
    ) -> Result<Option<Box<Prepared>>> {
        let pinned = |key: &str| -> Option<String> {
            if over {
                return None;
            }
            log?.last()?.sources.get(key)?.columns.clone()
        };
        match self.prepare(statement, target, &pinned).await? {
            Preparation::Ready(prepared) => Ok(Some(prepared)),
            Preparation::NothingToInfer(sources) => {
                let message = format!(
                    "`{}` is not built yet: there is nothing in {} to infer columns from",
                    target.name,
                    sources.iter().map(|source| format!("`{source}`")).collect::<Vec<_>>().join(", ")
                );
                self.reporter.notice(&message, Some(&target.name.place));
                Ok(None)
            }
        }
    }

    async fn planner<'a>(
        &'a self,
        statement: &'a Statement,
        target: &'a CreateTarget,
        prepared: &Prepared,
        maintained: bool,
    ) -> Result<TargetPlanner<'a>> {
        let mut fixed = self.table_leaves(&prepared.readings).await?;
        // A source that a streaming table joins without STREAM is read as it is now.
        for reading in prepared.readings.sources.iter().filter(|reading| maintained && !reading.stream) {
            fixed.insert(
                (reading.key.clone(), false),
                self.whole_leaf(reading, prepared.readings.metadata_column()).await?.0,
            );
        }
        Ok(TargetPlanner { engine: self, statement, target, fixed, maintained })
    }

    fn query<'a>(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        home: Home,
        prepared: &Prepared,
        planner: &'a TargetPlanner<'_>,
    ) -> Query<'a> {
        let name: Arc<str> = target.name.value.as_str().into();
        let streams = prepared.readings.sources.iter().filter(|reading| reading.stream == planner.maintained);
        Query {
            target: Target {
                name: Arc::clone(&name),
                table: home.table,
                spec: prepared.spec.clone(),
                rules: Arc::clone(&prepared.rules),
                source: name,
            },
            quarantine: home.quarantine,
            quarantine_spec: quarantine::spec(&target.name.value),
            log: home.log,
            streams: streams
                .map(|reading| Stream {
                    key: reading.key.clone(),
                    source: Arc::clone(&reading.source),
                    columns: reading.inferred.clone(),
                })
                .collect(),
            table_rows: 0,
            fingerprint: self.fingerprint(statement),
            metadata: prepared.readings.metadata_column(),
            planner,
            clock: Arc::clone(&self.clock),
            reporter: Arc::clone(&self.reporter),
        }
    }

    /// What the query gives must fit the table that is there; an edited query counts from now on.
    async fn compare(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        home: &Home,
        prepared: &Prepared,
    ) -> Result<()> {
        let Some(there) = home.table.schema().await else { return Ok(()) };
        let name = &target.name;
        let differs = difference(&there, &prepared.spec.schema);
        if let Some(differs) = differs {
            return Err(Error::world(format!("table `{name}` exists with other columns: {differs}"))
                .at(name.place.clone())
                .hint(format!(
                    "let the query give the columns that are there, or rebuild the table with `--full-refresh={name}`"
                )));
        }
        if home.table.partition_by().await != prepared.spec.partition_by {
            return Err(Error::world(format!("table `{name}` exists and is partitioned differently"))
                .at(name.place.clone())
                .hint(format!("restore PARTITIONED BY, or rebuild the table with `--full-refresh={name}`")));
        }
        if home.log.last().is_some_and(|entry| entry.fingerprint != self.fingerprint(statement)) {
            let message = format!(
                "the query of `{name}` was changed: it counts from now on, rows that are there stay (`--full-refresh={name}` rebuilds them)"
            );
            self.reporter.notice(&message, Some(&name.place));
        }
        Ok(())
    }
}

/// Plans one target's epochs.
struct TargetPlanner<'a> {
    engine: &'a Engine,
    statement: &'a Statement,
    target: &'a CreateTarget,
    fixed: Leaves,
    maintained: bool,
}

#[async_trait]
impl Planner for TargetPlanner<'_> {
    async fn plan(&self, streams: BTreeMap<String, Arc<dyn TableProvider>>) -> Result<Planned> {
        let partitions = streams.values().map(partitions).max().unwrap_or(1);
        let session = &self.engine.session;
        let context = if self.maintained { session.narrow_context(partitions) } else { session.context() };
        let mut leaves = self.fixed.clone();
        let first: Arc<str> = streams.keys().next().map_or("", String::as_str).into();
        leaves.extend(streams.into_iter().map(|(key, leaf)| ((key, self.maintained), leaf)));
        let plan = self.engine.target_plan(&context, self.statement, self.target, &leaves).await?;
        let quarantines = self.target.constraints.iter().any(|rule| rule.action == Action::QuarantineRow);
        let lifted = if quarantines { lineage::lift(&plan).map_err(plan_error)? } else { None };
        let (plan, source) = lifted.map_or((plan, first), |lifted| (lifted.plan, lifted.source));
        let mut plan = context.state().create_physical_plan(&plan).await.map_err(plan_error)?;
        if !self.maintained {
            plan = Arc::new(CoalescePartitionsExec::new(plan));
        }
        Ok(Planned { plan, context: context.task_ctx(), source })
    }
}

fn partitions(leaf: &Arc<dyn TableProvider>) -> usize {
    let leaf: &dyn std::any::Any = leaf.as_ref();
    leaf.downcast_ref::<RecordsTable>().map_or(1, RecordsTable::partitions)
}

/// What a view's inputs are now. A view is computed anew when this, or its text, differs from what its log says.
async fn fingerprints(readings: &Readings) -> Result<BTreeMap<String, SourceEntry>> {
    let mut inputs = BTreeMap::new();
    for reading in &readings.sources {
        let committed = reading.source.fingerprint().await?;
        inputs.insert(reading.key.clone(), SourceEntry { committed, columns: None });
    }
    for (name, table) in &readings.tables {
        let committed = Committed(json!({ "table": table.id().await, "version": table.version().await }));
        inputs.insert(name.clone(), SourceEntry { committed, columns: None });
    }
    Ok(inputs)
}

/// Whether the same inputs may give other rows: `now()`, `random()`.
fn is_volatile(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The closures never fail.
    let _ = plan.apply_with_subqueries(|node| {
        for expression in node.expressions() {
            let _ = expression.apply(|part| {
                found |= matches!(part, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable);
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// In words, how the columns of a table and of a query differ; None where they do not.
fn difference(table: &SchemaRef, query: &SchemaRef) -> Option<String> {
    let type_name = crate::sql::types::type_name;
    for field in query.fields() {
        match table.column_with_name(field.name()) {
            None => return Some(format!("the query gives `{}`, which it does not have", field.name())),
            Some((_, there)) if there.data_type() != field.data_type() => {
                return Some(format!(
                    "`{}` is {} there and {} in the query",
                    field.name(),
                    type_name(there.data_type()),
                    type_name(field.data_type())
                ));
            }
            Some(_) => {}
        }
    }
    let missing = table.fields().iter().find(|field| query.column_with_name(field.name()).is_none());
    if let Some(field) = missing {
        return Some(format!("it has `{}`, which the query does not give", field.name()));
    }
    (table != query).then(|| "they come in another order".to_owned())
}
