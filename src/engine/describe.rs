//! What there is: DESCRIBE, SHOW, EXPLAIN, DROP, VACUUM, and what `pinsql plan` says.
//!
//! Floor 6: uses `sql`, `delta`, `log`, `report`, `error`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::format::ExplainFormat;
use datafusion::logical_expr::{ExplainOption, LogicalPlanBuilder};

use super::Engine;
use super::fill::log_folder;
use super::graph::{Step, query_of};
use super::once::planning;
use crate::error::{Error, Result};
use crate::log::EpochLog;
use crate::source::METADATA;
use crate::sql::catalog::{columns_ddl, target_of};
use crate::sql::statement::{DropKind, Explain, Kind, Statement};
use crate::sql::text::Name;
use crate::sql::types::{quoted_name, type_name};
use crate::stream::write::plan_error;

impl Engine {
    /// Shows texts as a result.
    fn texts(&self, names: &[&str], rows: &[Vec<String>]) -> Result<()> {
        let schema: SchemaRef =
            Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>()));
        let column =
            |index: usize| Arc::new(rows.iter().map(|row| row.get(index)).collect::<StringArray>()) as ArrayRef;
        let batch = RecordBatch::try_new(Arc::clone(&schema), (0..names.len()).map(column).collect());
        self.reporter.rows(&schema, &[batch.map_err(|error| Error::internal(error.to_string()))?]);
        self.reporter.end_of_rows();
        Ok(())
    }

    /// DESCRIBE t.
    pub(super) async fn describe(&self, name: &Name) -> Result<()> {
        let columns = self.columns(name).await?;
        let rows: Vec<Vec<String>> =
            columns.fields().iter().map(|field| vec![field.name().clone(), type_name(field.data_type())]).collect();
        self.texts(&["column", "type"], &rows)
    }

    async fn columns(&self, name: &Name) -> Result<SchemaRef> {
        if let Some(statement) = self.catalog.declaration(&name.value) {
            match &statement.kind {
                Kind::Source(create) => {
                    let source = self.catalog.open_source(create, None).await?;
                    let source = source.ok_or_else(|| {
                        Error::world(format!("there is nothing in `{name}` yet to infer columns from"))
                    })?;
                    let metadata =
                        source.source.metadata().map(|data_type| Arc::new(Field::new(METADATA, data_type, true)));
                    let fields = source.source.columns().fields().iter().cloned().chain(metadata).collect::<Vec<_>>();
                    return Ok(Arc::new(Schema::new(fields)));
                }
                Kind::View(view) => return self.columns_of(&view.query, statement).await,
                _ => {}
            }
        }
        let table = self.existing(name).await?;
        table.schema().await.ok_or_else(|| Error::world(format!("table `{name}` vanished")))
    }

    /// SHOW TABLES.
    pub(super) async fn show_tables(&self) -> Result<()> {
        let in_lake = self.catalog.lake_tables().await?;
        let mut rows = Vec::new();
        for name in self.names().await {
            let kind = self.catalog.declaration(&name).map_or("table", |statement| kind_name(&statement.kind));
            let version = if in_lake.contains(&name) { self.catalog.table(&name).await?.version().await } else { None };
            rows.push(vec![name, kind.to_owned(), version.map(|version| version.to_string()).unwrap_or_default()]);
        }
        self.texts(&["name", "kind", "version"], &rows)
    }

    /// SHOW CREATE TABLE t: as it was written, with inferred columns filled in, without secrets.
    pub(super) async fn show_create_table(&self, name: &Name) -> Result<()> {
        let text = match self.catalog.declaration(&name.value) {
            Some(statement) => self.shown(statement).await?,
            None => {
                let columns = self.columns(name).await?;
                format!(
                    "-- not declared in the project\nCREATE TABLE {} ({})",
                    quoted_name(&name.value),
                    columns_ddl(&columns)
                )
            }
        };
        self.texts(&["create_table"], &[vec![text]])
    }

    async fn shown(&self, statement: &Statement) -> Result<String> {
        let text = statement.shown_text();
        let Kind::Source(create) = &statement.kind else { return Ok(text) };
        if create.columns.is_some() {
            return Ok(text);
        }
        let opened = self.catalog.open_source(create, None).await?;
        let Some(columns) = opened.and_then(|opened| opened.columns) else { return Ok(text) };
        let columns = columns_ddl(&columns).replace(", ", ",\n  ");
        let upper = text.to_ascii_uppercase();
        let Some(at) = upper.find("STORED") else { return Ok(text) };
        Ok(format!("{}(\n  {columns}\n)\n{}", text.get(..at).unwrap_or_default(), text.get(at..).unwrap_or_default()))
    }

    /// EXPLAIN: the plan of a query, or of what a statement would execute.
    pub(super) async fn explain(&self, explain: &Explain, statement: &Statement) -> Result<()> {
        let Some(query) = query_of(&explain.statement) else {
            return Err(Error::sql("EXPLAIN takes a query, an INSERT or a CREATE … AS").hint("say EXPLAIN SELECT …"));
        };
        let Some(ready) = self.ready(query, statement).await? else { return Ok(()) };
        let option = ExplainOption::default()
            .with_verbose(explain.verbose)
            .with_analyze(explain.analyze)
            .with_format(explain_format(explain)?);
        let plan = LogicalPlanBuilder::from(ready.plan).explain_option_format(option);
        let plan = plan.and_then(LogicalPlanBuilder::build).map_err(plan_error)?;
        let plan = ready
            .context
            .state()
            .create_physical_plan(&plan)
            .await
            .map_err(|error| planning(error, query, statement))?;
        self.show(plan, &ready.context).await
    }

    /// DROP TABLE, DROP VIEW.
    pub(super) async fn drop_table(&mut self, name: &Name, if_exists: bool, kind: DropKind) -> Result<()> {
        let declared = self.catalog.declaration(&name.value).cloned();
        let is_view = declared.as_ref().is_some_and(|statement| matches!(statement.kind, Kind::View(_)));
        let is_source = declared.as_ref().is_some_and(|statement| matches!(statement.kind, Kind::Source(_)));
        if is_view || is_source {
            if (kind == DropKind::View) != is_view {
                return Err(Error::sql(format!("`{name}` is a {}", if is_view { "view" } else { "source" }))
                    .at(name.place.clone())
                    .hint(format!("say DROP {} {name}", if is_view { "VIEW" } else { "TABLE" })));
            }
            self.catalog.forget(&name.value);
            return Ok(());
        }
        let table = match self.existing(name).await {
            Ok(table) => table,
            Err(_) if if_exists => return Ok(()),
            Err(error) => return Err(error),
        };
        self.remove_files(&table).await?;
        self.catalog.close(&name.value).await;
        Ok(())
    }

    /// VACUUM t.
    pub(super) async fn vacuum(&self, name: &Name, retain_hours: Option<f64>, dry_run: bool) -> Result<()> {
        let table = self.existing(name).await?;
        let files = table.vacuum(retain_hours, dry_run).await?;
        self.texts(&["path"], &files.into_iter().map(|file| vec![file]).collect::<Vec<_>>())
    }

    /// `pinsql plan`: the order, what each step reads, and how far it is.
    pub(super) async fn show_plan(&self, steps: &[Step]) -> Result<()> {
        let mut rows = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let reads = step.reads.iter().cloned().collect::<Vec<_>>().join(", ");
            let Some(target) = target_of(&step.statement.kind) else { continue };
            let table = self.catalog.table(&target.name.value).await?;
            let log = EpochLog::open(log_folder(&table, &target.name.value, None)).await?;
            let action = match (log.last(), table.version().await, &step.statement.kind) {
                (None, Some(_), Kind::StreamingTable(_) | Kind::MaterializedView(_)) => {
                    "refused: the table is another's".to_owned()
                }
                (None, None, _) => "build".to_owned(),
                (Some(last), _, Kind::StreamingTable(_)) if last.fingerprint != self.fingerprint(&step.statement) => {
                    format!("go on behind epoch {} with a changed query", last.epoch)
                }
                (Some(last), _, Kind::StreamingTable(_)) => format!("go on behind epoch {}", last.epoch),
                (Some(_), ..) => "compute anew if an input has changed".to_owned(),
                (None, Some(_), _) => "refused unless OR REPLACE: it exists".to_owned(),
            };
            rows.push(vec![
                (index + 1).to_string(),
                target.name.value.clone(),
                kind_name(&step.statement.kind).to_owned(),
                reads,
                action,
            ]);
        }
        self.texts(&["step", "table", "kind", "reads", "action"], &rows)
    }
}

fn explain_format(explain: &Explain) -> Result<ExplainFormat> {
    let Some(format) = &explain.format else { return Ok(ExplainFormat::Indent) };
    format.parse().map_err(|_| {
        Error::sql(format!("EXPLAIN has no format `{format}`")).hint("the formats are indent, tree, pgjson, graphviz")
    })
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Source(_) => "source",
        Kind::StreamingTable(_) => "streaming table",
        Kind::MaterializedView(_) => "materialized view",
        Kind::View(_) => "view",
        _ => "table",
    }
}
