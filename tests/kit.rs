//! The test kit tested: the services start and end, the proxy and the stores spoil what they are told to and nothing else,
//! and the independent readers agree about a table that none of our code wrote.
//!
//! Uses `support` alone, nothing of the project.
#![allow(clippy::unwrap_used, reason = "clippy knows the functions with #[test] as tests, not what they call")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, RetryConfig};
use serde_json::{Value, json};

use crate::support::proxy::{Fault, Proxy};
use crate::support::services::{Moto, SIGNED, aws_environment, http, left_out, read, rows, run_python, spark};
use crate::support::stores::{Ending, LatencyStore, Moment, Operation, Plan, StoppingStore};

/// Two commits of delta-rs: nested, binary, decimal, infinite, missing.
const TABLE: &str = r#"
import datetime, decimal, os, sys
import deltalake, pyarrow as pa
day, dec = datetime.date(2020, 1, 2), decimal.Decimal
table = pa.table({
    "id": pa.array([1, 2, 3], pa.int64()),
    "name": ["a", "é\"", None],
    "x": pa.array([1.5, 2.5, float("nan")]),
    "at": pa.array([0, 1700000000123456, None], pa.timestamp("us", "UTC")),
    "day": pa.array([day, None, day]),
    "bytes": pa.array([b"\x00\xff", b"", None]),
    "price": pa.array([dec("1.50"), dec("0"), None], pa.decimal128(10, 2)),
    "nested": pa.array([{"a": 1, "b": ["x", None]}, None, {"a": None, "b": []}],
                       pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))])),
    "map": pa.array([[("k", 1.0)], None, [("z", 2.0), ("b", None)]], pa.map_(pa.string(), pa.float64())),
})
options = {"AWS_ENDPOINT_URL": sys.argv[2]} if len(sys.argv) > 2 else None
for part in (table.slice(0, 2), table.slice(2)):
    deltalake.write_deltalake(sys.argv[1], part, mode="append", storage_options=options)
"#;

/// What every reader must say about it.
fn expected() -> Vec<Value> {
    vec![
        json!({"id": 1, "name": "a", "x": 1.5, "at": "1970-01-01T00:00:00.000000Z", "day": "2020-01-02", "bytes": "AP8=",
               "price": "1.50", "nested": {"a": 1, "b": ["x", null]}, "map": [["k", 1.0]]}),
        json!({"id": 2, "name": "é\"", "x": 2.5, "at": "2023-11-14T22:13:20.123456Z", "day": null, "bytes": "",
               "price": "0.00", "nested": null, "map": null}),
        json!({"id": 3, "name": null, "x": "NaN", "at": null, "day": "2020-01-02", "bytes": null,
               "price": null, "nested": {"a": null, "b": []}, "map": [["b", null], ["z", 2.0]]}),
    ]
}

fn check_readers(table: &str, more: &[&str]) {
    for reader in ["duck.py", "deltalake_reader.py"] {
        let rows = |arguments: &[&str]| read(reader, table, &[arguments, more].concat());
        assert_eq!(rows(&["--order", "id"]), expected(), "{reader}");
        assert_eq!(rows(&["--order", "id", "--version", "0"]), expected()[..2], "{reader}");
        assert_eq!(rows(&["--filter", "id > 2"]), expected()[2..], "{reader}");
        assert_eq!(rows(&["--sql", "SELECT count(*) AS n FROM t"]), [json!({"n": 3})], "{reader}");
    }
}

/// A client of an endpoint that says so when it fails, and does not try again.
fn s3(endpoint: &str, bucket: &str) -> AmazonS3 {
    let builder = AmazonS3Builder::new().with_endpoint(endpoint).with_bucket_name(bucket).with_allow_http(true);
    let builder = builder.with_access_key_id("test").with_secret_access_key("test").with_region("us-east-1");
    builder.with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() }).build().unwrap()
}

#[test]
fn readers_agree_about_a_local_table() {
    if left_out("python") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t").to_string_lossy().into_owned();
    run_python(TABLE, &[&table]);
    check_readers(&table, &[]);
}

#[test]
fn readers_agree_about_a_table_on_s3() {
    if left_out("python") || left_out("s3") {
        return;
    }
    let moto = Moto::start();
    let table = moto.bucket("kit-readers") + "/a/t";
    run_python(TABLE, &[&table, &moto.endpoint]);
    check_readers(&table, &["--s3", &moto.endpoint]);
}

