//! Crashes, kills, lost answers, two instances: whatever happens, each record is in exactly one place, once.
//!
//! What lies in a lake is judged by the bytes alone: [`Lake`] reads Delta's log, the epoch log and the Parquet files without
//! any of the project's code. Random tests print their seed; PINSQL_SEED sets it, PINSQL_KILLS the number of kills.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path as FilePath;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pinsql::engine::{Engine, RunOptions};
use pinsql::store::Layer;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::sync::watch;

use crate::support::proxy::{Fault, Proxy};
use crate::support::services::{Moto, aws_environment, left_out};
use crate::support::stores::{Ending, Moment, Plan, StoppingStore};
use crate::support::world::{World, binary, json};

const PROJECT: &str = "
CREATE EXTERNAL TABLE events (id BIGINT, name STRING) STORED AS JSON LOCATION 'in/';
CREATE OR REFRESH STREAMING TABLE clean (
  CONSTRAINT named EXPECT (name IS NOT NULL) ON VIOLATION QUARANTINE ROW
) AS SELECT id, name, _metadata.file_name AS file, _metadata.row_index AS position FROM STREAM events;
CREATE OR REFRESH MATERIALIZED VIEW files AS SELECT file, count(*) AS n, sum(id) AS total FROM clean GROUP BY file;
";

/// A record: every fifth is no JSON, another fifth is refused by the constraint.
fn record(id: usize) -> String {
    match id % 5 {
        3 => format!("bad {id}"),
        4 => format!("{{\"id\":{id}}}"),
        _ => format!("{{\"id\":{id},\"name\":\"n{id}\"}}"),
    }
}

/// A project whose source holds records of rising number, so many to an object.
struct Case {
    world: World,
    objects: usize,
    records: usize,
}

impl Case {
    fn new(objects: usize, records: usize) -> Self {
        let mut case = Self { world: World::new(), objects: 0, records };
        case.world.write("sql/project.sql", PROJECT);
        case.add(objects);
        case
    }

    /// Puts more objects into the source.
    fn add(&mut self, objects: usize) {
        for object in self.objects..self.objects + objects {
            let text: String = (0..self.records).map(|row| record(object * self.records + row) + "\n").collect();
            self.world.write(&format!("in/{}", name_of(object)), text);
        }
        self.objects += objects;
    }

    fn local_lake(&self) -> Lake {
        let folder = std::fs::canonicalize(self.world.path("")).unwrap();
        Lake { store: Arc::new(LocalFileSystem::new()), root: Path::from_absolute_path(folder.join("lake")).unwrap() }
    }

    /// Where each record must be: the table, or the quarantine with the record's bytes.
    fn expected(&self) -> Vec<Found> {
        let found = |id: usize| Found {
            table: if id % 5 < 3 { "clean" } else { "clean_quarantine" },
            file: name_of(id / self.records),
            row: (id % self.records).to_string(),
            content: if id % 5 < 3 { id.to_string() } else { hex(&record(id)) },
        };
        let mut expected: Vec<Found> = (0..self.objects * self.records).map(found).collect();
        expected.sort_unstable();
        expected
    }

    /// Each record is there once; the logs are whole; the view equals its query.
    async fn check(&self, lake: &Lake, context: &str) {
        let clean = lake.rows("clean").await;
        let mut found: Vec<Found> = clean.iter().map(Found::row).collect();
        found.extend(lake.rows("clean_quarantine").await.iter().map(Found::quarantined));
        found.sort_unstable();
        let expected = self.expected();
        if found != expected {
            let (is, be): (BTreeSet<_>, BTreeSet<_>) = (found.iter().collect(), expected.iter().collect());
            let missing: Vec<_> = be.difference(&is).take(5).collect();
            let strange: Vec<_> = is.difference(&be).take(5).collect();
            let twice: Vec<_> = found.windows(2).filter(|two| two[0] == two[1]).map(|two| &two[0]).take(5).collect();
            panic!(
                "{context}: {} records for {}; missing {missing:?}, strange {strange:?}, twice {twice:?}",
                found.len(),
                expected.len()
            );
        }
        lake.check_logs("clean", &[("clean", "table"), ("clean_quarantine", "quarantine")], context).await;
        lake.check_logs("files", &[("files", "table")], context).await;
        let mut query: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for row in &clean {
            let file = query.entry(text(&row["file"])).or_default();
            *file = (file.0 + 1, file.1 + row["id"].as_i64().unwrap());
        }
        let view = lake.rows("files").await;
        let view: Vec<_> = view
            .iter()
            .map(|row| (text(&row["file"]), (row["n"].as_i64().unwrap(), row["total"].as_i64().unwrap())))
            .collect();
        assert_eq!(view.len(), query.len(), "{context}: the view");
        assert_eq!(view.into_iter().collect::<BTreeMap<_, _>>(), query, "{context}: the view");
    }
}

