//! Reads the objects of one epoch: bytes in flight, frames, chunks, and the checksum of each object.
//!
//! Floor 3: uses `decode`, `source`, `store`, `error`.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{BoxStream, FusedStream};
use futures::{StreamExt, TryStreamExt};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::chunk::{ChunkBuilder, Origin};
use super::fetch::{Body, Fetcher, IN_FLIGHT, Packing};
use super::ledger::Seen;
use super::listing::Object;
use crate::decode::Framer;
use crate::error::{Error, Result};
use crate::source::records::{Chunk, Records};
use crate::store::Location;

/// How an object's text is cut into records.
#[derive(Debug, Clone, Copy)]
pub struct Framing {
    /// `multiLine`; None decides for each object.
    pub multi_line: Option<bool>,
    /// `maxRecordBytes`.
    pub max_record_bytes: usize,
}

impl Framing {
    /// A framer for one object.
    pub fn framer(self) -> Framer {
        Framer::new(self.multi_line, self.max_record_bytes)
    }
}

/// The objects of one epoch, and which of them were read to their end.
#[derive(Debug)]
pub struct FileRecords {
    location: Location,
    objects: Arc<[Object]>,
    fetcher: Fetcher,
    framing: Framing,
    partitions: usize,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FileRecords {
    /// Reads `objects` in `partitions` runs of neighbours.
    pub fn new(
        location: Location,
        objects: Vec<Object>,
        fetcher: Fetcher,
        framing: Framing,
        partitions: usize,
    ) -> Self {
        Self { location, objects: objects.into(), fetcher, framing, partitions, seen: Arc::default() }
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// The objects read to their end, with their checksums.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Records for FileRecords {
    fn partitions(&self) -> usize {
        self.partitions
    }

    fn read(self: Arc<Self>, partition: usize, _again: bool) -> BoxStream<'static, Result<Chunk>> {
        let (count, of) = (self.objects.len(), self.partitions);
        let mine: Vec<Object> = self.objects[count * partition / of..count * (partition + 1) / of].to_vec();
        let fetcher = self.fetcher.clone();
        let bodies = futures::stream::iter(mine)
            .map(move |object| {
                let fetcher = fetcher.clone();
                async move {
                    let body = fetcher.fetch(&object).await?;
                    Ok((object, body))
                }
            })
            .buffered((IN_FLIGHT / of).max(1))
            .fuse();
        let run = Run {
            bodies: Box::pin(bodies),
            location: self.location.clone(),
            fetcher: self.fetcher.clone(),
            framing: self.framing,
            builder: ChunkBuilder::default(),
            open: None,
            seen: Arc::clone(&self.seen),
        };
        futures::stream::try_unfold(run, |mut run| async move { Ok(run.next().await?.map(|chunk| (chunk, run))) })
            .boxed()
    }
}

type Bodies = std::pin::Pin<Box<dyn FusedStream<Item = Result<(Object, Body)>> + Send>>;

/// One partition on its way.
struct Run {
    bodies: Bodies,
    location: Location,
    fetcher: Fetcher,
    framing: Framing,
    builder: ChunkBuilder,
    open: Option<Open>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// The object being read.
struct Open {
    object: Object,
    origin: Arc<Origin>,
    framer: Framer,
    text: BoxStream<'static, std::io::Result<Bytes>>,
    sum: Arc<Mutex<Xxh3>>,
    row_index: i64,
}

impl Run {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            if let Some(chunk) = self.builder.take(false)? {
                return Ok(Some(chunk));
            }
            match self.open.take() {
                Some(open) => self.advance(open).await?,
                None => match self.bodies.next().await.transpose()? {
                    Some((object, body)) => self.start(object, body),
                    None => return self.builder.take(true),
                },
            }
        }
    }

