//! The leaf of every source of records: payloads go in, decoded columns come out, and what is no row goes to the tap.
//!
//! Floor 3: uses `decode`, `source`, `error`. A source has its records decoded, or as they are, in columns of `_metadata` and the bytes. The projection reaches the decoder, so a column that nobody selects is checked
//! but never built.
//!
//! A streaming query must have looked at every record that its log says is read, whatever its plan leaves unread: a join with
//! an empty table, `WHERE false`. So each partition is read by a task of its own, which goes on to the end when nobody
//! takes its rows any more, and [`exhaust`] reads what the plan never opened. Rejects and counts are of the first reading
//! only, however often a plan reads the source.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, BinaryViewArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::source::{DataSource, DataSourceExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan, Partitioning};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{LINEAGE_METADATA, LINEAGE_PAYLOAD, METADATA, MetadataColumn, Rejects, Tap, UNREADABLE};
use crate::decode::{Decoder, Envelope, Mode, Reject};
use crate::error::{Error, Result};

/// Decoded batches that may wait for whoever takes them.
const BATCHES_AHEAD: usize = 1;

/// Records that were read together.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The records' bytes; null for a tombstone.
    pub payloads: BinaryViewArray,
    /// `_metadata` of each.
    pub metadata: StructArray,
    /// Records that cannot be read whatever the decoder thinks of them, with the reason; ascending.
    pub unreadable: Vec<(u32, String)>,
    /// Records beside these that the source's options leave out.
    pub skipped: u64,
}

impl Chunk {
    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        self.payloads.get_array_memory_size() + self.metadata.get_array_memory_size()
    }

    /// Cuts the chunk behind `rows` records; answers the rest, and leaves it what was skipped.
    pub fn split(&mut self, rows: usize) -> Self {
        let behind = self.payloads.len() - rows;
        let cut = self.unreadable.partition_point(|(row, _)| (*row as usize) < rows);
        let unreadable = self.unreadable.split_off(cut);
        let shift = u32::try_from(rows).unwrap_or(u32::MAX);
        let rest = Self {
            payloads: self.payloads.slice(rows, behind),
            metadata: self.metadata.slice(rows, behind),
            unreadable: unreadable.into_iter().map(|(row, reason)| (row - shift, reason)).collect(),
            skipped: std::mem::take(&mut self.skipped),
        };
        self.payloads = self.payloads.slice(0, rows);
        self.metadata = self.metadata.slice(0, rows);
        rest
    }
}

/// Where chunks come from: what is specific to files, topics or shards.
pub trait Records: fmt::Debug + Send + Sync {
    /// How many streams may be read side by side.
    fn partitions(&self) -> usize;

    /// Reads one of them, in the order of its positions. `again`: the plan reads it more than once.
    fn read(self: Arc<Self>, partition: usize, again: bool) -> BoxStream<'static, Result<Chunk>>;
}

/// How payloads become columns.
#[derive(Debug, Clone)]
pub struct Decoding {
    /// The declared or inferred columns.
    pub columns: SchemaRef,
    /// What becomes of a record that is no row.
    pub mode: Mode,
    /// What the row is wrapped in.
    pub envelope: Envelope,
}

impl Decoding {
    /// The columns that users see: the declared ones and, in permissive mode, `_rescued_data`.
    pub fn visible_columns(&self) -> Result<SchemaRef> {
        Ok(self.decoder(None)?.schema())
    }

    fn decoder(&self, projection: Option<&[usize]>) -> Result<Decoder> {
        Decoder::new(&self.columns, projection, self.mode, self.envelope.clone())
    }
}

/// Where a column of the raw form comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawOrigin {
    /// The record's bytes.
    Payload,
    /// This field of `_metadata`.
    Metadata(&'static str),
}

/// A column of the raw form.
#[derive(Debug, Clone)]
pub struct RawColumn {
    /// Its name and type.
    pub field: Field,
    /// What is in it.
    pub from: RawOrigin,
}

