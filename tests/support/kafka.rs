//! A real Apache Kafka broker for the tests, and what they do to it.
//!
//! Uses nothing of the project. `install.sh` fetches the jars when they are first asked for. The broker keeps its data in
//! a folder of its own, listens on 127.0.0.1, and ends with the process of the tests, however that ends: a watchman reads
//! the pipe that this process holds, and when it closes he kills the broker and removes its folder.
//!
//! Give each test topics of its own. A topic's `cleanup.policy`, `retention.ms`, `segment.bytes` and so on belong to
//! [`Kafka::create_topic`]; the broker looks at them every fraction of a second, and by itself it keeps everything.
#![allow(clippy::expect_used, clippy::panic, reason = "the kit fails a test by panicking")]

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Message as _, Offset, TopicPartitionList};
use tempfile::TempDir;

use super::time::{PATIENCE, until};

/// The user of the SASL listeners, by PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
pub const USER: &str = "alice";
/// The user's password.
pub const PASSWORD: &str = "alice-secret";
/// The password of the encrypted client key.
pub const KEY_PASSWORD: &str = "key-secret";
/// The password of the PKCS12 key store.
pub const STORE_PASSWORD: &str = "store-secret";

/// How long one question may take.
const TRY: Duration = Duration::from_secs(5);

/// The broker's listeners and their protocols, in the order of its ports; the last one is for itself.
const LISTENERS: [(&str, &str); 6] = [
    ("PLAINTEXT", "PLAINTEXT"),
    ("SSL", "SSL"),
    ("MTLS", "SSL"),
    ("SASL", "SASL_PLAINTEXT"),
    ("SASLSSL", "SASL_SSL"),
    ("CONTROLLER", "PLAINTEXT"),
];

/// Becomes the broker, after leaving a watchman behind. He ends with the process of the tests: killing the broker and
/// removing its folder, unless he was told that there is nothing left to do.
const BROKER: &str = r#"
exec 3<&0 </dev/null
(
  trap '' INT TERM HUP
  read -r word <&3
  [ "$word" = leave ] && exit
  kill -9 $$
  rm -rf "$0" || { sleep 1; rm -rf "$0"; }
) &
exec 3<&-
exec java "$@"
"#;

/// What every broker here is told. Little memory and few threads, everything on one replica, chores several times a
/// second, and nothing deleted for its age: tests write old timestamps.
const PROPERTIES: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
num.network.threads=1
num.io.threads=2
background.threads=2
group.coordinator.threads=1
share.coordinator.threads=1
num.recovery.threads.per.data.dir=1
auto.create.topics.enable=false
delete.topic.enable=true
message.max.bytes=20971520
replica.fetch.max.bytes=20971520
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=200
log.message.timestamp.after.max.ms=9223372036854775807
log.retention.ms=-1
log.retention.check.interval.ms=300
log.initial.task.delay.ms=100
log.segment.delete.delay.ms=100
log.cleaner.backoff.ms=100
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
";

/// How long the controller waits for a broker that is silent before its partitions have no leader, in milliseconds. A broker
/// that was killed may come back when that is over; one that is never killed may stand still as long as the machine does.
const MORTAL_SESSION_MS: u32 = 1_000;
const SHARED_SESSION_MS: u32 = 100_000;

/// The settings of the listeners that ask who is there.
const SECURITY: &str = r#"
ssl.keystore.type=PEM
ssl.truststore.type=PEM
ssl.client.auth=none
listener.name.mtls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
"#;

/// Makes a private authority in `$1`, a certificate of the broker, one of a client, and the forms of the client's key.
const CERTIFICATES: &str = r#"
set -eu
cd "$1"
new() {
  local name=$1
  shift
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -keyout "$name.key" -out "$name.pem" "$@"
}
new ca -subj /CN=pinsql-test-authority
new server -subj /CN=localhost -CA ca.pem -CAkey ca.key \
  -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1,DNS:localhost
