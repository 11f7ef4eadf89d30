//! Objects of JSON below a folder or an S3 prefix, each read once.
//!
//! Floor 3: uses `source`, `decode`, `options`, `store`, `epoch`, `error`; with `store`, the log and `delta` one of the few
//! rooms that know object_store.
//!
//! Every object is a partition of its own: it was read or it was not. "Everything behind the last name" would lose
//! objects, because a bucket lists by name and not by time. What was read lies in the [`ledger`]; an object whose tag has
//! changed since is compared by checksum, and if its content has changed the run stops.
//!
//! The leaf holds the epoch's objects by name, so a plan over it says what it reads; the bytes of small objects are on their
//! way while the listing still goes on ([`fetch::Fetcher::begin`]).

mod chunk;
mod fetch;
mod ledger;
mod listing;
mod reader;

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use futures::{StreamExt, TryStreamExt};

use self::fetch::{Fetcher, IN_FLIGHT};
use self::ledger::{Ledger, Saved, Seen};
use self::listing::{Object, Place};
use self::reader::{FileRecords, Framing};
use super::payload::PayloadOptions;
use super::records::{Decoding, Form, RecordsTable};
use super::{Committed, Cursor, Finished, Input, Limits, MetadataColumn, Opening, Source, Tap, own};
use crate::clock::Stopwatch;
use crate::decode::infer;
use crate::error::{Error, Result};
use crate::options::{Options, wrong_value};
use crate::store::Stores;

/// Objects of one epoch where `maxFilesPerTrigger` is not given.
const EPOCH_OBJECTS: usize = 100_000;
/// Bytes of one epoch, as they lie in the store.
const EPOCH_BYTES: u64 = 4 << 30;
/// Below this many bytes an epoch is read by one task: a second file in the table would cost more than it saves.
const BYTES_PER_TASK: u64 = 16 << 20;
/// A stream lists for one part in this many of its time.
const LISTING_SHARE: u64 = 10;
/// Objects that inference looks at.
const SAMPLE_OBJECTS: usize = 1000;
/// Bytes of each of them.
const SAMPLE_BYTES: usize = 1 << 20;

/// The options of a source of files, read from SQL.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// How its records are taken.
    pub payload: PayloadOptions,
    framing: Framing,
    extension: Option<String>,
    recursive: bool,
    max_files: Option<usize>,
}

impl FileOptions {
    /// Takes the options of a source of files out of `options`.
    pub fn take(options: &mut Options) -> Result<Self> {
        let payload = PayloadOptions::take(options)?;
        let extension = options.take("fileExtension").map(|pair| pair.value);
        let recursive = options.take_bool("recursive")?.unwrap_or(true);
        let max_files = options.take_count("maxFilesPerTrigger")?.and_then(|most| usize::try_from(most).ok());
        let multi_line = match options.take("multiLine") {
            None => None,
            Some(pair) => match pair.value.to_ascii_lowercase().as_str() {
                "auto" => None,
                "true" => Some(true),
                "false" => Some(false),
                _ => return Err(wrong_value(&pair, "auto, true or false")),
            },
        };
        let framing = Framing { multi_line, max_record_bytes: payload.max_record_bytes };
        Ok(Self { payload, framing, extension, recursive, max_files })
    }
}

/// A source of files.
#[derive(Debug, Clone)]
pub struct Files {
    place: Place,
    options: FileOptions,
    decoding: Decoding,
    visible: SchemaRef,
}

impl Files {
    /// Opens the location. Columns that are not declared are inferred from a sample; None where there is nothing to infer
    /// from.
    pub async fn open(
        stores: &Stores,
        written: &str,
        options: FileOptions,
        columns: Option<Schema>,
    ) -> Result<Option<Self>> {
        let (folder, pattern) = listing::split_pattern(written)?;
        let location = stores.open(&folder).await?;
        let place = Place {
            written: folder,
            location,
            pattern,
            extension: options.extension.clone(),
            recursive: options.recursive,
            said_at: None,
        };
        let columns = match columns {
            Some(columns) => Some(columns),
            None => sample(&place, &options).await?,
        };
        let Some(columns) = columns else { return Ok(None) };
        let PayloadOptions { mode, envelope, .. } = options.payload.clone();
        let decoding = Decoding { columns: Arc::new(columns), mode, envelope };
        let visible = decoding.visible_columns()?;
        Ok(Some(Self { place, options, decoding, visible }))
    }

    /// The SQL says the location here: an error of listing it points there.
    #[must_use]
    pub fn said_at(mut self, place: crate::error::Place) -> Self {
        self.place.said_at = Some(place);
        self
    }

