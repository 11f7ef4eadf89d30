//! Gets objects' bytes: hundreds of small ones in flight, large ones piece by piece, never more than a budget at once.
//!
//! Floor 3: uses `store`, `error`. An object is pinned by its tag, so one that changes between listing and reading is an
//! error and not a mixture.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::io::StreamReader;

use super::listing::Object;
use crate::error::{Error, Result};
use crate::store::{self, Location};

/// Requests in flight in one process. At S3's usual 30 ms a request, 256 are 8,500 objects a second.
pub const IN_FLIGHT: usize = 256;
/// Bytes of whole objects held at once.
const BUDGET_BYTES: u64 = 64 << 20;
/// A larger object is read in pieces of this size, two of them in flight.
const PIECE_BYTES: u64 = 4 << 20;
/// What a decompressor hands on at a time.
const UNPACKED_BYTES: usize = 1 << 20;

/// An object's bytes as they lie in the store.
pub enum Body {
    /// A small object, with its share of the budget.
    Whole(Bytes, OwnedSemaphorePermit),
    /// A large one, piece by piece.
    Pieces(BoxStream<'static, Result<Bytes>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes, _) => write!(f, "{} bytes", bytes.len()),
            Self::Pieces(_) => f.write_str("pieces"),
        }
    }
}

/// Gets objects of one source.
#[derive(Debug, Clone)]
pub struct Fetcher {
    location: Location,
    budget: Arc<Semaphore>,
    early: Arc<Mutex<HashMap<Path, JoinHandle<Result<Body>>>>>,
}

impl Fetcher {
    /// A fetcher with a budget of its own.
    pub fn new(location: Location) -> Self {
        let budget = Arc::new(Semaphore::new(usize::try_from(BUDGET_BYTES).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { location, budget, early: Arc::default() }
    }

    /// Begins to get a small object while others are still being listed, as long as a quarter of the budget is free: the
    /// rest stays for those whose turn it is.
    pub async fn begin(&self, object: &Object) {
        let keep = usize::try_from(BUDGET_BYTES / 4).unwrap_or_default();
        if object.meta.size > PIECE_BYTES || self.budget.available_permits() < keep + share(object.meta.size) as usize {
            return;
        }
        let mut early = self.early.lock().await;
        if early.len() < 16 * IN_FLIGHT {
            let (fetcher, meta) = (self.clone(), object.meta.clone());
            early.insert(object.meta.location.clone(), tokio::spawn(async move { fetcher.get(&meta).await }));
        }
    }

    /// The object's bytes.
    pub async fn fetch(&self, object: &Object) -> Result<Body> {
        let begun = self.early.lock().await.remove(&object.meta.location);
        match begun {
            Some(handle) => handle.await.map_err(|error| Error::internal(error.to_string()))?,
            None => self.get(&object.meta).await,
        }
    }

    async fn get(&self, meta: &ObjectMeta) -> Result<Body> {
        if meta.size > PIECE_BYTES {
            return Ok(Body::Pieces(pieces(self.location.clone(), meta.clone())));
        }
        let permits = Arc::clone(&self.budget).acquire_many_owned(share(meta.size)).await;
        let permits = permits.map_err(|error| Error::internal(error.to_string()))?;
        let bytes = get(&self.location, meta, None).await?;
        Ok(Body::Whole(bytes, permits))
    }
}

/// An empty object counts too: a million of them are not free.
fn share(bytes: u64) -> u32 {
    u32::try_from(bytes.max(1024)).unwrap_or(u32::MAX)
}

fn pieces(location: Location, meta: ObjectMeta) -> BoxStream<'static, Result<Bytes>> {
    let starts = (0..meta.size).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
    futures::stream::iter(starts)
        .map(move |start| {
            let (location, meta) = (location.clone(), meta.clone());
            async move {
                let end = (start + PIECE_BYTES).min(meta.size);
                get(&location, &meta, Some(start..end)).await
            }
        })
        .buffered(2)
        .boxed()
}

async fn get(location: &Location, meta: &ObjectMeta, range: Option<Range<u64>>) -> Result<Bytes> {
    let options =
        GetOptions { if_match: meta.e_tag.clone(), range: range.map(GetRange::Bounded), ..GetOptions::default() };
    let read = async { location.store().get_opts(&meta.location, options).await?.bytes().await };
    read.await.map_err(|error| match error {
        object_store::Error::Precondition { .. } => {
            Error::data(format!("object `{}` changed while it was being read", location.uri_of(&meta.location)))
                .hint("run again; objects of a source must be written once and not changed")
        }
        other => store::failed(format!("cannot read `{}`", location.uri_of(&meta.location)), other),
    })
}

/// How an object is packed, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

impl Packing {
    /// By the name's ending.
    pub fn of(path: &Path) -> Self {
        match path.extension() {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// Unpacks a stream of bytes. An archive that is damaged ends with an error that says so.
    pub fn unpack(
        self,
        packed: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> BoxStream<'static, std::io::Result<Bytes>> {
        let reader = BufReader::new(StreamReader::new(packed));
        match self {
            Self::Plain => reader.into_inner().into_inner(),
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                chunks(decoder)
            }
            Self::Zstd => {
                let mut decoder = ZstdDecoder::new(reader);
                decoder.multiple_members(true);
                chunks(decoder)
            }
        }
    }
}

fn chunks(reader: impl AsyncRead + Send + Unpin + 'static) -> BoxStream<'static, std::io::Result<Bytes>> {
    futures::stream::try_unfold(reader, |mut reader| async move {
        let mut chunk = bytes::BytesMut::with_capacity(UNPACKED_BYTES);
        while chunk.len() < UNPACKED_BYTES && reader.read_buf(&mut chunk).await? > 0 {}
        Ok((!chunk.is_empty()).then(|| (chunk.freeze(), reader)))
    })
    .boxed()
}
