//! Streams: what a whole run reads of Kinesis, beside a bare loop of the AWS SDK that throws away what it gets.
//!
//! kinesalite runs beside both on the same cores, in one thread, and most of the time is its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::types::ShardIteratorType;
use pinsql::engine::{Engine, RunOptions};
use pinsql::project::Invocation;

use crate::kinesis::{Kinesis, Server};
use crate::{Epochs, number};

const STREAM: &str = "bench";
const SHARDS: usize = 8;

/// `RECORDS` of 700 bytes, from eight shards: read by a loop and by a run, in turn.
pub fn shards() {
    let records = number("RECORDS", 200_000);
    let kinesis = Kinesis::start(Server::Load);
    kinesis.create_stream(STREAM, SHARDS);
    let body = "a title of some length ".repeat(29);
    for from in (0..records).step_by(5_000) {
        let made: Vec<(String, String)> = (from..records.min(from + 5_000))
            .map(|id| (format!("key-{id}"), format!("{{\"id\":{id},\"title\":\"{body}\"}}")))
            .collect();
        let borrowed: Vec<(&str, &[u8])> = made.iter().map(|(key, data)| (key.as_str(), data.as_bytes())).collect();
        kinesis.put(STREAM, &borrowed);
    }
    // A process of its own, as the keys are the environment's.
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let child = child.arg("sharded").envs(kinesis.env()).env("ENDPOINT", kinesis.url());
    assert!(child.env("RECORDS", records.to_string()).status().unwrap().success());
}

/// What that process does.
pub fn sharded() {
    let (url, records) = (std::env::var("ENDPOINT").unwrap(), number("RECORDS", 0));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (mut loops, mut runs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        loops.push(runtime.block_on(bare_loop(&url, records)));
        runs.push(runtime.block_on(run(&url, records)));
    }
    let rate = |times: &[Duration]| records as f64 / times.iter().min().unwrap().as_secs_f64();
    let (bare, whole) = (rate(&loops), rate(&runs));
    println!("shards: bare loop {bare:.0} records/s, run {whole:.0} records/s: {:.0} %", whole / bare * 100.0);
}

/// A task for each shard, call after call until nothing comes.
async fn bare_loop(url: &str, records: usize) -> Duration {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "bench"))
        .endpoint_url(url)
        .build();
    let client = aws_sdk_kinesis::Client::from_conf(config);
    let begin = Instant::now();
    let listed = client.list_shards().stream_name(STREAM).send().await.unwrap();
    let tasks: Vec<_> = listed
        .shards()
        .iter()
        .map(|shard| tokio::spawn(read_shard(client.clone(), shard.shard_id().to_owned())))
        .collect();
    let mut read = 0;
    for task in tasks {
        read += task.await.unwrap();
    }
    assert_eq!(read, records);
    begin.elapsed()
}

async fn read_shard(client: aws_sdk_kinesis::Client, shard: String) -> usize {
    let horizon = ShardIteratorType::TrimHorizon;
    let call = client.get_shard_iterator().stream_name(STREAM).shard_id(shard).shard_iterator_type(horizon);
    let mut iterator = call.send().await.unwrap().shard_iterator;
    let mut read = 0;
    while let Some(current) = iterator {
        let answer = client.get_records().shard_iterator(current).send().await.unwrap();
        if answer.records().is_empty() {
            break;
        }
        read += answer.records().len();
        iterator = answer.next_shard_iterator;
    }
    read
}

/// The same records into a table, from nothing.
async fn run(url: &str, records: usize) -> Duration {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("pinsql.toml"), "").unwrap();
    let sql = format!(
        "CREATE EXTERNAL TABLE k (id BIGINT, title STRING) STORED AS KINESIS LOCATION 'kinesis://{STREAM}'
             OPTIONS (endpoint '{url}', region 'us-east-1');
         CREATE STREAMING TABLE clean AS SELECT id, upper(title) AS title FROM STREAM k;"
    );
    std::fs::write(folder.path().join("clean.sql"), sql).unwrap();
    let begin = Instant::now();
    let invocation = Invocation { directory: Some(folder.path().to_path_buf()), ..Invocation::default() };
    let epochs: Arc<Epochs> = Arc::default();
    let mut engine = Engine::open(&invocation, &[folder.path().join("clean.sql")], epochs).await.unwrap();
    let summary = engine.run(&RunOptions::default()).await;
    assert!(summary.error.is_none(), "{summary:?}");
    assert_eq!(summary.tables[0].written, records as u64);
    begin.elapsed()
}
