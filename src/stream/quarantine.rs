//! The quarantine: a Delta table of what did not become a row, with the reason and the way back.
//!
//! Floor 5: uses `delta`, `source`, `epoch`, `error`.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::json::json_rows;
use crate::delta::{Add, Files, Properties, Spec, Table};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::source::{Rejects, address};

/// Rejects on their way that may wait for the writer.
const WAITING: usize = 64;

/// The columns of a quarantine.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("epoch", DataType::Int64, true),
        text("source"),
        text("partition"),
        text("position"),
        text("rule"),
        text("reason"),
        Field::new("payload", DataType::Binary, true),
        text("row"),
        text("metadata"),
    ]))
});

/// What a quarantine's table is.
pub fn spec(of: &str) -> Spec {
    Spec {
        schema: Arc::clone(&SCHEMA),
        partition_by: Vec::new(),
        comment: Some(format!("what did not become a row of {of}")),
        properties: Properties::default(),
    }
}

/// What all rows of one epoch have in common.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// When they are put aside.
    pub at: DateTime<Utc>,
    /// By which epoch.
    pub epoch: Epoch,
    /// Sources whose partitions are named together with their topics.
    pub topics: BTreeSet<String>,
}

/// Writes the rejects of one epoch to files of the quarantine, as they come.
#[derive(Debug)]
pub struct Writer {
    task: JoinHandle<Result<(Vec<Add>, u64)>>,
    everything_sent: oneshot::Sender<()>,
}

impl Writer {
    /// Starts a writer; what is sent to the sender goes to `table`.
    pub fn start(table: Arc<Table>, spec: Spec, stamp: Stamp) -> (Self, mpsc::Sender<Rejects>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (everything_sent, ended) = oneshot::channel();
        let task = tokio::spawn(write(table, spec, stamp, until(receiver, ended)));
        (Self { task, everything_sent }, sender)
    }

    /// Called when everything was sent: the files and their rows.
    pub async fn finish(self) -> Result<(Vec<Add>, u64)> {
        // A writer that has failed does not listen; its error comes below.
        let _ = self.everything_sent.send(());
        self.task.await.map_err(|error| Error::internal(format!("the quarantine's writer stopped: {error}")))?
    }
}

/// What is received until everything was sent; senders may live on.
fn until(receiver: mpsc::Receiver<Rejects>, ended: oneshot::Receiver<()>) -> impl Stream<Item = Rejects> {
    futures::stream::unfold((receiver, Some(ended)), |(mut receiver, mut ended)| async move {
        loop {
            let Some(end) = ended.as_mut() else {
                return receiver.recv().await.map(|rejects| (rejects, (receiver, None)));
            };
            tokio::select! {
                biased;
                rejects = receiver.recv() => return rejects.map(|rejects| (rejects, (receiver, ended))),
                _ = end => {
                    receiver.close();
                    ended = None;
                }
            }
        }
    })
}

async fn write(
    table: Arc<Table>,
    spec: Spec,
    stamp: Stamp,
    rejects: impl Stream<Item = Rejects>,
) -> Result<(Vec<Add>, u64)> {
    let mut files: Option<Files> = None;
    let mut rejects = std::pin::pin!(rejects);
    while let Some(rejects) = rejects.next().await {
        let batch = rows(&rejects, &stamp)?;
        let open = files.get_or_insert_with(|| table.files(&spec));
        if let Err(error) = open.write(&batch).await {
            if let Some(files) = files {
                files.abort().await;
            }
            return Err(error);
        }
    }
    match files {
        Some(files) => files.close().await,
        None => Ok((Vec::new(), 0)),
    }
}

/// Rejects as rows of the quarantine.
pub fn rows(rejects: &Rejects, stamp: &Stamp) -> Result<RecordBatch> {
    let count = rejects.reasons.len();
    let repeated = |text: &str| Arc::new(StringArray::from(vec![text; count])) as ArrayRef;
    let nothing = || Arc::new(StringArray::new_null(count)) as ArrayRef;
    let (partition, position) = match &rejects.metadata {
        None => (nothing(), nothing()),
        Some(metadata) => {
            let (partition, position) = address(metadata);
            let mut partition = text_of(metadata, partition)?;
            if stamp.topics.contains(rejects.source.as_ref()) {
                partition = with_topics(&text_of(metadata, Some("topic"))?, &partition);
            }
            (partition, text_of(metadata, position)?)
        }
    };
    let payload: ArrayRef = match &rejects.payloads {
        Some(payloads) => cast(payloads, &DataType::Binary).map_err(fault)?,
        None => Arc::new(BinaryArray::new_null(count)),
    };
    let row: ArrayRef = rejects.rows.as_ref().map_or_else(nothing, |rows| Arc::new(StringArray::from(rows.clone())));
    let metadata: ArrayRef = match &rejects.metadata {
        Some(metadata) => Arc::new(StringArray::from(json_rows(&RecordBatch::from(metadata))?)),
        None => nothing(),
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(vec![stamp.at.timestamp_micros(); count]).with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![stamp.epoch.txn_version(); count])),
        repeated(&rejects.source),
        partition,
        position,
        repeated(&rejects.rule),
        Arc::new(StringArray::from(rejects.reasons.clone())),
        payload,
        row,
        metadata,
    ];
    RecordBatch::try_new(Arc::clone(&SCHEMA), columns).map_err(fault)
}

/// `topic/partition`.
fn with_topics(topics: &ArrayRef, partitions: &ArrayRef) -> ArrayRef {
    let pairs = topics.as_string::<i32>().iter().zip(partitions.as_string::<i32>());
    let joined = pairs.map(|(topic, partition)| Some(format!("{}/{}", topic?, partition?)));
    Arc::new(joined.collect::<StringArray>())
}

fn text_of(metadata: &StructArray, name: Option<&str>) -> Result<ArrayRef> {
    let Some(column) = name.and_then(|name| metadata.column_by_name(name)) else {
        return Ok(Arc::new(StringArray::new_null(metadata.len())));
    };
    let options = FormatOptions::default();
    let format = ArrayFormatter::try_new(column, &options).map_err(fault)?;
    let texts = (0..column.len()).map(|row| (!column.is_null(row)).then(|| format.value(row).to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

fn fault(error: arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}
