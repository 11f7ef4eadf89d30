//! Gathers records of many objects into chunks, with `_metadata` beside each.
//!
//! Floor 3: uses `decode`, `source::records`. Large blocks of text are shared, not copied; records of small objects are
//! copied together, because thousands of tiny buffers cost more than their bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, Int64Builder, StringViewBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::listing::Object;
use crate::decode::{Block, Frame};
use crate::error::{Error, Result};
use crate::source::records::Chunk;
use crate::store::Location;

/// Records of a chunk: what DataFusion takes for a batch.
const RECORDS: usize = 8192;
/// Bytes of a chunk.
const BYTES: usize = 8 << 20;
/// A block from this size on is shared.
const SHARED_BYTES: usize = 16 << 10;

/// The type of `_metadata` of files, with the names of Databricks.
pub fn metadata_type() -> DataType {
    DataType::Struct(metadata_fields())
}

fn metadata_fields() -> Fields {
    Fields::from(vec![
        Field::new("file_path", DataType::Utf8View, true),
        Field::new("file_name", DataType::Utf8View, true),
        Field::new("file_size", DataType::Int64, true),
        Field::new("file_modification_time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("row_index", DataType::Int64, true),
    ])
}

/// What all records of one object have in common.
#[derive(Debug, Clone)]
pub struct Origin {
    path: String,
    name: String,
    size: i64,
    modified_us: i64,
}

impl Origin {
    /// Of an object at a location.
    pub fn new(location: &Location, object: &Object) -> Self {
        Self {
            path: location.uri_of(&object.meta.location),
            name: object.meta.location.filename().unwrap_or_default().to_owned(),
            size: i64::try_from(object.meta.size).unwrap_or(i64::MAX),
            modified_us: object.meta.last_modified.timestamp_micros(),
        }
    }
}

/// Framed text that waits to become part of a chunk.
#[derive(Debug)]
struct Waiting {
    origin: Arc<Origin>,
    block: Block,
    next: usize,
    row_index: i64,
    unreadable: Option<String>,
}

/// Builds chunks.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    waiting: VecDeque<Waiting>,
    payloads: BinaryViewBuilder,
    paths: StringViewBuilder,
    names: StringViewBuilder,
    sizes: Int64Builder,
    times: TimestampMicrosecondBuilder,
    rows: Int64Builder,
    unreadable: Vec<(u32, String)>,
    records: usize,
    bytes: usize,
}

impl ChunkBuilder {
    /// Adds framed text whose first record has the index `row_index` in its object; answers the index behind its last.
    pub fn push(&mut self, origin: &Arc<Origin>, block: Block, row_index: i64) -> i64 {
        let behind = row_index + i64::try_from(block.records.len()).unwrap_or(i64::MAX);
        self.waiting.push_back(Waiting { origin: Arc::clone(origin), block, next: 0, row_index, unreadable: None });
        behind
    }

    /// Adds a record that cannot be read, such as what a damaged archive left.
    pub fn push_unreadable(&mut self, origin: &Arc<Origin>, row_index: i64, reason: String) {
        let block = Block { bytes: bytes::Bytes::new(), records: vec![Frame { offset: 0, len: 0, too_long: None }] };
        self.waiting.push_back(Waiting {
            origin: Arc::clone(origin),
            block,
            next: 0,
            row_index,
            unreadable: Some(reason),
        });
    }

    /// A chunk, when there is enough for one, or when `last` says that nothing more will come.
    pub fn take(&mut self, last: bool) -> Result<Option<Chunk>> {
        while self.records < RECORDS && self.bytes < BYTES {
            let Some(mut waiting) = self.waiting.pop_front() else { break };
            self.append(&mut waiting).map_err(|error| Error::internal(error.to_string()))?;
            if waiting.next < waiting.block.records.len() {
                self.waiting.push_front(waiting);
            }
        }
        let full = self.records >= RECORDS || self.bytes >= BYTES;
        if self.records == 0 || !(full || last) {
            return Ok(None);
        }
        self.build().map(Some)
    }

    fn append(&mut self, waiting: &mut Waiting) -> Result<(), arrow::error::ArrowError> {
        let Waiting { origin, block, .. } = &*waiting;
        let records = &block.records[waiting.next..];
        let fitting = records.len().min(RECORDS - self.records);
        let payload_block =
            (block.bytes.len() >= SHARED_BYTES).then(|| self.payloads.append_block(Buffer::from(block.bytes.clone())));
        let path_block = (fitting > 1).then(|| self.paths.append_block(Buffer::from(origin.path.as_bytes())));
        let mut taken = 0;
        for frame in &records[..fitting] {
            match payload_block {
                Some(shared) => self.payloads.try_append_view(shared, frame.offset, frame.len)?,
                None => self.payloads.append_value(range(block, frame)),
            }
            match path_block {
                Some(shared) => self.paths.try_append_view(shared, 0, u32::try_from(origin.path.len()).unwrap_or(0))?,
                None => self.paths.append_value(&origin.path),
            }
            self.names.append_value(&origin.name);
            self.sizes.append_value(origin.size);
            self.times.append_value(origin.modified_us);
            self.rows.append_value(waiting.row_index + taken);
            let index = u32::try_from(self.records).unwrap_or(u32::MAX);
            if let Some(bytes) = frame.too_long {
                self.unreadable.push((index, format!("the record has {bytes} bytes, more than maxRecordBytes")));
            } else if let Some(reason) = &waiting.unreadable {
                self.unreadable.push((index, reason.clone()));
            }
            self.records += 1;
            self.bytes += frame.len as usize;
            taken += 1;
        }
        waiting.next += fitting;
        waiting.row_index += taken;
        Ok(())
    }

    fn build(&mut self) -> Result<Chunk> {
        self.records = 0;
        self.bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.paths.finish()),
            Arc::new(self.names.finish()),
            Arc::new(self.sizes.finish()),
            Arc::new(self.times.finish().with_timezone("UTC")),
            Arc::new(self.rows.finish()),
        ];
        let metadata = StructArray::try_new(metadata_fields(), columns, None);
        Ok(Chunk {
            payloads: self.payloads.finish(),
            metadata: metadata.map_err(|error| Error::internal(error.to_string()))?,
            unreadable: std::mem::take(&mut self.unreadable),
            skipped: 0,
        })
    }
}

fn range<'a>(block: &'a Block, frame: &Frame) -> &'a [u8] {
    let start = frame.offset as usize;
    block.bytes.get(start..start + frame.len as usize).unwrap_or_default()
}
