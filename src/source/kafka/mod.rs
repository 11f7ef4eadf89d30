//! Topics of Kafka as tables: `STORED AS KAFKA` and `read_kafka`.
//!
//! Floor 3: uses `source`, `decode`, `options`, `clock`, `error`. Partitions are assigned by hand at our own positions, which the epoch log
//! keeps; the group's offsets are written for lag tools and never read. [`client`] is the only room that knows rdkafka;
//! [`settings`] turns options into what it understands, [`positions`] decides where to go on, [`cursor`] makes epochs of it
//! all. Messages on their way wait in a [`super::feed`].

pub mod chunk;
pub mod client;
pub mod cursor;
pub mod fetches;
pub mod iam;
pub mod positions;
pub mod properties;
pub mod settings;
mod stopped;
pub mod survey;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use regex::Regex;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use self::chunk::{Shape, Tombstones};
use self::client::{Client, Described, NotThere, Role, Wanted};
use self::cursor::KafkaCursor;
use self::fetches::{Cuts, Fetches};
use self::positions::Start;
use self::settings::Settings;
use self::stopped::stalled;
use super::feed::{Feed, Share};
use super::payload::{PayloadOptions, Taken};
use super::pieces::Supplier;
use super::records::{Form, RawColumn, RawOrigin};
use super::{Committed, Cursor, Opening, READER, Source};
use crate::decode::{Envelope, infer};
use crate::error::{Error, Result};
use crate::options::{Options, parse_time, wrong_value};

pub use self::client::farewell;

/// Messages of a partition that inference looks at.
const SAMPLE_MESSAGES: i64 = 1000;
/// How long inference waits for them.
const SAMPLE_MS: u64 = 20_000;

/// Which topics are read.
#[derive(Debug, Clone)]
enum Topics {
    /// These; each must be there.
    Named(Vec<String>),
    /// All whose whole name matches, now and later.
    Matching(Regex),
}

/// A source of Kafka as its options say it.
#[derive(Debug)]
pub struct Spec {
    settings: Settings,
    topics: Topics,
    /// Where it begins.
    pub start: Start,
    /// Whether lost messages stop the query.
    pub fail_on_data_loss: bool,
    /// What its records look like.
    pub form: Form,
    /// The clients that targets of this process share.
    pub fetches: Arc<Fetches>,
    /// What a reading that has stopped knows, and the next one of the same query could not find out.
    pub cuts: Cuts,
    /// What such a client has to have in common: the cluster, the login, the topics, and what becomes of messages.
    pub key: u64,
    shape: Shape,
}

/// The options of a source of Kafka, read from SQL.
#[derive(Debug)]
pub struct KafkaOptions {
    settings: Settings,
    topics: Topics,
    start: Start,
    fail_on_data_loss: bool,
    include_headers: bool,
    tombstones: Option<Tombstones>,
    payload: PayloadOptions,
}

impl KafkaOptions {
    /// Takes the options of a source of Kafka out of `options`. `location` is `kafka://host:9092,host2:9092/topic`.
    pub fn take(options: &mut Options, location: Option<&str>, form: Taken, base: &Path) -> Result<Self> {
        let (servers, topic) = location.map(split_location).transpose()?.unzip();
        let settings = Settings::take(options, servers.as_deref(), base)?;
        let topics = topics(options, topic.flatten())?;
        let start = match (options.take("startingTimestamp"), options.take("startingOffsets")) {
            (Some(pair), _) => Start::At(parse_time(&pair.value).ok_or_else(|| {
                wrong_value(&pair, "a time such as 2026-01-31T12:00:00Z, or milliseconds since 1970")
            })?),
            (None, Some(pair)) => Start::parse(&pair.value).map_err(|error| error.at(pair.value_place))?,
            (None, None) => Start::Earliest,
        };
        let fail_on_data_loss = options.take_bool("failOnDataLoss")?.unwrap_or(true);
        let include_headers = options.take_bool("includeHeaders")?.unwrap_or(false);
        let known = [Tombstones::Quarantine, Tombstones::Skip, Tombstones::Null];
        let tombstones = options.take_word("tombstones", &["quarantine", "skip", "null"])?.map(|index| known[index]);
        let payload = match form {
            Taken::Decoded => PayloadOptions::take(options)?,
            Taken::Raw => PayloadOptions::take_of_raw(options)?,
        };
        Ok(Self { settings, topics, start, fail_on_data_loss, include_headers, tombstones, payload })
    }

