//! Streams of Kinesis as tables: `STORED AS KINESIS` and `read_kinesis`.
//!
//! Floor 3: uses `source`, `decode`, `options`, `store`, `clock`, `error`. [`client`] is the only room that knows the SDK; [`hub`]
//! has shards read for all targets of the process, by a `reader` each, within the [`budget`] of each; [`positions`] says what to read of the
//! shards that are there; [`chunk`] makes records of a source of them, [`aggregate`] takes those of the producer library
//! apart; [`cursor`] makes epochs of it all.

pub mod aggregate;
pub mod budget;
pub mod chunk;
pub mod client;
pub mod cursor;
pub mod hub;
pub mod positions;
mod reader;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::chunk::{Origin, Shape};
use self::client::{Address, Fault};
use self::cursor::KinesisCursor;
use self::hub::{Hub, Hubs, Mode, Subscriber};
use self::positions::{Mark, Place, Start};
use super::feed::{Feed, Share};
use super::payload::{PayloadOptions, Taken};
use super::records::{Form, RawColumn, RawOrigin};
use super::{Committed, Cursor, Opening, READER, Source};
use crate::decode::infer;
use crate::error::{Error, Result};
use crate::options::{OptionPair, Options, wrong_value};
use crate::store::identity::Identity;

/// Records of one answer where nothing is said, and at most.
const MAX_RECORDS: u64 = 10_000;
/// Records that inference looks at, and for how long it waits for them.
const SAMPLE_RECORDS: usize = 1_000;
const SAMPLE_MS: u64 = 5_000;
/// Options of Databricks by which keys would stand in a file.
const KEYS: [&str; 2] = ["awsAccessKey", "awsSecretKey"];

/// A source of Kinesis as its options say it.
#[derive(Debug)]
pub struct Spec {
    address: Address,
    fan_out: bool,
    consumer: Option<String>,
    most: i32,
    /// Where it begins.
    pub start: Start,
    /// Whether lost records stop the query.
    pub fail_on_data_loss: bool,
    /// What its records look like.
    pub form: Form,
    /// Which records it takes.
    pub shape: Arc<Shape>,
    hubs: Arc<Hubs>,
}

impl Spec {
    /// The readers of the stream, in the name of a query.
    async fn hub(&self, query: &str) -> Result<Arc<Hub>> {
        // Who only looks does not register for that.
        let mode = match self.fan_out && query != READER {
            true => Mode::FanOut(self.consumer.clone().unwrap_or_else(|| format!("pinsql-{query}"))),
            false => Mode::Polling { most: self.most },
        };
        self.hubs.of(&self.address, &mode).await
    }
}

/// The options of a source of Kinesis, read from SQL.
#[derive(Debug)]
pub struct KinesisOptions {
    address: Address,
    fan_out: bool,
    consumer: Option<String>,
    most: i32,
    start: Start,
    fail_on_data_loss: bool,
    keys: Option<BTreeSet<String>>,
    payload: PayloadOptions,
}

