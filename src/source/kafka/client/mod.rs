//! The Kafka client: asks the cluster, and fetches messages into a feed.
//!
//! Floor 3: uses `clock`, `error` and its neighbours in `source::kafka`. **The only room that knows rdkafka.**
//!
//! What it fetches may go into several feeds: targets of one process that read a source from the same positions share a
//! client.

mod native;
mod pump;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

pub use self::native::{Described, Message, NotThere, Which};
use self::pump::{Command, Pump};
use super::chunk::Shape;
use super::iam::Signer;
use super::positions::Held;
use super::settings::Settings;
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::source::feed::Feed;

/// How long the cluster has for its first answer: the user waits for a clear error.
const FIRST_ANSWER: Duration = Duration::from_secs(11);
/// How long it has for any other: it takes some ten seconds to find that a broker is gone and to elect another leader.
const ANSWER: Duration = Duration::from_secs(15);
/// How long one broker has for it, and the pause before the next is asked.
const TRY: Duration = Duration::from_secs(5);
/// How long a client that is fetching is asked whether another one may join.
const JOINING: Duration = Duration::from_secs(1);
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How long a try that is under way when the patience ends may still take.
const LAST_TRY: Duration = Duration::from_secs(2);
/// How long a process that ends waits for its clients.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often a question looks whether the login was refused meanwhile.
const REFUSAL_GLANCE: Duration = Duration::from_millis(50);
/// Messages that librdkafka may hold, in KiB, over all partitions.
const PREFETCHED_KIB: &str = "8192";

type Consumer = BaseConsumer<Context>;

/// What librdkafka tells, kept for whoever asks.
#[derive(Debug, Default)]
struct Said {
    /// The newest reason for which a broker could not be reached.
    reason: Option<String>,
    /// The login was refused, or the peer is not who it says: trying again is of no use while the user waits.
    refused: Option<String>,
}

struct Context {
    said: Arc<Mutex<Said>>,
    signer: Option<(Signer, tokio::runtime::Handle)>,
    commit_answered: Arc<AtomicBool>,
}

impl Context {
    fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said)
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            // A broker that hangs up is no error, and why it may have done so is said here alone.
            let reason = message.split_once("]: ").map_or(message, |(_thread, reason)| reason);
            self.said().reason = Some(reason.to_owned());
        }
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info => tracing::trace!(facility, "{message}"),
            _ => tracing::debug!(facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let refused =
            matches!(code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed))
                || (code == Some(RDKafkaErrorCode::SSL) && reason.contains("verify failed"))
                || is_certificate_alert(reason);
        tracing::debug!(%error, reason, "the Kafka client says");
        let mut said = self.said();
        let all_down = code == Some(RDKafkaErrorCode::AllBrokersDown);
        if refused {
            said.refused = Some(reason.to_owned());
        }
        if !all_down || said.reason.is_none() {
            said.reason = Some(reason.to_owned());
        }
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let (signer, runtime) =
            self.signer.as_ref().ok_or("OAUTHBEARER is only spoken to MSK (kafka.sasl.mechanism AWS_MSK_IAM)")?;
        let token = runtime.block_on(signer.token()).inspect_err(|error| match error.is_passing() {
            true => self.said().reason = Some(error.to_string()),
            false => self.said().refused = Some(error.to_string()),
        })?;
        Ok(OAuthToken { token: token.text, principal_name: token.principal, lifetime_ms: token.expires_at_ms })
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "the group's offsets, which only lag tools read, were not written");
        }
        self.commit_answered.store(true, Ordering::Release);
    }
}

/// A panic elsewhere must not silence the client.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Questions, whose answers are small: a broker that is silent for 4 s is not asked again.
    Asks,
    /// Messages, which may be large. A broker that is silent for 20 s is left in time for another one to be read before the
    /// reading gives up.
    Fetches,
}

impl Role {
    fn socket_timeout(self) -> &'static str {
        match self {
            Self::Asks => "4000",
            Self::Fetches => "20000",
        }
    }
}

/// A partition that is to be fetched.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset before which it ends.
    pub until: i64,
}

