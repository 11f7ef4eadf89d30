//! Records of a stream to chunks: filtered by partition key, taken out of aggregates, `_metadata` beside each.
//!
//! Floor 3: uses `source::records`, `error`. Other people's records are dropped before anything of them is copied or decoded.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewBuilder, StringViewBuilder, StructArray, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::aggregate;
use super::client::Record;
use super::positions::{HashRange, Mark, Place};
use crate::error::{Error, Result};
use crate::source::feed::{Piece, Slot};
use crate::source::payload::PayloadOptions;
use crate::source::records::Chunk;

/// Records of one piece at most: so that what is decoded at once stays small.
const PIECE_RECORDS: usize = 4_096;
/// Why a record of an aggregate that belongs elsewhere is put aside.
const FOREIGN: &str = "the hash of its key is another shard's: the producer library sends such a record again, there";

/// The type of `_metadata` of Kinesis.
pub fn metadata_type() -> DataType {
    DataType::Struct(metadata_fields())
}

fn metadata_fields() -> Fields {
    Fields::from(vec![
        Field::new("stream", DataType::Utf8View, true),
        Field::new("shard_id", DataType::Utf8View, true),
        Field::new("sequence_number", DataType::Utf8View, true),
        Field::new("partition_key", DataType::Utf8View, true),
        Field::new(
            "approximate_arrival_timestamp",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
    ])
}

/// How records of a stream become records of a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Only records with one of these partition keys; None: all.
    pub keys: Option<BTreeSet<String>>,
    /// A longer record is unreadable, and only its beginning is kept.
    pub max_record_bytes: usize,
}

impl Shape {
    fn wants(&self, key: Option<&str>) -> bool {
        self.keys.as_ref().is_none_or(|keys| key.is_some_and(|key| keys.contains(key)))
    }
}

/// From where records are.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The stream's name.
    pub stream: Arc<str>,
    /// The shard's name.
    pub shard: Arc<str>,
    /// Its hashes.
    pub range: HashRange,
    /// Its number in the reading.
    pub slot: Slot,
}

/// Makes pieces of the records of one shard.
pub struct Pieces<'a> {
    shape: &'a Shape,
    origin: &'a Origin,
    builder: Builder,
    made: Vec<Piece<Mark>>,
    reached: Option<Mark>,
    foreign_bytes: usize,
}

/// The pieces of what was fetched, and how many bytes of it nobody wanted. Records at or before `behind` were read already.
pub fn pieces(shape: &Shape, origin: &Origin, behind: &Place, records: &[Record]) -> Result<(Vec<Piece<Mark>>, usize)> {
    let builder = Builder::default();
    let mut pieces = Pieces { shape, origin, builder, made: Vec::new(), reached: None, foreign_bytes: 0 };
    for record in records {
        pieces.take(record, behind)?;
    }
    pieces.cut()?;
    Ok((pieces.made, pieces.foreign_bytes))
}

