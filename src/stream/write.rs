//! Runs a plan into files of a table: partitions side by side, each row judged, nothing visible yet.
//!
//! Floor 5: uses `delta`, `source`, `error`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{AsArray, RecordBatch};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::expect::{Judge, Lineage, Rule};
use crate::delta::{Add, Files, Spec, Table, schema};
use crate::error::{Error, Result, in_sql_types};
use crate::source::{LINEAGE_METADATA, LINEAGE_PAYLOAD, Rejects};
use crate::store;

/// Where the rows of a plan go.
#[derive(Debug, Clone)]
pub struct Target {
    /// The table's name.
    pub name: Arc<str>,
    /// The table.
    pub table: Arc<Table>,
    /// What it is to be.
    pub spec: Spec,
    /// Its constraints.
    pub rules: Arc<[Rule]>,
    /// The source whose records the rows come from, for the quarantine.
    pub source: Arc<str>,
}

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// The files.
    pub adds: Vec<Add>,
    /// Rows in them.
    pub rows: u64,
    /// Rows left out by DROP ROW.
    pub dropped: u64,
    /// Violations of constraints whose rows stayed.
    pub violations: BTreeMap<Arc<str>, u64>,
}

/// Executes every partition of `plan` into files of the target. Rows that a constraint sends to the quarantine go to `rejects`.
///
/// # Errors
/// The first error of any partition; by then every upload is given up.
pub async fn write(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    target: &Target,
    rejects: mpsc::Sender<Rejects>,
) -> Result<Written> {
    let failed = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for partition in 0..plan.properties().partitioning.partition_count() {
        let rows = plan.execute(partition, Arc::clone(&context)).map_err(plan_error)?;
        let task = Task {
            judge: Judge::new(Arc::clone(&target.name), Arc::clone(&target.rules)),
            target: target.clone(),
            rejects: rejects.clone(),
            failed: Arc::clone(&failed),
        };
        tasks.spawn(task.run(rows));
    }
    drop(rejects);
    let mut written = Written::default();
    let mut first_error = None;
    while let Some(ended) = tasks.join_next().await {
        match ended.unwrap_or_else(|error| Err(Error::internal(format!("a task stopped: {error}")))) {
            Ok(Some(part)) => written.add(part),
            Ok(None) => {}
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(written), Err)
}

impl Written {
    fn add(&mut self, part: Self) {
        self.adds.extend(part.adds);
        self.rows += part.rows;
        self.dropped += part.dropped;
        for (name, count) in part.violations {
            *self.violations.entry(name).or_default() += count;
        }
    }
}

struct Task {
    judge: Judge,
    target: Target,
    rejects: mpsc::Sender<Rejects>,
    failed: Arc<AtomicBool>,
}

impl Task {
    /// None where another partition failed and this one gave up.
    async fn run(mut self, rows: SendableRecordBatchStream) -> Result<Option<Written>> {
        let mut files = self.target.table.files(&self.target.spec);
        match self.pump(rows, &mut files).await {
            Ok(Some(dropped)) => {
                let (adds, rows) = files.close().await?;
                Ok(Some(Written { adds, rows, dropped, violations: self.judge.kept_violations() }))
            }
            Ok(None) => {
                files.abort().await;
                Ok(None)
            }
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                files.abort().await;
                Err(error)
            }
        }
    }

    async fn pump(&mut self, mut rows: SendableRecordBatchStream, files: &mut Files) -> Result<Option<u64>> {
        let mut dropped = 0;
        while let Some(batch) = rows.next().await {
            if self.failed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (batch, lineage) = self.split(batch.map_err(plan_error)?)?;
            let batch = schema::to_table(&batch, &self.target.spec.schema)?;
            let judged = self.judge.judge(batch, &lineage)?;
            dropped += judged.dropped;
            for rejects in judged.quarantined {
                // The receiver is gone only when the quarantine has failed; its error is reported at the end.
                let _ = self.rejects.send(rejects).await;
            }
            files.write(&judged.kept).await?;
        }
        Ok(Some(dropped))
    }

    /// Takes the lineage columns off a batch.
    fn split(&self, batch: RecordBatch) -> Result<(RecordBatch, Lineage)> {
        let schema = batch.schema();
        let source = Arc::clone(&self.target.source);
        let (Ok(metadata), Ok(payload)) = (schema.index_of(LINEAGE_METADATA), schema.index_of(LINEAGE_PAYLOAD)) else {
            return Ok((batch, Lineage { source, records: None }));
        };
        let rest: Vec<usize> =
            (0..batch.num_columns()).filter(|column| *column != metadata && *column != payload).collect();
        let records = (batch.column(payload).as_binary_view().clone(), batch.column(metadata).as_struct().clone());
        let rest = batch.project(&rest).map_err(|error| Error::internal(error.to_string()))?;
        Ok((rest, Lineage { source, records: Some(records) }))
    }
}

/// What DataFusion says while a plan runs: an error of ours comes out as it went in, a failing cast is the data's fault.
pub fn plan_error(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(words) => Error::world(format!("out of memory: {words}"))
            .hint("read less at once with `--max-records` or maxFilesPerTrigger, or give the machine more memory"),
        _ => from_datafusion(error),
    }
}

fn from_datafusion(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => {
                let fault = Error::world(other.to_string()).hint(store::world_hint(&other.to_string()));
                if store::is_passing(other.as_ref()) { fault.passing() } else { fault }
            }
        },
        DataFusionError::Context(_, inner) => from_datafusion(*inner),
        DataFusionError::Shared(shared) => match Arc::try_unwrap(shared) {
            Ok(inner) => from_datafusion(inner),
            Err(shared) => of_rows(&shared),
        },
        DataFusionError::ObjectStore(fault) => store::failed("a file cannot be read", *fault),
        other if store::is_passing(&other) => Error::world(other.strip_backtrace()).passing(),
        other => of_rows(&other),
    }
}

fn of_rows(error: &DataFusionError) -> Error {
    const KINDS: [&str; 6] = [
        "Arrow error: ",
        "Execution error: ",
        "Cast error: ",
        "Parser error: ",
        "Compute error: ",
        "Arithmetic overflow: ",
    ];
    let words = error.find_root().strip_backtrace();
    let words = KINDS.iter().fold(words.as_str(), |words, kind| words.strip_prefix(kind).unwrap_or(words));
    if words == "Divide by zero error" {
        return Error::data("a row divides by zero")
            .hint("say x / nullif(y, 0), which gives NULL, or leave such rows out by WHERE");
    }
    let words =
        words.split_once("Cannot cast string ").and_then(|(_, rest)| rest.split_once(" to value of ")).map_or_else(
            || in_sql_types(words),
            |(value, kind)| format!("{value} cannot be cast to {}", in_sql_types(kind.trim_end_matches(" type"))),
        );
    Error::data(words)
        .hint("use TRY_CAST where a value may not fit, and a constraint ON VIOLATION QUARANTINE ROW to keep such rows")
}
