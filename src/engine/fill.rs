//! Fills streaming tables and materialized views: from a statement to a query that runs epochs.
//!
//! Floor 6: uses `stream`, `sql`, `delta`, `log`, `source`, `options`, `report`, `error`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use serde_json::json;
use tokio::sync::Mutex;

use super::Engine;
use super::follow::Task;
use super::lease::Lease;
use super::prepare::{Preparation, Prepared, refuse_stream, require_stream};
use crate::delta::{Add, Spec, Table};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::log::{EpochLog, SourceEntry};
use crate::report::TableReport;
use crate::source::records::RecordsTable;
use crate::source::{Committed, Limits, SlotOf};
use crate::sql::catalog::{Leaves, Readings};
use crate::sql::lineage;
use crate::sql::statement::{Action, CreateTarget, Statement};
use crate::store::Location;
use crate::stream::write::{Target, plan_error};
use crate::stream::{self, Following, Pauses, Planned, Planner, Query, RUN_TRIES, Stream, quarantine};

/// From one epoch of a stream to the next where nothing else is said.
pub(super) const TRIGGER: Duration = Duration::from_secs(1);

/// What the sources and tables of a view are, by name.
pub(super) type Inputs = BTreeMap<String, SourceEntry>;

/// A table, its quarantine and its log.
pub(super) struct Home {
    table: Arc<Table>,
    quarantine: Arc<Table>,
    log: EpochLog,
}

