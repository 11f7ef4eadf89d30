//! What SQL says about a Kafka connection, as settings of the client.
//!
//! Floor 3: uses `options`, `error`. Knows librdkafka's names and Java's, and no library: what comes out is names and
//! values. `kafka.*` goes before `kafka.config`, the path of a `client.properties` file; what Java says otherwise is
//! translated, what pinsql decides itself is refused, and what only Java's client knows is left out with a notice.

mod file;
mod jaas;
mod login;
mod stores;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::Path;

use super::properties::{CONSUMER, PRODUCER};
use crate::error::{Error, Place, Result, nearest};
use crate::options::{OptionPair, Options, is_harmless};
use crate::store::identity::Identity;

/// Names that mean the same; the second is the one that is handed on.
const ALIASES: [(&str, &str); 12] = [
    ("fetch.max.wait.ms", "fetch.wait.max.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("metadata.broker.list", "bootstrap.servers"),
    ("receive.buffer.bytes", "socket.receive.buffer.bytes"),
    ("request.timeout.ms", "socket.timeout.ms"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("send.buffer.bytes", "socket.send.buffer.bytes"),
    ("ssl.keystore.certificate.chain", "ssl.certificate.pem"),
    ("ssl.keystore.key", "ssl.key.pem"),
    ("ssl.truststore.certificates", "ssl.ca.pem"),
    ("auto.commit.enable", "enable.auto.commit"),
];

/// Names of Java's that the translation asks for, beside librdkafka's.
const JAVA: [&str; 6] = [
    "sasl.jaas.config",
    "ssl.keystore.type",
    "ssl.truststore.location",
    "ssl.truststore.password",
    "ssl.truststore.type",
    "sasl.login.callback.handler.class",
];

/// Names of Java's client that change nothing here.
const JAVA_ONLY: [&str; 34] = [
    "auto.commit.interval.ms",
    "auto.include.jmx.reporter",
    "buffer.memory",
    "default.api.timeout.ms",
    "exclude.internal.topics",
    "interceptor.classes",
    "internal.leave.group.on.close",
    "key.deserializer",
    "key.serializer",
    "max.block.ms",
    "max.poll.records",
    "max.request.size",
    "metadata.max.idle.ms",
    "metric.reporters",
    "partitioner.adaptive.partitioning.enable",
    "partitioner.availability.timeout.ms",
    "partitioner.class",
    "partitioner.ignore.keys",
    "sasl.client.callback.handler.class",
    "security.providers",
    "socket.connection.setup.timeout.max.ms",
    "ssl.allow.dn.changes",
    "ssl.allow.san.changes",
    "ssl.enabled.protocols",
    "ssl.engine.factory.class",
    "ssl.keymanager.algorithm",
    "ssl.protocol",
    "ssl.provider",
    "ssl.secure.random.implementation",
    "ssl.trustmanager.algorithm",
    "value.deserializer",
    "transaction.two.phase.commit.enable",
    "value.serializer",
    "sasl.login.callback.handler.class",
];

/// Families of names that change nothing here.
const JAVA_FAMILIES: [&str; 6] =
    ["basic.auth.", "confluent.", "metrics.", "sasl.kerberos.", "sasl.login.", "schema.registry."];

/// What pinsql decides itself: the name, the value that is no contradiction, why, and what to do.
const DECIDED: [(&str, &str, &str, &str); 19] = [
    ("auto.offset.reset", "", POSITIONS, "say `startingOffsets` = 'earliest' or 'latest'"),
    ("builtin.features", "", "the features are those that pinsql is built with", LEAVE_OUT),
    ("config.providers", "", "pinsql does not run Java's providers", "put the value into a variable of SQL: ${NAME}"),
    ("enable.auto.commit", "false", POSITIONS, LEAVE_OUT),
    ("enable.auto.offset.store", "false", POSITIONS, LEAVE_OUT),
    ("enable.partition.eof", "", "pinsql has to know where a partition ends", LEAVE_OUT),
    ("enabled_events", "", "pinsql takes the client's events itself", LEAVE_OUT),
    ("group.instance.id", "", ASSIGNS, LEAVE_OUT),
    ("group.protocol", "classic", ASSIGNS, LEAVE_OUT),
    ("group.protocol.type", "consumer", ASSIGNS, LEAVE_OUT),
    ("group.remote.assignor", "", ASSIGNS, LEAVE_OUT),
    ("isolation.level", "read_committed", "records of aborted transactions are never read", LEAVE_OUT),
    ("log.queue", "false", "pinsql takes the client's log itself", LEAVE_OUT),
    ("offset.store.method", "", POSITIONS, LEAVE_OUT),
    ("offset.store.path", "", POSITIONS, LEAVE_OUT),
    ("offset.store.sync.interval.ms", "", POSITIONS, LEAVE_OUT),
    ("partition.assignment.strategy", "", ASSIGNS, LEAVE_OUT),
    ("plugin.library.paths", "", "pinsql loads no foreign code", LEAVE_OUT),
    ("ssl.engine.location", "", "pinsql loads no foreign code", LEAVE_OUT),
];
const POSITIONS: &str = "positions are committed with the table";
const ASSIGNS: &str = "pinsql hands partitions out itself";
const LEAVE_OUT: &str = "leave it out";

/// Names whose value is a file, or a folder of them.
const FILES: [&str; 4] = ["ssl.ca.location", "ssl.certificate.location", "ssl.crl.location", "ssl.key.location"];

/// How to connect to a cluster.
#[derive(Clone)]
pub struct Settings {
    /// The servers to ask first, separated by commas.
    pub bootstrap: String,
    client: BTreeMap<String, String>,
    iam: Option<Identity>,
    group_id: Option<String>,
    ignored: Vec<String>,
}

impl Settings {
    /// Takes the options of the connection out. Relative paths count from `base`; `location_servers` are those of
    /// `LOCATION 'kafka://h:9092,h2:9092/topic'`.
    pub fn take(options: &mut Options, location_servers: Option<&str>, base: &Path) -> Result<Self> {
        let named = options.take("bootstrapServers");
        let mut draft = Draft { base, given: BTreeMap::new(), client: BTreeMap::new(), ignored: Vec::new() };
        let mut config = None;
        for pair in options.take_family("kafka.") {
            let given = Given::of_option(pair);
            if given.key() == "config" { config = Some(given) } else { draft.add(given)? }
        }
        if let Some(config) = config {
            let properties = file::read(&base.join(&config.value));
            for property in properties.map_err(|error| error.at(config.value_place.clone()))? {
                draft.add(Given::of_file(property))?;
            }
        }
        let bootstrap = draft.bootstrap(named, location_servers)?;
        draft.refuse_decided()?;
        let iam = login::log_in(&mut draft, &bootstrap)?;
        stores::trust_store(&mut draft)?;
        stores::key_store(&mut draft)?;
        let group_id = draft.take("group.id").map(|given| given.value);
        draft.hand_on()?;
        draft.find_authorities();
        draft.set("bootstrap.servers", bootstrap.clone());
        Ok(Self { bootstrap, client: draft.client, iam, group_id, ignored: draft.ignored })
    }

    /// librdkafka's names and values, with all that security needs. Passwords are among them.
    pub fn client(&self) -> &BTreeMap<String, String> {
        &self.client
    }

    /// Set where the cluster wants tokens of AWS IAM.
    pub fn iam(&self) -> Option<&Identity> {
        self.iam.as_ref()
    }

    /// `kafka.group.id`, which is not in [`Self::client`].
    pub fn group_id(&self) -> Option<&str> {
        self.group_id.as_deref()
    }

    /// One sentence for each property that changes nothing here.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

impl fmt::Debug for Settings {
    /// Shows only values that are known to be harmless.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client: BTreeMap<&str, &str> = self
            .client
            .iter()
            .map(|(name, value)| (name.as_str(), if is_harmless(&format!("kafka.{name}")) { value } else { "***" }))
            .collect();
        f.debug_struct("Settings")
            .field("client", &client)
            .field("iam", &self.iam)
            .field("group_id", &self.group_id)
            .finish_non_exhaustive()
    }
}

/// A property as it was given.
#[derive(Clone)]
struct Given {
    /// As the user would find it: `kafka.sasl.mechanism` in SQL, `sasl.mechanism` in a file.
    name: String,
    value: String,
    in_sql: bool,
    key_place: Place,
    value_place: Place,
}

impl Given {
    fn of_option(pair: OptionPair) -> Self {
        let OptionPair { key, value, key_place, value_place } = pair;
        Self { name: key, value, in_sql: true, key_place, value_place }
    }

    fn of_file(property: file::Property) -> Self {
        let file::Property { key, value, place } = property;
        // Java cuts blanks off everything but passwords.
        let value = if key.ends_with("password") { value } else { value.trim().to_owned() };
        Self { name: key, value, in_sql: false, key_place: place.clone(), value_place: place }
    }

    /// The property's name alone, in lower case.
    fn key(&self) -> String {
        let name = self.name.to_lowercase();
        let alone = if self.in_sql { name.strip_prefix("kafka.") } else { None };
        alone.map(str::to_owned).unwrap_or(name)
    }

    /// An error about the value. The value itself is the caller's to show or not.
    fn wrong(&self, message: impl Into<String>) -> Error {
        Error::config(message).at(self.value_place.clone())
    }

    fn unreadable(&self, path: &Path, error: std::io::Error) -> Error {
        Error::world(format!("`{}` names `{}`, which cannot be read: {error}", self.name, path.display()))
            .at(self.value_place.clone())
            .hint("mend the path; a relative one counts from the project's folder")
            .caused_by(error)
    }

    fn contradicts(&self, other: &Self) -> Error {
        Error::config(format!("`{}` and `{}` say different things", other.name, self.name))
            .at(self.key_place.clone())
            .hint("keep one of them")
    }
}

/// Settings in the making: what is given and not yet understood, and what the client gets.
struct Draft<'a> {
    base: &'a Path,
    given: BTreeMap<String, Given>,
    client: BTreeMap<String, String>,
    ignored: Vec<String>,
}

impl Draft<'_> {
    /// Adds a property. SQL comes first, so what is there from SQL stays when the file says something else.
    fn add(&mut self, given: Given) -> Result<()> {
        let key = given.key();
        let key = ALIASES.iter().find(|(name, _)| *name == key).map_or(key, |(_, name)| (*name).to_owned());
        match self.given.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(given);
            }
            Entry::Occupied(entry) => {
                let other = entry.get();
                if other.in_sql == given.in_sql && other.value != given.value {
                    return Err(given.contradicts(other));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &str) -> Option<Given> {
        self.given.remove(key)
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.client.insert(name.to_owned(), value.into());
    }

    /// Whether SQL says by one of these names what `given` says in the file.
    fn is_replaced(&self, given: &Given, by: &[&str]) -> Result<bool> {
        let Some(other) = by.iter().find_map(|name| self.given.get(*name)) else { return Ok(false) };
        if other.in_sql == given.in_sql {
            return Err(given.contradicts(other));
        }
        Ok(other.in_sql)
    }

    /// The whole path of a file that must be there.
    fn file(&self, given: &Given) -> Result<String> {
        let path = self.base.join(&given.value);
        match std::fs::metadata(&path) {
            Ok(_) => Ok(path.display().to_string()),
            Err(error) => Err(given.unreadable(&path, error)),
        }
    }

    /// The servers; who says them twice says the same.
    fn bootstrap(&mut self, named: Option<OptionPair>, location: Option<&str>) -> Result<String> {
        let property = self.take("bootstrap.servers");
        let in_file = property.clone().filter(|given| !given.in_sql);
        let said = [named.map(Given::of_option), property.filter(|given| given.in_sql)];
        let mut chosen = location.map(|text| ("LOCATION".to_owned(), text.to_owned()));
        for given in said.into_iter().flatten() {
            let servers = servers(&given.value).map_err(|error| error.at(given.value_place.clone()))?;
            match &chosen {
                Some((by, other)) if self::servers(other)? != servers => {
                    return Err(given
                        .wrong(format!("`{}` names other servers than `{by}`", given.name))
                        .hint("keep one of them"));
                }
                _ => chosen = Some((given.name, given.value)),
            }
        }
        let chosen = chosen.or_else(|| in_file.map(|given| (given.name, given.value)));
        let Some((_, text)) = chosen else {
            return Err(Error::config("no server of the Kafka cluster is named").hint(
                "say LOCATION 'kafka://host:9092/topic', or `kafka.bootstrap.servers` = 'host:9092,host2:9092'",
            ));
        };
        servers(&text)?;
        Ok(text.split(',').map(str::trim).filter(|server| !server.is_empty()).collect::<Vec<_>>().join(","))
    }

    fn refuse_decided(&mut self) -> Result<()> {
        for (name, same, why, hint) in DECIDED {
            let Some(given) = self.take(name) else { continue };
            if same.is_empty() || !given.value.eq_ignore_ascii_case(same) {
                return Err(Error::config(format!("`{}` cannot be set: {why}", given.name))
                    .at(given.key_place.clone())
                    .hint(hint));
            }
        }
        Ok(())
    }

    /// Hands on what librdkafka knows, leaves out what changes nothing, and refuses the rest.
    fn hand_on(&mut self) -> Result<()> {
        for (key, given) in std::mem::take(&mut self.given) {
            let is_javas =
                JAVA_ONLY.contains(&key.as_str()) || JAVA_FAMILIES.iter().any(|prefix| key.starts_with(prefix));
            // Java's old default: librdkafka goes through all addresses anyway.
            let is_default_lookup = key == "client.dns.lookup" && given.value == "default";
            if is_javas || is_default_lookup {
                self.ignored.push(format!("`{}` is ignored: it changes nothing in pinsql's client", given.name));
            } else if needs_http(&key) {
                if given.value != "default" {
                    return Err(Error::config(format!("`{}` is for OIDC, which pinsql is built without", given.name))
                        .at(given.key_place)
                        .hint("the mechanisms are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and AWS_MSK_IAM"));
                }
            } else if key == "aws.region" {
                self.ignored.push(format!("`{}` is ignored: it is for AWS_MSK_IAM", given.name));
            } else if PRODUCER.contains(&key.as_str()) {
                self.ignored.push(format!("`{}` is ignored: pinsql only reads from Kafka", given.name));
            } else if CONSUMER.contains(&key.as_str()) {
                let value = self.value(&key, &given)?;
                self.set(&key, value);
            } else {
                return Err(unknown(&given, &key));
            }
        }
        Ok(())
    }

    /// The value as librdkafka wants it.
    fn value(&self, key: &str, given: &Given) -> Result<String> {
        match key {
            "ssl.ca.location" if given.value == "probe" => Ok(given.value.clone()),
            _ if FILES.contains(&key) => self.file(given),
            "ssl.ca.pem" | "ssl.certificate.pem" | "ssl.key.pem" => stores::pem(given),
            "ssl.endpoint.identification.algorithm" if given.value.is_empty() => Ok("none".to_owned()),
            "socket.receive.buffer.bytes" | "socket.send.buffer.bytes" if given.value == "-1" => Ok("0".to_owned()),
            "ssl.cipher.suites" if given.value.contains("_WITH_") => Err(given
                .wrong(format!("`{}` has Java's names of ciphers", given.name))
                .hint("give OpenSSL's, separated by colons: ECDHE-RSA-AES256-GCM-SHA384")),
            _ => Ok(given.value.clone()),
        }
    }

    /// The OpenSSL that is built in looks for authorities in a folder of the machine it was built on; librdkafka knows where
    /// systems keep theirs.
    fn find_authorities(&mut self) {
        let uses_tls = self.client.get("security.protocol").is_some_and(|protocol| protocol.ends_with("ssl"));
        if uses_tls && !self.client.contains_key("ssl.ca.pem") {
            self.client.entry("ssl.ca.location".to_owned()).or_insert_with(|| "probe".to_owned());
        }
    }
}

/// librdkafka gets tokens by HTTP only where it is built with libcurl.
fn needs_http(key: &str) -> bool {
    key.starts_with("https.") || (key.starts_with("sasl.oauthbearer.") && key != "sasl.oauthbearer.config")
}

fn unknown(given: &Given, key: &str) -> Error {
    let prefix = if given.in_sql { "kafka." } else { "" };
    if !given.in_sql && !file::is_name(&given.name) {
        return Error::config("this line is no `property=value`")
            .at(given.key_place.clone())
            .hint("a value that goes over several lines needs a backslash at the end of each but the last");
    }
    let error = Error::config(format!("the Kafka client has no property `{}`", given.name)).at(given.key_place.clone());
    let known = CONSUMER.iter().chain(&JAVA).chain(&JAVA_ONLY).chain(&["config", "aws.region"]).copied();
    match nearest(key, known) {
        Some(name) => error.hint(format!("did you mean `{prefix}{name}`?")),
        None => {
            error.hint("the properties are librdkafka's (CONFIGURATION.md), and those of Java's client that it shares")
        }
    }
}

/// Hosts and ports, in order of their names.
fn servers(text: &str) -> Result<Vec<(String, u16)>> {
    let mut found = Vec::new();
    for server in text.split(',').map(str::trim).filter(|server| !server.is_empty()) {
        // librdkafka takes `SSL://host` too.
        let address = server.rsplit_once("://").map_or(server, |(_, address)| address);
        let is_ipv6 = address.starts_with('[') && address.ends_with(']');
        let (host, port) = match address.rsplit_once(':').filter(|_| !is_ipv6) {
            Some((host, port)) => (host, port.parse().ok()),
            None => (address, Some(9092)),
        };
        let Some(port) = port.filter(|_| !host.is_empty() && !host.contains([' ', '/'])) else {
            return Err(Error::config(format!("`{server}` is not a server of Kafka"))
                .hint("give host:port, several separated by commas"));
        };
        found.push((host.to_lowercase(), port));
    }
    if found.is_empty() {
        return Err(Error::config("the list of Kafka servers is empty").hint("give host:port"));
    }
    found.sort();
    found.dedup();
    Ok(found)
}