impl Pieces<'_> {
    fn take(&mut self, record: &Record, behind: &Place) -> Result<()> {
        let whole = Place::behind(record.sequence.clone());
        if whole <= *behind {
            return Ok(());
        }
        let before = self.builder.origins.len();
        match aggregate::open(&record.data, self.origin.range) {
            None if self.shape.wants(record.key.as_deref()) => {
                let row = Row { number: record.sequence.digits(), key: record.key.as_deref(), data: &record.data };
                self.push(&row, record.arrived, whole.clone(), None)?;
            }
            None => {}
            Some(Ok(users)) => self.take_users(record, &users, behind)?,
            Some(Err(reason)) if self.shape.wants(record.key.as_deref()) => {
                let row = Row { number: record.sequence.digits(), key: record.key.as_deref(), data: &record.data };
                self.push(&row, record.arrived, whole.clone(), Some(reason))?;
            }
            Some(Err(_)) => {}
        }
        if self.builder.origins.len() == before {
            self.foreign_bytes += record.data.len();
        }
        self.reached = Some(Mark::at(whole, record.arrived));
        Ok(())
    }

    fn take_users(&mut self, record: &Record, users: &[aggregate::UserRecord], behind: &Place) -> Result<()> {
        for (index, user) in users.iter().enumerate() {
            let within = u32::try_from(index).unwrap_or(u32::MAX);
            let is_last = index + 1 == users.len();
            let sequence = record.sequence.clone();
            let place = Place::Behind { sequence, within: (!is_last).then_some(within) };
            if place <= *behind || !self.shape.wants(Some(&user.key)) {
                continue;
            }
            let number = format!("{}/{within}", record.sequence.digits());
            let row = Row { number: &number, key: Some(&user.key), data: &user.data };
            self.push(&row, record.arrived, place, user.foreign.then(|| FOREIGN.to_owned()))?;
        }
        Ok(())
    }

    fn push(&mut self, row: &Row<'_>, arrived: i64, place: Place, unreadable: Option<String>) -> Result<()> {
        let (kept, too_long) = PayloadOptions::kept(row.data, self.shape.max_record_bytes);
        let reason = unreadable.or(too_long);
        let mark = Mark::at(place, arrived);
        self.reached = Some(mark.clone());
        self.builder.push(self.origin, row, kept, (mark, reason));
        if self.builder.origins.len() >= PIECE_RECORDS {
            self.cut()?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<()> {
        let Some(reached) = self.reached.take() else { return Ok(()) };
        let builder = std::mem::take(&mut self.builder);
        self.made.push(builder.build(self.origin.slot, reached)?);
        Ok(())
    }
}

/// A record on its way into a chunk.
struct Row<'a> {
    number: &'a str,
    key: Option<&'a str>,
    data: &'a [u8],
}

#[derive(Default)]
struct Builder {
    payloads: BinaryViewBuilder,
    streams: Option<StringViewBuilder>,
    shards: Option<StringViewBuilder>,
    numbers: StringViewBuilder,
    keys: StringViewBuilder,
    times: TimestampMicrosecondBuilder,
    unreadable: Vec<(u32, String)>,
    origins: Vec<(u32, Mark)>,
}

impl Builder {
    fn push(&mut self, origin: &Origin, row: &Row<'_>, kept: &[u8], (mark, reason): (Mark, Option<String>)) {
        let repeated = || StringViewBuilder::new().with_deduplicate_strings();
        self.payloads.append_value(kept);
        self.streams.get_or_insert_with(repeated).append_value(&origin.stream);
        self.shards.get_or_insert_with(repeated).append_value(&origin.shard);
        self.numbers.append_value(row.number);
        self.keys.append_option(row.key);
        self.times.append_option(mark.seen.checked_mul(1_000));
        if let Some(reason) = reason {
            self.unreadable.push((u32::try_from(self.origins.len()).unwrap_or(u32::MAX), reason));
        }
        self.origins.push((u32::try_from(origin.slot).unwrap_or(u32::MAX), mark));
    }

    fn build(mut self, slot: Slot, reached: Mark) -> Result<Piece<Mark>> {
        if self.origins.is_empty() {
            return Ok(Piece { chunk: None, origins: Vec::new(), reached: vec![(slot, reached)], bytes: 0 });
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.streams.unwrap_or_default().finish()),
            Arc::new(self.shards.unwrap_or_default().finish()),
            Arc::new(self.numbers.finish()),
            Arc::new(self.keys.finish()),
            Arc::new(self.times.finish().with_timezone("UTC")),
        ];
        let metadata = StructArray::try_new(metadata_fields(), columns, None);
        let metadata = metadata.map_err(|error| Error::internal(error.to_string()))?;
        let chunk = Chunk { payloads: self.payloads.finish(), metadata, unreadable: self.unreadable, skipped: 0 };
        let bytes = chunk.bytes() + size_of_val(self.origins.as_slice());
        Ok(Piece { chunk: Some(chunk), origins: self.origins, reached: vec![(slot, reached)], bytes })
    }
}
