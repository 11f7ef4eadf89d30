//! Reads the shards of one stream, for all targets of this process.
//!
//! Floor 3: uses `source::feed`, `clock`, `error`, and its neighbours in `source::kinesis`.
//!
//! A reader is a task that follows one shard from one place, and hands what it fetches to the feeds of everybody who is at
//! that place. Readers that meet become one; who cannot keep up with the others gets a reader of its own. However many
//! there are, a shard's [`Budget`] is one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::chunk::{Origin, Shape};
use super::client::{Address, Client, Fault, Site, pause};
use super::positions::{Described, Mark, Place, Shard, State};
use super::reader::Reading;
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::source::feed::Feed;

/// Answers for one reading that are on their way, or wait for room: one that is likely to be small counts once, another one
/// eight times. Each reading has its own, as one that is slow must not stop the others.
const ANSWERS: usize = 32;
/// How old what is known of the stream may be, where its records are about to be logged.
const IDENTITY_MS: u64 = 1_000;
/// and for how long it is asked for in vain.
const IDENTITY_PATIENCE_MS: u64 = 30_000;
/// How long a stream that is being made is waited for.
const CREATION_TRIES: u32 = 60;
const CREATION_PAUSE: Duration = Duration::from_millis(500);

/// How a stream is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is asked again and again.
    Polling {
        /// Records of one answer.
        most: i32,
    },
    /// It pushes, to a consumer of this name.
    FanOut(String),
}

/// Who wants the records of a shard.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Where they go.
    pub feed: Arc<Feed<Mark>>,
    /// Which of its lanes.
    pub lane: usize,
    /// What becomes of them.
    pub shape: Arc<Shape>,
    /// Where they are from.
    pub origin: Origin,
    /// A bounded reading: when it began, in milliseconds since 1970 by the service's clock.
    pub until: Option<i64>,
    /// Cancelled when the shard's last record is in the feed.
    pub ended: CancellationToken,
    /// How many milliseconds the newest answer was behind the tip.
    pub behind_ms: Arc<AtomicU64>,
    /// Bytes that nobody wanted since they were last set to nothing.
    pub foreign_bytes: Arc<AtomicU64>,
    /// What of its answers may be in memory.
    pub answers: Arc<Semaphore>,
    /// For how long the stream keeps a record.
    pub retention_ms: i64,
    /// When it came, by the hub's watch: an answer to an older question proves nothing to it.
    pub joined_ms: u64,
}

/// What of a reading's answers may be in memory.
pub fn answers() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ANSWERS))
}

/// One task's place and those it reads for.
pub(super) struct Reader {
    pub id: u64,
    pub place: Place,
    /// Whether it reads for one that could not keep up, and has not taken anything since: nobody should wait with that.
    pub is_slow: bool,
    pub subscribers: Vec<Subscriber>,
}

/// One shard, for all who read it.
pub(super) struct Shared {
    pub budget: Arc<tokio::sync::Mutex<Budget>>,
    pub readers: Mutex<Vec<Reader>>,
}

/// The readers of one stream.
pub struct Hub {
    /// Asks.
    pub client: Client,
    pub(super) mode: Mode,
    pub(super) watch: Stopwatch,
    budgets: Arc<Budgets>,
    shards: Mutex<HashMap<Arc<str>, Arc<Shared>>>,
    ids: AtomicU64,
    /// When the stream was asked who it is, by `watch`, and what it said.
    identity: tokio::sync::Mutex<Option<(u64, Described)>>,
    /// The consumer's ARN, once it is registered.
    pub(super) consumer: tokio::sync::Mutex<Option<String>>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("stream", &self.client.stream()).finish_non_exhaustive()
    }
}

/// What the shards of a stream allow, by shard.
type Budgets = Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<Budget>>>>;

/// The hubs of this process: one for each stream, identity and way to read. What a shard allows it allows to all of them
/// together.
#[derive(Debug, Default)]
pub struct Hubs {
    hubs: tokio::sync::Mutex<HashMap<(Address, Mode), Arc<Hub>>>,
    /// By endpoint and name, whoever asks.
    budgets: Mutex<HashMap<Site, Arc<Budgets>>>,
    watch: Watch,
}

/// The hubs' time: budgets are shared, so it is one.
#[derive(Debug, Clone, Copy)]
struct Watch(Stopwatch);

impl Default for Watch {
    fn default() -> Self {
        Self(Stopwatch::start())
    }
}

