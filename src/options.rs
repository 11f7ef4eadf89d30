//! Options of sources and properties of tables: taken one by one; what is left over is the error.
//!
//! Floor 2: uses `error` only. A reader asks for each option that it knows; [`Options::finish`] then refuses the first
//! that nobody asked for and names the nearest that somebody did.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Place, Result, nearest};

/// Options whose value may be shown to anybody. All others are hidden: a name that is missing here costs a reader some
/// stars, a name that is missing in a list of secrets costs a password.
#[rustfmt::skip]
const HARMLESS: [&str; 31] = [
    "bootstrapservers", "columns", "consumermode", "consumername", "endpoint", "envelope", "failondataloss",
    "fileextension", "format", "includeheaders", "initialposition", "maxfilespertrigger", "maxrecordbytes",
    "maxrecordsperfetch", "mode", "multiline", "partitionkey", "path", "profile", "recursive", "region", "rolearn",
    "rolesessionname", "schema",
    "startingoffsets", "startingtimestamp", "streamarn", "streamname", "subscribe", "subscribepattern", "tombstones",
];

/// The same of `kafka.*`, without the prefix.
#[rustfmt::skip]
const HARMLESS_OF_KAFKA: [&str; 114] = [
    "allow.auto.create.topics", "api.version.fallback.ms", "api.version.request", "api.version.request.timeout.ms",
    "auto.commit.enable", "auto.commit.interval.ms", "auto.offset.reset", "aws.region", "bootstrap.servers",
    "broker.address.family", "broker.address.ttl", "broker.version.fallback", "builtin.features", "check.crcs",
    "client.dns.lookup", "client.id", "client.rack", "config", "connections.max.idle.ms",
    "consume.callback.max.messages", "coordinator.query.interval.ms", "debug", "enable.auto.commit",
    "enable.auto.offset.store", "enable.metrics.push", "enable.partition.eof", "enable.random.seed",
    "enable.sasl.oauthbearer.unsecure.jwt", "enable.ssl.certificate.verification", "enabled_events",
    "fetch.error.backoff.ms", "fetch.max.bytes", "fetch.max.wait.ms", "fetch.message.max.bytes", "fetch.min.bytes",
    "fetch.queue.backoff.ms", "fetch.wait.max.ms", "group.id", "group.instance.id", "group.protocol",
    "group.protocol.type", "group.remote.assignor", "heartbeat.interval.ms", "internal.termination.signal",
    "isolation.level", "key.deserializer", "log.connection.close", "log.queue", "log.thread.name", "log_level",
    "max.in.flight", "max.in.flight.requests.per.connection", "max.partition.fetch.bytes", "max.poll.interval.ms",
    "max.poll.records", "message.copy.max.bytes", "message.max.bytes", "metadata.broker.list", "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms", "metadata.recovery.strategy", "offset.store.method",
    "offset.store.path", "offset.store.sync.interval.ms", "partition.assignment.strategy",
    "queued.max.messages.kbytes", "queued.min.messages", "receive.message.max.bytes", "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms", "reconnect.backoff.ms", "request.timeout.ms", "retry.backoff.max.ms",
    "retry.backoff.ms", "sasl.client.callback.handler.class", "sasl.kerberos.keytab",
    "sasl.kerberos.min.time.before.relogin", "sasl.kerberos.service.name", "sasl.login.callback.handler.class",
    "sasl.mechanism", "sasl.mechanisms", "security.protocol", "session.timeout.ms", "socket.blocking.max.ms",
    "socket.connection.setup.timeout.ms", "socket.keepalive.enable", "socket.max.fails", "socket.nagle.disable",
    "socket.receive.buffer.bytes", "socket.send.buffer.bytes", "socket.timeout.ms", "ssl.ca.certificate.stores",
    "ssl.ca.location", "ssl.certificate.location", "ssl.cipher.suites", "ssl.crl.location", "ssl.curves.list",
    "ssl.enabled.protocols", "ssl.endpoint.identification.algorithm", "ssl.key.location", "ssl.keystore.location",
    "ssl.keystore.type", "ssl.protocol", "ssl.sigalgs.list", "ssl.truststore.location", "ssl.truststore.type",
    "statistics.interval.ms", "topic.blacklist", "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.cnt", "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms", "topic.metadata.refresh.sparse", "value.deserializer",
];

/// Whether the value of an option or a property may be shown in messages, logs and statements. Whatever is not known is
/// not harmless.
pub fn is_harmless(key: &str) -> bool {
    let key = key.to_lowercase();
    match key.strip_prefix("kafka.") {
        Some(name) => HARMLESS_OF_KAFKA.contains(&name),
        None => HARMLESS.contains(&key.as_str()) || key.starts_with("delta.") || key.starts_with("pinsql."),
    }
}

