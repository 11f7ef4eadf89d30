//! Statements that are done once, when they run: CREATE TABLE AS, INSERT, SELECT and what manages tables.
//!
//! Floor 6: uses `stream`, `sql`, `delta`, `source`, `report`, `error`.

use std::sync::Arc;

use datafusion::arrow::compute::concat_batches;
use datafusion::common::Column;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Engine;
use super::fill::log_folder;
use super::prepare::{Preparation, named_columns, refuse_stream};
use crate::delta::{Add, Change, Commit, Properties, Spec, Table, schema};
use crate::error::{Error, Result};
use crate::log::EpochLog;
use crate::options::Options;
use crate::report::TableReport;
use crate::source::{Limits, Tap};
use crate::sql::catalog::{Leaves, Readings, converted, target_of};
use crate::sql::query::Query;
use crate::sql::statement::{CreateTarget, Insert, Kind, Statement};
use crate::store::Location;
use crate::stream::expect::Rule;
use crate::stream::write::{Target, Written, plan_error, write};
use crate::stream::{Planned, compact};

/// Rows of a result that are shown together at least.
const ROWS_TOGETHER: usize = 1024;

/// A query planned over what there is now, with the taps of its sources.
pub(super) struct Ready {
    pub context: SessionContext,
    pub plan: LogicalPlan,
    pub taps: Vec<Arc<Tap>>,
}

impl Engine {
    /// Runs a statement that declares no table.
    pub(super) async fn once(&mut self, statement: &Arc<Statement>, limits: Limits) -> Result<()> {
        match &statement.kind {
            Kind::Source(create) => self.catalog.open_source(create, None).await.map(drop),
            Kind::View(view) => self.catalog.read(&view.query, &self.session, &|_| None).await.map(drop),
            Kind::Query(query) => self.select(query, statement).await,
            Kind::Insert(insert) => self.insert(insert, statement).await,
            Kind::Set { key, value } => {
                self.session.set(&key.value, &value.value).map_err(|error| error.at(key.place.clone()))
            }
            Kind::Explain(explain) => self.explain(explain, statement).await,
            Kind::Describe { name } => self.describe(name).await,
            Kind::ShowTables => self.show_tables().await,
            Kind::ShowCreateTable { name } => self.show_create_table(name).await,
            Kind::DropTable { name, if_exists, kind } => self.drop_table(name, *if_exists, *kind).await,
            Kind::Optimize { name } => self.optimize(name).await,
            Kind::Vacuum { name, retain_hours, dry_run } => self.vacuum(name, *retain_hours, *dry_run).await,
            Kind::Refresh { name, full } => self.refresh(name, *full, limits).await,
            Kind::StreamingTable(_) | Kind::MaterializedView(_) | Kind::TableAs(_) => Ok(()),
        }
    }

    /// Plans a query over everything that its sources hold now.
    pub(super) async fn ready(&self, query: &Query, statement: &Statement) -> Result<Option<Ready>> {
        let readings = self.catalog.read(query, &self.session, &|_| None).await?;
        if let Some(source) = readings.empty.first() {
            let message = format!("there is nothing in `{source}` yet, so its columns are not known");
            self.reporter.notice(&message, Some(&query.place));
            return Ok(None);
        }
        let (leaves, taps) = self.leaves_of_now(&readings).await?;
        let context = self.session.context();
        let plan = self.catalog.plan(self.over(&context, &leaves), query, &statement.text).await?;
        Ok(Some(Ready { context, plan, taps }))
    }

    async fn leaves_of_now(&self, readings: &Readings) -> Result<(Leaves, Vec<Arc<Tap>>)> {
        let mut leaves = self.table_leaves(readings).await?;
        let mut taps = Vec::new();
        for reading in &readings.sources {
            let (leaf, tap) = self.whole_leaf(reading, readings.metadata_column()).await?;
            leaves.insert((reading.key.clone(), reading.stream), leaf);
            taps.push(tap);
        }
        Ok((leaves, taps))
    }

    async fn select(&self, query: &Query, statement: &Statement) -> Result<()> {
        let Some(Ready { context, plan, taps }) = self.ready(query, statement).await? else { return Ok(()) };
        let plan =
            context.state().create_physical_plan(&plan).await.map_err(|error| planning(error, query, statement))?;
        self.show(plan, &context).await?;
        self.warn_of_rejects(&taps);
        Ok(())
    }

