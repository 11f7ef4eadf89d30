//! What one epoch reads of topics or streams: pieces of a feed, each taken once.
//!
//! Floor 3: uses `source`, `error`, `clock`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::feed::{Feed, Piece, Progress, Share, Stopped};
use super::records::{Chunk, Form, Records, RecordsTable};
use super::{Input, MetadataColumn, Tap};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};

/// A reading that waits for messages that are known to be there gives up after this time without any.
pub const STALL_MS: u64 = 60_000;

/// Whoever fills a feed. It goes on for as long as somebody reads.
pub trait Supplier: Send + Sync {
    /// What is the matter, where a feed has stopped.
    fn stopped(&self, why: &Stopped) -> Error;

    /// What is the matter, where nothing has come for [`STALL_MS`].
    fn stalled(&self) -> Error;
}

/// What one epoch reads.
pub struct PiecesInput<P> {
    pieces: Arc<Pieces<P>>,
    form: Form,
    metadata: DataType,
}

impl<P: Progress> PiecesInput<P> {
    /// The pieces of an epoch, in the form of their source, with its `_metadata`.
    pub fn new(pieces: Pieces<P>, form: Form, metadata: DataType) -> Self {
        Self { pieces: Arc::new(pieces), form, metadata }
    }

    /// By slot, how far it is read. Nothing is taken any more from here on.
    pub fn reached(&self) -> Vec<P> {
        let mut share = self.pieces.share();
        share.fill();
        share.next.clone()
    }
}

impl<P: Progress> fmt::Debug for PiecesInput<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PiecesInput").field("pieces", &self.pieces).finish_non_exhaustive()
    }
}

impl<P: Progress> Input for PiecesInput<P> {
    fn table(&self, tap: Arc<Tap>, visible: MetadataColumn) -> Result<Arc<dyn TableProvider>> {
        let records = Arc::clone(&self.pieces) as Arc<dyn Records>;
        let table = RecordsTable::new(records, self.form.clone(), self.metadata.clone(), tap, visible)?;
        Ok(Arc::new(table))
    }

    fn close(&self) {
        self.pieces.share().fill();
        self.pieces.feed.wake();
    }
}

/// The pieces of one epoch. They are taken from the feed once; a plan that reads the source more than once reads what
/// was kept of the first reading.
pub struct Pieces<P> {
    supplier: Arc<dyn Supplier>,
    feed: Arc<Feed<P>>,
    share: Mutex<Share<P>>,
    streams: usize,
    kept: Vec<Mutex<Vec<Piece<P>>>>,
    most_ms: Option<u64>,
    watch: Stopwatch,
}

impl<P: Progress> fmt::Debug for Pieces<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("share", &self.share()).finish_non_exhaustive()
    }
}

/// What a reader finds.
enum Found<P> {
    Piece(Box<Piece<P>>),
    Nothing,
    End,
}

impl<P: Progress> Pieces<P> {
    /// What a share takes of a feed, for `streams` readers side by side, and for no longer than `time`.
    pub fn new(
        supplier: Arc<dyn Supplier>,
        feed: Arc<Feed<P>>,
        share: Share<P>,
        streams: usize,
        time: Option<Duration>,
    ) -> Self {
        Self {
            supplier,
            feed,
            share: Mutex::new(share),
            streams,
            kept: (0..streams).map(|_| Mutex::default()).collect(),
            most_ms: time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            watch: Stopwatch::start(),
        }
    }

    fn share(&self) -> std::sync::MutexGuard<'_, Share<P>> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The piece behind the `seen` first ones of a stream.
    fn look(&self, stream: usize, seen: usize, keep: bool) -> Found<P> {
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

    async fn next(&self, stream: usize, seen: usize, keep: bool) -> Result<Option<Piece<P>>> {
        let mut quiet = Stopwatch::start();
        loop {
            match self.look(stream, seen, keep) {
                Found::Piece(piece) => return Ok(Some(*piece)),
                Found::End => return Ok(None),
                Found::Nothing => {}
            }
            if let Some(stopped) = self.feed.stopped() {
                return Err(self.supplier.stopped(&stopped));
            }
            if quiet.elapsed_ms() >= STALL_MS {
                let mut share = self.share();
                // What is wanted in one epoch is not taken for whole when it is not.
                if !share.has_begun() || self.most_ms.is_none() {
                    return Err(self.supplier.stalled());
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

impl<P: Progress> Records for Pieces<P> {
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
