//! Constraints: what each row must be, and what becomes of one that is not.
//!
//! Floor 5: uses `source`, `error`. A row passes where the condition is TRUE; FALSE and NULL violate it. A constraint sees the
//! columns of the table. A row that violates several is failed before quarantined, quarantined before dropped, and lies
//! under the first of those that say the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryViewArray, BooleanArray, RecordBatch, StructArray, UInt32Array};
use arrow::compute::{filter_record_batch, prep_null_mask_filter, take, take_record_batch};
use datafusion::physical_expr::PhysicalExpr;

use super::json::json_rows;
use crate::error::{Error, Result};
use crate::source::Rejects;

/// What becomes of a row that violates a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It stays and is counted.
    Keep,
    /// It is left out and counted.
    DropRow,
    /// The run stops and commits nothing.
    FailUpdate,
    /// It goes to the quarantine.
    QuarantineRow,
}

/// A constraint, planned.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub name: Arc<str>,
    /// The condition as the user wrote it.
    pub sql: Arc<str>,
    /// The condition over the table's columns.
    pub condition: Arc<dyn PhysicalExpr>,
    /// What becomes of a row that violates it.
    pub action: Action,
}

/// Where the rows of a batch come from: a record each, or not.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// The source's name.
    pub source: Arc<str>,
    /// The records' bytes and `_metadata`, a row each, where rows come from one record each.
    pub records: Option<(BinaryViewArray, StructArray)>,
}

/// A batch, judged.
#[derive(Debug)]
pub struct Judged {
    /// The rows for the table.
    pub kept: RecordBatch,
    /// The rows for the quarantine, by constraint.
    pub quarantined: Vec<Rejects>,
    /// Rows left out.
    pub dropped: u64,
}

/// Judges batches of one task.
#[derive(Debug)]
pub struct Judge {
    table: Arc<str>,
    rules: Arc<[Rule]>,
    kept_violations: BTreeMap<Arc<str>, u64>,
}

impl Judge {
    /// A judge of a table's rows.
    pub fn new(table: Arc<str>, rules: Arc<[Rule]>) -> Self {
        Self { table, rules, kept_violations: BTreeMap::new() }
    }

    /// How often rows that stayed violated each constraint.
    pub fn kept_violations(self) -> BTreeMap<Arc<str>, u64> {
        self.kept_violations
    }

    /// Judges a batch that has the table's columns.
    pub fn judge(&mut self, batch: RecordBatch, lineage: &Lineage) -> Result<Judged> {
        let mut judged = Judged { kept: batch, quarantined: Vec::new(), dropped: 0 };
        if self.rules.is_empty() || judged.kept.num_rows() == 0 {
            return Ok(judged);
        }
        let rules = Arc::clone(&self.rules);
        let passes: Vec<BooleanArray> = rules.iter().map(|rule| passes(rule, &judged.kept)).collect::<Result<_>>()?;
        if passes.iter().all(|pass| pass.false_count() == 0) {
            return Ok(judged);
        }
        let batch = judged.kept.clone();
        let mut stays = vec![true; batch.num_rows()];
        for action in [Action::FailUpdate, Action::QuarantineRow, Action::DropRow, Action::Keep] {
            for (rule, pass) in rules.iter().zip(&passes).filter(|(rule, _)| rule.action == action) {
                let violating = (0..batch.num_rows()).filter(|row| stays[*row] && !pass.value(*row));
                let violating: Vec<u32> = violating.filter_map(|row| u32::try_from(row).ok()).collect();
                if violating.is_empty() {
                    continue;
                }
                self.apply(rule, &batch, lineage, &violating, &mut judged)?;
                if action != Action::Keep {
                    violating.iter().for_each(|row| stays[*row as usize] = false);
                }
            }
        }
        if stays.contains(&false) {
            judged.kept = filter_record_batch(&batch, &BooleanArray::from(stays)).map_err(fault)?;
        }
        Ok(judged)
    }

    fn apply(
        &mut self,
        rule: &Rule,
        batch: &RecordBatch,
        lineage: &Lineage,
        rows: &[u32],
        judged: &mut Judged,
    ) -> Result<()> {
        match rule.action {
            Action::Keep => *self.kept_violations.entry(Arc::clone(&rule.name)).or_default() += rows.len() as u64,
            Action::DropRow => judged.dropped += rows.len() as u64,
            Action::QuarantineRow => judged.quarantined.push(rejects(rule, batch, lineage, rows)?),
            Action::FailUpdate => {
                let row = json_rows(&take_record_batch(batch, &UInt32Array::from(vec![rows[0]])).map_err(fault)?)?;
                return Err(Error::data(format!(
                    "constraint `{}` of table `{}` is violated: EXPECT ({}) is not true for {}",
                    rule.name,
                    self.table,
                    rule.sql,
                    row.first().map_or("a row", String::as_str)
                ))
                .hint(
                    "mend the data or the query, or say ON VIOLATION QUARANTINE ROW; nothing of this epoch was written",
                ));
            }
        }
        Ok(())
    }
}

fn passes(rule: &Rule, batch: &RecordBatch) -> Result<BooleanArray> {
    let value =
        rule.condition.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(|error| {
            Error::data(format!("constraint `{}` cannot be computed: {}", rule.name, crate::store::root_cause(&error)))
                .hint("use functions that give NULL for odd values, such as TRY_CAST")
        })?;
    let value = value.as_boolean_opt().ok_or_else(|| Error::internal("a constraint is not a condition"))?;
    Ok(if value.null_count() > 0 { prep_null_mask_filter(value) } else { value.clone() })
}

fn rejects(rule: &Rule, batch: &RecordBatch, lineage: &Lineage, rows: &[u32]) -> Result<Rejects> {
    let indices = UInt32Array::from(rows.to_vec());
    let violating = take_record_batch(batch, &indices).map_err(fault)?;
    let (payloads, metadata) = match &lineage.records {
        None => (None, None),
        Some((payloads, metadata)) => {
            let payloads = take(payloads, &indices, None).map_err(fault)?;
            let metadata = take(metadata, &indices, None).map_err(fault)?;
            (Some(payloads.as_binary_view().clone()), Some(metadata.as_struct().clone()))
        }
    };
    Ok(Rejects {
        source: Arc::clone(&lineage.source),
        rule: Arc::clone(&rule.name),
        reasons: vec![format!("EXPECT ({}) is not true", rule.sql); rows.len()],
        payloads,
        metadata,
        rows: Some(json_rows(&violating)?),
    })
}

fn fault(error: arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}
