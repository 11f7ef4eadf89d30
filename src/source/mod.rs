//! What a source is: the contract that files, tables, topics and streams keep.
//!
//! Floor 2: uses `epoch`, `decode`, `store`, `error`.
//!
//! A [`Source`] is opened behind what the epoch log says is committed and becomes a [`Cursor`], which fixes where the
//! source ends now. The cursor hands out one bounded [`Input`] after another; an input is a leaf to plan an ordinary
//! query over. When the query has read the input to its end, [`Cursor::finish`] says what the log has to remember.
//!
//! **Contract.** What the inputs of one cursor hold together is everything between the committed position and the end fixed
//! at opening, each record once. A cursor opened on what `finish` answered goes on behind it. A crash between two inputs,
//! or inside one, changes nothing of that.

pub mod feed;
pub mod files;
pub mod kafka;
pub mod kinesis;
pub mod payload;
pub mod pieces;
pub mod records;
pub mod table;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{BinaryViewArray, StructArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::store::Location;

/// The rule of records that cannot be read.
pub const UNREADABLE: &str = "unreadable";
/// The hidden column that every source has.
pub const METADATA: &str = "_metadata";
/// A copy of `_metadata` that travels with each row up to the constraints, under a name no query can mean.
pub const LINEAGE_METADATA: &str = "__pinsql_metadata";
/// The record's bytes as they came, travelling likewise.
pub const LINEAGE_PAYLOAD: &str = "__pinsql_payload";

/// In whose name is read what nothing is kept of.
pub const READER: &str = "reader";

/// What the epoch log remembers of a source. Only the source itself reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Committed(pub serde_json::Value);

impl Committed {
    /// The position in words for people: offsets by topic, objects that were read, a table's version.
    pub fn in_words(&self) -> String {
        let value = &self.0;
        if let Ok(kafka) = serde_json::from_value::<kafka::positions::Saved>(value.clone()) {
            return kafka.to_string();
        }
        if let Ok(kinesis) = serde_json::from_value::<kinesis::positions::Saved>(value.clone()) {
            return kinesis.to_string();
        }
        if let Some(version) = value["positions"]["versions"]["at"].as_str() {
            return format!("version {version}");
        }
        if let (Some(segments), Some(recent)) = (value["segments"].as_array(), value["recent"].as_array()) {
            let rows: u64 = segments.iter().filter_map(|segment| segment["rows"].as_u64()).sum();
            return format!("{} objects", rows + recent.len() as u64);
        }
        if let Some(version) = value["version"].as_u64() {
            return format!("version {version}");
        }
        "read whole".to_owned()
    }
}

/// How much one epoch may take of a source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// `--max-records`. A file is never split, so its records come together.
    pub records: Option<u64>,
    /// Everything at once, whatever it is: a materialized view is computed over all of its input.
    pub everything: bool,
    /// A source that never ends hands out no more for one epoch after this time.
    pub time: Option<Duration>,
}

/// One of several instances that share a target's partitions: `--slot i/n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOf {
    /// From 0.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

impl SlotOf {
    /// Whether this instance reads a partition.
    pub fn has(self, partition: i32) -> bool {
        u32::try_from(partition).is_ok_and(|partition| partition % self.count.max(1) == self.index)
    }
}

/// How a source is opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// How far it is read; None: not at all.
    pub committed: Option<&'a Committed>,
    /// A folder that the source may keep files in, under names that were never used.
    pub state: &'a Location,
    /// Who reads: the name that other tools see.
    pub query: &'a str,
    /// Whether it is read on and on; else it ends where it ends now.
    pub follow: bool,
    /// The partitions that this instance reads; None: all.
    pub share: Option<SlotOf>,
    /// Whether other targets of this process may want the same.
    pub company: bool,
}

impl<'a> Opening<'a> {
    /// What the log remembers, as the source wrote it; nothing yet where it remembers nothing.
    pub fn saved<T: DeserializeOwned + Default>(&self) -> Result<T> {
        let Some(Committed(saved)) = self.committed else { return Ok(T::default()) };
        serde_json::from_value(saved.clone())
            .map_err(|error| Error::internal(format!("the log's positions cannot be read: {error}")))
    }

    /// Everything that is there now, for a query that nothing is kept of.
    pub fn of_now(state: &'a Location) -> Self {
        Self { committed: None, state, query: READER, follow: false, share: None, company: false }
    }
}

/// A topic, a stream, a prefix or a table that records come from.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// The columns that users see, without `_metadata`.
    fn columns(&self) -> SchemaRef;

    /// The type of `_metadata`; None for a table of the lake.
    fn metadata(&self) -> Option<DataType>;

    /// Whether several instances can share its partitions.
    fn is_divisible(&self) -> bool {
        false
    }

    /// Whether a partition has to be named together with its topic.
    fn has_topics(&self) -> bool {
        false
    }

    /// Whether [`Self::fingerprint`] can stay the same: where only reading tells whether anything has come, it never does.
    fn is_watchable(&self) -> bool {
        true
    }

    /// What is there now, as a value that changes when anything comes, goes or is changed.
    async fn fingerprint(&self) -> Result<Committed>;

    /// Opens the source behind what is committed and fixes where it ends.
    async fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn Cursor>>;
}

/// A source that is being read.
#[async_trait]
pub trait Cursor: Send {
    /// Moves the end to what is there now.
    async fn look(&mut self) -> Result<()>;