/// What the records of a source look like to a query.
#[derive(Debug, Clone)]
pub enum Form {
    /// Payloads are decoded into columns.
    Decoded(Decoding),
    /// Every record is a row as it came.
    Raw(Arc<[RawColumn]>),
}

impl Form {
    fn columns(&self) -> Result<SchemaRef> {
        match self {
            Self::Decoded(decoding) => decoding.visible_columns(),
            Self::Raw(columns) => {
                Ok(Arc::new(Schema::new(columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>())))
            }
        }
    }
}

/// A table over records.
#[derive(Debug, Clone)]
pub struct RecordsTable {
    records: Arc<dyn Records>,
    form: Form,
    metadata_type: DataType,
    tap: Arc<Tap>,
    schema: SchemaRef,
    readers: Arc<Readers>,
}

/// The partitions that somebody reads or has read, with their tasks, and how often the plan reads the table.
#[derive(Debug, Default)]
struct Readers(Mutex<BTreeMap<usize, Option<JoinHandle<Result<()>>>>>, AtomicUsize);

impl Readers {
    /// Whether this is the first reading of a partition.
    fn first(&self, partition: usize) -> bool {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The task of a first reading stays: it has to be waited for.
        let is_first = !readers.contains_key(&partition);
        readers.entry(partition).or_default();
        is_first
    }

    fn keep(&self, partition: usize, task: JoinHandle<Result<()>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, Some(task));
    }

    fn take(&self) -> BTreeMap<usize, Option<JoinHandle<Result<()>>>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits until every record of a streaming query's leaf was looked at; reads what the plan left out.
pub async fn exhaust(table: &dyn TableProvider) -> Result<()> {
    let table: &dyn std::any::Any = table;
    let Some(table) = table.downcast_ref::<RecordsTable>() else { return Ok(()) };
    let mut running = table.readers.take();
    // Side by side: partitions may share room, and one that nobody reads would take it from the others.
    let readings = (0..table.records.partitions()).map(|partition| {
        let reader = running.remove(&partition);
        async move {
            match reader {
                Some(Some(task)) => {
                    task.await.map_err(|error| Error::internal(format!("a reader stopped: {error}")))?
                }
                Some(None) => Ok(()),
                None => {
                    let mut rows = table.leaf(Arc::new(Schema::empty())).decoded(partition, true)?;
                    while rows.try_next().await?.is_some() {}
                    Ok(())
                }
            }
        }
    });
    futures::future::try_join_all(readings).await.map(drop)
}

impl RecordsTable {
    /// A table with the decoded columns, and `_metadata` where it is named.
    pub fn new(
        records: Arc<dyn Records>,
        form: Form,
        metadata_type: DataType,
        tap: Arc<Tap>,
        visible: MetadataColumn,
    ) -> Result<Self> {
        let mut fields: Vec<Arc<Field>> = form.columns()?.fields().iter().cloned().collect();
        if visible == MetadataColumn::Named {
            fields.push(Arc::new(Field::new(METADATA, metadata_type.clone(), true)));
        }
        Ok(Self { records, form, metadata_type, tap, schema: Arc::new(Schema::new(fields)), readers: Arc::default() })
    }

    fn leaf(&self, schema: SchemaRef) -> Leaf {
        Leaf {
            records: Arc::clone(&self.records),
            form: self.form.clone(),
            metadata_type: self.metadata_type.clone(),
            tap: Arc::clone(&self.tap),
            schema,
            readers: Arc::clone(&self.readers),
        }
    }

    /// The same table with the lineage columns behind the others.
    #[must_use]
    pub fn with_lineage(&self) -> Self {
        let mut fields: Vec<Arc<Field>> = self.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(LINEAGE_METADATA, self.metadata_type.clone(), true)));
        fields.push(Arc::new(Field::new(LINEAGE_PAYLOAD, DataType::BinaryView, true)));
        Self { schema: Arc::new(Schema::new(fields)), ..self.clone() }
    }

    /// How many streams a scan has.
    pub fn partitions(&self) -> usize {
        self.records.partitions()
    }

    /// The source's name.
    pub fn source(&self) -> &Arc<str> {
        &self.tap.source
    }
}

