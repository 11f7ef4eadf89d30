//! What there is: DESCRIBE, SHOW, EXPLAIN, DROP, VACUUM, and what `pinsql plan` says.
//!
//! Floor 6: uses `sql`, `delta`, `log`, `report`, `error`.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::format::ExplainFormat;
use datafusion::logical_expr::{ExplainOption, LogicalPlanBuilder};
use regex::Regex;

use super::Engine;
use super::fill::log_folder;
use super::graph::{Step, query_of};
use super::once::{has_traces, is_to_be_made, planning};
use crate::error::{Error, Result};
use crate::log::EpochLog;
use crate::report::TableReport;
use crate::source::METADATA;
use crate::sql::catalog::{columns_ddl, target_of};
use crate::sql::statement::{CreateTarget, DropKind, Explain, Kind, Statement};
use crate::sql::text::Name;
use crate::sql::types::{quoted_name, type_name};
use crate::stream::write::plan_error;

/// Where the columns of a source end; a name may have the first word in it.
static STORED_AS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?i)\bstored\s+as\b").ok());

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
        let found = STORED_AS.as_ref().and_then(|pattern| pattern.find(&text));
        let Some(at) = found.map(|found| found.start()) else { return Ok(text) };
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
        match self.existing(name).await {
            Ok(table) => self.remove_files(table.location()).await?,
            // A query that never got as far as a table may have left something. What else lies there is not ours.
            Err(error) => match self.catalog.table(&name.value).await? {
                table if has_traces(&table, &name.value).await? => {
                    self.remove_files(&log_folder(&table, &name.value, None)).await?;
                }
                _ if if_exists => return Ok(()),
                _ => return Err(error),
            },
        }
        self.catalog.close(&name.value).await;
        Ok(())
    }

    /// VACUUM t.
    pub(super) async fn vacuum(&self, name: &Name, retain_hours: Option<f64>, dry_run: bool) -> Result<()> {
        let table = self.existing(name).await?;
        let files = table.vacuum(retain_hours, dry_run).await?;
        self.texts(&["path"], &files.into_iter().map(|file| vec![file]).collect::<Vec<_>>())
    }

    /// `pinsql plan`: the order, what each step reads, how far that is read, and what a run would do or refuse.
    pub(super) async fn show_plan(&self, steps: &[Step], tables: &mut Vec<TableReport>) -> Result<()> {
        let (mut rows, mut unbuilt) = (Vec::new(), BTreeSet::new());
        for step in steps {
            let Some(target) = target_of(&step.statement.kind) else { continue };
            let name = &target.name.value;
            let mut report = self.blank_report(name).await;
            let waits = step.reads.iter().any(|name| unbuilt.contains(name));
            if self.catalog.table(name).await?.version().await.is_none() {
                unbuilt.insert(name.clone());
            }
            let action = match self.would_do(&step.statement, target, waits).await {
                Ok(action) => action,
                Err(error) => {
                    let error = error.at(step.statement.place.clone());
                    let words = format!("refused: {}", error.message());
                    report.error = Some(Arc::new(error));
                    words
                }
            };
            rows.push(vec![
                (rows.len() + 1).to_string(),
                name.clone(),
                kind_name(&step.statement.kind).to_owned(),
                step.reads.iter().cloned().collect::<Vec<_>>().join(", "),
                self.positions(name).await?,
                action,
            ]);
            tables.push(report);
        }
        self.texts(&["step", "table", "kind", "reads", "positions", "action"], &rows)
    }

    /// How far a query has read its sources; of several instances, each its own.
    async fn positions(&self, name: &str) -> Result<String> {
        let table = self.catalog.table(name).await?;
        let folder = log_folder(&table, name, None);
        let mut logs = EpochLog::slots(&folder).await?;
        logs.push(folder);
        let mut positions = Vec::new();
        for log in logs {
            let log = EpochLog::open(log).await?;
            let sources = log.last().into_iter().flat_map(|entry| &entry.sources);
            positions.extend(sources.map(|(source, at)| format!("{source}: {}", at.committed.in_words())));
        }
        Ok(positions.join("; "))
    }

    /// What a run would do with a target, which may have to wait for others to be built first.
    ///
    /// # Errors
    /// What it would refuse.
    async fn would_do(&self, statement: &Statement, target: &CreateTarget, waits: bool) -> Result<String> {
        let table = self.catalog.table(&target.name.value).await?;
        if matches!(statement.kind, Kind::TableAs(_)) {
            let action = match (is_to_be_made(&table, target).await?, table.version().await) {
                (false, _) => "stay as it is",
                (true, None) => "build",
                (true, Some(_)) => "build anew",
            };
            return Ok(action.to_owned());
        }
        if !EpochLog::slots(&log_folder(&table, &target.name.value, None)).await?.is_empty() {
            return Ok("go on by `pinsql stream --slot`, in several instances".to_owned());
        }
        let home = self.home(target, None).await?;
        let Some(last) = home.last_epoch() else { return Ok("build".to_owned()) };
        if matches!(statement.kind, Kind::MaterializedView(_)) {
            return Ok("compute anew if an input has changed".to_owned());
        }
        // Whether it fits can be said of inputs that are there.
        let fits = if waits { None } else { self.fits(statement, target, &home).await? };
        Ok(match fits.unwrap_or_else(|| self.is_same_query(statement, &home)) {
            true => format!("go on behind epoch {last}"),
            false => format!("go on behind epoch {last} with a changed query; rows that are there stay"),
        })
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
