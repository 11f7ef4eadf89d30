//! Plans a target's statement over what it reads: names, types and rules are checked before anything runs.
//!
//! Floor 6: uses `stream`, `sql`, `delta`, `source`, `options`, `error`.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::optimizer::simplify_expressions::{ExprSimplifier, SimplifyContext};

use super::Engine;
use crate::delta::{Properties, Spec, schema};
use crate::error::{Error, Place, Result, nearest};
use crate::options::Options;
use crate::source::{Limits, MetadataColumn, Opening, Tap, empty_leaf};
use crate::sql::catalog::{Leaves, Reading, Readings, converted};
use crate::sql::statement::{Action, Constraint, CreateTarget, Kind, Statement};
use crate::sql::{explain_at, maintain};
use crate::stream::expect::{self, Rule};

/// What a target's statement says, planned over what it reads.
pub(super) struct Prepared {
    pub readings: Readings,
    pub spec: Spec,
    pub rules: Arc<[Rule]>,
    pub plan: LogicalPlan,
    pub quarantine: String,
    pub max_records: Option<u64>,
    pub trigger: Option<Duration>,
}

/// How far a statement got while it was prepared.
pub(super) enum Preparation {
    Ready(Box<Prepared>),
    /// Sources that hold nothing to infer columns from.
    NothingToInfer(Vec<String>),
}

