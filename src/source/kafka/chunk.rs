//! Messages to chunks: payloads copied together, `_metadata` beside each.
//!
//! Floor 3: uses `source::records`, `error`. The copy costs about 150 ns a record and buys that librdkafka's memory is free
//! at once, that a chunk can be shared by several targets, and that a slow epoch pins nothing.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, BooleanBufferBuilder, Int32Builder, Int64Builder, StringViewBuilder, StructArray,
    TimestampMicrosecondBuilder,
};
use arrow::array::{ListArray, StringViewArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use crate::error::{Error, Result};
use crate::source::payload::PayloadOptions;
use crate::source::records::Chunk;

/// The type of `_metadata` of Kafka, with the names of Spark.
pub fn metadata_type() -> DataType {
    DataType::Struct(metadata_fields())
}

/// The type of `headers`.
pub fn headers_type() -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Struct(header_fields()), true)))
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8View, true), Field::new("value", DataType::BinaryView, true)])
}

fn metadata_fields() -> Fields {
    Fields::from(vec![
        Field::new("topic", DataType::Utf8View, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("timestamp_type", DataType::Int32, true),
        Field::new("key", DataType::BinaryView, true),
        Field::new("headers", headers_type(), true),
    ])
}

/// What becomes of a message without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tombstones {
    /// It goes to the quarantine.
    #[default]
    Quarantine,
    /// It is left out, and counted as dropped.
    Skip,
    /// It is a row of NULLs.
    Null,
    /// It is a row like any other: the raw form.
    Keep,
}

/// How messages become records.
#[derive(Debug, Clone)]
pub struct Shape {
    /// What becomes of tombstones.
    pub tombstones: Tombstones,
    /// A longer record is unreadable, and only its beginning is kept.
    pub max_record_bytes: usize,
    /// What a tombstone is decoded from where it is a row of NULLs.
    pub empty_row: Arc<[u8]>,
}

/// Builds one chunk.
pub struct ChunkBuilder {
    shape: Shape,
    payloads: BinaryViewBuilder,
    topics: StringViewBuilder,
    partitions: Int32Builder,
    offsets: Int64Builder,
    times: TimestampMicrosecondBuilder,
    time_types: Int32Builder,
    keys: BinaryViewBuilder,
    headers: HeadersBuilder,
    unreadable: Vec<(u32, String)>,
    skipped: u64,
    rows: usize,
}

impl ChunkBuilder {
    /// An empty one for about so many rows.
    pub fn new(shape: Shape, rows: usize) -> Self {
        Self {
            shape,
            payloads: BinaryViewBuilder::with_capacity(rows),
            topics: StringViewBuilder::with_capacity(rows).with_deduplicate_strings(),
            partitions: Int32Builder::with_capacity(rows),
            offsets: Int64Builder::with_capacity(rows),
            times: TimestampMicrosecondBuilder::with_capacity(rows),
            time_types: Int32Builder::with_capacity(rows),
            keys: BinaryViewBuilder::with_capacity(rows),
            headers: HeadersBuilder::default(),
            unreadable: Vec::new(),
            skipped: 0,
            rows: 0,
        }
    }

    /// Adds a message; answers whether it became a row of the chunk.
    pub fn push(&mut self, topic: &str, message: &super::client::Message<'_>) -> bool {
        let payload = message.payload();
        if payload.is_none() && self.shape.tombstones == Tombstones::Skip {
            self.skipped += 1;
            return false;
        }
        match payload {
            None if self.shape.tombstones == Tombstones::Null => self.payloads.append_value(&*self.shape.empty_row),
            None => self.payloads.append_null(),
            Some(bytes) => {
                let (kept, reason) = PayloadOptions::kept(bytes, self.shape.max_record_bytes);
                if let Some(reason) = reason {
                    self.unreadable.push((u32::try_from(self.rows).unwrap_or(u32::MAX), reason));
                }
                self.payloads.append_value(kept);
            }
        }
        self.topics.append_value(topic);
        self.partitions.append_value(message.partition());
        self.offsets.append_value(message.offset());
        let time = message.timestamp();
        self.times.append_option(time.and_then(|(millis, _)| millis.checked_mul(1000)));
        self.time_types.append_option(time.map(|(_, kind)| kind));
        self.keys.append_option(message.key());
        self.headers.push(message);
        self.rows += 1;
        true
    }

    /// The chunk; None where nothing was pushed.
    pub fn build(mut self) -> Result<Option<Chunk>> {
        if self.rows == 0 && self.skipped == 0 {
            return Ok(None);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.topics.finish()),
            Arc::new(self.partitions.finish()),
            Arc::new(self.offsets.finish()),
            Arc::new(self.times.finish().with_timezone("UTC")),
            Arc::new(self.time_types.finish()),
            Arc::new(self.keys.finish()),
            self.headers.build(self.rows)?,
        ];
        let metadata = StructArray::try_new(metadata_fields(), columns, None).map_err(fault)?;
        let (payloads, unreadable, skipped) = (self.payloads.finish(), self.unreadable, self.skipped);
        Ok(Some(Chunk { payloads, metadata, unreadable, skipped }))
    }
}

/// The headers of a chunk's records. Most have none, and then this costs nothing.
#[derive(Default)]
struct HeadersBuilder {
    names: StringViewBuilder,
    values: BinaryViewBuilder,
    lengths: Vec<usize>,
    any: bool,
}

impl HeadersBuilder {
    fn push(&mut self, message: &super::client::Message<'_>) {
        let mut count = 0;
        message.headers(|name, value| {
            self.names.append_value(name);
            self.values.append_option(value);
            count += 1;
        });
        self.any |= count > 0;
        self.lengths.push(count);
    }

    fn build(mut self, rows: usize) -> Result<ArrayRef> {
        let field = Arc::new(Field::new("element", DataType::Struct(header_fields()), true));
        if !self.any {
            return Ok(Arc::new(ListArray::new_null(field, rows)));
        }
        let mut present = BooleanBufferBuilder::new(rows);
        self.lengths.iter().for_each(|length| present.append(*length > 0));
        let names: StringViewArray = self.names.finish();
        let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(self.values.finish())];
        let entries = StructArray::try_new(header_fields(), columns, None).map_err(fault)?;
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let list = ListArray::try_new(field, offsets, Arc::new(entries), Some(NullBuffer::new(present.finish())));
        Ok(Arc::new(list.map_err(fault)?))
    }
}

fn fault(error: arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}