impl KinesisOptions {
    /// Takes the options of a source of Kinesis out of `options`. `location` is `kinesis://stream`, or the stream's ARN.
    pub fn take(options: &mut Options, location: Option<&str>, form: Taken) -> Result<Self> {
        for name in KEYS {
            if let Some(pair) = options.take(name) {
                return Err(Error::config(format!("`{name}` would leave a key in a file"))
                    .at(pair.key_place)
                    .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or `roleArn` instead"));
            }
        }
        let stream = stream(options, location)?;
        let said = options.take("region").map(|pair| pair.value);
        let identity = Identity {
            region: said.or_else(|| region_of(&stream)),
            profile: options.take("profile").map(|pair| pair.value),
            role_arn: options.take("roleArn").map(|pair| pair.value),
            role_session: options.take("roleSessionName").map(|pair| pair.value),
            role_external_id: options.take("roleExternalId").map(|pair| pair.value),
            sts_region: None,
        };
        if !identity.is_whole() {
            return Err(Error::config("a session or an external id is given for a role that is not")
                .hint("add roleArn 'arn:aws:iam::…:role/…'"));
        }
        let endpoint = options.take("endpoint").map(|pair| endpoint(&pair.value));
        let start = match options.take("initialPosition") {
            Some(pair) => Start::parse(&pair.value).map_err(|error| error.at(pair.value_place))?,
            None => Start::Earliest,
        };
        let keys = options.take("partitionKey").map(|pair| partition_keys(&pair)).transpose()?;
        let fan_out = options.take_word("consumerMode", &["polling", "efo"])? == Some(1);
        let consumer = consumer_name(options, fan_out)?;
        let most = match options.take("maxRecordsPerFetch") {
            Some(pair) => pair
                .value
                .parse()
                .ok()
                .filter(|most| (1..=MAX_RECORDS).contains(most))
                .ok_or_else(|| wrong_value(&pair, "a whole number from 1 to 10000"))?,
            None => MAX_RECORDS,
        };
        let fail_on_data_loss = options.take_bool("failOnDataLoss")?.unwrap_or(true);
        let payload = match form {
            Taken::Decoded => PayloadOptions::take(options)?,
            Taken::Raw => PayloadOptions::take_of_raw(options)?,
        };
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let address = Address { stream, endpoint, identity };
        Ok(Self { address, fan_out, consumer, most, start, fail_on_data_loss, keys, payload })
    }

    fn spec(self, form: Form, hubs: Arc<Hubs>) -> Spec {
        let Self { address, fan_out, consumer, most, start, fail_on_data_loss, keys, payload } = self;
        let shape = Arc::new(Shape { keys, max_record_bytes: payload.max_record_bytes });
        Spec { address, fan_out, consumer, most, start, fail_on_data_loss, form, shape, hubs }
    }
}

/// The stream's name or ARN, which is given once.
fn stream(options: &mut Options, location: Option<&str>) -> Result<String> {
    let name = options.take("streamName");
    let arn = options.take("streamARN");
    let located = location.map(|location| {
        let stream = location.strip_prefix("kinesis://").or_else(|| location.starts_with("arn:").then_some(location));
        stream.map(|stream| stream.trim_matches('/').to_owned()).filter(|stream| !stream.is_empty()).ok_or_else(|| {
            Error::config(format!("`{location}` is not a location of Kinesis"))
                .hint("say 'kinesis://stream-name', or give the stream's ARN")
        })
    });
    match (located.transpose()?, name, arn) {
        (None, None, None) => Err(Error::config("no stream is named")
            .hint("say streamName 'name', streamARN 'arn:…', or LOCATION 'kinesis://stream-name'")),
        (Some(stream), None, None) => Ok(stream),
        (None, None, Some(pair)) if !pair.value.starts_with("arn:") => {
            Err(wrong_value(&pair, "the ARN of a stream, as in arn:aws:kinesis:us-east-1:123456789012:stream/name"))
        }
        (None, Some(pair), None) | (None, None, Some(pair)) if !pair.value.is_empty() => Ok(pair.value),
        (_, Some(pair), _) | (_, None, Some(pair)) => {
            Err(Error::config(format!("`{}` names a stream that is named already, or none", pair.key))
                .at(pair.key_place)
                .hint("name it once: in the location, by streamName, or by streamARN"))
        }
    }
}

/// `arn:aws:kinesis:us-east-1:…` says where the stream is.
fn region_of(stream: &str) -> Option<String> {
    let region = stream.strip_prefix("arn:")?.split(':').nth(2)?;
    (!region.is_empty()).then(|| region.to_owned())
}

fn endpoint(value: &str) -> String {
    if value.contains("://") { value.to_owned() } else { format!("https://{value}") }
}

/// None at all would read everything and keep nothing.
fn partition_keys(pair: &OptionPair) -> Result<BTreeSet<String>> {
    let keys: BTreeSet<String> =
        pair.value.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
    if keys.is_empty() { Err(wrong_value(pair, "a partition key, or several with commas between")) } else { Ok(keys) }
}

fn consumer_name(options: &mut Options, fan_out: bool) -> Result<Option<String>> {
    let Some(pair) = options.take("consumerName") else { return Ok(None) };
    if !fan_out {
        return Err(Error::config("a consumer is named, and the stream is polled")
            .at(pair.key_place)
            .hint("add consumerMode 'efo', or leave consumerName out"));
    }
    Ok(Some(pair.value))
}

/// What is said of a loss.
fn loss_hint() -> &'static str {
    "rebuild the table with `--full-refresh`, or go on with what is left by failOnDataLoss=false"
}

fn renamed(before: &str, now: &str) -> Error {
    Error::data(format!("the source reads stream `{now}`, and its positions are of `{before}`"))
        .hint("restore the stream's name, rebuild the table with `--full-refresh`, or read the other stream from its start with failOnDataLoss=false")
}

fn made_anew(stream: &str) -> Error {
    Error::data(format!(
        "stream `{stream}` was deleted and made anew since it was read; what it held and was not read is lost"
    ))
    .hint("rebuild the table with `--full-refresh`, or read the new stream from its start with failOnDataLoss=false")
}

fn deleted(stream: &str) -> Error {
    Error::data(format!("stream `{stream}` was deleted; what it held and was not read is lost")).hint(
        "make it again and rebuild the table with `--full-refresh`, or go on with the new one by failOnDataLoss=false",
    )
}