fn name_of(object: usize) -> String {
    format!("o{object:06}.json")
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A record and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    table: &'static str,
    file: String,
    row: String,
    content: String,
}

impl Found {
    fn row(row: &Value) -> Self {
        Self { table: "clean", file: text(&row["file"]), row: text(&row["position"]), content: text(&row["id"]) }
    }

    fn quarantined(row: &Value) -> Self {
        let file = text(&row["partition"]).rsplit('/').next().unwrap_or_default().to_owned();
        Self { table: "clean_quarantine", file, row: text(&row["position"]), content: text(&row["payload"]) }
    }
}

/// A lake as it lies in a store.
struct Lake {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Lake {
    fn on_moto(moto: &Moto, bucket: &str, prefix: &str) -> Self {
        let builder =
            AmazonS3Builder::new().with_endpoint(&moto.endpoint).with_bucket_name(bucket).with_allow_http(true);
        let builder = builder.with_access_key_id("test").with_secret_access_key("test").with_region("us-east-1");
        Self { store: Arc::new(builder.build().unwrap()), root: Path::from(prefix) }
    }

    /// The numbered `.json` objects of a folder, whose numbers must be 0, 1, 2, …
    async fn numbered(&self, folder: &str, context: &str) -> Vec<String> {
        let folder = folder.split('/').fold(self.root.clone(), |path, part| path.join(part));
        let listed: Vec<ObjectMeta> = self.store.list(Some(&folder)).try_collect().await.unwrap();
        let names =
            listed.iter().filter_map(|object| object.location.filename()?.strip_suffix(".json")?.parse::<u64>().ok());
        let numbers: BTreeSet<u64> = names.collect();
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{context}: {folder} holds {numbers:?}");
        let mut texts = Vec::new();
        for number in numbers {
            let path = folder.clone().join(format!("{number:020}.json"));
            let bytes = self.store.get(&path).await.unwrap().bytes().await.unwrap();
            texts.push(String::from_utf8(bytes.to_vec()).unwrap());
        }
        texts
    }

    /// The versions of a table, each a list of actions.
    async fn versions(&self, table: &str) -> Vec<Vec<Value>> {
        let texts = self.numbered(&format!("{table}/_delta_log"), "Delta's log").await;
        texts.iter().map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()).collect()
    }

    /// The rows of the newest version.
    async fn rows(&self, table: &str) -> Vec<Value> {
        let mut files: Vec<String> = Vec::new();
        for action in self.versions(table).await.iter().flatten() {
            if let Some(path) = action["add"]["path"].as_str() {
                assert!(!files.contains(&path.to_owned()), "{table} names {path} twice");
                files.push(path.to_owned());
            }
            if let Some(path) = action["remove"]["path"].as_str() {
                files.retain(|file| file != path);
            }
        }
        let mut batches: Vec<RecordBatch> = Vec::new();
        for file in files {
            let path = file.split('/').fold(self.root.clone().join(table), |path, part| path.join(part));
            let bytes = self.store.get(&path).await.unwrap().bytes().await.unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
            batches.extend(reader.map(Result::unwrap));
        }
        json(&batches)
    }

    /// The epoch log is without a gap, and each table has exactly the epochs that name it, in order.
    async fn check_logs(&self, query: &str, tables: &[(&str, &str)], context: &str) {
        let entries = self.numbered(&format!("{query}/_pinsql/{query}/log"), context).await;
        let entries: Vec<Value> = entries.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(entry["epoch"], number, "{context}");
            assert_eq!(entry["query"], entries[0]["query"], "{context}: another identity");
        }
        for (table, key) in tables {
            let named: Vec<&Value> =
                entries.iter().filter(|entry| !entry[*key].is_null()).map(|entry| &entry["epoch"]).collect();
            let versions = self.versions(table).await;
            let txns: Vec<Vec<&Value>> = versions
                .iter()
                .map(|actions| actions.iter().filter_map(|action| action.get("txn")).collect())
                .collect();
            assert!(
                txns.iter().all(|txns| txns.len() == 1),
                "{context}: {table} has a version without a txn, or with two"
            );
            let committed: Vec<&Value> = txns.iter().map(|txns| &txns[0]["version"]).collect();
            assert_eq!(committed, named, "{context}: the epochs of {table}");
        }
    }
}