impl Engine {
    /// Plans a target over empty leaves: names, types and rules are checked, nothing is executed.
    pub(super) async fn prepare(
        &self,
        statement: &Statement,
        target: &CreateTarget,
        pinned: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> Result<Preparation> {
        self.say_ignored(target).await;
        let readings = self.catalog.read(&target.query, &self.session, pinned).await?;
        if !readings.empty.is_empty() {
            return Ok(Preparation::NothingToInfer(readings.empty));
        }
        let context = self.session.context();
        let leaves = self.empty_leaves(&readings).await?;
        let plan = self.target_plan(&context, statement, target, &leaves).await?;
        let table_schema =
            schema::table_schema(plan.schema().as_arrow()).map_err(|error| error.at(target.query.place.clone()))?;
        let mut options = Options::new(converted(&target.properties))?;
        let properties = Properties::take(&mut options)?;
        let max_records = options.take_count("pinsql.max_records")?;
        options.take("pinsql.quarantine");
        let quarantine = match &statement.kind {
            Kind::TableAs(_) => String::new(),
            _ => self.quarantine_name(target)?,
        };
        let trigger = options.take_duration("pinsql.trigger")?;
        options.finish(&format!("table `{}`", target.name))?;
        let rules = rules(&context, target, &table_schema)?;
        let spec = Spec {
            partition_by: partition_by(target, &table_schema)?,
            schema: table_schema,
            comment: target.comment.clone(),
            properties,
        };
        Ok(Preparation::Ready(Box::new(Prepared { readings, spec, rules, plan, quarantine, max_records, trigger })))
    }

    /// Where a target puts aside what is no row.
    ///
    /// # Errors
    /// Something else has that name: rows of two kinds would lie in one table.
    pub(super) fn quarantine_name(&self, target: &CreateTarget) -> Result<String> {
        let (name, place) = said_quarantine(target)?;
        let is_declared = name == target.name.value || self.catalog.declaration(&name).is_some();
        let others = self.catalog.declarations().filter_map(|(_, statement)| match &statement.kind {
            Kind::StreamingTable(other) | Kind::MaterializedView(other) => Some(other),
            _ => None,
        });
        let others = others.filter(|other| other.name.value != target.name.value);
        let shared = others.into_iter().find(|other| said_quarantine(other).is_ok_and(|(other, _)| other == name));
        let why = match shared {
            _ if is_declared => "it is declared".to_owned(),
            Some(other) => format!("it is that of `{}`", other.name),
            None => return Ok(name),
        };
        Err(Error::config(format!("`{name}` cannot be the quarantine of `{}`: {why}", target.name))
            .at(place)
            .hint("give `pinsql.quarantine` a name that nothing else has"))
    }

    /// Leaves to plan over: sources without rows, and the tables as they are.
    pub(super) async fn empty_leaves(&self, readings: &Readings) -> Result<Leaves> {
        let metadata = readings.metadata_column();
        let mut leaves = self.table_leaves(readings).await?;
        for reading in &readings.sources {
            leaves.insert((reading.key.clone(), reading.stream), empty_leaf(reading.source.as_ref(), metadata));
        }
        Ok(leaves)
    }

    /// Leaves for the tables of the lake that a query reads as they are.
    pub(super) async fn table_leaves(&self, readings: &Readings) -> Result<Leaves> {
        let mut leaves = Leaves::new();
        for (name, columns) in &readings.promised {
            let empty = Arc::new(EmptyTable::new(Arc::clone(columns)));
            leaves.insert((name.clone(), false), empty);
        }
        for (name, table) in &readings.tables {
            let provider = table.provider(self.session.runtime()).await?;
            let provider = provider.ok_or_else(|| Error::world(format!("table `{name}` vanished")))?;
            leaves.insert((name.clone(), false), provider);
        }
        Ok(leaves)
    }

    /// The target's query, with the names and types that the target gives its columns.
    pub(super) async fn target_plan(
        &self,
        context: &SessionContext,
        statement: &Statement,
        target: &CreateTarget,
        leaves: &Leaves,
    ) -> Result<LogicalPlan> {
        let plan = self.catalog.plan(self.over(context, leaves), &target.query, &statement.text).await?;
        named_columns(plan, target)
    }

    /// Everything that a source holds now, as a table whose unreadable records are only counted.
    pub(super) async fn whole_leaf(
        &self,
        reading: &Reading,
        metadata: MetadataColumn,
    ) -> Result<(Arc<dyn TableProvider>, Arc<Tap>)> {
        let tap = Arc::new(Tap::counting(reading.key.as_str().into()));
        let nowhere = self.catalog.location(".").await?;
        let mut cursor = reading.source.open(&Opening::of_now(&nowhere)).await?;
        let leaf = match cursor.next(&Limits { everything: true, ..Limits::default() }).await? {
            Some(input) => input.table(Arc::clone(&tap), metadata)?,
            None => empty_leaf(reading.source.as_ref(), metadata),
        };
        Ok((leaf, tap))
    }
}

/// The columns of the plan under the names, and cast to the types, that the target lists, by position.
pub(super) fn named_columns(plan: LogicalPlan, target: &CreateTarget) -> Result<LogicalPlan> {
    if target.columns.is_empty() {
        return Ok(plan);
    }
    let fields: Vec<Column> = plan.schema().iter().map(Column::from).collect();
    if fields.len() != target.columns.len() {
        return Err(Error::sql(format!(
            "table `{}` lists {} columns, its query gives {}",
            target.name,
            target.columns.len(),
            fields.len()
        ))
        .at(target.name.place.clone())
        .hint("list each column of the query, or none"));
    }
    let columns = fields.into_iter().zip(&target.columns).map(|(field, column)| {
        let value = Expr::Column(field);
        let value = column.data_type.clone().map_or_else(|| value.clone(), |data_type| cast(value.clone(), data_type));
        value.alias(&column.name.value)
    });
    LogicalPlanBuilder::from(plan)
        .project(columns)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| Error::sql(error.strip_backtrace()).at(target.name.place.clone()))
}

fn rules(context: &SessionContext, target: &CreateTarget, table: &SchemaRef) -> Result<Arc<[Rule]>> {
    let columns = DFSchema::try_from(Arc::clone(table)).map_err(|error| Error::internal(error.to_string()))?;
    target.constraints.iter().map(|constraint| rule(context, constraint, &columns)).collect()
}