/// One option as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct OptionPair {
    /// The key, as written.
    pub key: String,
    /// The value's text: a string's content, a number's digits, `true` or `false`.
    pub value: String,
    /// Where the key stands.
    pub key_place: Place,
    /// Where the value stands.
    pub value_place: Place,
}

impl OptionPair {
    /// The value, or stars where it may be a secret.
    pub fn shown(&self) -> &str {
        if is_harmless(&self.key) { &self.value } else { "***" }
    }
}

impl fmt::Debug for OptionPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} = {:?}", self.key, self.shown())
    }
}

/// Options not yet taken. Keys are matched whatever their case.
#[derive(Debug, Clone)]
pub struct Options {
    pairs: Vec<OptionPair>,
    known: Vec<String>,
}

impl Options {
    /// All options of a statement. The same key twice is an error.
    pub fn new(pairs: Vec<OptionPair>) -> Result<Self> {
        for (index, pair) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|other| other.key.eq_ignore_ascii_case(&pair.key)) {
                return Err(Error::sql(format!("option `{}` is given twice", pair.key))
                    .at(pair.key_place.clone())
                    .hint("remove one of the two"));
            }
        }
        Ok(Self { pairs, known: Vec::new() })
    }

    /// Takes an option out, whatever the case of its key.
    pub fn take(&mut self, key: &str) -> Option<OptionPair> {
        self.known.push(key.to_owned());
        let index = self.pairs.iter().position(|pair| pair.key.eq_ignore_ascii_case(key))?;
        Some(self.pairs.remove(index))
    }

    /// Takes every option whose key begins with a prefix: a family that is too large to list.
    pub fn take_family(&mut self, prefix: &str) -> Vec<OptionPair> {
        self.known.push(format!("{prefix}*"));
        let begins = |pair: &mut OptionPair| pair.key.to_ascii_lowercase().starts_with(prefix);
        self.pairs.extract_if(.., begins).collect()
    }

    /// Takes an option that is true or false.
    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key).map(|pair| parse_bool(&pair)).transpose()
    }

    /// Takes an option that is a whole number of at least 1.
    pub fn take_count(&mut self, key: &str) -> Result<Option<u64>> {
        let Some(pair) = self.take(key) else { return Ok(None) };
        match pair.value.parse::<u64>() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(wrong_value(&pair, "a whole number of at least 1")),
        }
    }

    /// Takes an option that is a time: `250ms`, `1s`, `5 minutes`.
    pub fn take_duration(&mut self, key: &str) -> Result<Option<Duration>> {
        let Some(pair) = self.take(key) else { return Ok(None) };
        let time = parse_duration(&pair.value);
        time.map(Some).ok_or_else(|| wrong_value(&pair, "a time such as 250ms, 1s or 5 minutes"))
    }

    /// Takes an option that is one of a few words; the answer is the word's index.
    pub fn take_word(&mut self, key: &str, words: &[&'static str]) -> Result<Option<usize>> {
        let Some(pair) = self.take(key) else { return Ok(None) };
        match words.iter().position(|word| word.eq_ignore_ascii_case(&pair.value)) {
            Some(index) => Ok(Some(index)),
            None => Err(wrong_value(&pair, &format!("one of {}", words.join(", ")))),
        }
    }

    /// Refuses what nobody took.
    pub fn finish(self, of: &str) -> Result<()> {
        let Some(pair) = self.pairs.into_iter().next() else { return Ok(()) };
        let error = Error::config(format!("{of} has no option `{}`", pair.key)).at(pair.key_place);
        Err(match nearest(&pair.key, self.known.iter().map(String::as_str)) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error.hint(format!("the options are {}", self.known.join(", "))),
        })
    }
}

/// An option has a value that it cannot have.
pub fn wrong_value(pair: &OptionPair, expected: &str) -> Error {
    Error::config(format!("option `{}` is `{}`, which is not {expected}", pair.key, pair.shown()))
        .at(pair.value_place.clone())
        .hint(format!("give {expected}"))
}

/// A whole number and its unit: `250ms`, `1s`, `5 min`, `2 hours`; a number alone is seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let millis = match text[digits.len()..].trim() {
        "ms" | "millisecond" | "milliseconds" => 1,
        "" | "s" | "sec" | "second" | "seconds" => 1_000,
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// A time of day in milliseconds since 1970: that number itself, RFC 3339, or a date with or without a time, UTC.
pub fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(millis) = text.parse::<i64>() {
        return (millis >= 0).then_some(millis);
    }
    let zoned = chrono::DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_millis());
    let naive =
        |format| chrono::NaiveDateTime::parse_from_str(text, format).map(|time| time.and_utc().timestamp_millis());
    let day = || {
        let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis())
    };
    zoned.or_else(|_| naive("%Y-%m-%d %H:%M:%S%.f")).or_else(|_| naive("%Y-%m-%dT%H:%M:%S%.f")).ok().or_else(day)
}

fn parse_bool(pair: &OptionPair) -> Result<bool> {
    match pair.value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong_value(pair, "true or false")),
    }
}
