//! The only room that knows the SDK of Kinesis: asks about streams and shards, and fetches records.
//!
//! Floor 3: uses `store`, `clock`, `error`. The SDK's own retries are off: each of its tries is a call that counts against the shard's
//! five a second, so who calls decides when to call again. What went wrong comes back as a [`Fault`], sorted by what to do.

use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{
    ConsumerStatus, Record as SdkRecord, RecordDistributionStrategy, Shard as SdkShard, ShardIteratorType,
    StartingPosition, StreamStatus, SubscribeToShardEventStream,
};

use super::positions::{Described, HashRange, Place, Sequence, Shard, State};
use crate::clock::{self, Clock, Stopwatch};
use crate::error::{Error, Result};
use crate::store::identity::{Identity, Purpose, may_come};
use crate::store::{root_cause, world_hint};

const PURPOSE: Purpose = Purpose { of: "the Kinesis stream", region_option: "region", session: "pinsql" };
const CONNECT: Duration = Duration::from_secs(5);
/// Ten megabytes take their time.
const ATTEMPT: Duration = Duration::from_secs(30);
/// A subscription says something every five seconds at least.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a question that may go better a moment later is asked; how long an answer without records may take; and after
/// which time the question is not asked again, so that whoever has a wrong address hears of it soon.
const TRIES: u32 = 4;
const QUESTION: Duration = Duration::from_secs(6);
const QUESTIONS_MS: u64 = 7_000;
const FIRST_PAUSE_MS: u64 = 250;
/// How many pages without records are passed over in search of one that must be near.
const PAGES: u32 = 20;
const PAGE_PAUSE: Duration = Duration::from_millis(250);
/// For so long what was heard of the service's clock is believed: ours may be set meanwhile.
const LATELY_MS: u64 = 600_000;
/// How long a new consumer is waited for.
const CONSUMER_TRIES: u32 = 60;
const CONSUMER_PAUSE: Duration = Duration::from_millis(500);

/// Where a stream is: the endpoint, and the stream's name.
pub type Site = (Option<String>, String);

/// Where a stream is, and who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Its name, or its ARN.
    pub stream: String,
    /// Another endpoint than Amazon's.
    pub endpoint: Option<String>,
    /// Who asks.
    pub identity: Identity,
}

impl Address {
    /// The stream's name and where it is, whoever asks, and however it is named.
    pub fn site(&self) -> Site {
        let name = self.stream.rsplit('/').next().unwrap_or_default();
        (self.endpoint.clone(), name.to_owned())
    }

    fn arn(&self) -> Option<String> {
        self.stream.starts_with("arn:").then(|| self.stream.clone())
    }

    fn name(&self) -> Option<String> {
        (!self.stream.starts_with("arn:")).then(|| self.stream.clone())
    }
}

/// What went wrong, by what to do about it.
#[derive(Debug)]
pub enum Fault {
    /// Too many calls: ask again later.
    Throttled,
    /// The iterator is too old, or of no use: get another one.
    Expired,
    /// There is no such stream or shard.
    Missing(String),
    /// What was asked for cannot be: a sequence number of another stream, or of records that are gone.
    Invalid(String),
    /// Not now: the stream is being made, the consumer is in use.
    Busy(String),
    /// The service has a fault of its own, or cannot be reached.
    Passing(String),
    /// The service refuses for good.
    Refused(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throttled => f.write_str("the service asks for fewer calls"),
            Self::Expired => f.write_str("the iterator has expired"),
            Self::Missing(words)
            | Self::Invalid(words)
            | Self::Busy(words)
            | Self::Passing(words)
            | Self::Refused(words) => f.write_str(words),
        }
    }
}

impl Fault {
    /// Whether the same may go better a moment later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Throttled | Self::Expired | Self::Busy(_) | Self::Passing(_))
    }

    /// The error that says so of a stream, with where that was looked for.
    pub fn of(self, stream: &str, endpoint: Option<&str>) -> Error {
        let passing = self.is_passing();
        let at = endpoint.map_or_else(String::new, |endpoint| format!(" at `{endpoint}`"));
        let error = match &self {
            Self::Missing(_) => Error::world(format!("there is no stream `{stream}`{at}"))
                .hint("make it, or look whether its name, the account and the region (AWS_REGION) are the right ones"),
            Self::Refused(words) => {
                Error::world(format!("stream `{stream}` may not be read: {words}")).hint(refusal_hint(words))
            }
            other => Error::world(format!("stream `{stream}`{at} cannot be read now: {other}")).hint(match other {
                Self::Passing(words) if words.contains("AWS credentials") => world_hint("credentials"),
                _ => "look whether the endpoint and the region (AWS_REGION) are the right ones",
            }),
        };
        if passing { error.passing() } else { error }
    }
}