/// A layer that stops as planned, and says through `pause` which puts are still under way: what was sent cannot be recalled.
fn layer(plan: &Plan, pause: &Pause) -> Layer {
    let (plan, pause) = (plan.clone(), pause.clone());
    Arc::new(move |inner| {
        let watched = PausingStore { inner, pause: pause.clone() };
        Arc::new(StoppingStore::new(Arc::new(watched), plan.clone()))
    })
}

fn small_epochs() -> RunOptions {
    RunOptions { max_records: Some(2), ..RunOptions::default() }
}

/// An engine whose stores lie behind a layer.
async fn engine(case: &mut Case, layer: Option<Layer>) -> Engine {
    case.world.layer = layer;
    let engine = case.world.open(&["sql"]).await.unwrap().0;
    case.world.layer = None;
    engine
}

/// A run until the world stops.
async fn crash(case: &mut Case, plan: &Plan, ending: Ending) {
    let pause = Pause::never();
    let mut engine = engine(case, Some(layer(plan, &pause))).await;
    let stop = plan.clone();
    let work = async move {
        let options = small_epochs();
        if ending == Ending::Refusal {
            engine.run(&options).await;
            return;
        }
        tokio::select! {
            _ = engine.run(&options) => {}
            () = stop.stopped() => {}
        }
    };
    // Its threads may wait for answers that never come: the runtime stays behind with them.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.spawn(work).await.unwrap();
    std::mem::forget(runtime);
    while !pause.is_quiet() {
        tokio::task::yield_now().await;
    }
}

/// A run to the end, which must succeed.
async fn finish(case: &mut Case, context: &str) {
    let summary = engine(case, None).await.run(&small_epochs()).await;
    assert!(summary.error.is_none(), "{context}: {:?}", summary.error);
}

fn seed() -> u64 {
    let given = std::env::var("PINSQL_SEED").ok().map(|seed| seed.parse().expect("PINSQL_SEED is a number"));
    let seed = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("PINSQL_SEED={seed}");
    seed
}

fn kills() -> usize {
    std::env::var("PINSQL_KILLS").map_or(5, |kills| kills.parse().expect("PINSQL_KILLS is a number"))
}

/// A run that only counts: its operations, and how many of them write.
async fn count() -> (u64, u64) {
    let (mut case, plan) = (Case::new(5, 3), Plan::counting());
    let summary = engine(&mut case, Some(layer(&plan, &Pause::never()))).await.run(&small_epochs()).await;
    assert!(summary.error.is_none(), "{summary:?}");
    case.check(&case.local_lake(), "without a crash").await;
    let writes = plan.events().iter().filter(|event| event.operation.writes()).count() as u64;
    (plan.operations(), writes)
}

/// Each write, and each third operation of all.
async fn plans(ending: Ending, seed: u64) -> Vec<(String, Plan)> {
    let (operations, writes) = count().await;
    let mut plans = Vec::new();
    for moment in [Moment::Before, Moment::After] {
        for k in 1..=writes {
            plans.push((format!("{moment:?} write {k}, {ending:?}"), Plan::stop_at(k, moment, ending).only_writes()));
        }
        for k in (1 + seed % 3..=operations).step_by(3) {
            plans.push((format!("{moment:?} operation {k}, {ending:?}"), Plan::stop_at(k, moment, ending)));
        }
    }
    println!("{operations} operations, {writes} of them write: {} crashes", plans.len());
    plans
}