    /// Shows the rows of a plan as they come, small batches together.
    pub(super) async fn show(&self, plan: Arc<dyn ExecutionPlan>, context: &SessionContext) -> Result<()> {
        let schema = plan.schema();
        let rows = execute_stream(plan, context.task_ctx()).map_err(plan_error)?;
        let mut blocks = rows.ready_chunks(16);
        let mut waiting = Vec::new();
        let mut count = 0;
        let mut shown = false;
        while let Some(block) = blocks.next().await {
            for batch in block {
                let batch = batch.map_err(plan_error)?;
                count += batch.num_rows();
                waiting.push(batch);
            }
            if count >= ROWS_TOGETHER {
                let together = concat_batches(&schema, &waiting).map_err(|error| Error::internal(error.to_string()))?;
                self.reporter.rows(&schema, &[together]);
                (waiting, count, shown) = (Vec::new(), 0, true);
            }
            if self.stop.is_stopped() {
                break;
            }
        }
        if count > 0 || !shown {
            self.reporter.rows(&schema, &waiting);
        }
        self.reporter.end_of_rows();
        Ok(())
    }

    /// A record that cannot be read does not stop a SELECT; it is counted.
    fn warn_of_rejects(&self, taps: &[Arc<Tap>]) {
        for tap in taps.iter().filter(|tap| tap.rejected() > 0) {
            let message = format!(
                "{} of {} records of `{}` are unreadable and were left out; a streaming table keeps them in its quarantine",
                tap.rejected(),
                tap.read(),
                tap.source
            );
            self.reporter.notice(&message, None);
        }
    }

    /// CREATE [OR REPLACE] TABLE … AS.
    pub(super) async fn create_table_as(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        report: &mut TableReport,
    ) -> Result<()> {
        let name = &target.name;
        let table = self.catalog.table(&name.value).await?;
        let exists = table.version().await.is_some();
        if !is_to_be_made(&table, target).await? {
            report.version = table.version().await;
            return Ok(());
        }
        refuse_stream(target)?;
        let Preparation::Ready(prepared) = self.prepare(statement, target, &|_| None).await? else {
            return Err(Error::world(format!(
                "`{name}` cannot be created: what it reads holds nothing to infer columns from"
            ))
            .at(target.query.place.clone()));
        };
        let Some(mut ready) = self.ready(&target.query, statement).await? else { return Ok(()) };
        ready.plan = named_columns(ready.plan, target)?;
        let output =
            Output { table, spec: prepared.spec.clone(), rules: Arc::clone(&prepared.rules), change: Change::Replace };
        let operation = if exists { "CREATE OR REPLACE TABLE AS SELECT" } else { "CREATE TABLE AS SELECT" };
        self.write_once(ready, output, name.value.as_str(), operation, report).await
    }

    async fn insert(&mut self, insert: &Insert, statement: &Statement) -> Result<()> {
        let name = &insert.target;
        let table = self.catalog.table(&name.value).await?;
        self.refuse_insert(insert)?;
        if is_filled(&table, &name.value).await? {
            return Err(filled_by_its_query(insert));
        }
        let Some(spec) = table.spec().await? else {
            return Err(Error::world(format!("there is no table `{name}`"))
                .at(name.place.clone())
                .hint(format!("make it with CREATE TABLE {name} AS SELECT …")));
        };
        let Some(mut ready) = self.ready(&insert.query, statement).await? else { return Ok(()) };
        ready.plan = fitted(ready.plan, insert, &spec)?;
        let change = if insert.overwrite { Change::Replace } else { Change::Append };
        let mut report = self.blank_report(&name.value).await;
        let output = Output { table, spec, rules: Arc::from([]), change };
        let result = self.write_once(ready, output, &name.value, "WRITE", &mut report).await;
        self.built(report, result)
    }

    /// A table that is declared with a query of its own takes no other rows.
    pub(super) fn refuse_insert(&self, insert: &Insert) -> Result<()> {
        match self.catalog.declaration(&insert.target.value).map(|statement| &statement.kind) {
            Some(Kind::StreamingTable(_) | Kind::MaterializedView(_)) => Err(filled_by_its_query(insert)),
            _ => Ok(()),
        }
    }

    /// Executes a plan into a table and commits it, in one commit.
    async fn write_once(
        &self,
        ready: Ready,
        output: Output,
        name: &str,
        operation: &'static str,
        report: &mut TableReport,
    ) -> Result<()> {
        let Output { table, spec, rules, change } = output;
        let plan = ready.context.state().create_physical_plan(&ready.plan).await.map_err(plan_error)?;
        let plan = Arc::new(CoalescePartitionsExec::new(plan));
        let target =
            Target { name: name.into(), table: Arc::clone(&table), spec: spec.clone(), rules, source: name.into() };
        let (nowhere, _) = mpsc::channel(1);
        let Written { adds, rows, dropped, violations } =
            write(plan, ready.context.task_ctx(), &target, nowhere).await?;
        self.warn_of_rejects(&ready.taps);
        let commit = Commit {
            spec: &spec,
            attempt: Uuid::new_v4(),
            txn: None,
            change,
            adds,
            removes: Vec::new(),
            seen_live: 0,
            operation,
        };
        if rows > 0 || change == Change::Replace {
            report.version = Some(table.commit(&commit).await?);
        } else {
            report.version = table.version().await;
        }
        report.epochs += 1;
        report.read += ready.taps.iter().map(|tap| tap.read()).sum::<u64>();
        report.written += rows;
        report.dropped += dropped;
        report.expectations.extend(violations.into_iter().map(|(name, count)| (name.to_string(), count)));
        Ok(())
    }