/// Feeds of one client.
type Feeds = Arc<Mutex<Vec<Arc<Feed<i64>>>>>;

/// A connection to a cluster.
pub struct Client {
    consumer: Arc<Consumer>,
    commands: Sender<Command>,
    feeds: Feeds,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Whether the cluster has ever answered: a refusal after that may pass, as in a rolling restart.
    answered: AtomicBool,
    bootstrap: String,
    said: Arc<Mutex<Said>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of a cluster. Nothing is asked of it yet.
    ///
    /// # Errors
    /// A setting that librdkafka refuses.
    pub fn new(settings: &Settings, role: Role, group: &str, shape: &Shape) -> Result<Self> {
        let said = Arc::<Mutex<Said>>::default();
        let commit_answered = Arc::<AtomicBool>::default();
        let signer = match settings.iam() {
            Some(iam) => Some((Signer::new(iam)?, tokio::runtime::Handle::current())),
            None => None,
        };
        let context = Context { said: Arc::clone(&said), signer, commit_answered: Arc::clone(&commit_answered) };
        let consumer: Consumer = config(settings, role, group).create_with_context(context).map_err(refused_setting)?;
        let consumer = Arc::new(consumer);
        let (commands, received) = channel();
        let feeds = Feeds::default();
        let ended = Arc::<AtomicBool>::default();
        let pump = Pump::new(
            Arc::clone(&consumer),
            received,
            Arc::clone(&feeds),
            Arc::clone(&ended),
            commit_answered,
            shape.clone(),
        );
        let thread = std::thread::Builder::new().name("kafka".to_owned()).spawn(move || pump.run());
        let thread = thread.map_err(|error| Error::world(format!("a thread cannot be started: {error}")))?;
        let bootstrap = settings.bootstrap.clone();
        Ok(Self {
            consumer,
            commands,
            feeds,
            ended,
            thread: Some(thread),
            answered: AtomicBool::new(false),
            bootstrap,
            said,
        })
    }

    /// Describes topics; waits for the first answer as long as a user would, and gives up at once where the login is refused.
    pub async fn describe(&self, topics: Vec<String>) -> Result<Vec<Described>> {
        self.insist(move |consumer| native::describe(consumer, &topics, TRY)).await
    }

    /// The names of all topics.
    pub async fn topic_names(&self) -> Result<Vec<String>> {
        self.insist(|consumer| {
            let metadata = consumer.fetch_metadata(None, TRY).map_err(|error| error.to_string())?;
            Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
        })
        .await
    }

    /// Offsets of partitions, in their order; -1 where no message is as young as the time asked for.
    pub async fn offsets(&self, partitions: Vec<(String, i32)>, which: Which) -> Result<Vec<i64>> {
        self.insist(move |consumer| native::offsets(consumer, &partitions, which, TRY)).await
    }

    /// What partitions hold now, in their order.
    pub async fn held(&self, partitions: Vec<(String, i32)>) -> Result<Vec<Held>> {
        let (earliest, ends) = tokio::try_join!(
            self.offsets(partitions.clone(), Which::Earliest),
            self.offsets(partitions, Which::LastStable)
        )?;
        Ok(earliest.into_iter().zip(ends).map(|(earliest, end)| Held { earliest, end }).collect())
    }

