//! A store from which few commits of a table's log are read at once.
//!
//! Uses no other room. delta_kernel opens up to a thousand commits side by side, and each holds a decoder of several megabytes
//! until its turn comes; sixteen are as fast, and bounded. A commit counts until its text is taken.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::sync::Semaphore;

/// Commits that are read at once.
const COMMITS: usize = 16;
/// Somebody who keeps what was handed out holds the others up for so long, and not for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store that hands out few commits at a time.
#[derive(Debug)]
pub struct Narrow<S> {
    inner: S,
    commits: Arc<Semaphore>,
}

impl<S> Narrow<S> {
    /// Wraps a store.
    pub fn new(inner: S) -> Self {
        Self { inner, commits: Arc::new(Semaphore::new(COMMITS)) }
    }
}

impl<S: fmt::Display> fmt::Display for Narrow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn is_commit(path: &Path) -> bool {
    path.extension() == Some("json") && path.as_ref().contains("_delta_log/")
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Narrow<S> {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !is_commit(location) || options.head {
            return self.inner.get_opts(location, options).await;
        }
        let permit = tokio::time::timeout(PATIENCE, Arc::clone(&self.commits).acquire_owned()).await;
        let GetResult { payload, meta, range, attributes } = self.inner.get_opts(location, options).await?;
        let whole = GetResult { payload, meta: meta.clone(), range: range.clone(), attributes: attributes.clone() };
        let text = whole.bytes().await?;
        // The permit goes with the text: who is given it decodes it, and only then another commit is opened.
        let held = futures::stream::unfold(Some((text, permit)), |left| async move {
            let (text, permit) = left?;
            Some(((text, permit), None))
        });
        // The kernel asks again behind the end.
        let payload = GetResultPayload::Stream(held.map(|(text, _permit)| Ok(text)).fuse().boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