#[test]
fn spark_agrees() {
    if left_out("python") || left_out("spark") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("t").to_string_lossy().into_owned();
    run_python(TABLE, &[&table]);
    assert_eq!(spark().read(&table, "id"), expected());
    let out = folder.path().join("rows.jsonl");
    let answers = spark().run(&[
        json!({"kind": "filter", "table": table, "filter": "x > 2", "order": "id"}),
        json!({"kind": "stream", "table": table, "order": "id"}),
        json!({"kind": "count", "table": table, "filter": "id < 3"}),
        json!({"kind": "describe", "table": table}),
        json!({"kind": "read", "table": table, "version": 0, "order": "id", "out": out}),
    ]);
    // For Spark NaN is greater than any number.
    assert_eq!(rows(answers[0].clone()), expected()[1..]);
    assert_eq!(rows(answers[1].clone()), expected());
    assert_eq!(answers[2]["count"], 2);
    assert_eq!(answers[3]["detail"]["numFiles"], 2);
    let written = std::fs::read_to_string(out).unwrap();
    let written: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written, expected()[..2]);
    let missing = spark().answers(&[json!({"kind": "read", "table": table + "-none"})]);
    assert!(missing[0]["error"].as_str().unwrap().contains("PATH_NOT_FOUND"));
}

#[test]
fn moto_holds_objects() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    assert_eq!(moto.bucket("kit-objects"), "s3://kit-objects");
    assert_eq!(http(&moto.endpoint, "PUT", "/kit-objects/a/b", b"text").unwrap().0, 200);
    assert_eq!(http(&moto.endpoint, "GET", "/kit-objects/a/b", b"").unwrap(), (200, b"text".to_vec()));
    assert_eq!(moto.environment(), aws_environment(&moto.endpoint));
}

#[test]
fn moto_ends_when_dropped() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::alone();
    let endpoint = moto.endpoint.clone();
    assert!(http(&endpoint, "GET", "/", b"").is_ok());
    drop(moto);
    assert!(http(&endpoint, "GET", "/", b"").is_err());
}

#[test]
fn moto_ends_when_its_tests_are_killed() {
    if left_out("s3") {
        return;
    }
    let name = concat!(module_path!(), "::hold_moto").split_once("::").unwrap().1;
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["--ignored", "--exact", "--nocapture", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tests = tests.spawn().unwrap();
    let output = BufReader::new(tests.stdout.take().unwrap());
    let endpoint = output.lines().find_map(|line| Some(line.unwrap().split_once("moto at ")?.1.to_owned())).unwrap();
    assert!(http(&endpoint, "GET", "/", b"").is_ok());
    tests.kill().unwrap();
    tests.wait().unwrap();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        http(&endpoint, "GET", "/", b"").is_err()
    });
    assert!(gone, "moto is still at {endpoint}");
}

/// The other half of the test above: starts moto and waits to be killed, or for its input to end.
#[test]
#[ignore = "another test runs it"]
fn hold_moto() {
    let moto = Moto::alone();
    println!("moto at {}", moto.endpoint);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[tokio::test]
async fn proxy_loses_the_answer_of_a_put_that_took_effect() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    moto.bucket("kit-lost");
    let proxy = Proxy::start(&moto.endpoint);
    let (near, far) = (s3(&moto.endpoint, "kit-lost"), s3(&proxy.endpoint(), "kit-lost"));
    proxy.on("PUT", "/log/", 2, Fault::DropAfter);
    proxy.on("PUT", "/log/", 3, Fault::AnswerAfter(500));
    proxy.on_each("PUT", "/log/", 4, 2, Fault::AnswerInstead(503));
    proxy.on("PUT", "/log/", 6, Fault::DropInstead);
    let mut came = Vec::new();
    for n in 1..=7 {
        let path = Path::from(format!("log/{n}"));
        let answered = far.put_opts(&path, "x".into(), PutMode::Create.into()).await.is_ok();
        came.push((answered, near.head(&path).await.is_ok()));
    }
    let (lost, refused, fine) = ((false, true), (false, false), (true, true));
    assert_eq!(came, [fine, lost, lost, refused, refused, refused, fine]);
    assert_eq!(proxy.spoiled(), 5);
    assert_eq!(proxy.counts()["PUT"], 7);
    assert_eq!(proxy.requests()[1].fault, Some(Fault::DropAfter));
}