    /// Asks in a thread that may block, again and again until there is an answer: a broker that has gone, or a partition
    /// between two leaders, may take some tries. What counts as waiting is the time in which this machine did something: one
    /// that stood still has not waited.
    async fn insist<T: Send + 'static>(
        &self,
        question: impl Fn(&Consumer) -> Result<T, String> + Send + 'static,
    ) -> Result<T> {
        let patience = if self.answered.load(Ordering::Relaxed) { ANSWER } else { FIRST_ANSWER };
        // What was refused before this question is no answer to it.
        self.said().refused = None;
        let (consumer, glances) = (Arc::clone(&self.consumer), Arc::new(AtomicU32::new(0)));
        let is_over = |glances: &AtomicU32, patience| REFUSAL_GLANCE * glances.load(Ordering::Relaxed) >= patience;
        // Nobody waits any more where nobody glances.
        let waiting = Arc::downgrade(&glances);
        let is_given_up = move || waiting.upgrade().is_none_or(|glances| is_over(&glances, patience));
        let answer = tokio::task::spawn_blocking(move || {
            loop {
                let answer = question(&consumer);
                let is_denied = answer.as_ref().is_err_and(|words| words.contains("authorization failed"));
                if answer.is_ok() || is_denied || is_given_up() {
                    return answer;
                }
                std::thread::sleep(TRY_AGAIN);
                // librdkafka keeps who led a partition, and who knows about topics, at the first question, and asks that one
                // for good, though it is silent, or says that the leader or its epoch is another: only new metadata ends that.
                if let Err(error) = consumer.fetch_metadata(None, TRY) {
                    tracing::debug!(%error, "the cluster does not say who leads its partitions");
                }
            }
        });
        let without_answer = async {
            loop {
                tokio::time::sleep(REFUSAL_GLANCE).await;
                glances.fetch_add(1, Ordering::Relaxed);
                if self.said().refused.is_some() {
                    return "the login was refused";
                }
                if is_over(&glances, patience + LAST_TRY) {
                    return "no answer";
                }
            }
        };
        let answer = tokio::select! {
            answer = answer => answer.unwrap_or_else(|error| Err(error.to_string())),
            why = without_answer => Err(why.to_owned()),
        };
        if answer.is_ok() {
            self.answered.store(true, Ordering::Relaxed);
            *self.said() = Said::default();
        }
        answer.map_err(|words| self.unreachable(&words))
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said)
    }

    /// Why the cluster does not answer, in librdkafka's words without its prefixes.
    fn unreachable(&self, words: &str) -> Error {
        let said = self.said();
        let doing = format!("Kafka at `{}`", self.bootstrap);
        if let Some(refused) = &said.refused {
            let hint = if is_certificate_alert(refused) {
                "the broker wants a certificate that it trusts: look at kafka.ssl.certificate.location and kafka.ssl.key.location"
            } else {
                "look at kafka.security.protocol, the user and password, and kafka.ssl.ca.location"
            };
            let refusal = Error::world(format!("{doing} refuses the connection: {}", plain(refused))).hint(hint);
            return if self.answered.load(Ordering::Relaxed) { refusal.passing() } else { refusal };
        }
        let reason = said.reason.as_deref().map_or(words, |reason| reason);
        Error::world(format!("{doing} does not answer: {}", plain(reason)))
            .hint("look whether the broker is up, whether host and port are right, and whether it wants TLS or a login (kafka.security.protocol)")
            .passing()
    }

    /// Begins to fetch into a feed; `patience` is for others who want the same and come in a moment.
    pub fn start(&self, feed: &Arc<Feed<i64>>, wanted: Vec<Wanted>, patience: Duration) {
        lock(&self.feeds).push(Arc::clone(feed));
        let _ = self.commands.send(Command::Fetch { wanted, patience });
    }

    /// Lets what is fetched go into one more feed, if that wants the same from where the client is. Answers whether it does.
    pub async fn join(&self, feed: &Arc<Feed<i64>>, wanted: &[Wanted]) -> bool {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let _ = self.commands.send(Command::Join { feed: Arc::clone(feed), wanted: wanted.to_vec(), answer });
        // A client whose feed is full hears nothing; and it stays full where the same query reads the topic twice, and waits
        // for this answer before it takes anything.
        matches!(tokio::time::timeout(JOINING, answered).await, Ok(Ok(true)))
    }

    /// Fetches more partitions; their slots follow those that are there. A client that others share does not: all of them
    /// are opened again, each with all partitions.
    pub fn fetch_too(&self, wanted: Vec<Wanted>) {
        // A thread that has ended said why in the feed.
        let _ = self.commands.send(Command::Fetch { wanted, patience: Duration::ZERO });
    }

    /// Writes the group's offsets for lag tools; nobody here reads them.
    pub fn commit(&self, offsets: Vec<(String, i32, i64)>) {
        let _ = self.commands.send(Command::Commit(offsets));
    }

    /// What the client said last about brokers that it cannot reach.
    pub fn complaint(&self) -> Option<String> {
        self.said().reason.as_deref().map(plain)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for feed in lock(&self.feeds).drain(..) {
            feed.close();
        }
        self.ended.store(true, Ordering::Release);
        // The thread writes the last offsets of the group, which takes a moment; the process waits for it when it ends.
        if let Some(thread) = self.thread.take() {
            let mut leaving = lock(&LEAVING);
            // Those that have left are let go: a view over a topic makes a client at every look.
            for gone in leaving.extract_if(.., |thread| thread.is_finished()) {
                let _ = gone.join();
            }
            leaving.push(thread);
        }
    }
}