new client -subj /CN=pinsql-test-client -CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE
cat server.key server.pem ca.pem >broker.pem
openssl pkcs8 -topk8 -in client.key -out client-encrypted.key -v2 aes-256-cbc -passout "pass:$2"
openssl pkcs12 -export -in client.pem -inkey client.key -certfile ca.pem -out client.p12 -passout "pass:$3"
"#;

/// A lock that a failed test does not take away from the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that nobody else has: not another test, and hardly another process.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Runs a command to its end, which must be good.
fn run(command: &mut Command, name: &str) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("`{name}` did not start: {error}"));
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "`{name}` failed ({}):\n{complaint}", done.status);
    String::from_utf8(done.stdout).expect("UTF-8")
}

/// The broker's class path, installed where it is not there yet.
fn class_path() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/install.sh");
        let folder = run(Command::new("bash").arg(script).arg("kafka").stderr(Stdio::inherit()), "install.sh kafka");
        format!("{}/libs/*", folder.trim())
    })
}

/// Ports that are free now. They lie below those that the system gives to outgoing connections: a client that keeps
/// knocking while the broker is away could otherwise take the broker's own port, or even connect to itself.
fn free_ports() -> [u16; LISTENERS.len()] {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new((random() % 20_000) as u32));
    std::array::from_fn(|_| {
        let mut ports = (0..20_000).map(|_| 12_000 + (next.fetch_add(1, Ordering::Relaxed) % 20_000) as u16);
        ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
    })
}

/// The broker's process.
struct Process {
    child: Child,
    input: ChildStdin,
}

impl Process {
    /// Starts the broker of a folder and waits until it serves.
    fn start(folder: &Path) -> Self {
        let log = folder.join("broker.log");
        let output = File::create(&log).expect("the broker's log");
        let mut command = Command::new("bash");
        command.args(["-c", BROKER]).arg(folder);
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"]);
        command.args(["-cp", class_path(), "kafka.Kafka"]).arg(folder.join("server.properties"));
        command.stdin(Stdio::piped()).stdout(output.try_clone().expect("one more handle")).stderr(output);
        let mut child = command.spawn().expect("bash starts");
        let input = child.stdin.take().expect("standard input is piped");
        let mut process = Self { child, input };
        process.wait(&log);
        process
    }

    fn wait(&mut self, log: &Path) {
        until("the broker does not start", || {
            let ended = self.child.try_wait().expect("the broker's state");
            let said = std::fs::read_to_string(log).expect("the broker's log");
            let tail = said.get(said.len().saturating_sub(4000)..).unwrap_or(&said);
            assert!(ended.is_none(), "the broker has ended ({ended:?}):\n{tail}");
            said.contains("Kafka Server started")
        });
    }
}

impl Drop for Process {
    /// SIGKILL, which the broker cannot see coming.
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = writeln!(self.input, "leave");
    }
}

/// A message for [`Kafka::produce`].
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Where it goes; None leaves it to the key's hash, or to chance.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// None, and 0 as well, is the time when it is sent.
    pub timestamp_ms: Option<i64>,
}

impl Message {
    /// A message that has a payload alone.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    /// A message that has a key alone.
    pub fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self::default().key(key)
    }

    /// The same in a partition.
    #[must_use]
    pub fn partition(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }

    /// The same with a key.
    #[must_use]
    pub fn key(self, key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.map(<[u8]>::to_vec)));
        self
    }

    /// The same at a time, in milliseconds since 1970, which cannot be 0.
    #[must_use]
    pub fn at(self, timestamp_ms: i64) -> Self {
        Self { timestamp_ms: Some(timestamp_ms), ..self }
    }
}

/// Remembers the deliveries that failed.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Vec<String>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            lock(&self.failed).push(format!("partition {}: {error}", message.partition()));
        }
    }
}