impl Home {
    /// The newest epoch of its query.
    pub(super) fn last_epoch(&self) -> Option<Epoch> {
        self.log.last().map(|entry| entry.epoch)
    }
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
        let Some((home, prepared)) = self.settled_stream(statement, target, over, None).await? else { return Ok(()) };
        let _lease = Lease::share(&report.location, &report.table)?;
        home.table.describe(&prepared.spec).await?;
        let limits = Limits { records: limits.records.or(prepared.max_records), ..limits };
        let planner = self.planner(statement, target, &prepared, true);
        let mut query = self.query(statement, target, home, &prepared, &planner);
        if over {
            query.start_over().await?;
        }
        query.catch_up(limits, &self.stop, report).await
    }

    /// Follows a streaming table until the end is asked for; None where it cannot be built yet.
    pub(super) async fn follow_stream(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        task: &Task<'_>,
        over: &mut bool,
        report: &mut TableReport,
    ) -> Result<Option<()>> {
        let options = task.options;
        let settled = self.settled_stream(statement, target, *over, options.slot).await?;
        let Some((home, prepared)) = settled else { return Ok(None) };
        let mut streams = prepared.readings.sources.iter().filter(|reading| reading.stream);
        if let (Some(_), Some(whole)) = (options.slot, streams.find(|reading| !reading.source.is_divisible())) {
            return Err(Error::config(format!("`{}` has no partitions that instances could share", whole.key))
                .at(target.query.place.clone())
                .hint("`--slot` is for tables that read topics; follow this one by a process without it"));
        }
        home.table.describe(&prepared.spec).await?;
        let records = options.run.max_records.or(prepared.max_records);
        let trigger = options.trigger.or(prepared.trigger).unwrap_or(TRIGGER);
        let following = Following { trigger, limits: Limits { records, ..Limits::default() } };
        let planner = self.planner(statement, target, &prepared, true);
        let mut query = self.query(statement, target, home, &prepared, &planner);
        query.share = options.slot;
        query.company = task.company;
        if *over {
            query.start_over().await?;
            *over = false;
        }
        query.follow(&following, &self.stop, report).await.map(Some)
    }

    /// A streaming table whose log and tables agree, and whose query fits them.
    async fn settled_stream(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        over: bool,
        slot: Option<SlotOf>,
    ) -> Result<Option<(Home, Box<Prepared>)>> {
        let home = self.home(target, slot).await?;
        let prepared = self.prepared(statement, target, Some(&home.log), over).await?;
        let Some(prepared) = prepared else { return Ok(None) };
        require_stream(target, &prepared)?;
        self.recover(&home, &prepared, target).await?;
        if !over {
            self.compare(statement, target, &home, &prepared).await?;
        }
        Ok(Some((home, prepared)))
    }

    /// Gives the tables of a target what its log says they have.
    async fn recover(&self, home: &Home, prepared: &Prepared, target: &CreateTarget) -> Result<()> {
        let spec = quarantine::spec(&target.name.value);
        let meant = home.log.last().and_then(|entry| entry.quarantine_name.as_ref());
        let (name, quarantine) = match meant.filter(|name| **name != prepared.quarantine) {
            // It is put where it was meant to be, whatever the statement says now; not where another table has come meanwhile.
            Some(meant) => match self.catalog.table(meant).await? {
                table if is_quarantine(&table).await => (meant, table),
                _ => (&prepared.quarantine, Arc::clone(&home.quarantine)),
            },
            None => (&prepared.quarantine, Arc::clone(&home.quarantine)),
        };
        stream::recover(&home.log, &home.table, &prepared.spec, (&quarantine, name), &spec).await
    }

    /// Computes a materialized view anew if anything that it reads has changed.
    pub(super) async fn refresh_view(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        over: bool,
        report: &mut TableReport,
    ) -> Result<()> {
        let home = self.home(target, None).await?;
        let Some(prepared) = self.prepared(statement, target, None, over).await? else { return Ok(()) };
        refuse_stream(target)?;
        let _lease = Lease::share(&report.location, &report.table)?;
        // What cannot be reached at all is said at once; what was reached is tried again.
        let mut inputs = Some(fingerprints(&prepared.readings).await?);
        let (mut home, mut tries, mut pauses) = (Some(home), 0, Pauses::default());
        loop {
            let result = async {
                let (home, inputs) = match (home.take(), inputs.take()) {
                    (Some(home), Some(inputs)) => (home, inputs),
                    _ => (self.home(target, None).await?, fingerprints(&prepared.readings).await?),
                };
                self.refresh_prepared(statement, target, (home, &prepared, &inputs), over, report).await
            };
            let Err(error) = result.await else { return Ok(()) };
            tries += 1;
            if !error.is_passing() || tries > RUN_TRIES || self.stop.pause(pauses.longer()).await {
                return Err(error);
            }
            tracing::warn!(table = report.table, %error, "the view was not computed; it is tried again");
        }
    }

    /// The same for a view that is planned, and whose inputs are known.
    pub(super) async fn refresh_prepared(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        (home, prepared, inputs): (Home, &Prepared, &Inputs),
        over: bool,
        report: &mut TableReport,
    ) -> Result<()> {
        self.recover(&home, prepared, target).await?;
        report.version = home.table.version().await;
        let fingerprint = self.fingerprint(statement);
        let same = home.log.last().is_some_and(|entry| entry.sources == *inputs && entry.fingerprint == fingerprint);
        if same && !over && !is_volatile(&prepared.plan) {
            home.table.describe(&prepared.spec).await?;
            report.version = home.table.version().await;
            return Ok(());
        }
        let planner = self.planner(statement, target, prepared, false);
        let mut query = self.query(statement, target, home, prepared, &planner);
        for table in prepared.readings.tables.values() {
            query.table_rows += table.rows().await?;
        }
        query.refresh(inputs.clone(), report).await
    }

    /// Opens what belongs to a target.
    ///
    /// # Errors
    /// A table lies there that pinsql did not write.
    pub(super) async fn home(&self, target: &CreateTarget, slot: Option<SlotOf>) -> Result<Home> {
        let name = &target.name.value;
        let table = self.catalog.table(name).await?;
        let is_there = table.version().await.is_some();
        let shared = (is_there || slot.is_some()) && self.agree_on_slots(&table, target, slot).await?;
        let log = EpochLog::open(log_folder(&table, name, slot)).await?;
        if log.last().is_none() && table.version().await.is_some() && !shared {
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
        let quarantine = self.quarantine(target, &self.quarantine_name(target)?).await?;
        Ok(Home { table, quarantine, log })
    }

    /// Opens a quarantine.
    ///
    /// # Errors
    /// A table lies there that is none.
    async fn quarantine(&self, target: &CreateTarget, name: &str) -> Result<Arc<Table>> {
        let table = self.catalog.table(name).await?;
        if !is_quarantine(&table).await {
            return Err(Error::conflict(format!("table `{}` exists and is no quarantine", table.location()))
                .at(target.name.place.clone())
                .hint("give `pinsql.quarantine` a name that nothing else has"));
        }
        Ok(table)
    }

    /// How many instances share a target is fixed by the first of them. Answers whether any of them has begun.
    async fn agree_on_slots(&self, table: &Table, target: &CreateTarget, slot: Option<SlotOf>) -> Result<bool> {
        let name = &target.name.value;
        let folder = log_folder(table, name, None);
        let logs = EpochLog::slots(&folder).await?;
        let there = match slot {
            Some(slot) => {
                if EpochLog::open(folder.clone()).await?.last().is_some() {
                    return Err(Error::conflict(format!("`{name}` is filled by one instance, without `--slot`"))
                        .at(target.name.place.clone())
                        .hint("leave `--slot` out, or give the shared table another name"));
                }
                EpochLog::instances(&folder, slot.count).await?
            }
            None => {
                let count = |log: &Location| log.path().filename()?.split_once("-of-")?.1.parse::<u32>().ok();
                let Some(there) = logs.iter().find_map(count) else { return Ok(false) };
                there
            }
        };
        if slot.map(|slot| slot.count) == Some(there) {
            return Ok(!logs.is_empty());
        }
        let last = there.saturating_sub(1);
        Err(Error::conflict(format!("`{name}` is shared by {there} instances"))
            .at(target.name.place.clone())
            .hint(format!("start each of them with its slot, `--slot 0/{there}` to `--slot {last}/{there}`; for another number, DROP TABLE first")))
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
                if self.said.lock().await.insert(message.clone()) {
                    self.reporter.notice(&message, Some(&target.name.place));
                }
                Ok(None)
            }
        }
    }

    fn planner<'a>(
        &'a self,
        statement: &'a Statement,
        target: &'a CreateTarget,
        prepared: &'a Prepared,
        maintained: bool,
    ) -> TargetPlanner<'a> {
        TargetPlanner {
            engine: self,
            statement,
            target,
            readings: &prepared.readings,
            maintained,
            tables: Mutex::default(),
        }
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
            quarantine_name: prepared.quarantine.clone(),
            quarantine_spec: quarantine::spec(&target.name.value),
            log: home.log,
            streams: streams
                .map(|reading| Stream {
                    key: reading.key.clone(),
                    source: Arc::clone(&reading.source),
                    columns: reading.inferred.clone(),
                })
                .collect(),
            share: None,
            company: false,
            table_rows: 0,
            fingerprint: self.fingerprint(statement),
            metadata: prepared.readings.metadata_column(),
            planner,
            clock: Arc::clone(&self.clock),
            reporter: Arc::clone(&self.reporter),
        }
    }

    pub(super) fn is_same_query(&self, statement: &Statement, home: &Home) -> bool {
        home.log.last().is_none_or(|entry| entry.fingerprint == self.fingerprint(statement))
    }

    /// Whether a target's query is the one that filled its table until now; None where that cannot be said yet.
    ///
    /// # Errors
    /// It does not fit the table.
    pub(super) async fn fits(&self, statement: &Statement, target: &CreateTarget, home: &Home) -> Result<Option<bool>> {
        let Some(prepared) = self.prepared(statement, target, Some(&home.log), false).await? else { return Ok(None) };
        self.refuse_other_columns(target, home, &prepared).await?;
        Ok(Some(self.is_same_query(statement, home)))
    }

    /// An edited query counts from now on.
    async fn compare(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        home: &Home,
        prepared: &Prepared,
    ) -> Result<()> {
        self.refuse_other_columns(target, home, prepared).await?;
        if !self.is_same_query(statement, home) {
            let name = &target.name;
            let message = format!(
                "the query of `{name}` was changed: it counts from now on, rows that are there stay (`--full-refresh={name}` rebuilds them)"
            );
            self.reporter.notice(&message, Some(&name.place));
        }
        Ok(())
    }

    /// What the query gives must fit the table that is there.
    async fn refuse_other_columns(&self, target: &CreateTarget, home: &Home, prepared: &Prepared) -> Result<()> {
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
        Ok(())
    }
}