    /// Merges a table's small files. Rows stay as they are, and readers of the stream see nothing of it.
    pub(super) async fn optimize(&mut self, name: &crate::sql::text::Name) -> Result<()> {
        let table = self.existing(name).await?;
        let Some(mut spec) = table.spec().await? else { return Ok(()) };
        if let Some(said) = self.target_file_bytes(&name.value)? {
            spec.properties.target_file_bytes = said;
        }
        let target_bytes = spec.properties.target_file_bytes;
        let (live, version) = (table.live().await?, table.version().await.unwrap_or_default());
        let small: Vec<_> =
            compact::by_partition(live.into_iter().filter(|file| compact::is_small(file, target_bytes)))
                .into_values()
                .filter(|files| files.len() > 1)
                .flatten()
                .collect();
        if small.is_empty() {
            self.reporter.notice(&format!("`{name}` has no small files to merge"), None);
            return Ok(());
        }
        let planned = self.merge_plan(&table, &spec, small.clone()).await?;
        let before = small.len();
        let merged = compact::merge(Arc::clone(&table), spec, planned, small, version).await?;
        self.reporter.notice(&format!("`{name}`: {before} files became {}", merged.len()), None);
        Ok(())
    }

    /// What the statement that fills a table says about the size of its files.
    fn target_file_bytes(&self, name: &str) -> Result<Option<u64>> {
        let declared = self.catalog.declaration(name).and_then(|statement| target_of(&statement.kind));
        let Some(target) = declared else { return Ok(None) };
        let mut options = Options::new(converted(&target.properties))?;
        Ok(Some(Properties::take(&mut options)?.target_file_bytes))
    }

    /// A plan over the rows of some files.
    pub(super) async fn merge_plan(&self, table: &Table, spec: &Spec, files: Vec<Add>) -> Result<Planned> {
        let context = self.session.context();
        let rows = table.files_provider(self.session.runtime(), files).await?;
        let columns = spec.schema.fields().iter().map(|field| Expr::Column(Column::from_name(field.name())));
        let plan = LogicalPlanBuilder::scan("t", datafusion::datasource::provider_as_source(rows), None)
            .and_then(|scan| scan.project(columns))
            .and_then(LogicalPlanBuilder::build)
            .map_err(plan_error)?;
        let plan = context.state().create_physical_plan(&plan).await.map_err(plan_error)?;
        let plan = Arc::new(CoalescePartitionsExec::new(plan));
        Ok(Planned { plan, context: context.task_ctx(), source: "".into() })
    }
}

struct Output {
    table: Arc<Table>,
    spec: Spec,
    rules: Arc<[Rule]>,
    change: Change,
}

/// The query's columns in the table's order: by position, or by the names that the INSERT lists.
fn fitted(plan: LogicalPlan, insert: &Insert, spec: &Spec) -> Result<LogicalPlan> {
    let given: Vec<Column> = plan.schema().iter().map(Column::from).collect();
    let table: Vec<&str> = spec.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let listed: Vec<&str> = match insert.columns.is_empty() {
        true => table.clone(),
        false => insert.columns.iter().map(|name| name.value.as_str()).collect(),
    };
    if let Some(unknown) = insert.columns.iter().find(|name| !table.contains(&name.value.as_str())) {
        let error =
            Error::sql(format!("table `{}` has no column `{unknown}`", insert.target)).at(unknown.place.clone());
        let near = crate::error::nearest(&unknown.value, table.iter().copied());
        return Err(error.hint(near.map_or_else(
            || format!("the columns are {}", table.join(", ")),
            |name| format!("did you mean `{name}`?"),
        )));
    }
    if given.len() != listed.len() {
        return Err(Error::sql(format!(
            "`{}` takes {} columns, the query gives {}",
            insert.target,
            listed.len(),
            given.len()
        ))
        .at(insert.query.place.clone())
        .hint(format!("the columns are {}", listed.join(", "))));
    }
    let columns = spec.schema.fields().iter().map(|field| {
        let value = listed.iter().position(|name| name == field.name()).map(|index| Expr::Column(given[index].clone()));
        cast(value.unwrap_or_else(|| lit(ScalarValue::Null)), field.data_type().clone()).alias(field.name())
    });
    LogicalPlanBuilder::from(plan).project(columns).and_then(LogicalPlanBuilder::build).map_err(plan_error)
}

