//! What one epoch reads of topics: pieces of a feed, each taken once.
//!
//! Floor 3: uses `source`, `error`, `clock`, and its neighbours in `source::kafka`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::catalog::TableProvider;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::chunk;
use super::client::Client;
use super::feed::{Feed, Piece, Share, Slot, Stopped};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::source::records::{Chunk, Form, Records, RecordsTable};
use crate::source::{Input, MetadataColumn, Tap};

/// A reading that waits for messages that are known to be there gives up after this time without any.
pub const STALL_MS: u64 = 60_000;

/// What one epoch reads.
pub struct KafkaInput {
    pieces: Arc<Pieces>,
    form: Form,
}

impl KafkaInput {
    /// The pieces of an epoch, in the form of their source.
    pub fn new(pieces: Pieces, form: Form) -> Self {
        Self { pieces: Arc::new(pieces), form }
    }

    /// By slot, the offset that comes next. Nothing is taken any more from here on.
    pub fn reached(&self) -> Vec<i64> {
        let mut share = self.pieces.share();
        share.fill();
        share.next.clone()
    }
}

impl fmt::Debug for KafkaInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaInput").field("pieces", &self.pieces).finish_non_exhaustive()
    }
}

impl Input for KafkaInput {
    fn table(&self, tap: Arc<Tap>, visible: MetadataColumn) -> Result<Arc<dyn TableProvider>> {
        let records = Arc::clone(&self.pieces) as Arc<dyn Records>;
        let table = RecordsTable::new(records, self.form.clone(), chunk::metadata_type(), tap, visible)?;
        Ok(Arc::new(table))
    }

    fn close(&self) {
        self.pieces.share().fill();
        self.pieces.feed.wake();
    }
}

/// The pieces of one epoch. They are taken from the feed once; a plan that reads the source more than once reads what
/// was kept of the first reading.
pub struct Pieces {
    client: Arc<Client>,
    feed: Arc<Feed>,
    share: Mutex<Share>,
    streams: usize,
    kept: Vec<Mutex<Vec<Piece>>>,
    most_ms: Option<u64>,
    watch: Stopwatch,
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("share", &self.share()).finish_non_exhaustive()
    }
}

/// What a reader finds.
enum Found {
    Piece(Box<Piece>),
    Nothing,
    End,
}

impl Pieces {
    /// What a share takes of a feed, for `streams` readers side by side, and for no longer than `time`.
    pub fn new(client: Arc<Client>, feed: Arc<Feed>, share: Share, streams: usize, time: Option<Duration>) -> Self {
        Self {
            client,
            feed,
            share: Mutex::new(share),
            streams,
            kept: (0..streams).map(|_| Mutex::default()).collect(),
            most_ms: time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            watch: Stopwatch::start(),
        }
    }

    fn share(&self) -> std::sync::MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The piece behind the `seen` first ones of a stream.
    fn look(&self, stream: usize, seen: usize, keep: bool) -> Found {
        let mut kept = self.kept[stream].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = kept.get(seen) {
            return Found::Piece(Box::new(piece.clone()));
        }
        let mut share = self.share();
        if share.has_begun() && self.most_ms.is_some_and(|most| self.watch.elapsed_ms() >= most) {
            share.fill();
        }
        for lane in (stream..self.feed.lanes()).step_by(self.streams) {
            if let Some(piece) = self.feed.take(lane, &mut share) {
                if keep {
                    kept.push(piece.clone());
                }
                return Found::Piece(Box::new(piece));
            }
        }
        let over = share.is_full() || share.is_done();
        drop(share);
        if over {
            // The other streams may be waiting for what will not come.
            self.feed.wake();
            return Found::End;
        }
        Found::Nothing
    }

    async fn next(&self, stream: usize, seen: usize, keep: bool) -> Result<Option<Piece>> {
        let mut quiet = Stopwatch::start();
        loop {
            match self.look(stream, seen, keep) {
                Found::Piece(piece) => return Ok(Some(*piece)),
                Found::End => return Ok(None),
                Found::Nothing => {}
            }
            if let Some(stopped) = self.feed.stopped() {
                return Err(stopped_error(&stopped, |_| "a partition".to_owned()));
            }
            if quiet.elapsed_ms() >= STALL_MS {
                let mut share = self.share();
                if !share.has_begun() {
                    return Err(stalled(&self.client));
                }
                // What has come is not thrown away for what does not.
                share.fill();
                continue;
            }
            // Short, so that an epoch that has lasted long enough ends also where nothing comes.
            if self.feed.changed(Duration::from_millis(20), || false).await {
                quiet = Stopwatch::start();
            }
        }
    }
}

impl Records for Pieces {
    fn partitions(&self) -> usize {
        self.streams
    }

    fn read(self: Arc<Self>, stream: usize, keep: bool) -> BoxStream<'static, Result<Chunk>> {
        let chunks = futures::stream::try_unfold((self, 0), move |(pieces, mut seen)| async move {
            loop {
                let Some(piece) = pieces.next(stream, seen, keep).await? else { return Ok(None) };
                seen += 1;
                if let Some(chunk) = piece.chunk {
                    return Ok(Some((chunk, (pieces, seen))));
                }
            }
        });
        chunks.boxed()
    }
}

/// Opened again, the reading finds out what is the matter: so all but a refusal pass.
pub fn stopped_error(why: &Stopped, name: impl Fn(&Slot) -> String) -> Error {
    match why {
        Stopped::OutOfRange(slot) => {
            Error::data(format!("{} no longer has the offset that comes next", name(slot))).passing()
        }
        Stopped::Gone(slot) => Error::data(format!("{} is gone", name(slot))).passing(),
        Stopped::Refused(words) => Error::world(format!("the topic may not be read: {words}"))
            .hint("give the user of this connection the right to read the topic"),
        Stopped::Grown => Error::world("new partitions have come").passing(),
        Stopped::Behind => {
            Error::world("other targets of this topic are too far ahead to share what is fetched").passing()
        }
        Stopped::Broken(words) => Error::world(words.clone()).hint("read the topic with another tool to find out more"),
    }
}

/// What is said when nothing comes for so long.
pub fn stalled(client: &Client) -> Error {
    let why = client.complaint().unwrap_or_else(|| "no reason is known".to_owned());
    Error::world(format!("Kafka has not delivered for {} s what it holds: {why}", STALL_MS / 1000))
        .hint("look whether all brokers are up")
        .passing()
}
