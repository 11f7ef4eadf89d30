//! What a streaming table's query may do: only what gives the same rows however its input is cut into epochs.
//!
//! Floor 4: uses `error`. Everything else is refused while it is planned, never answered wrongly.

use std::collections::BTreeSet;

use datafusion::common::JoinType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Join, LogicalPlan};

use crate::error::{Error, Result};

/// The names under which a plan knows its streams.
pub type Streams = BTreeSet<String>;

/// Whether a plan reads a stream.
pub fn reads_stream(plan: &LogicalPlan, streams: &Streams) -> bool {
    let mut found = false;
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::TableScan(scan) if streams.contains(scan.table_name.table()));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// Refuses a query that cannot be maintained record by record.
pub fn check(plan: &LogicalPlan, streams: &Streams) -> Result<()> {
    if !reads_stream(plan, streams) {
        return Ok(());
    }
    match plan {
        LogicalPlan::Aggregate(_) => return Err(refused("an aggregate (GROUP BY)")),
        LogicalPlan::Distinct(_) => return Err(refused("DISTINCT")),
        LogicalPlan::Window(_) => return Err(refused("a window function")),
        LogicalPlan::Limit(_) => return Err(refused("LIMIT or OFFSET")),
        LogicalPlan::RecursiveQuery(_) => return Err(refused("a recursive query")),
        LogicalPlan::Join(join) => check_join(join, streams)?,
        _ => {}
    }
    let in_subquery = std::cell::Cell::new(false);
    let _ = plan.apply_subqueries(|subquery| {
        in_subquery.set(in_subquery.get() || reads_stream(subquery, streams));
        Ok(TreeNodeRecursion::Continue)
    });
    if in_subquery.get() {
        return Err(refused("a subquery in an expression"));
    }
    plan.inputs().into_iter().try_for_each(|input| check(input, streams))
}

fn check_join(join: &Join, streams: &Streams) -> Result<()> {
    let (left, right) = (reads_stream(&join.left, streams), reads_stream(&join.right, streams));
    if left && right {
        return Err(refused("a join of two streams"));
    }
    let stream_is_kept = match join.join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
        JoinType::Full => false,
    };
    if stream_is_kept { Ok(()) } else { Err(refused("an outer join that keeps rows of the other side")) }
}

fn refused(what: &str) -> Error {
    Error::sql(format!("{what} over a stream cannot be maintained in a streaming table"))
        .hint("read the table without STREAM in a MATERIALIZED VIEW, which is computed anew when its inputs change")
}