#[async_trait]
impl TableProvider for RecordsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        self.readers.1.fetch_add(1, Ordering::Relaxed);
        let leaf = self.leaf(Arc::new(self.schema.project(&projection)?));
        Ok(DataSourceExec::from_data_source(leaf))
    }
}

#[derive(Debug, Clone)]
struct Leaf {
    records: Arc<dyn Records>,
    form: Form,
    metadata_type: DataType,
    tap: Arc<Tap>,
    schema: SchemaRef,
    readers: Arc<Readers>,
}

impl Leaf {
    /// The decoded batches of a partition. Only a loud reading counts and rejects.
    fn decoded(&self, partition: usize, loud: bool) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let decode = Decode::new(self, loud)?;
        let batches = futures::stream::try_unfold(
            (decode, Arc::clone(&self.records).read(partition, self.readers.1.load(Ordering::Relaxed) > 1)),
            |(mut decode, mut chunks)| async move {
                let Some(chunk) = chunks.next().await else { return Ok(None) };
                let batch = decode.chunk(chunk?).await?;
                Ok(Some((batch, (decode, chunks))))
            },
        );
        Ok(batches.boxed())
    }

    /// A partition read by a task that goes on to the end when the receiver is gone.
    fn spawned(&self, partition: usize) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let mut batches = self.decoded(partition, true)?;
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let tap = Arc::clone(&self.tap);
        let task = tokio::spawn(async move {
            while let Some(batch) = batches.next().await {
                if tap.is_cancelled() {
                    break;
                }
                match batch {
                    // Nobody takes the rows any more, but the records count all the same.
                    Ok(batch) => drop(sender.send(Ok(batch)).await),
                    Err(error) => {
                        let Err(unsent) = sender.send(Err(error)).await else { break };
                        return unsent.0.map(drop);
                    }
                }
            }
            Ok(())
        });
        self.readers.keep(partition, task);
        Ok(futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|batch| (batch, receiver))
        })
        .boxed())
    }
}

impl DataSource for Leaf {
    fn open(
        &self,
        partition: usize,
        _context: Arc<TaskContext>,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let loud = self.readers.first(partition);
        let batches =
            if loud && self.tap.is_exhaustive() { self.spawned(partition) } else { self.decoded(partition, loud) };
        let batches = batches.map_err(external)?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches.map_err(external))))
    }

    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        write!(f, "source={}, columns=[{columns}]", self.tap.source)
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.records.partitions())
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(&self.schema))
    }

    fn partition_statistics(&self, _partition: Option<usize>) -> datafusion::common::Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema)))
    }

    /// A leaf never cuts its input short: it would count records as read that it has not looked at.
    fn with_fetch(&self, _fetch: Option<usize>) -> Option<Arc<dyn DataSource>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
    }

    fn try_swapping_with_projection(
        &self,
        _projection: &ProjectionExprs,
    ) -> datafusion::common::Result<Option<Arc<dyn DataSource>>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> datafusion::common::Result<TreeNodeRecursion>,
    ) -> datafusion::common::Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
}

/// Where a column of the leaf's output comes from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Decoded(usize),
    /// `_rescued_data` where nobody declared it: the decoder adds it behind the others.
    Rescued,
    Metadata,
    /// A field of `_metadata`, by position.
    MetadataField(usize),
    Payload,
}

/// Decodes the chunks of one partition.
struct Decode {
    /// None where records are rows as they are.
    decoder: Option<Decoder>,
    fails: bool,
    loud: bool,
    tap: Arc<Tap>,
    schema: SchemaRef,
    origins: Vec<Origin>,
}