async fn crash_everywhere(ending: Ending) {
    let stopped = AtomicU64::new(0);
    let plans = plans(ending, seed()).await;
    let of = plans.len() as u64;
    futures::stream::iter(plans)
        .for_each_concurrent(2, async |(context, plan)| {
            let mut case = Case::new(5, 3);
            crash(&mut case, &plan, ending).await;
            stopped.fetch_add(u64::from(plan.has_stopped()), Ordering::Relaxed);
            finish(&mut case, &context).await;
            case.check(&case.local_lake(), &context).await;
        })
        .await;
    // The order of reads may vary, and the last of them may not come.
    println!("{stopped:?} of {of} crashes happened");
    assert!(stopped.load(Ordering::Relaxed) > of * 9 / 10, "only {stopped:?} of {of} crashes happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_operation_loses_and_repeats_nothing() {
    crash_everywhere(Ending::Silence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_from_any_operation_on_loses_and_repeats_nothing() {
    crash_everywhere(Ending::Refusal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_during_the_recovery_from_a_crash_loses_and_repeats_nothing() {
    let mut random = StdRng::seed_from_u64(seed());
    let (operations, writes) = count().await;
    let mut any = |most: u64| {
        let moment = if random.random() { Moment::Before } else { Moment::After };
        let ending = if random.random() { Ending::Silence } else { Ending::Refusal };
        (random.random_range(1..=most), moment, ending)
    };
    let stops: Vec<_> = (0..60).map(|_| (any(writes), any(operations / 2))).collect();
    futures::stream::iter(stops)
        .for_each_concurrent(2, async |(first, second)| {
            let mut case = Case::new(5, 3);
            crash(&mut case, &Plan::stop_at(first.0, first.1, first.2).only_writes(), first.2).await;
            crash(&mut case, &Plan::stop_at(second.0, second.1, second.2), second.2).await;
            let context = format!("{first:?} then {second:?}");
            finish(&mut case, &context).await;
            case.check(&case.local_lake(), &context).await;
        })
        .await;
}

/// Where an instance waits while another works: around its k-th operation.
#[derive(Debug, Clone)]
struct Pause {
    at: u64,
    moment: Moment,
    count: Arc<AtomicU64>,
    /// Puts under way, and those of them that stand still.
    puts: Arc<AtomicU64>,
    still: Arc<AtomicU64>,
    halted: watch::Sender<bool>,
}

impl Pause {
    fn new(at: u64, moment: Moment) -> Self {
        let halted = watch::Sender::new(false);
        Self { at, moment, count: Arc::default(), puts: Arc::default(), still: Arc::default(), halted }
    }

    fn never() -> Self {
        Self::new(0, Moment::Before)
    }

    /// Does an operation, or lets it wait before or after.
    async fn around<T>(&self, work: impl Future<Output = T>, is_put: bool) -> T {
        let here = self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.at;
        self.gate(here && self.moment == Moment::Before, is_put).await;
        let result = work.await;
        self.gate(here && self.moment == Moment::After, is_put).await;
        result
    }

    /// Waits as long as the instance stands still; halts it first if this is the place.
    async fn gate(&self, halts: bool, is_put: bool) {
        if halts {
            self.halted.send_replace(true);
        }
        if *self.halted.borrow() {
            self.still.fetch_add(u64::from(is_put), Ordering::SeqCst);
            // The sender is in `self`: it cannot be gone.
            let _ = self.halted.subscribe().wait_for(|halted| !halted).await;
            self.still.fetch_sub(u64::from(is_put), Ordering::SeqCst);
        }
    }

    /// Whether no put goes on.
    fn is_quiet(&self) -> bool {
        self.puts.load(Ordering::SeqCst) == self.still.load(Ordering::SeqCst)
    }
}

/// A store that stands still from its k-th operation on until it is told to go on. It knows which puts are under way.
#[derive(Debug)]
struct PausingStore {
    inner: Arc<dyn ObjectStore>,
    pause: Pause,
}

impl fmt::Display for PausingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PausingStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for PausingStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.pause.puts.fetch_add(1, Ordering::SeqCst);
        let (pause, inner, location) = (self.pause.clone(), Arc::clone(&self.inner), location.clone());
        // In a task: it comes to its end even where nobody waits for it any more.
        let put = tokio::spawn(async move {
            let result = pause.around(inner.put_opts(&location, payload, options), true).await;
            pause.puts.fetch_sub(1, Ordering::SeqCst);
            result
        });
        put.await.expect("a put does not panic")
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.pause.around(self.inner.put_multipart_opts(location, options), false).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.pause.around(self.inner.get_opts(location, options), false).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (pause, inner, prefix) = (self.pause.clone(), Arc::clone(&self.inner), prefix.cloned());
        let begun = async move {
            pause.around(std::future::ready(()), false).await;
            inner.list(prefix.as_ref())
        };
        futures::stream::once(begun).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.pause.around(self.inner.list_with_delimiter(prefix), false).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// One instance stands still at an operation, another does everything meanwhile, then the first goes on.
async fn overtaken(k: u64, moment: Moment, conflicts: &AtomicU64) {
    let context = format!("paused {moment:?} operation {k}");
    let (mut case, pause) = (Case::new(5, 3), Pause::new(k, moment));
    let around = pause.clone();
    let layer: Layer = Arc::new(move |inner| Arc::new(PausingStore { inner, pause: around.clone() }));
    let mut engine = engine(&mut case, Some(layer)).await;
    let slow = tokio::spawn(async move { engine.run(&small_epochs()).await });
    while !(slow.is_finished() || *pause.halted.borrow() && pause.is_quiet()) {
        tokio::task::yield_now().await;
    }
    finish(&mut case, &format!("the other, {context}")).await;
    case.check(&case.local_lake(), &format!("behind the other, {context}")).await;
    // Something is left for the one that wakes up.
    case.add(1);
    pause.halted.send_replace(false);
    let summary = slow.await.unwrap();
    if let Some(error) = &summary.error {
        assert_eq!(error.kind().name(), "conflict", "{context}: {error:?}");
        conflicts.fetch_add(1, Ordering::Relaxed);
    }
    finish(&mut case, &context).await;
    case.check(&case.local_lake(), &context).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_overtaken_at_any_operation_writes_nothing_twice() {
    let (operations, _) = count().await;
    let conflicts = AtomicU64::new(0);
    let moments = [Moment::Before, Moment::After];
    let begin = seed() % 2;
    let cases = (1..=operations).flat_map(|k| moments.map(|moment| (k, moment))).skip(begin as usize).step_by(2);
    futures::stream::iter(cases)
        .for_each_concurrent(2, async |(k, moment)| overtaken(k, moment, &conflicts).await)
        .await;
    println!("{operations} operations, {conflicts:?} conflicts");
    assert!(conflicts.load(Ordering::Relaxed) > 0, "nobody ever lost");
}

/// The real process on a case's project.
struct Process<'a> {
    folder: &'a FilePath,
    lake: Option<String>,
    environment: Vec<(&'static str, String)>,
    max_records: u64,
}

impl Process<'_> {
    fn start(&self) -> Child {
        let mut command = Command::new(binary());
        command.arg("-C").arg(self.folder).args(["-q", "--json"]);
        command.args(self.lake.iter().flat_map(|lake| ["--lake", lake.as_str()]));
        command.args(["run", "sql", "--max-records", &self.max_records.to_string()]);
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }

    fn run(&self) -> Ended {
        Ended::of(self.start().wait_with_output().unwrap())
    }
}

/// How a process ended.
#[derive(Debug)]
#[expect(dead_code, reason = "a failed test shows the complaint")]
struct Ended {
    status: Option<i32>,
    summary: Value,
    complaint: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        Self { status: output.status.code(), summary, complaint: String::from_utf8_lossy(&output.stderr).into_owned() }
    }
}

/// Kills a process at random moments, with new records each time; answers how many died.
async fn kill_rounds(
    mut case: Case,
    per_round: usize,
    lake: Lake,
    url: Option<String>,
    environment: Vec<(&'static str, String)>,
) {
    let mut random = StdRng::seed_from_u64(seed());
    let (folder, mut died, rounds) = (case.world.path(""), 0, kills());
    let process = Process { folder: &folder, lake: url, environment, max_records: 5 };
    let mut round = 0;
    // On a fast machine they may all end by themselves.
    while round < rounds || died == 0 && round < rounds + 20 {
        round += 1;
        case.add(per_round);
        let mut child = process.start();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        // It may have ended by itself.
        let _ = child.kill();
        let ended = Ended::of(child.wait_with_output().unwrap());
        assert!(matches!(ended.status, None | Some(0)), "{ended:?}");
        died += usize::from(ended.status.is_none());
    }
    let ended = process.run();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    case.check(&lake, "after kills").await;
    println!(
        "{died} of {round} died, {} records, {} versions",
        case.objects * case.records,
        lake.versions("clean").await.len()
    );
    assert!(died > 0, "nobody died: give it more to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_moment_loses_and_repeats_nothing() {
    let case = Case::new(0, 7);
    let lake = case.local_lake();
    kill_rounds(case, 100, lake, None, Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_moment_loses_and_repeats_nothing_on_s3() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    let url = format!("{}/lake", moto.bucket("kills"));
    kill_rounds(Case::new(0, 7), 50, Lake::on_moto(moto, "kills", "lake"), Some(url), moto.environment()).await;
}

const LOST: [Fault; 5] = [
    Fault::AnswerAfter(500),
    Fault::DropAfter,
    Fault::AnswerInstead(500),
    Fault::AnswerInstead(503),
    Fault::AnswerInstead(409),
];

/// One run with one PUT spoiled, and another if it says that it failed. Answers whether the first was enough.
async fn lose(moto: &Moto, prefix: &str, case: &Case, path: &str, nth: u64, fault: Fault) -> bool {
    let context = format!("{fault:?} of PUT {nth} of `{path}`");
    let (proxy, folder) = (Proxy::start(&moto.endpoint), case.world.path(""));
    proxy.on("PUT", path, nth, fault);
    let environment = aws_environment(&proxy.endpoint());
    let process = Process {
        folder: &folder,
        lake: Some(format!("s3://lost/{prefix}")),
        environment,
        max_records: case.objects as u64 / 2 + 1,
    };
    let first = tokio::task::block_in_place(|| process.run());
    assert_eq!(proxy.spoiled(), 1, "{context}: {:?}", proxy.requests());
    if first.status != Some(0) {
        assert_eq!(first.status, Some(1), "{context}: {first:?}");
        assert!(first.summary["error"]["message"].is_string(), "{context}: {first:?}");
        let second = tokio::task::block_in_place(|| process.run());
        assert_eq!(second.status, Some(0), "{context}: {second:?} after {first:?}");
    }
    case.check(&Lake::on_moto(moto, "lost", prefix), &context).await;
    if first.status != Some(0) {
        println!("{context}: {}", first.summary["error"]);
    }
    first.status == Some(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_of_any_put_loses_and_repeats_nothing() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    moto.bucket("lost");
    let case = Case::new(4, 4);
    let (proxy, folder) = (Proxy::start(&moto.endpoint), case.world.path(""));
    let environment = aws_environment(&proxy.endpoint());
    let ended =
        Process { folder: &folder, lake: Some("s3://lost/count".to_owned()), environment, max_records: 3 }.run();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let puts = proxy.counts()["PUT"];
    let begin = seed() % 2;
    let faults = (1..=puts).flat_map(|nth| LOST.map(|fault| (nth, fault))).skip(begin as usize).step_by(2);
    let (good, all) = (AtomicU64::new(0), AtomicU64::new(0));
    futures::stream::iter(faults)
        .for_each_concurrent(3, async |(nth, fault)| {
            let number = all.fetch_add(1, Ordering::Relaxed);
            let done = lose(moto, &format!("l{number}"), &case, "", nth, fault).await;
            good.fetch_add(u64::from(done), Ordering::Relaxed);
        })
        .await;
    println!("{puts} puts: {good:?} of {all:?} runs ended well at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_of_a_segment_of_the_ledger_loses_and_repeats_nothing() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    moto.bucket("lost");
    let case = Case::new(300, 1);
    for (number, fault) in LOST.into_iter().enumerate() {
        lose(moto, &format!("s{number}"), &case, "/state/", 1, fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_at_once_one_wins_and_nothing_is_there_twice() {
    let mut case = Case::new(0, 5);
    let folder = case.world.path("");
    let process = Process { folder: &folder, lake: None, environment: Vec::new(), max_records: 2 };
    let mut lost = 0;
    for round in 0..5 {
        case.add(20);
        let two = [process.start(), process.start()];
        let two = two.map(|child| Ended::of(child.wait_with_output().unwrap()));
        assert!(two.iter().any(|ended| ended.status == Some(0)), "round {round}: {two:?}");
        for ended in two.iter().filter(|ended| ended.status != Some(0)) {
            assert_eq!(ended.status, Some(1), "round {round}: {ended:?}");
            assert_eq!(ended.summary["error"]["kind"], "conflict", "round {round}: {ended:?}");
            lost += 1;
        }
        case.check(&case.local_lake(), &format!("two at once, round {round}")).await;
    }
    println!("{lost} of 5 rounds had a loser");
}
