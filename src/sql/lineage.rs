//! Carries each row's record up through a plan, so that a row that a constraint refuses can be put back as it came.
//!
//! Floor 4: uses `source`, `error`. The rewrite works on the plan before optimisation and only where every output row comes from one
//! record: projections, filters, aliases, UNNEST, UNION ALL, and a join with something that is not a stream. Elsewhere a
//! row has no single record, and the quarantine keeps the row alone.

use std::any::Any;
use std::sync::Arc;

use datafusion::common::{Column, DFSchema};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Sort};

use crate::source::records::RecordsTable;
use crate::source::{LINEAGE_METADATA, LINEAGE_PAYLOAD};

/// A plan whose last two columns are the record's `_metadata` and bytes.
#[derive(Debug)]
pub struct Lifted {
    /// The plan.
    pub plan: LogicalPlan,
    /// The source whose records they are.
    pub source: Arc<str>,
}

/// Adds the lineage columns behind a plan's own; None where its rows do not come from one record each.
pub fn lift(plan: &LogicalPlan) -> Result<Option<Lifted>> {
    let Some(lifted) = carry(plan)? else { return Ok(None) };
    let plan = in_order(plan.schema(), lifted.plan)?;
    Ok(Some(Lifted { plan, source: lifted.source }))
}

fn carry(plan: &LogicalPlan) -> Result<Option<Lifted>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source)?;
            let provider: &dyn Any = provider.as_ref();
            let Some(table) = provider.downcast_ref::<RecordsTable>() else { return Ok(None) };
            let with_lineage = provider_as_source(Arc::new(table.with_lineage()));
            let plan = LogicalPlanBuilder::scan(scan.table_name.clone(), with_lineage, None)?.build()?;
            Ok(Some(Lifted { plan, source: Arc::clone(table.source()) }))
        }
        LogicalPlan::Filter(filter) => rebuild(&filter.input, |input| {
            Ok(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?))
        }),
        LogicalPlan::Sort(sort) => rebuild(&sort.input, |input| {
            Ok(LogicalPlan::Sort(Sort { expr: sort.expr.clone(), input: Arc::new(input), fetch: sort.fetch }))
        }),
        LogicalPlan::SubqueryAlias(alias) => rebuild(&alias.input, |input| {
            LogicalPlanBuilder::from(in_order(alias.input.schema(), input)?).alias(alias.alias.clone())?.build()
        }),
        LogicalPlan::Projection(projection) => rebuild(&projection.input, |input| {
            let lineage = lineage_columns(input.schema())?;
            let all = projection.expr.iter().cloned().chain(lineage);
            LogicalPlanBuilder::from(input).project(all)?.build()
        }),
        LogicalPlan::Unnest(unnest) => rebuild(&unnest.input, |input| {
            LogicalPlanBuilder::from(input)
                .unnest_columns_with_options(unnest.exec_columns.clone(), unnest.options.clone())?
                .build()
        }),
        LogicalPlan::Join(join) => carry_one_side(plan, &join.left, &join.right),
        LogicalPlan::Union(union) => carry_all(&union.inputs),
        _ => Ok(None),
    }
}

fn rebuild(input: &LogicalPlan, over: impl FnOnce(LogicalPlan) -> Result<LogicalPlan>) -> Result<Option<Lifted>> {
    let Some(Lifted { plan, source }) = carry(input)? else { return Ok(None) };
    Ok(Some(Lifted { plan: over(plan)?, source }))
}

fn carry_one_side(join: &LogicalPlan, left: &LogicalPlan, right: &LogicalPlan) -> Result<Option<Lifted>> {
    let (inputs, source) = match carry(left)? {
        Some(lifted) => (vec![lifted.plan, right.clone()], lifted.source),
        None => match carry(right)? {
            Some(lifted) => (vec![left.clone(), lifted.plan], lifted.source),
            None => return Ok(None),
        },
    };
    let plan = join.with_new_exprs(join.expressions(), inputs)?;
    // A semi or anti join has no columns of its other side.
    Ok(lineage_columns(plan.schema()).is_ok().then_some(Lifted { plan, source }))
}

fn carry_all(inputs: &[Arc<LogicalPlan>]) -> Result<Option<Lifted>> {
    let mut union: Option<(LogicalPlanBuilder, Arc<str>)> = None;
    for input in inputs {
        let Some(lifted) = carry(input)? else { return Ok(None) };
        let plan = in_order(input.schema(), lifted.plan)?;
        union = Some(match union {
            None => (LogicalPlanBuilder::from(plan), lifted.source),
            Some((union, source)) if source == lifted.source => (union.union(plan)?, source),
            // Rows of several sources have no one `_metadata` type.
            Some(_) => return Ok(None),
        });
    }
    union.map(|(union, source)| Ok(Lifted { plan: union.build()?, source })).transpose()
}

/// The plan's own columns in their order, then the lineage.
fn in_order(own: &DFSchema, lifted: LogicalPlan) -> Result<LogicalPlan> {
    let lineage = lineage_columns(lifted.schema())?;
    let columns = own.iter().map(|field| Expr::Column(Column::from(field))).chain(lineage);
    LogicalPlanBuilder::from(lifted).project(columns)?.build()
}

fn lineage_columns(schema: &DFSchema) -> Result<[Expr; 2]> {
    let find =
        |name: &str| schema.qualified_field_with_unqualified_name(name).map(|field| Expr::Column(Column::from(field)));
    Ok([find(LINEAGE_METADATA)?, find(LINEAGE_PAYLOAD)?])
}