fn rule(context: &SessionContext, constraint: &Constraint, columns: &DFSchema) -> Result<Rule> {
    let wrong = |error: DataFusionError| {
        let explained = explain_at(&error, &constraint.place);
        explained.context(format!("constraint `{}`", constraint.name))
    };
    let state = context.state();
    let condition = state.create_logical_expr(&constraint.condition.to_string(), columns).map_err(wrong)?;
    // Some functions, such as coalesce, exist only until an expression is simplified.
    let simplifier = ExprSimplifier::new(
        SimplifyContext::builder()
            .with_schema(Arc::new(columns.clone()))
            .with_query_execution_start_time(state.execution_props().query_execution_start_time)
            .build(),
    );
    let condition =
        simplifier.coerce(condition, columns).and_then(|typed| simplifier.simplify(typed)).map_err(wrong)?;
    let condition = context.create_physical_expr(condition, columns).map_err(wrong)?;
    let data_type = condition.data_type(columns.as_arrow()).map_err(wrong)?;
    if data_type != DataType::Boolean {
        return Err(Error::sql(format!("constraint `{}` is not a condition", constraint.name))
            .at(constraint.place.clone())
            .hint("EXPECT takes what WHERE takes, such as EXPECT (ind IS NOT NULL)"));
    }
    let action = match constraint.action {
        Action::Keep => expect::Action::Keep,
        Action::DropRow => expect::Action::DropRow,
        Action::FailUpdate => expect::Action::FailUpdate,
        Action::QuarantineRow => expect::Action::QuarantineRow,
    };
    Ok(Rule { name: constraint.name.value.as_str().into(), sql: constraint.sql.as_str().into(), condition, action })
}

fn partition_by(target: &CreateTarget, table: &SchemaRef) -> Result<Vec<String>> {
    let names: Vec<&str> = table.fields().iter().map(|field| field.name().as_str()).collect();
    for name in &target.partitioned_by {
        let Some((_, field)) = table.column_with_name(&name.value) else {
            let error = Error::sql(format!("PARTITIONED BY names `{name}`, which the query does not give"));
            let nearest = nearest(&name.value, names.iter().copied());
            let hint = nearest.map_or_else(
                || format!("the columns are {}", names.join(", ")),
                |name| format!("did you mean `{name}`?"),
            );
            return Err(error.at(name.place.clone()).hint(hint));
        };
        if field.data_type().is_nested() || names.len() == target.partitioned_by.len() {
            return Err(Error::sql(format!("table `{}` cannot be partitioned by `{name}`", target.name))
                .at(name.place.clone())
                .hint("partition by columns of plain types, and leave at least one other column"));
        }
    }
    Ok(target.partitioned_by.iter().map(|name| name.value.clone()).collect())
}

/// The quarantine that a target says, or that it has without saying so, and the place of that.
fn said_quarantine(target: &CreateTarget) -> Result<(String, Place)> {
    Ok(match Options::new(converted(&target.properties))?.take("pinsql.quarantine") {
        Some(pair) => (pair.value, pair.value_place),
        None => (format!("{}_quarantine", target.name), target.name.place.clone()),
    })
}

/// A streaming table reads at least one stream, and does with it only what can be maintained.
pub(super) fn require_stream(target: &CreateTarget, prepared: &Prepared) -> Result<()> {
    let streams: maintain::Streams = target
        .query
        .relations
        .iter()
        .filter(|relation| relation.stream)
        .map(|relation| relation.binding.clone())
        .collect();
    let through_views = prepared.readings.sources.iter().any(|reading| reading.stream);
    if streams.is_empty() && !through_views {
        return Err(Error::sql(format!("streaming table `{}` reads no stream", target.name))
            .at(target.query.place.clone())
            .hint("say FROM STREAM source, or make it a MATERIALIZED VIEW"));
    }
    maintain::check(&prepared.plan, &streams).map_err(|error| error.at(target.query.place.clone()))
}

/// A materialized view equals its query over its inputs as they are: it has no use for STREAM.
pub(super) fn refuse_stream(target: &CreateTarget) -> Result<()> {
    let Some(relation) = target.query.relations.iter().find(|relation| relation.stream) else { return Ok(()) };
    Err(Error::sql(format!("materialized view `{}` reads a stream", target.name))
        .at(relation.place.clone())
        .hint("remove STREAM: a materialized view always equals its query over what its inputs hold; or make it a STREAMING TABLE"))
}