fn refusal_hint(words: &str) -> &'static str {
    match world_hint(words) {
        hint if hint.starts_with("look whether the store") => {
            "allow kinesis:ListShards, GetShardIterator, GetRecords and DescribeStreamSummary to the identity in use (with consumerMode 'efo' RegisterStreamConsumer, DescribeStreamConsumer and SubscribeToShard too)"
        }
        hint => hint,
    }
}

/// Faults by their AWS names.
fn sorted<E, R>(error: SdkError<E, R>) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: fmt::Debug + 'static,
{
    let words = match error.as_service_error().and_then(ProvideErrorMetadata::message) {
        Some(message) => message.to_owned(),
        None => root_cause(&error),
    };
    let said = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    // Some name the namespace too: `com.amazonaws.kinesis#…`.
    let code = said.rsplit('#').next().unwrap_or_default();
    match code {
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "KMSThrottlingException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "TooManyRequestsException" => Fault::Throttled,
        "ExpiredIteratorException" | "ExpiredNextTokenException" => Fault::Expired,
        "ResourceNotFoundException" => Fault::Missing(words),
        "InvalidArgumentException" | "ValidationException" => Fault::Invalid(words),
        "ResourceInUseException" => Fault::Busy(words),
        "AccessDeniedException"
        | "AccessDenied"
        | "KMSAccessDeniedException"
        | "KMSDisabledException"
        | "KMSInvalidStateException"
        | "KMSNotFoundException"
        | "KMSOptInRequired"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "UnrecognizedClientException"
        | "IncompleteSignatureException"
        | "MissingAuthenticationTokenException"
        | "OptInRequired"
        | "InvalidClientTokenId" => Fault::Refused(format!("{code}: {words}")),
        "ExpiredTokenException" | "ExpiredToken" => Fault::Refused("the AWS credentials have expired".to_owned()),
        _ => other_fault(&error, words),
    }
}

fn other_fault<E, R>(error: &SdkError<E, R>, words: String) -> Fault
where
    E: std::error::Error + 'static,
    R: fmt::Debug + 'static,
{
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(error) = found.downcast_ref::<CredentialsError>() {
            let words = format!("there are no AWS credentials: {}", words.lines().next().unwrap_or_default());
            return if may_come(error) { Fault::Passing(words) } else { Fault::Refused(words) };
        }
        cause = found.source();
    }
    match error {
        SdkError::TimeoutError(_) => Fault::Passing("no answer in time".to_owned()),
        _ => Fault::Passing(words),
    }
}

/// What one call brought.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The records, in order.
    pub records: Vec<Record>,
    /// For the next call; None at the end of a closed shard.
    pub next: Option<String>,
    /// How far behind the tip the call was, in milliseconds.
    pub behind_ms: u64,
    /// What it weighs on the shard's limit: data and keys.
    pub bytes: usize,
}

/// A record of the stream.
#[derive(Debug)]
pub struct Record {
    /// Its number.
    pub sequence: Sequence,
    /// When it arrived, in milliseconds since 1970.
    pub arrived: i64,
    /// Its partition key; a stream may spread records without one.
    pub key: Option<String>,
    /// Its bytes.
    pub data: Vec<u8>,
}

fn record(record: SdkRecord) -> Record {
    Record {
        sequence: Sequence::from(record.sequence_number),
        arrived: record.approximate_arrival_timestamp.map_or(0, millis),
        key: record.partition_key,
        data: record.data.into_inner(),
    }
}

fn millis(time: DateTime) -> i64 {
    time.to_millis().unwrap_or_default()
}

fn weight(records: &[Record]) -> usize {
    records.iter().map(|record| record.data.len() + record.key.as_ref().map_or(0, String::len)).sum()
}