    fn spec(self, form: Form, tombstones: Tombstones, fetches: Arc<Fetches>) -> Spec {
        let empty_row = empty_row(&self.payload.envelope);
        let shape = Shape { tombstones, max_record_bytes: self.payload.max_record_bytes, empty_row };
        for name in self.settings.ignored() {
            tracing::info!(name, "a property of Java's client that means nothing to this one");
        }
        let Self { settings, topics, start, fail_on_data_loss, .. } = self;
        let client = (&settings.bootstrap, settings.client(), settings.group_id());
        let key = xxh3_64(format!("{client:?} {topics:?} {shape:?}").as_bytes());
        Spec { settings, topics, start, fail_on_data_loss, form, fetches, cuts: Cuts::default(), key, shape }
    }
}

/// An object without fields, wrapped as rows are: what a tombstone is where it is a row of NULLs.
fn empty_row(envelope: &Envelope) -> Arc<[u8]> {
    let mut text = "{}".to_owned();
    if let Envelope::Path(keys) = envelope {
        for key in keys.iter().rev() {
            text = format!("{{{}:{text}}}", json!(key));
        }
    }
    text.into_bytes().into()
}

/// `kafka://host:9092,host2:9092/topic` into its servers and its topic.
fn split_location(location: &str) -> Result<(String, Option<String>)> {
    let rest = location.strip_prefix("kafka://").ok_or_else(|| {
        Error::config(format!("`{location}` is not a location of Kafka")).hint("say 'kafka://host:9092/topic'")
    })?;
    let (servers, topic) = rest.split_once('/').unwrap_or((rest, ""));
    let topic = topic.trim_matches('/');
    Ok((servers.to_owned(), (!topic.is_empty()).then(|| topic.to_owned())))
}

fn topics(options: &mut Options, located: Option<String>) -> Result<Topics> {
    let subscribe = options.take("subscribe");
    let pattern = options.take("subscribePattern");
    match (located, subscribe, pattern) {
        (None, None, None) => Err(Error::config("no topic is named")
            .hint("say subscribe 'topic', subscribePattern, or LOCATION 'kafka://host:9092/topic'")),
        (None, Some(pair), None) => {
            let names: Vec<String> =
                pair.value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
            if names.is_empty() {
                return Err(wrong_value(&pair, "one topic or several with commas between"));
            }
            Ok(Topics::Named(names))
        }
        (Some(topic), None, None) => Ok(Topics::Named(vec![topic])),
        (None, None, Some(pair)) => Regex::new(&format!("^(?:{})$", pair.value))
            .map(Topics::Matching)
            .map_err(|_| wrong_value(&pair, "a regular expression")),
        (_, Some(pair), _) | (_, None, Some(pair)) => {
            Err(Error::config(format!("`{}` names topics that are named already", pair.key))
                .at(pair.key_place)
                .hint("name them once: in the location, by subscribe, or by subscribePattern"))
        }
    }
}

impl Spec {
    /// A client of the cluster, in the name of a query.
    fn client(&self, role: Role, query: &str) -> Result<Client> {
        let group = self.settings.group_id().map_or_else(|| format!("pinsql-{query}"), str::to_owned);
        Client::new(&self.settings, role, &group, &self.shape)
    }