impl Hubs {
    /// The hub of a stream.
    pub async fn of(&self, address: &Address, mode: &Mode) -> Result<Arc<Hub>> {
        let mut hubs = self.hubs.lock().await;
        let key = (address.clone(), mode.clone());
        if let Some(hub) = hubs.get(&key) {
            return Ok(Arc::clone(hub));
        }
        let hub = Arc::new(Hub {
            client: Box::pin(Client::new(address.clone())).await?,
            mode: mode.clone(),
            watch: self.watch.0,
            budgets: Arc::clone(lock(&self.budgets).entry(address.site()).or_default()),
            shards: Mutex::default(),
            ids: AtomicU64::new(0),
            identity: tokio::sync::Mutex::default(),
            consumer: tokio::sync::Mutex::default(),
        });
        hubs.insert(key, Arc::clone(&hub));
        Ok(hub)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// The error that a fault of this stream is.
    pub fn error(&self, fault: Fault) -> Error {
        self.client.error(fault)
    }

    /// What the stream is, asked now; one that is being made is waited for. None: it is not there, or will not be in a moment.
    pub async fn describe(&self) -> Result<Option<Described>> {
        for _ in 0..CREATION_TRIES {
            let described = match self.client.describe().await {
                Err(Fault::Missing(_)) => return Ok(None),
                described => described.map_err(|fault| self.error(fault))?,
            };
            match described.state {
                State::Active => {
                    *self.identity.lock().await = Some((self.watch.elapsed_ms(), described.clone()));
                    return Ok(Some(described));
                }
                State::Creating => tokio::time::sleep(CREATION_PAUSE).await,
                State::Deleting => return Ok(None),
            }
        }
        Err(Error::world(format!("stream `{}` is still being made", self.client.stream()))
            .hint("wait until it is active, and run again")
            .passing())
    }

    /// What the stream is, where nothing is known of it yet.
    pub async fn find(&self) -> Result<Described> {
        self.describe().await?.ok_or_else(|| self.error(Fault::Missing(String::new())))
    }

    /// When the stream was made, as it said a moment ago; None where it is not there.
    pub async fn created(&self) -> Result<Option<i64>> {
        {
            let identity = self.identity.lock().await;
            if let Some((asked, described)) = identity.as_ref()
                && self.watch.elapsed_ms() < asked + IDENTITY_MS
            {
                return Ok(Some(described.created));
            }
        }
        let (watch, mut tries) = (Stopwatch::start(), 0);
        loop {
            match self.describe().await {
                // A whole epoch depends on the answer, and all streams of an account share what may be asked.
                Err(error) if error.is_passing() && watch.elapsed_ms() < IDENTITY_PATIENCE_MS => {
                    tries += 1;
                    tokio::time::sleep(pause(tries)).await;
                }
                described => return Ok(described?.map(|described| described.created)),
            }
        }
    }

    /// All shards of the stream.
    pub async fn shards(&self) -> Result<Vec<Shard>> {
        self.client.shards().await.map_err(|fault| self.error(fault))
    }

    fn shared(&self, shard: &Arc<str>) -> Arc<Shared> {
        let budget = Arc::clone(lock(&self.budgets).entry(Arc::clone(shard)).or_default());
        let new = || Arc::new(Shared { budget, readers: Mutex::default() });
        Arc::clone(lock(&self.shards).entry(Arc::clone(shard)).or_insert_with(new))
    }

    /// Begins to read a shard behind a place, together with who is there already.
    pub fn subscribe(self: &Arc<Self>, place: Place, mut subscriber: Subscriber) {
        subscriber.joined_ms = self.watch.elapsed_ms();
        let shared = self.shared(&subscriber.origin.shard);
        let mut readers = lock(&shared.readers);
        if let Some(reader) = readers.iter_mut().find(|reader| reader.is_open_at(&place)) {
            reader.subscribers.push(subscriber);
            return;
        }
        drop(readers);
        self.read(&shared, place, subscriber, false);
    }

    /// Begins to read a shard for one subscriber alone.
    pub(super) fn read(self: &Arc<Self>, shared: &Arc<Shared>, place: Place, subscriber: Subscriber, is_slow: bool) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let shard = Arc::clone(&subscriber.origin.shard);
        lock(&shared.readers).push(Reader { id, place, is_slow, subscribers: vec![subscriber] });
        tokio::spawn(Reading::new(Arc::clone(self), Arc::clone(shared), shard, id).run());
    }
}

impl Reader {
    /// Whether others may join it at a place. Who resumes inside of an aggregate is alone with that.
    pub fn is_open_at(&self, place: &Place) -> bool {
        self.place == *place && !self.is_slow && !matches!(place, Place::Behind { within: Some(_), .. })
    }
}