/// Threads of clients that were dropped.
static LEAVING: Mutex<Vec<std::thread::JoinHandle<()>>> = Mutex::new(Vec::new());

/// Waits until clients that were dropped have said goodbye to their clusters: a few milliseconds, at most two seconds. A group
/// that may not be written, or whose coordinator is away, would keep them for longer.
pub fn farewell() {
    let watch = Stopwatch::start();
    let mut leaving = std::mem::take(&mut *lock(&LEAVING));
    while u128::from(watch.elapsed_ms()) < FAREWELL.as_millis() {
        // A thread that panicked has nothing more to say.
        leaving.retain(|thread| !thread.is_finished());
        if leaving.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `sasl_ssl://host:9092/bootstrap: SASL authentication error: …` without what only librdkafka's authors want to know.
fn plain(reason: &str) -> String {
    let words = reason.split(" (after ").next().unwrap_or(reason);
    let words = words.split(" (install ca-certificates").next().unwrap_or(words);
    let words = words.split(": receive 0 after").next().unwrap_or(words);
    let words = words.trim().trim_end_matches(':');
    words.strip_suffix(": broker's supported mechanisms").unwrap_or(words).replace('\n', " ")
}

/// Whether the broker says by TLS that it does not take the client's certificate, or that it misses one.
fn is_certificate_alert(reason: &str) -> bool {
    reason.contains(" alert ") && ["certificate", "unknown ca"].iter().any(|what| reason.contains(what))
}

fn refused_setting(error: KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, words, key, _) if !key.is_empty() => {
            Error::config(format!("option `kafka.{key}` is refused by the Kafka client: {}", words.trim()))
                .hint("give a value that CONFIGURATION.md of librdkafka allows")
        }
        KafkaError::ClientCreation(words) => {
            let hint = if words.contains("ssl.keystore.") {
                "look at kafka.ssl.keystore.location and kafka.ssl.keystore.password"
            } else if words.contains("ssl.key.") {
                "look at kafka.ssl.key.password, and whether the key is that of the certificate"
            } else {
                "look at the options that begin with `kafka.`"
            };
            Error::config(format!("the Kafka client cannot be made: {}", plain(&words))).hint(hint)
        }
        other => Error::config(format!("the Kafka client cannot be made: {other}")),
    }
}

fn config(settings: &Settings, role: Role, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    if (config.log_level as i32) < RDKafkaLogLevel::Info as i32 {
        // Here it says why a connection ended.
        config.set_log_level(RDKafkaLogLevel::Info);
    }
    let defaults = [
        ("client.id", "pinsql"),
        ("fetch.wait.max.ms", "500"),
        ("fetch.max.bytes", "8388608"),
        // A queue that was full for a moment would stall its partition for a second.
        ("fetch.queue.backoff.ms", "5"),
        ("queued.max.messages.kbytes", PREFETCHED_KIB),
        ("reconnect.backoff.max.ms", "5000"),
        ("socket.keepalive.enable", "true"),
        ("socket.timeout.ms", role.socket_timeout()),
        // We are no member of the group; but this is how long a client that ends waits for the group's coordinator.
        ("session.timeout.ms", "6000"),
        ("allow.auto.create.topics", "false"),
    ];
    for (key, value) in defaults {
        config.set(key, value);
    }
    for (key, value) in settings.client() {
        config.set(key, value);
    }
    let decided = [
        ("bootstrap.servers", settings.bootstrap.as_str()),
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // Earliest would repeat, latest would lose: we decide.
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
    ];
    for (key, value) in decided {
        config.set(key, value);
    }
    config
}
