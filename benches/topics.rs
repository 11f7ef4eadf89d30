//! Topics: from a message to a visible row, twenty thousand epochs, and what ten million messages take of memory.
//!
//! A real broker runs beside it on the same cores, so the times are of both.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use pinsql::engine::{Engine, RunOptions, StreamOptions};
use pinsql::error::Place;
use pinsql::project::Invocation;
use pinsql::report::{Condition, EpochReport, Reporter};

use crate::kafka::{Kafka, Message};
use crate::number;

/// When each epoch was visible, and what it had.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<(Instant, EpochReport)>>);

impl Reporter for Seen {
    fn epoch(&self, report: &EpochReport) {
        self.0.lock().unwrap().push((Instant::now(), report.clone()));
    }
    fn condition(&self, _: &str, _: &Condition<'_>) {}
    fn notice(&self, _: &str, _: Option<&Place>) {}
    fn progress(&self, _: &str, _: u64) {}
    fn rows(&self, _: &SchemaRef, _: &[RecordBatch]) {}
    fn end_of_rows(&self) {}
}

fn project(kafka: &Kafka, topic: &str) -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("pinsql.toml"), "").unwrap();
    let sql = format!(
        "CREATE EXTERNAL TABLE k (id BIGINT, title STRING) STORED AS KAFKA LOCATION 'kafka://{}/{topic}';
         CREATE STREAMING TABLE clean AS SELECT id, upper(title) AS title FROM STREAM k;",
        kafka.bootstrap()
    );
    std::fs::write(folder.path().join("clean.sql"), sql).unwrap();
    folder
}

fn message(id: usize) -> Message {
    Message::new(format!("{{\"id\":{id},\"title\":\"{}\"}}", "a title of some length ".repeat(25)))
}

async fn engine(folder: &std::path::Path, seen: &Arc<Seen>) -> Engine {
    let invocation = Invocation { directory: Some(folder.to_path_buf()), ..Invocation::default() };
    Engine::open(&invocation, &[folder.join("clean.sql")], Arc::clone(seen) as _).await.unwrap()
}

/// Follows a topic while `produce` goes on in a thread, until all that it says it has produced is visible.
fn follow(trigger: Duration, produce: impl FnOnce(&'static Kafka, &str, &Seen) -> usize + Send) -> Arc<Seen> {
    let (kafka, topic) = (Kafka::start(), format!("bench-{:08x}", rand::random::<u32>()));
    kafka.create_topic(&topic, 1, &[]);
    let (folder, seen) = (project(kafka, &topic), Arc::new(Seen::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut engine = runtime.block_on(engine(folder.path(), &seen));
    let stop = engine.stop();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let total = produce(kafka, &topic, &seen);
            let visible = || seen.0.lock().unwrap().iter().map(|(_, epoch)| epoch.read).sum::<u64>();
            while visible() < total as u64 {
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.stop();
        });
        let options = StreamOptions { trigger: Some(trigger), ..StreamOptions::default() };
        let summary = runtime.block_on(engine.stream(&options));
        assert!(summary.error.is_none(), "{summary:?}");
    });
    seen
}

/// 1,000 messages a second and a commit every 250 ms.
pub fn latency() {
    let (trigger, seconds) = (Duration::from_millis(250), number("SECONDS", 30));
    let sent = Mutex::new(Vec::new());
    let seen = follow(trigger, |kafka, topic, _| {
        kafka.produce(topic, [message(0)]);
        sent.lock().unwrap().push(Instant::now());
        std::thread::sleep(Duration::from_secs(2));
        let start = Instant::now();
        let count = seconds * 1000;
        let paced = (1..count).map(|id| {
            let due = start + Duration::from_millis(id as u64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            sent.lock().unwrap().push(Instant::now());
            message(id)
        });
        kafka.produce_with(topic, &[("linger.ms", "0"), ("max.in.flight", "5")], paced);
        count
    });
    let sent = sent.into_inner().unwrap();
    let mut visible = Vec::new();
    for (at, epoch) in seen.0.lock().unwrap().iter() {
        visible.extend((0..epoch.read).map(|_| *at));
    }
    // The first second warms up.
    let mut times: Vec<Duration> = sent.iter().zip(&visible).skip(1000).map(|(sent, at)| *at - *sent).collect();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let ratio = |time: Duration| time.as_secs_f64() / trigger.as_secs_f64();
    let (median, late) = (at(0.5), at(0.99));
    println!(
        "latency   {} messages: p50 {median:.0?} ({:.2} of the trigger), p99 {late:.0?} ({:.2})",
        times.len(),
        ratio(median),
        ratio(late)
    );
}

/// One epoch after another, each with what came in the meantime.
pub fn epochs() {
    let wanted = number("EPOCHS", 20_000);
    let seen = follow(Duration::ZERO, |kafka, topic, seen| {
        let mut sent = 0;
        while seen.0.lock().unwrap().len() < wanted {
            kafka.produce(
                topic,
                (sent..sent + 1000).map(|id| {
                    std::thread::sleep(Duration::from_millis(2));
                    message(id)
                }),
            );
            sent += 1000;
        }
        sent
    });
    let epochs = seen.0.lock().unwrap();
    let mean = |part: &[(Instant, EpochReport)]| {
        part.iter().map(|(_, epoch)| epoch.elapsed_ms as f64).sum::<f64>() / part.len() as f64
    };
    let (first, last) = (mean(&epochs[100..600]), mean(&epochs[epochs.len() - 500..]));
    println!(
        "epochs    {}: first 500 {first:.2} ms each, last 500 {last:.2} ms each: {:.2}x",
        epochs.len(),
        last / first
    );
}

/// A backlog drained by one run, in a process of its own.
pub fn drain() {
    let count = number("MESSAGES", 10_000_000);
    let (kafka, topic) = (Kafka::start(), "bench-drain");
    kafka.create_topic(topic, 12, &[]);
    kafka.produce(topic, (0..count).map(|id| message(id).partition(i32::try_from(id % 12).unwrap())));
    let folder = project(kafka, topic);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let drained = child.arg("drained").env("FOLDER", folder.path()).env("MESSAGES", count.to_string()).status();
    assert!(drained.unwrap().success());
}

/// What that process does.
pub fn drained() {
    let (folder, count) = (std::path::PathBuf::from(std::env::var_os("FOLDER").unwrap()), number("MESSAGES", 0));
    let seen = Arc::new(Seen::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let watch = Instant::now();
    let summary = runtime.block_on(async { engine(&folder, &seen).await.run(&RunOptions::default()).await });
    let time = watch.elapsed();
    assert_eq!(summary.tables[0].written, count as u64, "{summary:?}");
    let each = time.as_nanos() / count as u128;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    println!("drain     {count} messages in {time:.1?} ({each} ns each, the broker beside it)");
    println!("          {}, at the end {}", of("VmHWM"), of("RssAnon"));
}
