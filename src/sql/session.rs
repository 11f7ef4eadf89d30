//! The one door into DataFusion: sessions, and syntax trees to plans.
//!
//! Floor 4: uses `source`, `error`. Every plan is made afresh, over tables that are bound to it alone.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::{SessionConfig, SessionContext};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::functions_nested::make_array::make_array_udf;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast;

use super::faults;
use super::query::Query;
use super::stars::hide_column;
use super::text::SqlText;
use crate::error::{Error, Result};
use crate::source::METADATA;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// TIMESTAMP in casts and literals: DataFusion's own has nanoseconds, which end in the year 2262; tables have microseconds.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> datafusion::error::Result<Option<FieldRef>> {
        let is_timestamp = matches!(sql_type, ast::DataType::Timestamp(..) | ast::DataType::Datetime(_));
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        Ok(is_timestamp.then(|| Arc::new(Field::new("", timestamp, true))))
    }
}

/// A table that a query is planned over.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Its name in the syntax tree.
    pub binding: String,
    /// The table.
    pub table: Arc<dyn TableProvider>,
}

/// What all sessions of a process share: memory, disk for spilling, stores.
#[derive(Debug, Clone)]
pub struct Session {
    runtime: Arc<RuntimeEnv>,
    config: SessionConfig,
}

impl Default for Session {
    fn default() -> Self {
        let mut options = ConfigOptions::new();
        options.sql_parser.collect_spans = true;
        options.catalog.information_schema = false;
        Self {
            runtime: Arc::new(RuntimeEnv::default()),
            config: SessionConfig::from(options).with_batch_size(BATCH_ROWS),
        }
    }
}

impl Session {
    /// What all sessions share.
    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// `SET key = value`, for the sessions to come.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.config.options_mut().set(key, value).map_err(|error| {
            Error::config(format!("`{key}` cannot be set: {}", error.strip_backtrace()))
                .hint("settings are those of DataFusion, such as datafusion.execution.batch_size")
        })
    }

    /// A session with nothing in it.
    pub fn context(&self) -> SessionContext {
        self.context_of(self.config.clone())
    }

    /// A session whose plans have as many tasks as their leaves: a small epoch makes one file, not one per core.
    pub fn narrow_context(&self, partitions: usize) -> SessionContext {
        self.context_of(self.config.clone().with_target_partitions(partitions.max(1)))
    }

    fn context_of(&self, config: SessionConfig) -> SessionContext {
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_type_planner(Arc::new(Types))
            .build();
        let context = SessionContext::new_with_state(state);
        context.register_udf(make_array_udf().as_ref().clone().with_aliases(["array"]));
        context
    }

    /// Plans a query over tables. What it may not do shows here: names, types, functions.
    pub async fn plan(
        &self,
        context: &SessionContext,
        query: &Query,
        text: &SqlText,
        tables: &[Bound],
    ) -> Result<LogicalPlan> {
        for Bound { binding, table } in tables {
            let name = datafusion::common::TableReference::bare(binding.clone());
            context.register_table(name, Arc::clone(table)).map_err(|error| fault(error, query, text))?;
        }
        let mut tree = query.ast.clone();
        let has_metadata = |bound: &Bound| bound.table.schema().column_with_name(METADATA).is_some();
        if tables.iter().any(has_metadata) {
            let is_source = |binding: &str| tables.iter().any(|bound| bound.binding == binding && has_metadata(bound));
            hide_column(&mut tree, METADATA, &is_source);
        }
        let statement = SqlStatement::Statement(Box::new(ast::Statement::Query(tree)));
        let plan = context.state().statement_to_plan(statement).await;
        plan.map_err(|error| fault(error, query, text))
    }
}

fn fault(error: DataFusionError, query: &Query, text: &SqlText) -> Error {
    faults::explain(error, text, &query.place)
}