/// Whether a table is a quarantine, or may become one.
async fn is_quarantine(table: &Table) -> bool {
    table.schema().await.is_none_or(|there| there == *quarantine::SCHEMA)
}

/// Where the log of a query lies; each of several instances has its own.
pub(super) fn log_folder(table: &Table, name: &str, slot: Option<SlotOf>) -> Location {
    let folder = table.location().join(&format!("_pinsql/{name}"));
    slot.map_or_else(|| folder.clone(), |slot| folder.join(&format!("{}-of-{}", slot.index, slot.count)))
}

/// Plans one target's epochs.
struct TargetPlanner<'a> {
    engine: &'a Engine,
    statement: &'a Statement,
    target: &'a CreateTarget,
    readings: &'a Readings,
    maintained: bool,
    /// Leaves of tables, with the versions that they show.
    tables: Mutex<(Vec<Option<u64>>, Leaves)>,
}

impl TargetPlanner<'_> {
    /// Leaves for what is read as it is when the epoch begins: tables, and sources that a streaming table joins without STREAM.
    async fn fixed(&self) -> Result<Leaves> {
        let mut versions = Vec::with_capacity(self.readings.tables.len());
        for table in self.readings.tables.values() {
            table.follow().await?;
            versions.push(table.version().await);
        }
        let mut tables = self.tables.lock().await;
        if tables.0 != versions || tables.1.len() < versions.len() {
            *tables = (versions, self.engine.table_leaves(self.readings).await?);
        }
        let mut fixed = tables.1.clone();
        drop(tables);
        for reading in self.readings.sources.iter().filter(|reading| self.maintained && !reading.stream) {
            let (leaf, _) = self.engine.whole_leaf(reading, self.readings.metadata_column()).await?;
            fixed.insert((reading.key.clone(), false), leaf);
        }
        Ok(fixed)
    }
}