#[tokio::test]
async fn proxy_cuts_and_delays_answers() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    moto.bucket("kit-cut");
    let proxy = Proxy::start(&moto.endpoint);
    let (store, path) = (s3(&proxy.endpoint(), "kit-cut"), Path::from("a=b/c d é"));
    store.put(&path, vec![7; 1000].into()).await.unwrap();
    proxy.on("GET", "kit-cut", 1, Fault::Cut);
    assert!(async { store.get(&path).await?.bytes().await }.await.is_err());
    let get = || async { store.get(&path).await.unwrap().bytes().await.unwrap().len() };
    assert_eq!(get().await, 1000);
    proxy.on("GET", "kit-cut", 1, Fault::Late(Duration::from_secs(30)));
    assert!(tokio::time::timeout(Duration::from_secs(1), get()).await.is_err());
    proxy.delay(Duration::from_secs(30));
    assert!(tokio::time::timeout(Duration::from_secs(1), get()).await.is_err());
    proxy.clear();
    assert_eq!(get().await, 1000);
}

#[tokio::test]
async fn proxy_passes_large_objects_lists_and_parts() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    moto.bucket("kit-large");
    let proxy = Proxy::start(&moto.endpoint);
    let store = s3(&proxy.endpoint(), "kit-large");
    let large: Vec<u8> = (0..20_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let (whole, parts) = (Path::from("large/whole"), Path::from("large/parts"));
    store.put(&whole, large.clone().into()).await.unwrap();
    let mut upload = store.put_multipart(&parts).await.unwrap();
    for part in large.chunks(8_000_000) {
        upload.put_part(part.to_vec().into()).await.unwrap();
    }
    upload.complete().await.unwrap();
    for path in [&whole, &parts] {
        assert!(store.get(path).await.unwrap().bytes().await.unwrap() == large, "{path}");
        assert_eq!(store.head(path).await.unwrap().size, 20_000_000);
    }
    assert_eq!(store.get_range(&whole, 256..260).await.unwrap(), large[256..260]);
    let listed: Vec<_> = store.list(Some(&Path::from("large"))).try_collect().await.unwrap();
    assert_eq!(listed.len(), 2);
    store.delete(&whole).await.unwrap();
    assert!(store.head(&whole).await.is_err());
}

#[test]
fn proxy_keeps_a_connection_and_understands_chunks() {
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    moto.bucket("kit-chunks");
    let proxy = Proxy::start(&moto.endpoint);
    let mut stream = TcpStream::connect(proxy.endpoint().trim_start_matches("http://")).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut send = |text: &str| stream.write_all(text.as_bytes()).unwrap();
    send("PUT /kit-chunks/k HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(head(&mut answers), "HTTP/1.1 100 Continue");
    send("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(head(&mut answers), "HTTP/1.1 200 OK");
    for _ in 0..2 {
        send(&format!("HEAD /kit-chunks/k HTTP/1.1\r\nHost: h\r\n{SIGNED}\r\n"));
        assert_eq!(head(&mut answers), "HTTP/1.1 200 OK");
    }
    assert_eq!(http(&moto.endpoint, "GET", "/kit-chunks/k", b"").unwrap(), (200, b"abcde".to_vec()));
    assert_eq!(proxy.counts()["HEAD"], 2);
}

/// Reads the head of an answer that has no body, and gives its first line.
fn head(answers: &mut impl BufRead) -> String {
    let lines = answers.lines().map(Result::unwrap);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().swap_remove(0)
}

#[test]
fn proxy_passes_chunked_and_endless_answers() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    std::thread::spawn(move || {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n";
        for text in [chunked, "HTTP/1.0 200 OK\r\n\r\nuntil the end"] {
            let (mut stream, _) = upstream.accept().unwrap();
            BufReader::new(&stream).lines().find(|line| line.as_ref().unwrap().is_empty());
            stream.write_all(text.as_bytes()).unwrap();
        }
    });
    let proxy = Proxy::start(&format!("http://{address}"));
    let answer = || String::from_utf8(http(&proxy.endpoint(), "GET", "/", b"").unwrap().1).unwrap();
    assert_eq!(answer(), "3\r\nabc\r\n0\r\nT: 1\r\n\r\n");
    assert_eq!(answer(), "d\r\nuntil the end\r\n0\r\n\r\n");
}

/// Ten operations; those that write have an effect that can be seen.
async fn ten_operations(store: &dyn ObjectStore) -> object_store::Result<()> {
    let [a, b, c, parts] = ["a", "b", "c", "parts"].map(Path::from);
    store.put(&a, "one".into()).await?;
    store.get(&a).await?.bytes().await?;
    store.copy(&a, &b).await?;
    store.rename(&b, &c).await?;
    let mut upload = store.put_multipart(&parts).await?;
    upload.put_part("first".into()).await?;
    upload.complete().await?;
    store.list(None).try_collect::<Vec<_>>().await?;
    store.head(&parts).await?;
    store.delete(&a).await
}

async fn names(store: &dyn ObjectStore) -> Vec<String> {
    let mut names: Vec<_> = store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    names.sort();
    names
}

/// The objects that a run leaves behind which is stopped at the k-th operation.
async fn left_behind(k: u64, moment: Moment, ending: Ending) -> Vec<String> {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let plan = Plan::stop_at(k, moment, ending);
    let store = StoppingStore::new(Arc::clone(&inner), plan.clone());
    tokio::select! {
        biased;
        result = ten_operations(&store) => assert!(result.is_err() && ending == Ending::Refusal, "{result:?}"),
        () = plan.stopped() => assert_eq!(ending, Ending::Silence),
    }
    assert_eq!(plan.operations(), k);
    if ending == Ending::Refusal {
        assert!(store.clone().put(&Path::from("later"), "x".into()).await.is_err());
        assert!(store.list(None).next().await.unwrap().is_err());
    }
    names(&*inner).await
}

#[tokio::test]
async fn a_stopped_world_keeps_what_took_effect() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let plan = Plan::counting();
    let store = StoppingStore::new(Arc::clone(&inner), plan.clone());
    ten_operations(&store).await.unwrap();
    assert_eq!((plan.operations(), plan.has_stopped()), (10, false));
    assert_eq!(plan.events()[3].operation, Operation::Rename);
    assert_eq!(plan.events()[3].path, Path::from("c"));
    let effects: [&[&str]; 11] = [
        &[],
        &["a"],
        &["a"],
        &["a", "b"],
        &["a", "c"],
        &["a", "c"],
        &["a", "c"],
        &["a", "c", "parts"],
        &["a", "c", "parts"],
        &["a", "c", "parts"],
        &["c", "parts"],
    ];
    for k in 1..=10 {
        for ending in [Ending::Silence, Ending::Refusal] {
            let at = usize::try_from(k).unwrap();
            assert_eq!(left_behind(k, Moment::Before, ending).await, effects[at - 1], "before {k}");
            assert_eq!(left_behind(k, Moment::After, ending).await, effects[at], "after {k}");
        }
    }
}

