//! Object stores that misbehave on purpose, for tests inside one process.
//!
//! Uses nothing of the project; wraps any store of `object_store`. [`StoppingStore`] counts the operations of all stores
//! that share a [`Plan`] and stops the world at the k-th: from then on no operation, on any clone, takes effect or
//! answers, as if the process had died there. [`LatencyStore`] is as far away as S3 is.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use tokio::sync::watch;

/// When the world stops: around the k-th operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The operation never reaches the store.
    Before,
    /// The operation takes effect, and its answer is lost.
    After,
}

/// What an operation meets once the world has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It never returns: race the run against [`Plan::stopped`], then drop it.
    Silence,
    /// It fails at once, so that the run ends by itself, if it may not do anything about it.
    Refusal,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A put of a whole object, whatever its mode.
    Put,
    /// The start of an upload in parts.
    PutMultipart,
    /// One part.
    Part,
    /// The end of an upload in parts, which makes the object.
    Complete,
    /// An upload given up.
    Abort,
    /// A get, of a range too.
    Get,
    /// A get of the metadata alone.
    Head,
    /// A listing, of any kind.
    List,
    /// A delete of one object.
    Delete,
    /// A copy.
    Copy,
    /// A rename.
    Rename,
}

impl Operation {
    /// Whether it can change the store.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::Head | Self::List)
    }
}

/// One operation that a plan saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it was.
    pub operation: Operation,
    /// Of which object or prefix; of a copy or a rename, the one that it makes.
    pub path: Path,
}

/// Where to stop, shared by all stores of one run. A clone is the same plan.
#[derive(Debug, Clone)]
pub struct Plan(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The operation to stop at, counted from 1; none in a run that only counts.
    stop: Option<(u64, Moment)>,
    ending: Ending,
    only_writes: bool,
    events: Mutex<Vec<Event>>,
    stopped: watch::Sender<bool>,
}

impl Plan {
    /// Only counts.
    pub fn counting() -> Self {
        Self::new(None, Ending::Silence, false)
    }

    /// Stops at the k-th operation, counted from 1.
    pub fn stop_at(k: u64, moment: Moment, ending: Ending) -> Self {
        Self::new(Some((k, moment)), ending, false)
    }

    /// Counts only operations that can change the store; what reads goes on uncounted until the world stops.
    #[must_use]
    pub fn only_writes(self) -> Self {
        Self::new(self.0.stop, self.0.ending, true)
    }

    fn new(stop: Option<(u64, Moment)>, ending: Ending, only_writes: bool) -> Self {
        let events = Mutex::default();
        Self(Arc::new(Shared { stop, ending, only_writes, events, stopped: watch::Sender::new(false) }))
    }

    /// How many operations were begun, the one that stopped the world included.
    pub fn operations(&self) -> u64 {
        self.events().len() as u64
    }

    /// The operations, in the order in which they were begun.
    pub fn events(&self) -> Vec<Event> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the world has stopped.
    pub fn has_stopped(&self) -> bool {
        *self.0.stopped.borrow()
    }

    /// Waits until the world stops; for ever, when it does not.
    pub async fn stopped(&self) {
        let mut stopped = self.0.stopped.subscribe();
        // The sender is in `self`: it cannot be gone.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    /// Notes an operation and says whether the world stops around it.
    fn begin(&self, operation: Operation, path: &Path) -> Option<Moment> {
        if self.0.only_writes && !operation.writes() {
            return None;
        }
        let mut events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_stopped() {
            return None;
        }
        events.push(Event { operation, path: path.clone() });
        let (k, moment) = self.0.stop?;
        if events.len() as u64 != k {
            return None;
        }
        if moment == Moment::Before {
            // Under the lock, so that no other operation slips in between.
            self.stop();
        }
        Some(moment)
    }

    fn stop(&self) {
        self.0.stopped.send_replace(true);
    }

    /// What an operation of a world that has stopped answers.
    async fn end<T>(&self) -> Result<T> {
        match self.0.ending {
            Ending::Silence => std::future::pending().await,
            Ending::Refusal => Err(refusal()),
        }
    }

    /// Lets a result out, unless the world has stopped in the meantime.
    async fn answer<T>(&self, result: Result<T>) -> Result<T> {
        if self.has_stopped() { self.end().await } else { result }
    }

    /// Runs one operation of a store.
    async fn run<T>(&self, operation: Operation, path: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        let moment = self.begin(operation, path);
        if self.has_stopped() {
            return self.end().await;
        }
        let result = work.await;
        if moment == Some(Moment::After) {
            self.stop();
        }
        self.answer(result).await
    }

    /// Lets the items of a stream out until the world stops.
    fn gate<T: Send + 'static>(&self, items: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let plan = self.clone();
        items.then(move |item| plan.clone().answer_owned(item)).boxed()
    }

    async fn answer_owned<T>(self, result: Result<T>) -> Result<T> {
        self.answer(result).await
    }