    /// Whether a topic is one of those that are read.
    fn names(&self, topic: &str) -> bool {
        match &self.topics {
            Topics::Named(names) => names.iter().any(|name| name == topic),
            Topics::Matching(pattern) => pattern.is_match(topic) && !topic.starts_with("__"),
        }
    }

    /// The topics that are there; those that were read before may have gone.
    async fn topics(&self, client: &Client, known: impl Iterator<Item = &str>) -> Result<Vec<Described>> {
        let known: BTreeSet<String> = known.map(str::to_owned).collect();
        let names = match &self.topics {
            Topics::Named(names) => names.clone(),
            Topics::Matching(_) => {
                let names = client.topic_names().await?;
                names.into_iter().filter(|name| self.names(name)).collect()
            }
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = client.describe(names).await?;
        // Who lists topics is not who describes them: of a pattern, one may have come or gone in between.
        let may_go = |name: &String| matches!(self.topics, Topics::Matching(_)) || known.contains(name);
        let is_gone = |topic: &Described| matches!(topic.error, Some((NotThere::Unknown, _))) && may_go(&topic.name);
        if let Some(wrong) = found.iter().find(|topic| topic.error.is_some() && !is_gone(topic)) {
            return Err(no_topic(wrong));
        }
        found.retain(|topic| topic.error.is_none());
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

fn no_topic(topic: &Described) -> Error {
    let Described { name, error, .. } = topic;
    match error {
        Some((NotThere::Denied, words)) => Error::world(format!("topic `{name}` may not be read: {words}"))
            .hint("give the user of this connection the rights to describe and to read the topic"),
        Some((NotThere::Passing, words)) => Error::world(format!("topic `{name}` cannot be read now: {words}"))
            .hint("look whether all brokers are up")
            .passing(),
        _ => Error::world(format!("there is no topic `{name}`"))
            .hint("make it, or look whether its name and the brokers are the right ones"),
    }
}

/// A source of Kafka.
#[derive(Debug)]
pub struct Kafka {
    spec: Arc<Spec>,
    columns: SchemaRef,
    declared: Option<Schema>,
}

impl Kafka {
    /// The decoded form. Columns that are not declared are inferred from the newest messages; None where there are none.
    pub async fn decoded(
        options: KafkaOptions,
        columns: Option<Schema>,
        fetches: Arc<Fetches>,
    ) -> Result<Option<Self>> {
        if options.include_headers {
            return Err(Error::config("includeHeaders is of read_kafka alone")
                .hint("leave it out: `_metadata.headers` is always there"));
        }
        let tombstones = options.tombstones.unwrap_or_default();
        let payload = options.payload.clone();
        let unknown = Form::Decoded(payload.decoding(Schema::empty()));
        let mut spec = options.spec(unknown, tombstones, fetches);
        let columns = match columns {
            Some(columns) => Some(columns),
            None => infer(sample(&spec).await?.iter().map(AsRef::as_ref), &payload.envelope),
        };
        let Some(columns) = columns else { return Ok(None) };
        let decoding = payload.decoding(columns);
        let declared = Some(decoding.columns.as_ref().clone());
        let columns = decoding.visible_columns()?;
        spec.form = Form::Decoded(decoding);
        Ok(Some(Self { spec: Arc::new(spec), columns, declared }))
    }

    /// The raw form, with the columns of Databricks' `read_kafka`.
    pub fn raw(options: KafkaOptions, fetches: Arc<Fetches>) -> Self {
        let columns = raw_columns(options.include_headers);
        let schema = Arc::new(Schema::new(columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>()));
        // A tombstone is a row with a value of NULL, unless it is put aside or left out.
        let tombstones = options.tombstones.filter(|what| *what != Tombstones::Null).unwrap_or(Tombstones::Keep);
        let spec = options.spec(Form::Raw(columns.into()), tombstones, fetches);
        Self { spec: Arc::new(spec), columns: schema, declared: None }
    }

    /// The columns as declared or inferred, to be pinned.
    pub fn declared(&self) -> Option<&Schema> {
        self.declared.as_ref()
    }
}

fn raw_columns(headers: bool) -> Vec<RawColumn> {
    let metadata = |name: &str, of: &'static str, data_type: DataType| RawColumn {
        field: Field::new(name, data_type, true),
        from: RawOrigin::Metadata(of),
    };
    let mut columns = vec![
        metadata("key", "key", DataType::BinaryView),
        RawColumn { field: Field::new("value", DataType::BinaryView, true), from: RawOrigin::Payload },
        metadata("topic", "topic", DataType::Utf8View),
        metadata("partition", "partition", DataType::Int32),
        metadata("offset", "offset", DataType::Int64),
        metadata("timestamp", "timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        metadata("timestamptype", "timestamp_type", DataType::Int32),
    ];
    if headers {
        columns.push(metadata("headers", "headers", chunk::headers_type()));
    }
    columns
}

/// The newest messages of every partition.
async fn sample(spec: &Spec) -> Result<Vec<Vec<u8>>> {
    let client = spec.client(Role::Asks, READER)?;
    let topics = spec.topics(&client, std::iter::empty()).await?;
    let partitions: Vec<(String, i32)> =
        topics.iter().flat_map(|topic| (0..topic.partitions).map(|number| (topic.name.clone(), number))).collect();
    let held = client.held(partitions.clone()).await?;
    let each = (SAMPLE_MESSAGES / i64::try_from(partitions.len().max(1)).unwrap_or(1)).max(1);
    let starts: Vec<i64> = held.iter().map(|held| held.earliest.max(held.end - each)).collect();
    let ends: Vec<i64> = held.iter().map(|held| held.end).collect();
    let wanted = partitions.into_iter().zip(starts.iter().zip(&ends));
    let wanted = wanted.map(|((topic, partition), (from, until))| Wanted {
        topic: topic.into(),
        partition,
        from: *from,
        until: *until,
    });
    let feed = Arc::new(Feed::new(1, &starts, 32 << 20));
    let fetcher = spec.client(Role::Fetches, READER)?;
    fetcher.start(&feed, wanted.collect(), Duration::ZERO);
    let mut share = Share::new(starts, ends, u64::MAX, usize::MAX);
    let found = feed.sample(&mut share, usize::MAX, SAMPLE_MS).await?;
    match feed.stopped() {
        Some(why) if !share.is_done() => Err(fetcher.stopped(&why)),
        None if found.is_empty() && !share.is_done() => Err(stalled(&fetcher, SAMPLE_MS)),
        _ => Ok(found),
    }
}

#[async_trait]
impl Source for Kafka {
    fn columns(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn metadata(&self) -> Option<DataType> {
        Some(chunk::metadata_type())
    }

    fn is_divisible(&self) -> bool {
        true
    }

    fn has_topics(&self) -> bool {
        match &self.spec.topics {
            Topics::Named(names) => names.len() > 1,
            Topics::Matching(_) => true,
        }
    }

    async fn fingerprint(&self) -> Result<Committed> {
        let client = self.spec.client(Role::Asks, READER)?;
        let topics = self.spec.topics(&client, std::iter::empty()).await?;
        let mut found = serde_json::Map::new();
        for topic in topics {
            let partitions: Vec<_> = (0..topic.partitions).map(|number| (topic.name.clone(), number)).collect();
            let held = client.held(partitions).await?;
            let earliest: Vec<i64> = held.iter().map(|held| held.earliest).collect();
            let ends: Vec<i64> = held.iter().map(|held| held.end).collect();
            found.insert(topic.name, json!({ "id": topic.id, "earliest": earliest, "ends": ends }));
        }
        Ok(Committed(json!({ "topics": found })))
    }

    async fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn Cursor>> {
        Ok(Box::new(KafkaCursor::open(Arc::clone(&self.spec), opening).await?))
    }
}
