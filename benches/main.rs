//! Speed, as ratios within one run: `cargo bench`. One binary; absolute times depend on the machine and its neighbours.
//!
//! `cargo bench -- decode|commits|objects|ledger|latency|epochs|drain|shards` measures one of them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a bench is not the product"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{BinaryViewArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use pinsql::decode::{Decoder, Envelope, Mode};
use pinsql::engine::{Engine, RunOptions};
use pinsql::error::Place;
use pinsql::project::Invocation;
use pinsql::report::{Condition, EpochReport, Reporter, Summary};
use pinsql::store::Layer;

#[path = "../tests/support/stores.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod stores;

#[path = "../tests/support/kafka.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod kafka;
#[path = "../tests/support/kinesis.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod kinesis;
#[path = "../tests/support/proxy.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod proxy;
mod streams;
#[path = "../tests/support/time.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod time;
mod topics;

/// Keeps how long each epoch took.
#[derive(Debug, Default)]
struct Epochs(std::sync::Mutex<Vec<u64>>);

impl Reporter for Epochs {
    fn epoch(&self, report: &EpochReport) {
        self.0.lock().unwrap().push(report.elapsed_ms);
    }
    fn condition(&self, _: &str, _: &Condition<'_>) {}
    fn notice(&self, _: &str, _: Option<&Place>) {}
    fn progress(&self, _: &str, _: u64) {}
    fn rows(&self, _: &SchemaRef, _: &[RecordBatch]) {}
    fn end_of_rows(&self) {}
}

const SQL: &str = "
CREATE EXTERNAL TABLE pin (id BIGINT, title STRING) STORED AS JSON LOCATION 'in/';
CREATE STREAMING TABLE clean AS SELECT id, upper(title) AS title FROM STREAM pin;
";

fn project(objects: usize) -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("pinsql.toml"), "").unwrap();
    std::fs::create_dir_all(folder.path().join("sql")).unwrap();
    std::fs::create_dir_all(folder.path().join("in")).unwrap();
    std::fs::write(folder.path().join("sql/clean.sql"), SQL).unwrap();
    add(&folder, 0..objects);
    folder
}

fn add(folder: &tempfile::TempDir, objects: std::ops::Range<usize>) {
    for id in objects {
        let record = format!("{{\"id\":{id},\"title\":\"{}\"}}", "a title of some length ".repeat(28));
        std::fs::write(folder.path().join(format!("in/pin+0+{id:010}.json")), record).unwrap();
    }
}