#[async_trait]
impl Planner for TargetPlanner<'_> {
    async fn merge(&self, table: &Table, spec: &Spec, files: Vec<Add>) -> Result<Planned> {
        self.engine.merge_plan(table, spec, files).await
    }

    async fn plan(&self, streams: BTreeMap<String, Arc<dyn TableProvider>>) -> Result<Planned> {
        let partitions = streams.values().map(partitions).max().unwrap_or(1);
        let session = &self.engine.session;
        let context = if self.maintained { session.narrow_context(partitions) } else { session.context() };
        let mut leaves = self.fixed().await?;
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
pub(super) async fn fingerprints(readings: &Readings) -> Result<Inputs> {
    let mut inputs = Inputs::new();
    for reading in &readings.sources {
        let committed = reading.source.fingerprint().await?;
        inputs.insert(reading.key.clone(), SourceEntry { committed, columns: None });
    }
    for (name, table) in &readings.tables {
        table.follow().await?;
        let committed = Committed(json!({ "table": table.id().await, "version": table.version().await }));
        inputs.insert(name.clone(), SourceEntry { committed, columns: None });
    }
    Ok(inputs)
}

/// Whether the same inputs may give other rows: `now()`, `random()`.
pub(super) fn is_volatile(plan: &LogicalPlan) -> bool {
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