    /// The columns as declared or inferred, to be pinned.
    pub fn declared(&self) -> &Schema {
        &self.decoding.columns
    }
}

/// Looks at the first objects, side by side, and infers their columns.
async fn sample(place: &Place, options: &FileOptions) -> Result<Option<Schema>> {
    let fetcher = Fetcher::new(place.location.clone());
    let framing = options.framing;
    let texts: Vec<Vec<bytes::Bytes>> = listing::list(place)
        .take(SAMPLE_OBJECTS)
        .map_ok(|object| {
            let fetcher = fetcher.clone();
            async move { reader::head(&fetcher, &object, SAMPLE_BYTES).await }
        })
        .try_buffered(IN_FLIGHT)
        .map_ok(|text| frames(framing, text))
        .try_collect()
        .await?;
    Ok(infer(texts.iter().flatten().map(AsRef::as_ref), &options.payload.envelope))
}

/// The records in the beginning of an object.
fn frames(framing: Framing, text: bytes::Bytes) -> Vec<bytes::Bytes> {
    let mut framer = framing.framer();
    let blocks: Vec<_> = framer.push(text).into_iter().chain(framer.finish()).collect();
    let cut = |block: &crate::decode::Block, frame: &crate::decode::Frame| {
        block.bytes.slice(frame.offset as usize..(frame.offset + frame.len) as usize)
    };
    blocks.iter().flat_map(|block| block.records.iter().map(|frame| cut(block, frame)).collect::<Vec<_>>()).collect()
}

#[async_trait]
impl Source for Files {
    fn columns(&self) -> SchemaRef {
        Arc::clone(&self.visible)
    }

    fn metadata(&self) -> Option<DataType> {
        Some(chunk::metadata_type())
    }

    async fn fingerprint(&self) -> Result<Committed> {
        let mut objects: Vec<Object> = listing::list(&self.place).try_collect().await?;
        objects.sort_unstable_by(|a, b| a.file.cmp(&b.file));
        let mut digest = xxhash_rust::xxh3::Xxh3::new();
        for object in objects {
            digest.update(object.file.as_bytes());
            digest.update(&object.tag().to_le_bytes());
        }
        Ok(Committed(serde_json::json!({ "objects": format!("{:016x}", digest.digest()) })))
    }

    async fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn Cursor>> {
        let saved = match opening.committed {
            Some(Committed(saved)) => serde_json::from_value(saved.clone())
                .map_err(|error| Error::internal(format!("the log's ledger of files cannot be read: {error}")))?,
            None => Saved::default(),
        };
        let ledger = Ledger::load(saved, opening.state.clone()).await?;
        let mut cursor = FileCursor {
            files: self.clone(),
            ledger,
            fetcher: Fetcher::new(self.place.location.clone()),
            waiting: Vec::new(),
            touched: Vec::new(),
            listed: Stopwatch::start(),
            listing_ms: 0,
        };
        cursor.list().await?;
        Ok(Box::new(cursor))
    }
}

impl Files {
    /// Lists, and tells what was never read from what was put again. Small new objects are already being fetched meanwhile.
    async fn news(&self, ledger: &Ledger, fetcher: &Fetcher) -> Result<(Vec<Object>, Vec<Object>)> {
        let (mut new, mut touched) = (Vec::new(), Vec::new());
        let mut listed = listing::list(&self.place);
        while let Some(object) = listed.try_next().await? {
            match ledger.get(&object.file) {
                None => {
                    if self.options.max_files.is_none() {
                        fetcher.begin(&object).await;
                    }
                    new.push(object);
                }
                Some(mark) if mark.tag != object.tag() => touched.push(object),
                Some(_) => {}
            }
        }
        Ok((new, touched))
    }