/// A producer for a topic. Connected and with the topic's leaders at hand, it starts in milliseconds instead of half a
/// second or more.
fn producer(config: &ClientConfig, topic: &str) -> BaseProducer<Deliveries> {
    let producer: BaseProducer<_> = config.create_with_context(Deliveries::default()).expect("a producer");
    let metadata = producer.client().fetch_metadata(Some(topic), PATIENCE).expect("the topic's metadata");
    assert!(metadata.topics()[0].error().is_none(), "there is no topic `{topic}`");
    producer
}

/// Hands a message to the producer, waiting for a place in its queue.
fn send(producer: &BaseProducer<Deliveries>, topic: &str, message: &Message) {
    loop {
        match producer.send(record(topic, message)) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("`{topic}` takes no message: {error}"),
        }
    }
}

fn record<'a>(topic: &'a str, message: &'a Message) -> BaseRecord<'a, [u8], [u8]> {
    let mut record = BaseRecord::to(topic);
    record.partition = message.partition;
    record.key = message.key.as_deref();
    record.payload = message.payload.as_deref();
    record.timestamp = message.timestamp_ms;
    if !message.headers.is_empty() {
        let add = |headers: OwnedHeaders, (name, value): &(String, Option<Vec<u8>>)| {
            headers.insert(Header { key: name, value: value.as_deref() })
        };
        record.headers = Some(message.headers.iter().fold(OwnedHeaders::new(), add));
    }
    record
}

/// Sends messages and waits until the broker has all of them.
fn send_all(producer: &BaseProducer<Deliveries>, topic: &str, messages: impl IntoIterator<Item = Message>) {
    for (number, message) in messages.into_iter().enumerate() {
        send(producer, topic, &message);
        if number % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    // `flush` would sleep for 100 ms at a time.
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    let failed = lock(&producer.context().failed);
    assert!(failed.is_empty(), "{} messages did not reach `{topic}`; the first: {}", failed.len(), failed[0]);
}

/// A transaction that has messages in the log and no end yet. Dropped like this it stays open, as if its producer had
/// died, until the broker aborts it after the time that [`Kafka::open_transaction_for`] gave it.
pub struct Transaction {
    producer: BaseProducer<Deliveries>,
    config: ClientConfig,
    topic: String,
}

impl Transaction {
    /// Adds messages, also to another topic.
    pub fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        send_all(&self.producer, topic, messages);
    }

    /// Commits, and waits until every reader sees it.
    pub fn commit(self) {
        self.producer.commit_transaction(PATIENCE).expect("the commit");
        self.settle();
    }

    /// Aborts, and waits until no reader waits for it.
    pub fn abort(self) {
        self.producer.abort_transaction(PATIENCE).expect("the abort");
        self.settle();
    }

    /// The broker answers before it writes the markers, and refuses a producer of the same name until it has.
    fn settle(self) {
        drop(self.producer);
        producer(&self.config, &self.topic).init_transactions(PATIENCE).expect("the transaction's markers");
    }
}

/// A broker.
pub struct Kafka {
    // Before the folder, which goes when the process is gone.
    process: Mutex<Option<Process>>,
    folder: TempDir,
    cluster: String,
    ports: [u16; LISTENERS.len()],
    secured: bool,
    /// One for all: ending one takes 100 ms.
    admin: OnceLock<AdminClient<DefaultClientContext>>,
}

/// One more broker of a cluster.
pub struct Broker {
    // Before the folder, which goes when the process is gone.
    process: Option<Process>,
    folder: TempDir,
}

impl Broker {
    /// Kills it where it stands (SIGKILL).
    pub fn kill(&mut self) {
        self.process.take();
    }

    /// Starts it again, where it does not run.
    pub fn start(&mut self) {
        self.process.get_or_insert_with(|| Process::start(self.folder.path()));
    }
}