/// What the service's clock says more than ours, in milliseconds, from the `Date` of its answers, which has no fractions.
///
/// An answer is read some time after it was dated, by a machine that stood still a long time: so of what was heard lately
/// the greatest is the nearest.
#[derive(Debug, Clone, Default)]
struct Skew(Arc<Mutex<Option<(i64, Stopwatch)>>>);

impl Skew {
    fn heard(&self, skew: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|(greatest, since)| skew > greatest || since.elapsed_ms() > LATELY_MS) {
            *known = Some((skew, Stopwatch::start()));
        }
    }

    fn millis(&self) -> i64 {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Within a second the two agree as well as they can.
        known.map(|(skew, _)| skew).filter(|skew| !(-1_000..=1_000).contains(skew)).unwrap_or(0)
    }
}

#[derive(Debug)]
struct ReadDate {
    skew: Skew,
    clock: Arc<dyn Clock>,
}

impl Intercept for ReadDate {
    fn name(&self) -> &'static str {
        "ReadDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").map(chrono::DateTime::parse_from_rfc2822);
        if let Some(Ok(date)) = date {
            self.skew.heard(date.timestamp_millis() - self.clock.now().timestamp_millis());
        }
        Ok(())
    }
}

/// Asks about one stream.
#[derive(Debug)]
pub struct Client {
    sdk: aws_sdk_kinesis::Client,
    address: Address,
    /// Another endpoint than Amazon's, where one is known.
    endpoint: Option<String>,
    skew: Skew,
    clock: Arc<dyn Clock>,
}

impl Client {
    /// A client. The stream is not asked yet.
    pub async fn new(address: Address) -> Result<Self> {
        let config = address.identity.config(PURPOSE).await?;
        let (skew, clock) = (Skew::default(), clock::system());
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build();
        let mut builder = aws_sdk_kinesis::config::Builder::from(&config)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .interceptor(ReadDate { skew: skew.clone(), clock: Arc::clone(&clock) });
        if let Some(endpoint) = &address.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let endpoint = address.endpoint.clone().or_else(|| config.endpoint_url().map(str::to_owned));
        Ok(Self { sdk: aws_sdk_kinesis::Client::from_conf(builder.build()), address, endpoint, skew, clock })
    }

    /// The error that a fault of this stream is.
    pub fn error(&self, fault: Fault) -> Error {
        fault.of(self.stream(), self.endpoint.as_deref())
    }

    /// The stream's name or ARN, as it was given.
    pub fn stream(&self) -> &str {
        &self.address.stream
    }