    /// An object that was put again with the same content is not changed: a checksum decides, not the store's tag.
    async fn verify(&self, ledger: &Ledger, fetcher: &Fetcher, touched: Vec<Object>) -> Result<Vec<Seen>> {
        futures::stream::iter(touched)
            .map(|object| async move {
                let mark = ledger.get(&object.file);
                let same = match mark {
                    Some(mark) if mark.size == object.meta.size => {
                        reader::checksum(fetcher, &object).await? == mark.sum
                    }
                    _ => false,
                };
                let sum = mark.map(|mark| mark.sum).filter(|_| same).ok_or_else(|| self.changed(&object))?;
                Ok(Seen { tag: object.tag(), sum, size: object.meta.size, file: object.file })
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await
    }

    fn changed(&self, object: &Object) -> Error {
        Error::data(format!(
            "object `{}` was changed after it was read",
            self.place.location.uri_of(&object.meta.location)
        ))
        .hint("put the changed records into an object of a new name and restore this one, or read everything again with `--full-refresh`")
    }
}

struct FileCursor {
    files: Files,
    ledger: Ledger,
    fetcher: Fetcher,
    /// Newest first, so that the oldest is taken off the end.
    waiting: Vec<Object>,
    touched: Vec<Seen>,
    listed: Stopwatch,
    listing_ms: u64,
}

impl FileCursor {
    /// Finds what the ledger has not seen.
    async fn list(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        let (mut waiting, touched) = self.files.news(&self.ledger, &self.fetcher).await?;
        waiting.sort_unstable_by(|a, b| {
            (b.meta.last_modified, &b.meta.location).cmp(&(a.meta.last_modified, &a.meta.location))
        });
        self.touched = self.files.verify(&self.ledger, &self.fetcher, touched).await?;
        self.waiting = waiting;
        self.listed = Stopwatch::start();
        self.listing_ms = watch.elapsed_ms();
        Ok(())
    }

    /// The oldest objects that one epoch may take. A file is never split: `--max-records` counts each for one record at
    /// least.
    fn take_oldest(&mut self, limits: &Limits) -> Vec<Object> {
        let most = self.files.options.max_files.unwrap_or(EPOCH_OBJECTS);
        let (most, most_bytes) = if limits.everything { (usize::MAX, u64::MAX) } else { (most, EPOCH_BYTES) };
        let most = limits.records.map_or(most, |records| most.min(usize::try_from(records).unwrap_or(usize::MAX)));
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < most.max(1) && bytes < most_bytes {
            let Some(object) = self.waiting.pop() else { break };
            bytes += object.meta.size;
            taken.push(object);
        }
        taken
    }
}

#[async_trait]
impl Cursor for FileCursor {
    /// Lists again when everything that was found is read, and not more often than a listing is worth: of a prefix with a
    /// million objects it takes a second.
    async fn look(&mut self) -> Result<()> {
        let is_due = self.listed.elapsed_ms() >= self.listing_ms * LISTING_SHARE;
        if is_due && self.waiting.is_empty() && self.touched.is_empty() { self.list().await } else { Ok(()) }
    }

    async fn next(&mut self, limits: &Limits) -> Result<Option<Arc<dyn Input>>> {
        let objects = self.take_oldest(limits);
        if objects.is_empty() && self.touched.is_empty() {
            return Ok(None);
        }
        let bytes: u64 = objects.iter().map(|object| object.meta.size).sum();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let many = objects.len() as u64 / 8192;
        let partitions = (bytes / BYTES_PER_TASK).max(many).clamp(1, cores).min(objects.len().max(1) as u64);
        let records = FileRecords::new(
            self.files.place.location.clone(),
            objects,
            self.fetcher.clone(),
            self.files.options.framing,
            usize::try_from(partitions).unwrap_or(1),
        );
        Ok(Some(Arc::new(FileInput { records: Arc::new(records), decoding: self.files.decoding.clone() })))
    }

    async fn finish(&mut self, input: Arc<dyn Input>) -> Result<Finished> {
        let input = own::<FileInput>(input)?;
        // A plan may read the source more than once.
        let mut seen = input.records.take_seen();
        seen.sort_unstable_by(|a, b| a.file.cmp(&b.file));
        seen.dedup_by(|a, b| a.file == b.file);
        if seen.len() != input.records.objects() {
            return Err(Error::internal(format!(
                "{} of {} objects were read to their end",
                seen.len(),
                input.records.objects()
            )));
        }
        seen.append(&mut self.touched);
        let saved = self.ledger.add(seen).await?;
        let committed = serde_json::to_value(saved).map_err(|error| Error::internal(error.to_string()))?;
        Ok(Finished { committed: Committed(committed), lost: Some(0), lag: self.waiting.len() as u64, behind_ms: None })
    }
}

#[derive(Debug)]
struct FileInput {
    records: Arc<FileRecords>,
    decoding: Decoding,
}

impl Input for FileInput {
    fn table(&self, tap: Arc<Tap>, visible: MetadataColumn) -> Result<Arc<dyn TableProvider>> {
        let records = Arc::clone(&self.records) as Arc<dyn super::records::Records>;
        let table =
            RecordsTable::new(records, Form::Decoded(self.decoding.clone()), chunk::metadata_type(), tap, visible)?;
        Ok(Arc::new(table))
    }
}