    /// A position that has to be kept before anything is read: where a source that was started at its end had it.
    fn pinned(&self) -> Option<Committed> {
        None
    }

    /// The next input, or None when everything up to the end is handed out.
    async fn next(&mut self, limits: &Limits) -> Result<Option<Arc<dyn Input>>>;

    /// Called when a query has read an input to its end, before its epoch is logged.
    async fn finish(&mut self, input: Arc<dyn Input>) -> Result<Finished>;

    /// Called when the epoch is logged.
    fn acknowledge(&mut self) {}

    /// Whether so much is waiting in memory that the next epoch should not be waited for.
    fn is_pressing(&self, _limits: &Limits) -> bool {
        false
    }
}

/// A leaf without rows, to plan over before there are any.
pub fn empty_leaf(source: &dyn Source, metadata: MetadataColumn) -> Arc<dyn TableProvider> {
    let mut fields: Vec<_> = source.columns().fields().iter().cloned().collect();
    if let (MetadataColumn::Named, Some(data_type)) = (metadata, source.metadata()) {
        fields.push(Arc::new(Field::new(METADATA, data_type, true)));
    }
    Arc::new(EmptyTable::new(Arc::new(Schema::new(fields))))
}

/// The input that a cursor handed out, as it made it.
pub fn own<T: Input>(input: Arc<dyn Input>) -> Result<Arc<T>> {
    let input: Arc<dyn std::any::Any + Send + Sync> = input;
    input.downcast::<T>().map_err(|_| Error::internal("an input of another source"))
}

/// What one epoch reads of a source.
pub trait Input: std::any::Any + Debug + Send + Sync {
    /// The leaf to plan over: the source's columns, `_metadata` where `visible` says so, and the lineage columns where the
    /// source has records. What is not a row goes to `tap`.
    fn table(&self, tap: Arc<Tap>, visible: MetadataColumn) -> Result<Arc<dyn TableProvider>>;

    /// Hands out no more than it has until now, where it can end early.
    fn close(&self) {}
}

/// Whether the statement speaks of `_metadata`. DataFusion has no hidden columns, so the column is there only if it is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataColumn {
    /// The query names it.
    Named,
    /// The query does not.
    Absent,
}

/// What the log has to remember when an input was read.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The source's position behind the input.
    pub committed: Committed,
    /// Records that the source no longer had; None where it cannot tell.
    pub lost: Option<u64>,
    /// Records known to be waiting behind the input.
    pub lag: u64,
    /// How far the source was behind its tip, in milliseconds, where it says so.
    pub behind_ms: Option<u64>,
}

/// Records or rows that do not go into the table, with all that is needed to put them back: bytes, keys, headers and times.
#[derive(Debug)]
pub struct Rejects {
    /// The source's name.
    pub source: Arc<str>,
    /// `unreadable`, or the constraint's name.
    pub rule: Arc<str>,
    /// Why, for each.
    pub reasons: Vec<String>,
    /// The records' bytes; null where a record had none. None where rows do not come from one record each.
    pub payloads: Option<BinaryViewArray>,
    /// `_metadata` of each, likewise.
    pub metadata: Option<StructArray>,
    /// For a constraint, each row as JSON.
    pub rows: Option<Vec<String>>,
}

/// Where a leaf counts its records and puts what is no row.
#[derive(Debug)]
pub struct Tap {
    /// The source's name.
    pub source: Arc<str>,
    rejects: mpsc::Sender<Rejects>,
    exhaustive: bool,
    cancelled: AtomicBool,
    read: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
}

impl Tap {
    /// A tap whose rejects go into `rejects`. `exhaustive`: every record is looked at, whatever the plan leaves unread.
    pub fn new(source: Arc<str>, rejects: mpsc::Sender<Rejects>, exhaustive: bool) -> Self {
        Self {
            source,
            rejects,
            exhaustive,
            cancelled: AtomicBool::new(false),
            read: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// A tap that only counts: for queries whose rows go to nobody but the user.
    pub fn counting(source: Arc<str>) -> Self {
        Self::new(source, mpsc::channel(1).0, false)
    }

    /// Whether every record has to be looked at.
    pub fn is_exhaustive(&self) -> bool {
        self.exhaustive
    }

    /// The epoch has failed: reading on would be for nothing.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the epoch has failed.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Counts records that were read.
    pub fn count_read(&self, records: u64) {
        self.read.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts records that `dropmalformed` left out.
    pub fn count_dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    /// Passes rejects on; waits while the quarantine is behind.
    pub async fn reject(&self, rejects: Rejects) {
        self.rejected.fetch_add(rejects.reasons.len() as u64, Ordering::Relaxed);
        // Without a receiver they are only counted: nobody keeps them, or the epoch has failed and its error is on the way.
        let _ = self.rejects.send(rejects).await;
    }

    /// Records read until now.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Records that were no rows until now.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Records left out until now.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The names under which a source's `_metadata` says which partition a record is from, and its position there.
pub fn address(metadata: &StructArray) -> (Option<&str>, Option<&str>) {
    const PARTITIONS: [&str; 3] = ["file_path", "partition", "shard_id"];
    const POSITIONS: [&str; 3] = ["row_index", "offset", "sequence_number"];
    let names = metadata.column_names();
    let find = |known: [&'static str; 3]| known.into_iter().find(|name| names.contains(name));
    (find(PARTITIONS), find(POSITIONS))
}