impl Kafka {
    /// The one that all tests of this process share.
    pub fn start() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(false, SHARED_SESSION_MS))
    }

    /// One more, for tests that kill it. It ends when it is dropped.
    pub fn alone() -> Self {
        Self::new(false, MORTAL_SESSION_MS)
    }

    /// The one with TLS and SASL beside the plain listener, which all tests of this process share.
    pub fn secured() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(true, SHARED_SESSION_MS))
    }

    fn new(secured: bool, session_ms: u32) -> Self {
        let folder = TempDir::with_prefix("pinsql-kafka-").expect("a folder");
        let ports = free_ports();
        // Sixteen bytes in base64 without padding.
        let cluster = format!("{:016x}{:05x}A", random(), random() & 0xf_ffff);
        let (process, admin) = (Mutex::new(None), OnceLock::new());
        let mut kafka = Self { process, folder, cluster, ports, secured, admin };
        if secured {
            let passwords = [KEY_PASSWORD, STORE_PASSWORD];
            let mut command = Command::new("bash");
            run(command.args(["-c", CERTIFICATES, "certificates"]).arg(kafka.folder.path()).args(passwords), "openssl");
        }
        std::fs::write(kafka.file("server.properties"), kafka.properties(session_ms)).expect("the settings");
        kafka.format();
        *kafka.process.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(Process::start(kafka.folder.path()));
        kafka
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The text of `server.properties`.
    fn properties(&self, session_ms: u32) -> String {
        let used = |(name, _): &&(&str, &str)| self.secured || ["PLAINTEXT", "CONTROLLER"].contains(name);
        let listeners: Vec<_> = LISTENERS.iter().filter(used).map(|(name, _)| self.listener(name)).collect();
        let protocols: Vec<_> = LISTENERS.iter().map(|(name, protocol)| format!("{name}:{protocol}")).collect();
        let [.., controller] = self.ports;
        let mut text = format!(
            "{PROPERTIES}broker.session.timeout.ms={session_ms}\nlisteners={}\nlistener.security.protocol.map={}\nlog.dirs={}\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n",
            listeners.join(","),
            protocols.join(","),
            self.file("data").display(),
        );
        if self.secured {
            text += &self.security();
        }
        text
    }

    fn listener(&self, name: &str) -> String {
        format!("{name}://{}", self.address(name))
    }

    /// Where a listener is.
    fn address(&self, name: &str) -> String {
        let place = LISTENERS.iter().position(|(listener, _)| *listener == name).expect("a listener");
        format!("127.0.0.1:{}", self.ports[place])
    }

    fn security(&self) -> String {
        let mut text = SECURITY.to_owned();
        text += &format!("ssl.keystore.location={}\n", self.file("broker.pem").display());
        text += &format!("ssl.truststore.location={}\n", self.file("ca.pem").display());
        let (plain, scram) = ("plain.PlainLoginModule", "scram.ScramLoginModule");
        for listener in ["sasl", "saslssl"] {
            for (mechanism, module) in [("plain", plain), ("scram-sha-256", scram), ("scram-sha-512", scram)] {
                text += &format!("listener.name.{listener}.{mechanism}.sasl.jaas.config=");
                text += &format!("org.apache.kafka.common.security.{module} required");
                if module == plain {
                    text += &format!(" user_{USER}=\"{PASSWORD}\"");
                }
                text += ";\n";
            }
        }
        text
    }

    /// The command that prepares a folder for the data of a broker of this cluster.
    fn formatting(&self, folder: &Path) -> Command {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-cp", class_path(), "kafka.tools.StorageTool", "format"]);
        command.args(["-t", &self.cluster, "-c"]).arg(folder.join("server.properties"));
        command
    }

    /// One more broker of this cluster; the first one is number 1, and its controller.
    pub fn join(&self, id: i32) -> Broker {
        let folder = TempDir::with_prefix("pinsql-kafka-").expect("a folder");
        let ([port, ..], [.., controller]) = (free_ports(), self.ports);
        let properties = PROPERTIES.replace("roles=broker,controller", "roles=broker");
        let text = format!(
            "{}broker.session.timeout.ms={MORTAL_SESSION_MS}\nlisteners=PLAINTEXT://127.0.0.1:{port}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n",
            properties.replace("node.id=1", &format!("node.id={id}")),
            folder.path().join("data").display(),
        );
        std::fs::write(folder.path().join("server.properties"), text).expect("the settings");
        run(self.formatting(folder.path()).arg("--no-initial-controllers"), "kafka.tools.StorageTool");
        Broker { process: Some(Process::start(folder.path())), folder }
    }

    /// Prepares the folder for its data.
    fn format(&self) {
        let mut command = self.formatting(self.folder.path());
        command.arg("--standalone");
        if self.secured {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                command.arg("--add-scram").arg(format!("{mechanism}=[name={USER},password={PASSWORD}]"));
            }
        }
        run(&mut command, "kafka.tools.StorageTool");
    }

    /// The plain listener, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.address("PLAINTEXT")
    }

    /// The listener with TLS that asks for no certificate.
    pub fn ssl_bootstrap(&self) -> String {
        self.secured_address("SSL")
    }

    /// The listener with TLS that wants a certificate of the client.
    pub fn mtls_bootstrap(&self) -> String {
        self.secured_address("MTLS")
    }

    /// The listener with SASL and no TLS.
    pub fn sasl_bootstrap(&self) -> String {
        self.secured_address("SASL")
    }

    /// The listener with SASL inside TLS.
    pub fn sasl_ssl_bootstrap(&self) -> String {
        self.secured_address("SASLSSL")
    }

    fn secured_address(&self, name: &str) -> String {
        assert!(self.secured, "only `Kafka::secured()` listens there");
        self.address(name)
    }

    /// The certificate of the authority that signed all others, PEM.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The client's certificate, PEM.
    pub fn client_certificate(&self) -> PathBuf {
        self.file("client.pem")
    }

    /// The client's key, PEM without a password.
    pub fn client_key(&self) -> PathBuf {
        self.file("client.key")
    }

    /// The client's key, PEM behind [`KEY_PASSWORD`].
    pub fn client_key_encrypted(&self) -> PathBuf {
        self.file("client-encrypted.key")
    }

    /// The client's certificate and key as a PKCS12 store behind [`STORE_PASSWORD`].
    pub fn client_store(&self) -> PathBuf {
        self.file("client.p12")
    }

    /// Kills the broker where it stands (SIGKILL). Its ports refuse connections until [`Kafka::restart`].
    pub fn kill(&self) {
        lock(&self.process).take();
    }

    /// Lets the broker stand still, as a machine without time does: it keeps its connections and answers nothing.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Ends a [`Kafka::pause`].
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let process = lock(&self.process);
        let id = process.as_ref().expect("a broker that runs").child.id().to_string();
        run(Command::new("kill").args([&format!("-{name}"), &id]), "kill");
    }

    /// Starts the broker again with its ports and its data, killing it before if it runs.
    pub fn restart(&self) {
        let mut process = lock(&self.process);
        process.take();
        *process = Some(Process::start(self.folder.path()));
    }

    /// The settings of every client here.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
        config
    }

    fn admin(&self) -> &AdminClient<DefaultClientContext> {
        self.admin.get_or_init(|| self.client().create().expect("an admin client"))
    }

    /// Creates a topic with settings of its own, and waits until it can be used.
    pub fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        self.create(NewTopic::new(topic, partitions, TopicReplication::Fixed(1)), settings);
    }

    /// Creates a topic whose partitions lie on these brokers each; the first of them leads it.
    pub fn create_topic_on(&self, topic: &str, brokers: &[&[i32]], settings: &[(&str, &str)]) {
        let partitions = i32::try_from(brokers.len()).expect("a few");
        self.create(NewTopic::new(topic, partitions, TopicReplication::Variable(brokers)), settings);
    }

    fn create(&self, start: NewTopic<'_>, settings: &[(&str, &str)]) {
        let (topic, partitions) = (start.name, start.num_partitions);
        let new = settings.iter().fold(start, |new, (name, value)| new.set(name, value));
        until(&format!("topic `{topic}` is not created"), || {
            let done = block_on(self.admin().create_topics([&new], &AdminOptions::new())).expect("an answer");
            // That is what it says while it knows of no broker that is alive.
            let is_early = |one: &Result<_, (String, RDKafkaErrorCode)>| {
                matches!(one, Err((_, RDKafkaErrorCode::InvalidReplicationFactor)))
            };
            assert!(done.iter().all(|one| one.is_ok() || is_early(one)), "topic `{topic}` is not created: {done:?}");
            done.iter().all(Result::is_ok)
        });
        self.await_partitions(topic, partitions);
    }

    /// Deletes a topic, and waits until nobody knows it any more: it can be created again at once.
    pub fn delete_topic(&self, topic: &str) {
        let done = block_on(self.admin().delete_topics(&[topic], &AdminOptions::new())).expect("an answer");
        assert!(done.iter().all(Result::is_ok), "topic `{topic}` is not deleted: {done:?}");
        // A moment after nobody knows the topic, the broker still has its log and would write a message there.
        until(&format!("`{topic}` does not go"), || self.partitions(topic) == 0 && !self.has_log(topic));
    }

    /// Gives a topic more partitions, so that it has `total`.
    pub fn add_partitions(&self, topic: &str, total: i32) {
        let more = NewPartitions::new(topic, total as usize);
        let done = block_on(self.admin().create_partitions(&[more], &AdminOptions::new())).expect("an answer");
        assert!(done.iter().all(Result::is_ok), "topic `{topic}` gets no partitions: {done:?}");
        self.await_partitions(topic, total);
    }

    /// Deletes the messages of a partition before an offset, which becomes the first one.
    pub fn delete_records(&self, topic: &str, partition: i32, before_offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before_offset)).expect("an offset");
        let done = block_on(self.admin().delete_records(&list, &AdminOptions::new())).expect("an answer");
        assert!(done.elements().iter().all(|one| one.error().is_ok()), "records of `{topic}` stay: {done:?}");
    }

    /// Waits until a topic has so many partitions, which all answer: the broker names a leader before it is ready.
    fn await_partitions(&self, topic: &str, count: i32) {
        until(&format!("`{topic}` does not get to {count} partitions"), || self.partitions(topic) == count);
        self.watermarks(topic);
    }

    /// Whether the data folder has a log of the topic that is not on its way out.
    fn has_log(&self, topic: &str) -> bool {
        let entries = std::fs::read_dir(self.file("data")).expect("the data folder");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix(topic)?.strip_prefix('-')?.parse::<u32>().ok()).next().is_some()
    }

    /// What the cluster says of a topic; asked more than once, as a broker that was just killed does not answer.
    fn metadata(&self, topic: &str) -> Metadata {
        let mut answer = None;
        until(&format!("nobody says anything of `{topic}`"), || {
            answer = self.admin().inner().fetch_metadata(Some(topic), TRY).ok();
            answer.is_some()
        });
        answer.expect("the topic's metadata")
    }

    /// The broker that leads the first partition of a topic, and those whose copies are up to date.
    pub fn leader(&self, topic: &str) -> (i32, Vec<i32>) {
        let metadata = self.metadata(topic);
        let partition = &metadata.topics()[0].partitions()[0];
        (partition.leader(), partition.isr().to_vec())
    }

    /// How many partitions a topic has, of which each has a leader; 0 when it does not exist or is not ready.
    pub fn partitions(&self, topic: &str) -> i32 {
        let metadata = self.metadata(topic);
        let topic = &metadata.topics()[0];
        let ready = topic.error().is_none() && topic.partitions().iter().all(|one| one.leader() >= 0);
        if ready { topic.partitions().len() as i32 } else { 0 }
    }

    /// The settings of a producer that keeps the order of what it is given.
    fn producing(&self, settings: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.client();
        config.set("max.in.flight", "1").set("linger.ms", "2").set("message.max.bytes", "20971520");
        config.set("queue.buffering.max.messages", "500000").set("queue.buffering.max.kbytes", "262144");
        settings.iter().for_each(|(name, value)| {
            config.set(*name, *value);
        });
        config
    }

    /// Writes messages, in order, and waits until the broker has all of them.
    pub fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        self.produce_with(topic, &[], messages);
    }

    /// [`Kafka::produce`] with settings of librdkafka, such as `("compression.type", "zstd")` (`none`, `gzip`, `snappy`,
    /// `lz4`) or `("batch.num.messages", "1")`.
    pub fn produce_with(&self, topic: &str, settings: &[(&str, &str)], messages: impl IntoIterator<Item = Message>) {
        send_all(&producer(&self.producing(settings), topic), topic, messages);
    }

    /// Writes messages in a transaction of their own, which ends before this returns.
    pub fn produce_in_transaction(&self, topic: &str, messages: impl IntoIterator<Item = Message>, commit: bool) {
        let transaction = self.open_transaction(topic, messages);
        if commit { transaction.commit() } else { transaction.abort() }
    }

    /// Writes messages in a transaction that somebody else ends, or its timeout of a minute does.
    pub fn open_transaction(&self, topic: &str, messages: impl IntoIterator<Item = Message>) -> Transaction {
        self.open_transaction_for(Duration::from_secs(60), topic, messages)
    }

    /// [`Kafka::open_transaction`] with a timeout of its own.
    pub fn open_transaction_for(
        &self,
        timeout: Duration,
        topic: &str,
        messages: impl IntoIterator<Item = Message>,
    ) -> Transaction {
        let id = format!("pinsql-test-{:016x}", random());
        let timeout = timeout.as_millis().to_string();
        let config = self.producing(&[("transactional.id", &id), ("transaction.timeout.ms", &timeout)]);
        let producer = producer(&config, topic);
        producer.init_transactions(PATIENCE).expect("a transactional producer");
        producer.begin_transaction().expect("a transaction");
        let transaction = Transaction { producer, config, topic: topic.to_owned() };
        transaction.produce(topic, messages);
        transaction
    }

    /// The first offset of each partition.
    pub fn start_offsets(&self, topic: &str) -> Vec<(i32, i64)> {
        self.watermarks(topic).into_iter().map(|(partition, (low, _))| (partition, low)).collect()
    }

    /// The offset after the last message of each partition, those of open transactions included.
    pub fn end_offsets(&self, topic: &str) -> Vec<(i32, i64)> {
        self.watermarks(topic).into_iter().map(|(partition, (_, high))| (partition, high)).collect()
    }

    /// The first offset and the one after the last, of each partition.
    fn watermarks(&self, topic: &str) -> Vec<(i32, (i64, i64))> {
        let mut config = self.client();
        // Without this the end of a partition would be the start of its first open transaction.
        let asker: BaseConsumer = config.set("isolation.level", "read_uncommitted").create().expect("a consumer");
        let ask = |partition| {
            let mut answer = None;
            until(&format!("partition {partition} of `{topic}` does not say its offsets"), || {
                answer = asker.fetch_watermarks(topic, partition, TRY).ok();
                answer.is_some()
            });
            (partition, answer.expect("the watermarks"))
        };
        (0..self.partitions(topic)).map(ask).collect()
    }

    /// What a group has committed, without the partitions where it has committed nothing.
    pub fn group_offsets(&self, group: &str, topic: &str) -> Vec<(i32, i64)> {
        let asker: BaseConsumer = self.client().set("group.id", group).create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        (0..self.partitions(topic)).for_each(|partition| {
            list.add_partition(topic, partition);
        });
        let committed = asker.committed_offsets(list, PATIENCE).expect("the group's offsets");
        let found = committed.elements().into_iter().map(|one| (one.partition(), one.offset()));
        found.filter_map(|(partition, offset)| Some((partition, offset.to_raw().filter(|raw| *raw >= 0)?))).collect()
    }
}
