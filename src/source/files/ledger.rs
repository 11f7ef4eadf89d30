//! Which objects were read: a set that neither slows a run nor grows an entry of the log with history.
//!
//! Floor 3: uses `store`, `error`. The newest objects stand by name in the log's entry. When they get many they move into a
//! segment, a file of fixed-size rows; segments of like size are merged as in a log-structured merge tree, so a million
//! objects lie in about twenty segments and each row was rewritten about twenty times. A segment is written once under a
//! name of its own and never changed, so what an entry names is there whatever happened afterwards.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Result};
use crate::store::{self, Location};

/// Objects that may stand in a log entry by name.
const RECENT_MOST: usize = 256;

/// An object that was read, as the log's entry names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The source's location and the path below it.
    pub file: String,
    /// A digest of the store's tag.
    pub tag: u64,
    /// A checksum of the content, taken while it was read.
    pub sum: u64,
    /// Bytes.
    pub size: u64,
}

/// What is remembered of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// A digest of the store's tag.
    pub tag: u64,
    /// A checksum of the content.
    pub sum: u64,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Segment {
    file: String,
    rows: u64,
}

/// The form in which the log keeps a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    segments: Vec<Segment>,
    recent: Vec<Seen>,
}

/// The set of objects that were read.
#[derive(Debug)]
pub struct Ledger {
    folder: Location,
    saved: Saved,
    marks: HashMap<u128, Mark, BuildHasherDefault<Digest>>,
}

impl Ledger {
    /// Reads what the log says was read; `folder` holds the segments.
    pub async fn load(saved: Saved, folder: Location) -> Result<Self> {
        let mut marks = HashMap::default();
        for segment in &saved.segments {
            marks.extend(read_segment(&folder, segment).await?);
        }
        marks.extend(saved.recent.iter().map(mark_of));
        Ok(Self { folder, saved, marks })
    }

    /// What is remembered of an object.
    pub fn get(&self, file: &str) -> Option<Mark> {
        self.marks.get(&xxh3_128(file.as_bytes())).copied()
    }

    /// Remembers objects, and answers the form to be logged.
    pub async fn add(&mut self, seen: Vec<Seen>) -> Result<Saved> {
        self.marks.extend(seen.iter().map(mark_of));
        if self.saved.recent.len() + seen.len() <= RECENT_MOST {
            self.saved.recent.extend(seen);
            return Ok(self.saved.clone());
        }
        let mut rows: Vec<(u128, Mark)> = self.saved.recent.iter().chain(&seen).map(mark_of).collect();
        let mut segments = self.saved.segments.clone();
        while let Some(last) = segments.pop_if(|last| last.rows <= 2 * rows.len() as u64) {
            let mut older = read_segment(&self.folder, &last).await?;
            older.extend(rows);
            rows = older;
        }
        segments.push(write_segment(&self.folder, &rows).await?);
        self.saved = Saved { segments, recent: Vec::new() };
        Ok(self.saved.clone())
    }
}

fn mark_of(seen: &Seen) -> (u128, Mark) {
    (xxh3_128(seen.file.as_bytes()), Mark { tag: seen.tag, sum: seen.sum, size: seen.size })
}

fn segment_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("file", DataType::FixedSizeBinary(16), false),
        Field::new("tag", DataType::UInt64, false),
        Field::new("sum", DataType::UInt64, false),
        Field::new("size", DataType::UInt64, false),
    ]))
}

async fn write_segment(folder: &Location, rows: &[(u128, Mark)]) -> Result<Segment> {
    let numbers =
        |pick: fn(&Mark) -> u64| Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, mark)| pick(mark))));
    let files =
        FixedSizeBinaryArray::try_from_iter(rows.iter().map(|(file, _)| file.to_be_bytes())).map_err(damaged)?;
    let columns: Vec<Arc<dyn Array>> =
        vec![Arc::new(files), numbers(|mark| mark.tag), numbers(|mark| mark.sum), numbers(|mark| mark.size)];
    let batch = RecordBatch::try_new(segment_schema(), columns).map_err(damaged)?;
    let mut writer = FileWriter::try_new(Vec::new(), &segment_schema()).map_err(damaged)?;
    writer.write(&batch).map_err(damaged)?;
    let bytes = writer.into_inner().map_err(damaged)?;
    let segment = Segment { file: format!("files-{}.arrow", Uuid::now_v7()), rows: rows.len() as u64 };
    let path = folder.join(&segment.file);
    let put = path.store().put(path.path(), PutPayload::from(bytes)).await;
    put.map_err(|error| store::failed(format!("cannot write `{path}`"), error))?;
    Ok(segment)
}

async fn read_segment(folder: &Location, segment: &Segment) -> Result<Vec<(u128, Mark)>> {
    let path = folder.join(&segment.file);
    let read = async { path.store().get(path.path()).await?.bytes().await };
    let bytes = read
        .await
        .map_err(|error| store::failed(format!("cannot read `{path}`, which says what objects were read"), error))?;
    let mut rows = Vec::with_capacity(usize::try_from(segment.rows).unwrap_or_default());
    for batch in FileReader::try_new(Cursor::new(bytes), None).map_err(damaged)? {
        let batch = batch.map_err(damaged)?;
        let files = batch.column(0).as_fixed_size_binary();
        let number = |column: usize, row: usize| batch.column(column).as_primitive::<UInt64Type>().value(row);
        rows.extend((0..batch.num_rows()).map(|row| {
            let file = files.value(row).iter().fold(0_u128, |digest, byte| digest << 8 | u128::from(*byte));
            (file, Mark { tag: number(1, row), sum: number(2, row), size: number(3, row) })
        }));
    }
    Ok(rows)
}

fn damaged(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("a segment of the files' ledger is damaged: {error}"))
}

/// The keys are digests already: hashing them again would only cost time.
#[derive(Debug, Default)]
struct Digest(u64);

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte));
    }
}