fn run(folder: &tempfile::TempDir, layer: Option<Layer>, max_records: Option<u64>) -> (Summary, Vec<u64>, Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let reporter = Arc::new(Epochs::default());
    let invocation = Invocation { directory: Some(folder.path().to_path_buf()), ..Invocation::default() };
    let watch = Instant::now();
    let summary = runtime.block_on(async {
        let paths = [folder.path().join("sql")];
        let mut engine = Engine::open_with(&invocation, &paths, Arc::clone(&reporter) as _, layer).await.unwrap();
        engine.run(&RunOptions { max_records, ..RunOptions::default() }).await
    });
    assert!(summary.error.is_none(), "{summary:?}");
    let epochs = reporter.0.lock().unwrap().clone();
    (summary, epochs, watch.elapsed())
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The own decoder against arrow-json, which isolates nothing.
fn decode() {
    let names = [
        "unique_id",
        "title",
        "description",
        "poster_name",
        "follower_count",
        "tag_list",
        "kind",
        "image",
        "place",
        "category",
    ];
    let mut fields = vec![Field::new("index", DataType::Int64, true), Field::new("downloaded", DataType::Int64, true)];
    fields.extend(names.map(|name| Field::new(name, DataType::Utf8, true)));
    let schema = Arc::new(Schema::new(fields));
    let record = |index: usize| {
        let texts = names.map(|name| format!("\"{name}\":\"{} {index}\"", "some words of text ".repeat(2))).join(",");
        format!("{{\"index\":{index},\"downloaded\":1,{texts}}}")
    };
    let records: Vec<String> = (0..8192).map(record).collect();
    let payloads = BinaryViewArray::from_iter_values(records.iter().map(String::as_bytes));
    let text = records.join("\n");
    let best = |work: &mut dyn FnMut()| {
        (0..20)
            .map(|_| {
                let watch = Instant::now();
                work();
                watch.elapsed()
            })
            .min()
            .unwrap()
    };
    let mut ours = Decoder::new(&schema, None, Mode::Quarantine, Envelope::None).unwrap();
    let own = best(&mut || assert_eq!(ours.decode(&payloads).unwrap().rows.len(), 8192));
    let mut two = Decoder::new(&schema, Some(&[0, 11]), Mode::Quarantine, Envelope::None).unwrap();
    let projected = best(&mut || assert_eq!(two.decode(&payloads).unwrap().rows.len(), 8192));
    let arrow = best(&mut || {
        let mut decoder =
            arrow::json::ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(8192).build_decoder().unwrap();
        decoder.decode(text.as_bytes()).unwrap();
        assert_eq!(decoder.flush().unwrap().unwrap().num_rows(), 8192);
    });
    let each = |time: Duration| time.as_nanos() / 8192;
    println!(
        "decode: {} bytes a record; own {} ns, two of twelve columns {} ns, arrow-json {} ns; own/arrow-json {:.2}",
        text.len() / 8192,
        each(own),
        each(projected),
        each(arrow),
        own.as_secs_f64() / arrow.as_secs_f64()
    );
}

/// The last hundred commits of one table against the first hundred.
fn commits() {
    let count = number("COMMITS", 2000);
    let folder = project(count);
    let (_, epochs, all) = run(&folder, None, Some(1));
    let sum = |part: &[u64]| part.iter().sum::<u64>() as f64;
    let (first, last) = (sum(&epochs[..100]), sum(&epochs[epochs.len() - 100..]));
    println!(
        "commits: {count} in {all:.1?}; first hundred {first} ms, last hundred {last} ms; last/first {:.2}",
        last / first
    );
}

/// One-record objects, on the disk and on a store with 30 ms latency.
fn objects() {
    let count = number("OBJECTS", 20_000);
    let folder = project(count);
    let (_, _, disk) = run(&folder, None, None);
    std::fs::remove_dir_all(folder.path().join("lake")).unwrap();
    let layer: Layer = Arc::new(|store| Arc::new(stores::LatencyStore::new(store, Duration::from_millis(30))));
    let (_, _, slow) = run(&folder, Some(layer), None);
    let rate = |time: Duration| count as f64 / time.as_secs_f64();
    println!(
        "objects: {count}; on the disk {disk:.1?} ({:.0}/s), at 30 ms {slow:.1?} ({:.0}/s)",
        rate(disk),
        rate(slow)
    );
    add(&folder, count..count + 10);
    let (summary, _, more) = run(&folder, None, None);
    assert_eq!(summary.tables[0].read, 10);
    println!("objects: ten more in {more:.2?}");
}

/// A folder of many objects that take no room: each is made when it is read.
#[derive(Debug)]
struct Synthetic {
    inner: Arc<dyn ObjectStore>,
    count: Arc<AtomicUsize>,
}

impl Synthetic {
    fn meta(folder: &Path, id: usize) -> ObjectMeta {
        ObjectMeta {
            location: folder.clone().join(format!("pin+0+{id:010}.json")),
            last_modified: chrono::DateTime::from_timestamp(1_600_000_000 + id as i64, 0).unwrap(),
            size: Self::record(id).len() as u64,
            e_tag: Some(format!("\"{id:032x}\"")),
            version: None,
        }
    }

    fn record(id: usize) -> String {
        format!("{{\"id\":1{id:09},\"title\":\"one of many\"}}")
    }

    /// The folder and the number of one of our objects.
    fn ours(path: &Path) -> Option<(Path, usize)> {
        let id = path.filename()?.strip_prefix("pin+0+")?.strip_suffix(".json")?.parse().ok()?;
        let parts: Vec<_> = path.parts().collect();
        Some((parts[..parts.len() - 1].iter().cloned().collect(), id))
    }
}

impl std::fmt::Display for Synthetic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("synthetic")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Synthetic {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }
    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let Some((folder, id)) = Self::ours(path) else { return self.inner.get_opts(path, options).await };
        let text = Self::record(id);
        Ok(GetResult {
            range: 0..text.len() as u64,
            payload: GetResultPayload::Stream(futures::stream::iter([Ok(text.into())]).boxed()),
            meta: Self::meta(&folder, id),
            attributes: Default::default(),
        })
    }
    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match prefix {
            Some(folder) if folder.filename() == Some("in") => {
                let folder = folder.clone();
                let all = 0..self.count.load(Ordering::Relaxed);
                futures::stream::iter(all).map(move |id| Ok(Self::meta(&folder, id))).boxed()
            }
            other => self.inner.list(other),
        }
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Ten new objects behind many that were read: what the ledger costs beyond the listing.
fn ledger() {
    let many = number("LEDGER", 200_000);
    let folder = project(0);
    let count = Arc::new(AtomicUsize::new(many));
    let shared = Arc::clone(&count);
    let layer: Layer = Arc::new(move |inner| Arc::new(Synthetic { inner, count: Arc::clone(&shared) }));
    let (_, _, all) = run(&folder, Some(Arc::clone(&layer)), None);
    count.fetch_add(10, Ordering::Relaxed);
    let watch = Instant::now();
    let listed = (0..many + 10).map(|id| Synthetic::meta(&Path::from("in"), id)).filter(|meta| meta.size > 0).count();
    let listing = watch.elapsed();
    let (summary, _, more) = run(&folder, Some(Arc::clone(&layer)), None);
    assert_eq!((summary.tables[0].read, listed), (10, many + 10));
    let (_, _, nothing) = run(&folder, Some(layer), None);
    println!(
        "ledger: {many} objects in {all:.1?}; ten more in {more:.2?}, nothing new in {nothing:.2?}, listing alone {listing:.2?}"
    );
}

fn main() {
    pinsql::memory::give_back_soon();
    let wanted = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    if wanted.as_deref() == Some("drained") {
        return topics::drained();
    }
    if wanted.as_deref() == Some("sharded") {
        return streams::sharded();
    }
    let benches: [(&str, fn()); 8] = [
        ("decode", decode),
        ("commits", commits),
        ("objects", objects),
        ("ledger", ledger),
        ("latency", topics::latency),
        ("epochs", topics::epochs),
        ("drain", topics::drain),
        ("shards", streams::shards),
    ];
    for (name, bench) in benches {
        if wanted.as_ref().is_none_or(|wanted| wanted == name) {
            bench();
        }
    }
}