/// A source of Kinesis.
#[derive(Debug)]
pub struct Kinesis {
    spec: Arc<Spec>,
    columns: SchemaRef,
    declared: Option<Schema>,
}

impl Kinesis {
    /// The decoded form. Columns that are not declared are inferred from the oldest records; None where there are none.
    pub async fn decoded(options: KinesisOptions, columns: Option<Schema>, hubs: Arc<Hubs>) -> Result<Option<Self>> {
        let payload = options.payload.clone();
        let mut spec = options.spec(Form::Decoded(payload.decoding(Schema::empty())), hubs);
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

    /// The raw form, with the columns of Databricks' `read_kinesis`.
    pub fn raw(options: KinesisOptions, hubs: Arc<Hubs>) -> Self {
        let columns = raw_columns();
        let schema = Arc::new(Schema::new(columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>()));
        let spec = options.spec(Form::Raw(columns.into()), hubs);
        Self { spec: Arc::new(spec), columns: schema, declared: None }
    }

    /// The columns as declared or inferred, to be pinned.
    pub fn declared(&self) -> Option<&Schema> {
        self.declared.as_ref()
    }
}

fn raw_columns() -> Vec<RawColumn> {
    let metadata = |name: &str, of: &'static str, data_type: DataType| RawColumn {
        field: Field::new(name, data_type, true),
        from: RawOrigin::Metadata(of),
    };
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    vec![
        metadata("partitionkey", "partition_key", DataType::Utf8View),
        RawColumn { field: Field::new("data", DataType::BinaryView, true), from: RawOrigin::Payload },
        metadata("stream", "stream", DataType::Utf8View),
        metadata("shardid", "shard_id", DataType::Utf8View),
        metadata("sequencenumber", "sequence_number", DataType::Utf8View),
        metadata("approximatearrivaltimestamp", "approximate_arrival_timestamp", time),
    ]
}

/// The oldest records of every shard; those that others put there are of no interest.
async fn sample(spec: &Spec) -> Result<Vec<Vec<u8>>> {
    // A sample is polled, whatever the reading does: a consumer is made for that alone.
    let hub = spec.hubs.of(&spec.address, &Mode::Polling { most: spec.most }).await?;
    let described = hub.find().await?;
    let shards = hub.shards().await?;
    let feed = Arc::new(Feed::new(1, &[], 32 << 20));
    let place = match spec.start {
        Start::At(time) => Place::Time(time),
        Start::Earliest | Start::Latest => Place::Horizon,
    };
    let starts = vec![Mark::at(place.clone(), 0); shards.len()];
    feed.grow(&starts);
    let answers = hub::answers();
    for (slot, shard) in shards.iter().enumerate() {
        let stream = described.name.as_str().into();
        let subscriber = Subscriber {
            feed: Arc::clone(&feed),
            lane: 0,
            shape: Arc::clone(&spec.shape),
            origin: Origin { stream, shard: Arc::clone(&shard.id), range: shard.range, slot },
            until: Some(hub.client.now()).filter(|_| !shard.closed),
            answers: Arc::clone(&answers),
            retention_ms: i64::MAX,
            ended: CancellationToken::new(),
            behind_ms: Arc::default(),
            foreign_bytes: Arc::new(AtomicU64::new(0)),
            joined_ms: 0,
        };
        hub.subscribe(place.clone(), subscriber);
    }
    let mut share = Share::new(starts, vec![Mark::sealed(); shards.len()], u64::MAX, usize::MAX);
    let payloads = feed.sample(&mut share, SAMPLE_RECORDS, SAMPLE_MS).await;
    feed.close();
    let payloads = payloads?;
    if payloads.is_empty() && !share.is_done() {
        return Err(hub.client.error(Fault::Passing(format!("no answer in {} s", SAMPLE_MS / 1000))));
    }
    Ok(payloads)
}

#[async_trait]
impl Source for Kinesis {
    fn columns(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn metadata(&self) -> Option<DataType> {
        Some(chunk::metadata_type())
    }

    fn is_watchable(&self) -> bool {
        false
    }

    /// Whether anything new is in a stream nobody can say without reading it: so it is always another value.
    async fn fingerprint(&self) -> Result<Committed> {
        let hub = self.spec.hubs.of(&self.spec.address, &Mode::Polling { most: self.spec.most }).await?;
        let described = hub.find().await?;
        Ok(Committed(json!({ "stream": described.name, "at": hub.client.now(), "look": uuid::Uuid::new_v4() })))
    }

    async fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn Cursor>> {
        Ok(Box::new(KinesisCursor::open(Arc::clone(&self.spec), opening).await?))
    }
}