impl Decode {
    fn new(leaf: &Leaf, loud: bool) -> Result<Self> {
        let (decoder, origins) = match &leaf.form {
            Form::Decoded(decoding) => decoded_origins(decoding, &leaf.schema)?,
            Form::Raw(columns) => (None, raw_origins(columns, &leaf.metadata_type, &leaf.schema)?),
        };
        let fails = matches!(&leaf.form, Form::Decoded(Decoding { mode: Mode::FailFast, .. }));
        Ok(Self { decoder, fails, loud, tap: Arc::clone(&leaf.tap), schema: Arc::clone(&leaf.schema), origins })
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<RecordBatch> {
        let records = chunk.payloads.len();
        let Some(decoder) = &mut self.decoder else { return self.raw_chunk(&chunk).await };
        let decoded = match chunk.unreadable.is_empty() {
            true => decoder.decode(&chunk.payloads)?,
            false => decoder.decode(&without(&chunk.payloads, &chunk.unreadable))?,
        };
        self.count(&chunk, decoded.dropped);
        if self.loud && !decoded.rejects.is_empty() {
            self.reject(&chunk, decoded.rejects).await?;
        }
        let whole =
            decoded.rows.len() == records && decoded.rows.iter().enumerate().all(|(index, row)| index == *row as usize);
        let rows = UInt32Array::from(decoded.rows);
        self.batch(&chunk, Some(&decoded.batch), (!whole).then_some(&rows), rows.len())
    }

    /// Records as they are; only those that were too long for that are none.
    async fn raw_chunk(&self, chunk: &Chunk) -> Result<RecordBatch> {
        self.count(chunk, 0);
        let records = chunk.payloads.len();
        if chunk.unreadable.is_empty() {
            return self.batch(chunk, None, None, records);
        }
        let reject = |(payload, reason): &(u32, String)| Reject { payload: *payload, reason: reason.clone() };
        if self.loud {
            self.reject(chunk, chunk.unreadable.iter().map(reject).collect()).await?;
        }
        let is_row = |row: &u32| chunk.unreadable.binary_search_by_key(row, |(index, _)| *index).is_err();
        let count = u32::try_from(records).unwrap_or(u32::MAX);
        let rows: UInt32Array = (0..count).filter(is_row).collect::<Vec<_>>().into();
        self.batch(chunk, None, Some(&rows), rows.len())
    }

    fn count(&self, chunk: &Chunk, dropped: u64) {
        if self.loud {
            self.tap.count_read(chunk.payloads.len() as u64 + chunk.skipped);
            self.tap.count_dropped(dropped + chunk.skipped);
        }
    }

    /// The leaf's columns: those that were decoded, and of the others the rows in `picked`, or all.
    fn batch(
        &self,
        chunk: &Chunk,
        decoded: Option<&RecordBatch>,
        picked: Option<&UInt32Array>,
        rows: usize,
    ) -> Result<RecordBatch> {
        let pick = |array: &dyn Array| match picked {
            None => Ok(array.slice(0, array.len())),
            Some(rows) => take(array, rows, None).map_err(arrow_fault),
        };
        let of_decoded = |index: Option<usize>| {
            let column = decoded.and_then(|batch| Some(batch.column(index.or(batch.num_columns().checked_sub(1))?)));
            column.cloned().ok_or_else(|| Error::internal("a column that was not decoded"))
        };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.origins.len());
        for origin in &self.origins {
            columns.push(match origin {
                Origin::Decoded(index) => of_decoded(Some(*index))?,
                Origin::Rescued => of_decoded(None)?,
                Origin::Metadata => pick(&chunk.metadata)?,
                Origin::MetadataField(index) => pick(chunk.metadata.column(*index))?,
                Origin::Payload => pick(&chunk.payloads)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(arrow_fault)
    }

    async fn reject(&self, chunk: &Chunk, rejects: Vec<Reject>) -> Result<()> {
        let rows = UInt32Array::from_iter_values(rejects.iter().map(|reject| reject.payload));
        let metadata = take(&chunk.metadata, &rows, None).map_err(arrow_fault)?;
        let payloads = take(&chunk.payloads, &rows, None).map_err(arrow_fault)?;
        let reasons: Vec<String> = rejects
            .into_iter()
            .map(|reject| match chunk.unreadable.binary_search_by_key(&reject.payload, |(index, _)| *index) {
                Ok(found) => chunk.unreadable[found].1.clone(),
                Err(_) => reject.reason,
            })
            .collect();
        let (Some(metadata), Some(payloads)) =
            (metadata.as_any().downcast_ref::<StructArray>(), payloads.as_any().downcast_ref::<BinaryViewArray>())
        else {
            return Err(Error::internal("taking rows changed a column's type"));
        };
        if self.fails {
            return Err(refused(&self.tap.source, metadata, &reasons));
        }
        let rejects = Rejects {
            source: Arc::clone(&self.tap.source),
            rule: UNREADABLE.into(),
            reasons,
            payloads: Some(payloads.clone()),
            metadata: Some(metadata.clone()),
            rows: None,
        };
        self.tap.reject(rejects).await;
        Ok(())
    }
}

/// The payloads without those that cannot be read: what is left of them may look like a whole record.
fn without(payloads: &BinaryViewArray, unreadable: &[(u32, String)]) -> BinaryViewArray {
    let keep = |row: usize| unreadable.binary_search_by_key(&row, |(index, _)| *index as usize).is_err();
    payloads.iter().enumerate().map(|(row, payload)| payload.filter(|_| keep(row))).collect()
}

/// A decoder of the columns that the leaf shows, and where each of them comes from.
fn decoded_origins(decoding: &Decoding, schema: &Schema) -> Result<(Option<Decoder>, Vec<Origin>)> {
    let all = decoding.visible_columns()?;
    let mut projection = Vec::new();
    let mut origins = Vec::new();
    for field in schema.fields() {
        origins.push(match field.name().as_str() {
            METADATA | LINEAGE_METADATA => Origin::Metadata,
            LINEAGE_PAYLOAD => Origin::Payload,
            name => {
                let index = all.index_of(name).map_err(|error| Error::internal(error.to_string()))?;
                if index < decoding.columns.fields().len() {
                    projection.push(index);
                    Origin::Decoded(projection.len() - 1)
                } else {
                    Origin::Rescued
                }
            }
        });
    }
    Ok((Some(decoding.decoder(Some(&projection))?), origins))
}

fn raw_origins(columns: &[RawColumn], metadata: &DataType, schema: &Schema) -> Result<Vec<Origin>> {
    let DataType::Struct(fields) = metadata else { return Err(Error::internal("`_metadata` is not a struct")) };
    let origin = |field: &Arc<Field>| match field.name().as_str() {
        METADATA | LINEAGE_METADATA => Ok(Origin::Metadata),
        LINEAGE_PAYLOAD => Ok(Origin::Payload),
        name => {
            let column = columns.iter().find(|column| column.field.name() == name);
            match column.map(|column| column.from) {
                Some(RawOrigin::Payload) => Ok(Origin::Payload),
                Some(RawOrigin::Metadata(of)) => fields
                    .iter()
                    .position(|field| field.name() == of)
                    .map(Origin::MetadataField)
                    .ok_or_else(|| Error::internal(format!("`_metadata` has no `{of}`"))),
                None => Err(Error::internal(format!("no column `{name}`"))),
            }
        }
    };
    schema.fields().iter().map(origin).collect()
}

/// What mode `failfast` says of the first record that is no row.
fn refused(source: &str, metadata: &StructArray, reasons: &[String]) -> Error {
    let text = |name: Option<&str>| {
        name.and_then(|name| metadata.column_by_name(name))
            .and_then(|column| arrow::util::display::array_value_to_string(column, 0).ok())
            .unwrap_or_default()
    };
    let (partition, position) = super::address(metadata);
    let reason = reasons.first().map_or("it cannot be read", String::as_str);
    Error::data(format!(
        "record {} of `{}` in source `{source}` is unreadable: {reason}",
        text(position),
        text(partition)
    ))
    .hint("mend or remove the record, or choose `mode` quarantine, permissive or dropmalformed")
}

fn arrow_fault(error: arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}

/// Carries an error of ours through DataFusion; [`crate::error::Error`] comes out again at the other end.
fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