#[tokio::test]
async fn stores_that_share_a_plan_stop_together() {
    let plan = Plan::stop_at(2, Moment::After, Ending::Refusal).only_writes();
    let [one, two] = [(); 2].map(|()| StoppingStore::new(Arc::new(InMemory::new()), plan.clone()));
    let path = Path::from("a");
    one.put(&path, "x".into()).await.unwrap();
    let open = one.get(&path).await.unwrap();
    assert!(two.put(&path, "x".into()).await.is_err());
    assert!(one.get(&path).await.is_err());
    // The bytes of a get that was answered before come no more either.
    assert!(open.bytes().await.is_err());
    assert_eq!(plan.operations(), 2);
}

#[tokio::test]
async fn a_local_file_goes_through_the_gate_too() {
    let folder = tempfile::tempdir().unwrap();
    let local = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let plan = Plan::stop_at(3, Moment::Before, Ending::Refusal);
    let store = StoppingStore::new(Arc::new(local), plan.clone());
    let path = Path::from("a/b");
    store.put(&path, "text".into()).await.unwrap();
    let ranged = store.get_range(&path, 1..3).await.unwrap();
    assert_eq!(ranged, "ex");
    assert!(store.delete(&path).await.is_err());
    assert!(folder.path().join("a/b").exists());
}

#[tokio::test]
async fn latency_is_per_operation_and_gets_overlap() {
    let store = Arc::new(LatencyStore::new(Arc::new(InMemory::new()), Duration::from_millis(100)));
    let path = Path::from("a");
    store.put(&path, "text".into()).await.unwrap();
    let get = || async { store.get(&path).await.unwrap().bytes().await.unwrap() };
    let all = futures::future::join_all((0..100).map(|_| get()));
    // One after another they would take ten seconds.
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), all).await.unwrap().len(), 100);
    assert_eq!((store.gets(), store.most_gets_in_flight()), (100, 100));
    // So long that no machine sleeps through it.
    let slow = LatencyStore::new(Arc::clone(&store) as _, Duration::from_secs(60));
    let early = Duration::from_millis(20);
    assert!(tokio::time::timeout(early, slow.get(&path)).await.is_err());
    assert!(tokio::time::timeout(early, slow.list(None).count()).await.is_err());
    assert!(tokio::time::timeout(early, slow.delete(&path)).await.is_err());
    assert_eq!(store.list(None).count().await, 1);
    assert_eq!((store.most_gets_in_flight(), slow.most_gets_in_flight()), (100, 1));
}