/// Whether a query fills the table, by one instance or by several.
async fn is_filled(table: &Table, name: &str) -> Result<bool> {
    let folder = log_folder(table, name, None);
    Ok(EpochLog::open(folder.clone()).await?.last().is_some() || !EpochLog::slots(&folder).await?.is_empty())
}

/// Whether CREATE TABLE AS has anything to do.
///
/// # Errors
/// Something else fills the table, or it is there and not to be replaced.
pub(super) async fn is_to_be_made(table: &Table, target: &CreateTarget) -> Result<bool> {
    let name = &target.name;
    if is_filled(table, &name.value).await? {
        return Err(Error::conflict(format!("table `{name}` is filled by a streaming table or a materialized view"))
            .at(name.place.clone())
            .hint(format!("DROP TABLE {name} first, or choose another name")));
    }
    let exists = table.version().await.is_some();
    if exists && !target.if_not_exists && !target.or_replace {
        return Err(Error::world(format!("table `{name}` exists already"))
            .at(name.place.clone())
            .hint("say CREATE OR REPLACE TABLE, or INSERT INTO to add to it"));
    }
    Ok(!exists || !target.if_not_exists)
}

/// Whether a query has left anything where its table would be.
pub(super) async fn has_traces(table: &Table, name: &str) -> Result<bool> {
    let folder = log_folder(table, name, None);
    let first = folder.store().list(Some(folder.path())).next().await.transpose();
    first.map(|found| found.is_some()).map_err(|error| crate::store::failed(format!("cannot list `{folder}`"), error))
}

pub(super) fn planning(error: datafusion::error::DataFusionError, query: &Query, statement: &Statement) -> Error {
    crate::sql::explain(error, &statement.text, &query.place)
}

impl Engine {
    /// A table of the lake that must be there.
    pub(super) async fn existing(&self, name: &crate::sql::text::Name) -> Result<Arc<Table>> {
        let table = self.catalog.table(&name.value).await?;
        if table.version().await.is_some() {
            return Ok(table);
        }
        let known = self.names().await;
        let unknown = Error::world(format!("there is no table `{name}` in the lake")).at(name.place.clone());
        Err(match crate::error::nearest(&name.value, known.iter().map(String::as_str)) {
            Some(near) if near != name.value => unknown.hint(format!("did you mean `{near}`?")),
            _ => unknown.hint("SHOW TABLES lists what there is"),
        })
    }

    /// REFRESH [STREAMING TABLE | MATERIALIZED VIEW] t [FULL].
    async fn refresh(&mut self, name: &crate::sql::text::Name, full: bool, limits: Limits) -> Result<()> {
        let declared = self.catalog.declaration(&name.value).filter(|statement| target_of(&statement.kind).is_some());
        let Some(statement) = declared.cloned() else {
            return Err(Error::sql(format!("no statement of the project fills `{name}`"))
                .at(name.place.clone())
                .hint("REFRESH takes a streaming table or a materialized view"));
        };
        let mut report = self.blank_report(&name.value).await;
        let result = Box::pin(self.fill(&statement, full, limits, &mut report)).await;
        self.built(report, result)
    }

    /// DROP TABLE: the table and its log go; its quarantine stays.
    pub(super) async fn remove_files(&self, location: &Location) -> Result<()> {
        let context = format!("cannot delete `{location}`");
        let all: Vec<_> = location
            .store()
            .list(Some(location.path()))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(|error| crate::store::failed(&context, error))?;
        // The Delta log goes last: a table that is half deleted is still one that can be dropped again.
        let (log, files): (Vec<_>, Vec<_>) = all.into_iter().partition(|path| path.as_ref().contains("/_delta_log/"));
        for paths in [files, log] {
            let deleted = location.store().delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
            deleted
                .try_for_each(|_| std::future::ready(Ok(())))
                .await
                .map_err(|error| crate::store::failed(&context, error))?;
        }
        if let Some(folder) = location.local_path() {
            // Empty folders mean nothing; where they cannot go, they may stay.
            let _ = tokio::fs::remove_dir_all(folder).await;
        }
        Ok(())
    }

    /// The schema of what a query would make of a table, for DESCRIBE of views.
    pub(super) async fn columns_of(&self, query: &Query, statement: &Statement) -> Result<arrow::datatypes::SchemaRef> {
        let ready = self.ready(query, statement).await?;
        let ready = ready.ok_or_else(|| Error::world("its columns are not known yet"))?;
        schema::table_schema(ready.plan.schema().as_arrow())
    }
}

fn filled_by_its_query(insert: &Insert) -> Error {
    Error::sql(format!("`{}` is filled by its own query, nothing can be inserted", insert.target))
        .at(insert.target.place.clone())
        .hint("insert into a table made by CREATE TABLE … AS")
}