    /// The time of day as the service has it, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock.now().timestamp_millis() + self.skew.millis()
    }

    /// What the stream says of itself.
    pub async fn describe(&self) -> Result<Described, Fault> {
        patiently(|| async {
            let call = self.sdk.describe_stream_summary();
            let call = call.set_stream_name(self.address.name()).set_stream_arn(self.address.arn());
            let answer = call.send().await.map_err(sorted)?;
            let summary = answer.stream_description_summary.ok_or_else(|| unspoken("its description"))?;
            Ok(Described {
                name: summary.stream_name,
                created: millis(summary.stream_creation_timestamp),
                retention_ms: i64::from(summary.retention_period_hours) * 3_600_000,
                is_spread: summary.record_distribution_strategy == Some(RecordDistributionStrategy::Auto),
                state: match summary.stream_status {
                    StreamStatus::Creating => State::Creating,
                    StreamStatus::Deleting => State::Deleting,
                    _ => State::Active,
                },
            })
        })
        .await
    }

    /// All shards of the stream, those that are closed too.
    pub async fn shards(&self) -> Result<Vec<Shard>, Fault> {
        patiently(|| self.list_shards()).await
    }

    async fn list_shards(&self) -> Result<Vec<Shard>, Fault> {
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let call = self.sdk.list_shards();
            // Behind the first page, the token says which stream is meant.
            let call = match token.take() {
                Some(token) => call.next_token(token),
                None => call.set_stream_name(self.address.name()).set_stream_arn(self.address.arn()),
            };
            let answer = match call.send().await.map_err(sorted) {
                Err(Fault::Expired) => return Err(Fault::Passing("the list of shards took too long".to_owned())),
                answer => answer?,
            };
            for one in answer.shards.unwrap_or_default() {
                found.push(shard(one)?);
            }
            token = answer.next_token;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// An iterator that begins at a place. None where nothing can follow.
    pub async fn iterator(&self, shard: &str, at: &Place) -> Result<Option<String>, Fault> {
        patiently(|| async {
            let position = position(at)?;
            let call = self.sdk.get_shard_iterator().shard_id(shard);
            let call = call.set_stream_name(self.address.name()).set_stream_arn(self.address.arn());
            let call = call
                .shard_iterator_type(position.r#type)
                .set_starting_sequence_number(position.sequence_number)
                .set_timestamp(position.timestamp);
            Ok(call.send().await.map_err(sorted)?.shard_iterator)
        })
        .await
    }

    /// What is behind an iterator: one call, tried once.
    pub async fn records(&self, iterator: &str, most: i32) -> Result<Fetched, Fault> {
        let call = self.sdk.get_records().shard_iterator(iterator).limit(most).set_stream_arn(self.address.arn());
        let answer = call.send().await.map_err(sorted)?;
        let records: Vec<Record> = answer.records.into_iter().map(record).collect();
        Ok(Fetched {
            bytes: weight(&records),
            records,
            next: answer.next_shard_iterator,
            // Who does not say is not known to be at the tip.
            behind_ms: answer.millis_behind_latest.map_or(1, |behind| u64::try_from(behind).unwrap_or(0)),
        })
    }

    /// Whether a record is still there.
    pub async fn holds(&self, shard: &str, sequence: &Sequence) -> Result<bool, Fault> {
        let at = Place::Behind { sequence: sequence.clone(), within: Some(0) };
        let iterator = match self.iterator(shard, &at).await {
            Ok(iterator) => iterator,
            Err(Fault::Invalid(_) | Fault::Missing(_)) => return Ok(false),
            Err(fault) => return Err(fault),
        };
        let mut next = iterator;
        for _ in 0..PAGES {
            let Some(iterator) = next else { break };
            let fetched = patiently(|| self.records(&iterator, 1)).await?;
            if let Some(first) = fetched.records.first() {
                return Ok(first.sequence == *sequence);
            }
            // A page without records says nothing while there is more behind it.
            next = fetched.next.filter(|_| fetched.behind_ms > 0);
            tokio::time::sleep(PAGE_PAUSE).await;
        }
        Ok(false)
    }

    /// The ARN of a consumer of this name, which is registered where it is not there.
    pub async fn consumer(&self, name: &str) -> Result<String, Fault> {
        let arn = match self.address.arn() {
            Some(arn) => arn,
            None => self.stream_arn().await?,
        };
        match self.sdk.register_stream_consumer().stream_arn(&arn).consumer_name(name).send().await.map_err(sorted) {
            Ok(_) | Err(Fault::Busy(_)) => {}
            Err(Fault::Throttled) => {
                return Err(Fault::Busy(format!(
                    "consumer `{name}` cannot be registered: the stream has as many as it may have, or makes too many at once"
                )));
            }
            Err(fault) => return Err(fault),
        }
        for _ in 0..CONSUMER_TRIES {
            let call = self.sdk.describe_stream_consumer().stream_arn(&arn).consumer_name(name);
            let described = match call.send().await.map_err(sorted) {
                // One of this name was just being deregistered.
                Err(Fault::Missing(words)) => return Err(Fault::Busy(words)),
                answer => answer?.consumer_description,
            };
            if let Some(consumer) = described.filter(|one| one.consumer_status == ConsumerStatus::Active) {
                return Ok(consumer.consumer_arn);
            }
            tokio::time::sleep(CONSUMER_PAUSE).await;
        }
        Err(Fault::Busy(format!("consumer `{name}` does not become active")))
    }

    async fn stream_arn(&self) -> Result<String, Fault> {
        let answer = patiently(|| async {
            self.sdk.describe_stream_summary().stream_name(&self.address.stream).send().await.map_err(sorted)
        });
        let summary = answer.await?.stream_description_summary.ok_or_else(|| unspoken("its description"))?;
        Ok(summary.stream_arn)
    }

    /// Has a shard's records pushed, for five minutes at most.
    pub async fn subscribe(&self, consumer: &str, shard: &str, at: &Place) -> Result<Subscription, Fault> {
        let call =
            self.sdk.subscribe_to_shard().consumer_arn(consumer).shard_id(shard).starting_position(position(at)?);
        Ok(Subscription(call.send().await.map_err(sorted)?))
    }
}

/// What a consumer is pushed.
#[derive(Debug)]
pub struct Subscription(SubscribeToShardOutput);

/// What one event of a subscription brought.
#[derive(Debug)]
pub struct Pushed {
    /// The records; `next` is not set.
    pub fetched: Fetched,
    /// Up to here there is nothing more; None at the end of a closed shard.
    pub continuation: Option<Sequence>,
}

impl Subscription {
    /// The next event; None when the subscription is over.
    pub async fn next(&mut self) -> Result<Option<Pushed>, Fault> {
        let silent = |_| Fault::Passing("a subscription has fallen silent".to_owned());
        loop {
            let event = tokio::time::timeout(SILENCE, self.0.event_stream.recv()).await.map_err(silent)?;
            match event.map_err(sorted)? {
                Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) => {
                    let records: Vec<Record> = event.records.into_iter().map(record).collect();
                    let bytes = weight(&records);
                    let behind_ms = u64::try_from(event.millis_behind_latest).unwrap_or(0);
                    let number = event.continuation_sequence_number;
                    let continuation = (!number.is_empty()).then(|| Sequence::from(number));
                    let is_over = event.child_shards.is_some_and(|children| !children.is_empty());
                    let fetched = Fetched { records, next: None, behind_ms, bytes };
                    return Ok(Some(Pushed { fetched, continuation: continuation.filter(|_| !is_over) }));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

fn position(at: &Place) -> Result<StartingPosition, Fault> {
    let position = match at {
        Place::Horizon => StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon),
        Place::Time(millis) => {
            StartingPosition::builder().r#type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(*millis))
        }
        Place::Behind { sequence, within: None } => StartingPosition::builder()
            .r#type(ShardIteratorType::AfterSequenceNumber)
            .sequence_number(sequence.digits()),
        // The rest of an aggregate is in the record itself.
        Place::Behind { sequence, within: Some(_) } => {
            StartingPosition::builder().r#type(ShardIteratorType::AtSequenceNumber).sequence_number(sequence.digits())
        }
        Place::End => return Err(Fault::Invalid("nothing follows the end of a shard".to_owned())),
    };
    position.build().map_err(|error| Fault::Invalid(error.to_string()))
}

fn unspoken(what: &str) -> Fault {
    Fault::Passing(format!("the service's answer lacks {what}"))
}

fn shard(shard: SdkShard) -> Result<Shard, Fault> {
    let range = shard.hash_key_range.ok_or_else(|| unspoken("a shard's range"))?;
    let number = |digits: &str| digits.parse::<u128>().map_err(|_| unspoken("a shard's range"));
    let parents = [shard.parent_shard_id, shard.adjacent_parent_shard_id];
    Ok(Shard {
        id: shard.shard_id.into(),
        parents: parents.into_iter().flatten().map(Arc::from).collect(),
        range: HashRange { first: number(&range.starting_hash_key)?, last: number(&range.ending_hash_key)? },
        closed: shard.sequence_number_range.is_some_and(|range| range.ending_sequence_number.is_some()),
    })
}

/// Asks again, with growing pauses, what may go better a moment later. The SDK's futures are boxed: theirs are so deep that
/// the compiler would not lay out those that wait for them.
async fn patiently<T, F: Future<Output = Result<T, Fault>>>(mut ask: impl FnMut() -> F) -> Result<T, Fault> {
    let watch = Stopwatch::start();
    let mut tried = 1;
    loop {
        let silence = |_| Err(Fault::Passing("no answer in time".to_owned()));
        match tokio::time::timeout(QUESTION, Box::pin(ask())).await.unwrap_or_else(silence) {
            // Once more also where this machine stood still for as long as an answer may take.
            Err(fault) if fault.is_passing() && tried < TRIES && (tried == 1 || watch.elapsed_ms() < QUESTIONS_MS) => {
                tokio::time::sleep(pause(tried)).await;
                tried += 1;
            }
            answer => return answer,
        }
    }
}

/// The pause behind the so-many-th failure: doubled each time up to eight seconds, and a random part of it, so that many
/// who were refused together do not come again together.
pub fn pause(failures: u32) -> Duration {
    let whole = FIRST_PAUSE_MS << failures.saturating_sub(1).min(5);
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    Duration::from_millis(whole / 2 + random % (whole / 2 + 1))
}