    fn start(&mut self, object: Object, body: Body) {
        let origin = Arc::new(Origin::new(&self.location, &object));
        match (body, Packing::of(&object.meta.location)) {
            (Body::Whole(bytes, _budget), Packing::Plain) => {
                let mut framer = self.framing.framer();
                let sum = xxh3_64(&bytes);
                let mut row_index = 0;
                for block in framer.push(bytes).into_iter().chain(framer.finish()) {
                    row_index = self.builder.push(&origin, block, row_index);
                }
                self.remember(&object, sum);
            }
            (body, packing) => {
                let sum = Arc::new(Mutex::new(Xxh3::new()));
                let text = packing.unpack(summed(body, Arc::clone(&sum)));
                self.open = Some(Open { object, origin, framer: self.framing.framer(), text, sum, row_index: 0 });
            }
        }
    }

    /// Takes one piece of the open object.
    async fn advance(&mut self, mut open: Open) -> Result<()> {
        let piece = open.text.next().await;
        let (blocks, ended, damage) = match piece {
            Some(Ok(text)) => (open.framer.push(text), false, None),
            Some(Err(error)) => (open.framer.finish(), true, Some(damage(error)?)),
            None => (open.framer.finish(), true, None),
        };
        for block in blocks {
            open.row_index = self.builder.push(&open.origin, block, open.row_index);
        }
        if let Some(reason) = damage {
            self.builder.push_unreadable(&open.origin, open.row_index, reason);
            // Reading stopped at the damage; the checksum is of the whole object.
            let sum = checksum(&self.fetcher, &open.object).await?;
            self.remember(&open.object, sum);
        } else if ended {
            let sum = open.sum.lock().unwrap_or_else(PoisonError::into_inner).digest();
            self.remember(&open.object, sum);
        } else {
            self.open = Some(open);
        }
        Ok(())
    }

    fn remember(&self, object: &Object, sum: u64) {
        let seen = Seen { file: object.file.clone(), tag: object.tag(), sum, size: object.meta.size };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
}

/// The body as a stream that adds up the checksum on its way.
fn summed(body: Body, sum: Arc<Mutex<Xxh3>>) -> BoxStream<'static, std::io::Result<Bytes>> {
    let pieces = match body {
        Body::Whole(bytes, budget) => futures::stream::once(async move {
            let _held_until_taken = budget;
            Ok(bytes)
        })
        .boxed(),
        Body::Pieces(pieces) => pieces,
    };
    pieces
        .inspect_ok(move |piece| sum.lock().unwrap_or_else(PoisonError::into_inner).update(piece))
        .map_err(std::io::Error::other)
        .boxed()
}

/// An archive that is damaged is a record that cannot be read; anything else stops the run.
fn damage(error: std::io::Error) -> Result<String> {
    let words = error.to_string();
    match error.into_inner().map(|inner| inner.downcast::<Error>()) {
        Some(Ok(ours)) => Err(*ours),
        _ => Ok(format!("the archive is damaged: {words}")),
    }
}

/// The checksum of an object as it is now.
pub async fn checksum(fetcher: &Fetcher, object: &Object) -> Result<u64> {
    let sum = Arc::new(Mutex::new(Xxh3::new()));
    let mut pieces = summed(fetcher.fetch(object).await?, Arc::clone(&sum));
    while let Some(piece) = pieces.next().await {
        piece.or_else(|error| damage(error).map(|_| Bytes::new()))?;
    }
    let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(sum.digest())
}

/// The beginning of an object's text, up to about `most` bytes, for inference.
pub async fn head(fetcher: &Fetcher, object: &Object, most: usize) -> Result<Bytes> {
    let sum = Arc::new(Mutex::new(Xxh3::new()));
    let body = fetcher.fetch(object).await?;
    let mut text = Packing::of(&object.meta.location).unpack(summed(body, sum));
    let mut head = Vec::new();
    while head.len() < most {
        match text.next().await {
            Some(Ok(piece)) => head.extend_from_slice(&piece[..piece.len().min(most - head.len())]),
            Some(Err(error)) => {
                damage(error)?;
                break;
            }
            None => break,
        }
    }
    Ok(head.into())
}