    /// A listing: one operation, whose items follow one by one.
    fn listing(
        &self,
        prefix: Option<&Path>,
        items: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (plan, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let begun = async move {
            plan.run(Operation::List, &prefix, std::future::ready(Ok(()))).await?;
            Ok::<_, Error>(plan.gate(items))
        };
        begun.into_stream().try_flatten().boxed()
    }
}

/// What a store of a stopped world answers under [`Ending::Refusal`].
fn refusal() -> Error {
    Error::Generic { store: "StoppingStore", source: "the world has stopped".into() }
}

/// A store that stops the world as its [`Plan`] says.
#[derive(Debug, Clone)]
pub struct StoppingStore {
    inner: Arc<dyn ObjectStore>,
    plan: Plan,
}

impl StoppingStore {
    /// Wraps a store. Several stores may share a plan.
    pub fn new(inner: Arc<dyn ObjectStore>, plan: Plan) -> Self {
        Self { inner, plan }
    }
}

impl fmt::Display for StoppingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoppingStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for StoppingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.plan.run(Operation::Put, location, self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begun = self.inner.put_multipart_opts(location, options);
        let inner = self.plan.run(Operation::PutMultipart, location, begun).await?;
        Ok(Box::new(StoppingUpload { inner, location: location.clone(), plan: self.plan.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { Operation::Head } else { Operation::Get };
        let result = self.plan.run(operation, location, self.inner.get_opts(location, options)).await?;
        Ok(with_stream(result, |bytes| self.plan.gate(bytes)))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Path| {
            let store = store.clone();
            async move {
                store.plan.run(Operation::Delete, &location, store.inner.delete(&location)).await?;
                Ok(location)
            }
        };
        // One after another, so that the k-th is the same in each run.
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.plan.listing(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.plan.listing(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let of = prefix.cloned().unwrap_or_default();
        self.plan.run(Operation::List, &of, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.plan.run(Operation::Copy, to, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.plan.run(Operation::Rename, to, self.inner.rename_opts(from, to, options)).await
    }
}

/// An upload in parts, each of which is an operation.
#[derive(Debug)]
struct StoppingUpload {
    inner: Box<dyn MultipartUpload>,
    location: Path,
    plan: Plan,
}

#[async_trait]
impl MultipartUpload for StoppingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (plan, location) = (self.plan.clone(), self.location.clone());
        if plan.has_stopped() {
            return async move { plan.end().await }.boxed();
        }
        let part = self.inner.put_part(data);
        async move { plan.run(Operation::Part, &location, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.plan.run(Operation::Complete, &self.location, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.plan.run(Operation::Abort, &self.location, self.inner.abort()).await
    }
}

/// The same result with its bytes led through something; a local file becomes a stream of its bytes.
fn with_stream<F>(result: GetResult, through: F) -> GetResult
where
    F: FnOnce(BoxStream<'static, Result<bytes::Bytes>>) -> BoxStream<'static, Result<bytes::Bytes>>,
{
    let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
    GetResult { payload: GetResultPayload::Stream(through(result.into_stream())), meta, range, attributes }
}

/// A store whose every operation takes its time to begin. As many as are asked for run at once.
#[derive(Debug, Clone)]
pub struct LatencyStore {
    inner: Arc<dyn ObjectStore>,
    wait: Duration,
    gets: Arc<Gets>,
}

#[derive(Debug, Default)]
struct Gets {
    begun: AtomicU64,
    in_flight: AtomicU64,
    most: AtomicU64,
}

/// A get that has begun and whose last byte has not been read.
struct Flight(Arc<Gets>);

impl Flight {
    fn begin(gets: &Arc<Gets>) -> Self {
        gets.begun.fetch_add(1, Ordering::SeqCst);
        let now = gets.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        gets.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(gets))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl LatencyStore {
    /// Puts a store this far away; S3's first byte usually comes after 30 ms.
    pub fn new(inner: Arc<dyn ObjectStore>, wait: Duration) -> Self {
        Self { inner, wait, gets: Arc::default() }
    }

    /// How many gets were begun, heads included.
    pub fn gets(&self) -> u64 {
        self.gets.begun.load(Ordering::SeqCst)
    }

    /// The most gets that were in flight at one time.
    pub fn most_gets_in_flight(&self) -> u64 {
        self.gets.most.load(Ordering::SeqCst)
    }

    fn after_wait<T: Send + 'static>(&self, items: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let wait = self.wait;
        let begun = async move {
            tokio::time::sleep(wait).await;
            items
        };
        begun.into_stream().flatten().boxed()
    }
}

impl fmt::Display for LatencyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LatencyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for LatencyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        tokio::time::sleep(self.wait).await;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        tokio::time::sleep(self.wait).await;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(LatencyUpload { inner, wait: self.wait }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let flight = Flight::begin(&self.gets);
        tokio::time::sleep(self.wait).await;
        let result = self.inner.get_opts(location, options).await?;
        // The stream owns the flight: it lands when the bytes are read or dropped.
        Ok(with_stream(result, |bytes| {
            let last = futures::stream::once(async move { drop(flight) }).filter_map(|()| async { None });
            bytes.chain(last).boxed()
        }))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.after_wait(self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.after_wait(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.after_wait(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        tokio::time::sleep(self.wait).await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        tokio::time::sleep(self.wait).await;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        tokio::time::sleep(self.wait).await;
        self.inner.rename_opts(from, to, options).await
    }
}

/// An upload in parts to a store that is far away.
#[derive(Debug)]
struct LatencyUpload {
    inner: Box<dyn MultipartUpload>,
    wait: Duration,
}

#[async_trait]
impl MultipartUpload for LatencyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (wait, part) = (self.wait, self.inner.put_part(data));
        async move {
            tokio::time::sleep(wait).await;
            part.await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        tokio::time::sleep(self.wait).await;
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
