//! Streams of Kinesis as tables, through the real program, against stand-ins of the service.
//!
//! The judge knows where each record went, by shard and sequence number: it is in the table or in the quarantine, once.
//! Which stand-in is right about what stands at `support::kinesis::Server`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::kafka::{Kafka, Message};
use crate::support::kinesis::{Call, Kinesis, Put, Server, Throttle, Verdict, aggregate};
use crate::support::proxy::Proxy;
use crate::support::services::{Moto, aws_environment, left_out, read, run_python};
use crate::support::sts::Sts;
use crate::support::time::{Awake, PATIENCE, until};
use crate::support::world::{World, binary, home};

/// Three days.
const LONG_AGO_MS: i64 = 3 * 86_400_000;
/// Less than a day, for which a stream keeps its records.
const LATELY_MS: i64 = 20 * 3_600_000;

/// A partition key and bytes.
type Record = (String, Vec<u8>);

/// A shard and a sequence number, with `/n` in an aggregate.
type Place = (String, String);

/// Rows with a number, each key's in ascending order.
fn rows(ids: Range<i64>) -> Vec<Record> {
    rows_of(ids, 50)
}

fn rows_of(ids: Range<i64>, keys: i64) -> Vec<Record> {
    ids.map(|id| (format!("key-{}", id % keys), json!({ "id": id }).to_string().into_bytes())).collect()
}

fn one(key: &str, body: impl Into<Vec<u8>>) -> Record {
    (key.to_owned(), body.into())
}

fn places(puts: Vec<Put>) -> Vec<Place> {
    puts.into_iter().map(|put| (put.shard, put.sequence)).collect()
}

fn put_to(kinesis: &Kinesis, stream: &str, records: &[Record]) -> Vec<Place> {
    let records: Vec<(&str, &[u8])> = records.iter().map(|(key, body)| (key.as_str(), body.as_slice())).collect();
    places(kinesis.put(stream, &records))
}

/// A project whose source `k` is a stream and whose table `t` holds each row with where it came from.
struct Case {
    kinesis: &'static Kinesis,
    stream: String,
    world: World,
    environment: Vec<(String, String)>,
}

/// A stream of a name that no other test has, with a project that reads it. None where Kinesis is left out.
fn case(server: Server, name: &str, shards: usize, options: &str) -> Option<Case> {
    if left_out("kinesis") {
        return None;
    }
    let kinesis = Kinesis::shared(server);
    let stream = format!("{name}-{:08x}", rand::random::<u32>());
    kinesis.create_stream(&stream, shards);
    let case = Case { kinesis, stream, world: World::new(), environment: kinesis.env() };
    case.write(options);
    Some(case)
}

const TABLE: &str = "SELECT id, _metadata.shard_id AS shard, _metadata.sequence_number AS seq,
    _metadata.partition_key AS key FROM STREAM k";

impl Case {
    fn source(&self, options: &str) -> String {
        format!(
            "CREATE EXTERNAL TABLE k (id BIGINT, name STRING) STORED AS KINESIS LOCATION 'kinesis://{}'
             OPTIONS ({options});\n",
            self.stream
        )
    }

    fn write(&self, options: &str) {
        self.world.write("sql/t.sql", format!("{}CREATE STREAMING TABLE t AS {TABLE};", self.source(options)));
    }

    /// The same stream, in a project of its own.
    fn again(&self, options: &str) -> Self {
        let environment = self.environment.clone();
        let case = Self { kinesis: self.kinesis, stream: self.stream.clone(), world: World::new(), environment };
        case.write(options);
        case
    }

    /// Puts a proxy before the service.
    fn throttled(&mut self) -> Throttle {
        let throttle = Throttle::start(&self.kinesis.url());
        self.environment = throttle.env();
        throttle
    }

    fn put(&self, records: &[Record]) -> Vec<Place> {
        put_to(self.kinesis, &self.stream, records)
    }

    fn start(&self, arguments: &[&str]) -> Process {
        Process::start(&self.world, arguments, &self.environment)
    }

    /// `pinsql run sql`, with more arguments, to its end.
    fn run_with(&self, arguments: &[&str]) -> Done {
        self.start(&[&["run", "sql", "--json"], arguments].concat()).end()
    }

    /// `pinsql run sql`, which must succeed.
    fn run(&self) -> Done {
        self.run_with(&[]).fine()
    }

    /// `pinsql run sql` that must fail, with this exit status: kind, message and hint.
    fn fails(&self, status: i32) -> [String; 3] {
        let done = self.run_with(&[]);
        assert_eq!(done.status, Some(status), "{done:?}");
        assert_eq!(done.summary()["status"], "failed", "{done:?}");
        ["kind", "message", "hint"].map(|key| done.summary()["error"][key].as_str().unwrap_or_default().to_owned())
    }

    /// `pinsql stream sql`, at a trigger that tests can wait for.
    fn follow(&self, arguments: &[&str]) -> Process {
        self.start(&[&["stream", "sql", "--json", "--trigger", "50ms"], arguments].concat())
    }

    /// Where the rows of a table and of its quarantine are from: each once.
    async fn places(&self, table: &str) -> BTreeSet<Place> {
        let mut rows = self.world.query(&format!("SELECT shard, seq FROM {table}")).await;
        if self.world.path(&format!("lake/{table}_quarantine")).exists() {
            let sql = format!("SELECT \"partition\" AS shard, \"position\" AS seq FROM {table}_quarantine");
            rows.extend(self.world.query(&sql).await);
        }
        let mut places = BTreeSet::new();
        for row in rows {
            let place = (text(&row["shard"]), text(&row["seq"]));
            assert!(places.insert(place), "{row} is there twice");
        }
        places
    }

    async fn assert_whole(&self, expected: &[Place]) {
        assert_same(&self.places("t").await, expected);
    }

    async fn ids(&self) -> Vec<i64> {
        let rows = self.world.query("SELECT id FROM t ORDER BY id").await;
        rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
    }

    async fn quarantine(&self) -> Vec<Value> {
        let sql =
            "SELECT source, \"partition\", \"position\", rule, reason, encode(payload, 'hex') AS payload, metadata
                   FROM t_quarantine ORDER BY \"partition\", \"position\"";
        self.world.query(sql).await
    }

    /// How many commits a table has.
    fn versions(&self, table: &str) -> usize {
        let log = self.world.path(&format!("lake/{table}/_delta_log"));
        let names = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "json")).count()
    }

    /// The newest entry of the log of `t`.
    fn newest_entry(&self) -> PathBuf {
        let log = self.world.path("lake/t/_pinsql/t/log");
        let paths = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
        let entries = paths.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('_'));
        entries.max().expect("an entry")
    }

    /// The shards as the newest entry of the log has them.
    fn logged(&self) -> Value {
        let entry: Value = serde_json::from_slice(&std::fs::read(self.newest_entry()).unwrap()).unwrap();
        entry["sources"].as_object().unwrap().values().next().unwrap()["committed"]["shards"].clone()
    }

    /// Changes them, as time or an earlier instance would have.
    fn change_logged(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let path = self.newest_entry();
        let mut entry: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let source = entry["sources"].as_object_mut().unwrap().values_mut().next().unwrap();
        change(source["committed"]["shards"].as_object_mut().unwrap());
        std::fs::write(path, entry.to_string()).unwrap();
    }

    /// For each partition key the rows' numbers ascend, in each file and from commit to commit. Says how many they are.
    fn assert_in_order(&self) -> usize {
        let mut last: HashMap<String, i64> = HashMap::new();
        let mut newest: HashMap<String, i64> = HashMap::new();
        let (mut version, mut count) = (0, 0);
        for file in run_python(FILES, &[&self.world.path("lake/t").to_string_lossy()]) {
            if file["version"].as_i64().unwrap() > version {
                version = file["version"].as_i64().unwrap();
                last.extend(newest.drain());
            }
            let mut in_file: HashMap<String, i64> = HashMap::new();
            for row in file["rows"].as_array().unwrap() {
                let (key, id) = (text(&row[0]), row[1].as_i64().unwrap());
                let before = in_file.get(&key).or_else(|| last.get(&key)).copied();
                assert!(
                    before.is_none_or(|before| before < id),
                    "{key}: {id} comes after {before:?}, version {version}"
                );
                let newest = newest.entry(key.clone()).or_insert(id);
                *newest = id.max(*newest);
                in_file.insert(key, id);
                count += 1;
            }
        }
        count
    }
}

/// The rows of a table's files as the commits added them.
const FILES: &str = r#"
import json, os, sys, urllib.parse
import pyarrow.parquet as parquet
table = sys.argv[1]
log = os.path.join(table, "_delta_log")
for name in sorted(name for name in os.listdir(log) if name.endswith(".json")):
    for line in open(os.path.join(log, name), encoding="utf-8"):
        add = json.loads(line).get("add")
        if add and add["dataChange"]:
            file = parquet.ParquetFile(os.path.join(table, urllib.parse.unquote(add["path"])))
            rows = file.read(["key", "id"]).to_pylist()
            print(json.dumps({"version": int(name[:20]), "rows": [[row["key"], row["id"]] for row in rows]}))
"#;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

/// Says what is missing or too much, and not the thousands that are right.
fn assert_same(found: &BTreeSet<Place>, expected: &[Place]) {
    let expected: BTreeSet<Place> = expected.iter().cloned().collect();
    let some = |of: &BTreeSet<Place>, but: &BTreeSet<Place>| of.difference(but).take(5).cloned().collect::<Vec<_>>();
    let (missing, foreign) = (some(&expected, found), some(found, &expected));
    let (found, expected) = (found.len(), expected.len());
    assert!(missing.is_empty() && foreign.is_empty(), "{found} of {expected}; lost: {missing:?}; foreign: {foreign:?}");
}

/// `pinsql` in a process of its own, whose output is read as it comes.
struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    output: Option<JoinHandle<()>>,
    complaint: Option<JoinHandle<String>>,
}

/// How it ended.
#[derive(Debug)]
struct Done {
    status: Option<i32>,
    lines: Vec<Value>,
    complaint: String,
}

impl Process {
    fn start(world: &World, arguments: &[&str], environment: &[(String, String)]) -> Self {
        let mut command = Command::new(binary());
        for name in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"] {
            command.env_remove(name);
        }
        command.current_dir(world.path("")).args(arguments).envs(environment.iter().map(|(key, value)| (key, value)));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&lines);
        let output = thread::spawn(move || {
            // A process that is killed may leave half a line.
            let whole = BufReader::new(out).lines().map_while(Result::ok);
            whole.filter_map(|line| serde_json::from_str(&line).ok()).for_each(|line| said.lock().unwrap().push(line));
        });
        let complaint = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, lines, output: Some(output), complaint: Some(complaint) }
    }

    /// What its epochs put into tables and quarantines, one or all.
    fn taken(&self, table: Option<&str>) -> u64 {
        let lines = self.lines.lock().unwrap();
        let epochs = lines.iter().filter(|line| line["event"] == "epoch");
        let of_table = epochs.filter(|line| table.is_none_or(|table| line["table"] == table));
        of_table.map(|line| line["written"].as_u64().unwrap() + line["quarantined"].as_u64().unwrap()).sum()
    }

    /// Waits until it has taken so many.
    fn until_taken(&mut self, table: Option<&str>, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let taken = self.taken(table);
            if taken >= count {
                assert_eq!(taken, count, "{table:?} has more than there is");
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{taken} of {count}, {ended:?}: {:?}", self.said());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn said(&self) -> Vec<Value> {
        self.lines.lock().unwrap().clone()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn kill(mut self) -> Done {
        self.child.kill().unwrap();
        self.end()
    }

    /// Ends a stream as a service manager does.
    fn stop(self) -> Done {
        self.signal("TERM");
        let done = self.end();
        assert_eq!((done.status, &done.summary()["status"]), (Some(0), &json!("stopped")), "{done:?}");
        done
    }

    /// Waits for its end.
    fn end(mut self) -> Done {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < deadline, "it does not end: {:?}", self.said());
            thread::sleep(Duration::from_millis(5));
        };
        self.output.take().unwrap().join().unwrap();
        let complaint = self.complaint.take().unwrap().join().unwrap();
        Done { status, lines: self.said(), complaint }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Done {
    fn fine(self) -> Self {
        assert_eq!((self.status, &self.summary()["status"]), (Some(0), &json!("ok")), "{self:?}");
        self
    }

    fn summary(&self) -> &Value {
        self.lines.last().unwrap_or(&Value::Null)
    }

    fn table(&self, name: &str) -> &Value {
        let tables = self.summary()["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == name).unwrap_or_else(|| panic!("no table {name}: {self:?}"))
    }

    /// read, written, quarantined of `t`.
    fn counts(&self) -> [u64; 3] {
        ["read", "written", "quarantined"].map(|name| self.table("t")[name].as_u64().unwrap())
    }

    fn epochs(&self) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(|line| line["event"] == "epoch")
    }
}

fn seed() -> u64 {
    let seed = std::env::var("PINSQL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("PINSQL_SEED={seed}");
    seed
}

/// How many GetRecords came.
fn fetches(throttle: &Throttle) -> usize {
    throttle.calls().iter().filter(|call| call.operation == "GetRecords").count()
}

/// The service counts five GetRecords in each second of each shard, whatever becomes of them.
fn assert_within_limits(throttle: &Throttle) {
    let mut arrivals: BTreeMap<(Option<String>, Option<String>), Vec<Instant>> = BTreeMap::new();
    for call in throttle.calls().into_iter().filter(|call| call.operation == "GetRecords") {
        assert!(call.shard.is_some(), "{call:?}");
        arrivals.entry((call.stream, call.shard)).or_default().push(call.arrival);
    }
    assert!(!arrivals.is_empty());
    for (shard, mut times) in arrivals {
        times.sort();
        for six in times.windows(6) {
            let span = six[5] - six[0];
            assert!(span >= Duration::from_secs(1), "{shard:?} was asked six times in {span:?}");
        }
    }
}

/// What may happen to any call, at random; half of the calls that are not for records are let through, in turn.
fn storm(seed: u64) -> impl Fn(&Call) -> Verdict + Send + Sync + 'static {
    let random = Mutex::new(StdRng::seed_from_u64(seed));
    move |call| {
        let dice = random.lock().unwrap().random_range(0..9);
        match (call.operation.as_str(), dice) {
            ("GetRecords", 0) | ("GetShardIterator", 1) => Verdict::Throttle,
            ("GetRecords", 1) => Verdict::Expire,
            ("GetRecords", 2) => Verdict::Empty,
            ("GetRecords", 3) | ("GetShardIterator", 0) => Verdict::Cut,
            ("GetRecords", 4) => Verdict::Fail,
            ("GetRecords" | "GetShardIterator", _) => Verdict::Pass,
            (_, 0..4) if call.nth % 2 == 0 => Verdict::Fail,
            (_, 4..9) if call.nth % 2 == 0 => Verdict::Throttle,
            _ => Verdict::Pass,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_once_and_then_only_what_is_new() {
    let Some(case) = case(Server::Load, "once", 4, "") else { return };
    let mut expected = case.put(&rows(0..600));
    let bad = case.put(&[one("a", "{\"id\": oops"), one("b", [0xff_u8, 0x00, 0xfe]), one("c", "")]);
    expected.extend(bad.clone());
    assert_eq!(case.run().counts(), [603, 600, 3]);
    case.assert_whole(&expected).await;
    let versions = || ["t", "t_quarantine"].map(|table| case.versions(table));
    let before = versions();
    let again = case.run();
    assert_eq!(again.counts(), [0, 0, 0]);
    assert_eq!(again.table("t")["epochs"], 0, "nothing new is no epoch");
    assert_eq!(again.table("t")["lost"], 0);
    assert_eq!(versions(), before, "and no commit");
    expected.extend(case.put(&rows(600..650)));
    assert_eq!(case.run().counts(), [50, 50, 0]);
    case.assert_whole(&expected).await;
    assert_eq!(case.ids().await, (0..650).collect::<Vec<_>>());
    // As others see it, and the records that are not rows as they came.
    if left_out("python") {
        return;
    }
    let table = |name: &str| case.world.path(name).to_string_lossy().into_owned();
    assert_eq!(read("deltalake_reader.py", &table("lake/t"), &[]).len(), 650);
    let put_aside = read("deltalake_reader.py", &table("lake/t_quarantine"), &[]);
    let got: BTreeMap<Place, Value> =
        put_aside.into_iter().map(|row| ((text(&row["partition"]), text(&row["position"])), row)).collect();
    for (place, (key, body)) in
        bad.iter().zip([("a", &b"{\"id\": oops"[..]), ("b", &[0xff, 0x00, 0xfe][..]), ("c", &b""[..])])
    {
        let row = &got[place];
        let [rule, reason] = ["rule", "reason"].map(|name| text(&row[name]));
        assert_eq!((rule.as_str(), reason.is_empty()), ("unreadable", false), "{row}");
        assert_eq!(row["payload"], STANDARD.encode(body), "{row}");
        let metadata: Value = serde_json::from_str(&text(&row["metadata"])).unwrap();
        assert_eq!((&metadata["stream"], &metadata["shard_id"]), (&json!(case.stream), &json!(place.0)), "{row}");
        assert_eq!(metadata["sequence_number"], json!(place.1), "{row}");
        assert_eq!(text(&metadata["partition_key"]), key, "{row}");
        assert!(metadata["approximate_arrival_timestamp"].is_string(), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_knows_where_it_is_from_in_both_forms() {
    let Some(case) = case(Server::Lineage, "forms", 2, "") else { return };
    let records = [one("a", r#"{"id":1,"name":"x"}"#), one("b", "not json"), one("ü", r#"{"id":2}"#)];
    case.put(&records);
    let drained = case.kinesis.drain(&case.stream);
    let time =
        |ms: i64| chrono::DateTime::from_timestamp_millis(ms).unwrap().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let stream = &case.stream;
    case.world.write(
        "sql/raw.sql",
        format!(
            "CREATE STREAMING TABLE raw AS
                SELECT * FROM STREAM read_kinesis(streamName => '{stream}', region => 'us-east-1');
             CREATE STREAMING TABLE visible AS SELECT * FROM STREAM k;
             CREATE STREAMING TABLE hidden AS SELECT _metadata AS m FROM STREAM k;"
        ),
    );
    let done = case.run();
    let read_of = |name: &str| done.table(name)["read"].as_u64().unwrap();
    assert_eq!((done.counts(), read_of("raw"), done.table("raw")["written"].as_u64()), ([3, 2, 1], 3, Some(3)));
    // A bounded reading in the shell.
    let sql = format!(
        "SELECT id, _metadata.stream AS stream, _metadata.shard_id AS shard, _metadata.sequence_number AS number,
            _metadata.partition_key AS key FROM k ORDER BY id;
         SELECT count(*) AS n, count(DISTINCT shardid) AS shards FROM read_kinesis(streamName => '{stream}')"
    );
    let shell = case.start(&["--json", "-c", &sql]).end();
    assert_eq!(shell.status, Some(0), "{shell:?}");
    let selected: Vec<&Value> = shell.lines.iter().filter(|line| line.get("stream").is_some()).collect();
    assert_eq!(selected.len(), 2, "{shell:?}");
    for (row, (id, key)) in selected.into_iter().zip([(1, "a"), (2, "ü")]) {
        let got = drained.iter().find(|got| got.key == key).unwrap();
        let expected = json!({"id": id, "stream": stream, "shard": got.shard, "number": got.sequence, "key": key});
        assert_eq!(*row, expected);
    }
    let shards: BTreeSet<&str> = drained.iter().map(|got| got.shard.as_str()).collect();
    assert!(shell.lines.contains(&json!({"n": 3, "shards": shards.len()})), "{shell:?}");
    if left_out("python") {
        return;
    }
    let table = |name: &str| read("deltalake_reader.py", &case.world.path(name).to_string_lossy(), &[]);
    let mut raw = table("lake/raw");
    raw.sort_by_key(|row| text(&row["sequencenumber"]));
    let mut expected: Vec<Value> = drained
        .iter()
        .map(|got| {
            json!({"partitionkey": got.key, "data": STANDARD.encode(&got.bytes), "stream": stream, "shardid": got.shard,
                "sequencenumber": got.sequence, "approximatearrivaltimestamp": time(got.arrival_ms)})
        })
        .collect();
    expected.sort_by_key(|row| text(&row["sequencenumber"]));
    assert_eq!(raw, expected);
    let names = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&table("lake/visible")[0]), BTreeSet::from(["id".to_owned(), "name".to_owned()]), "no _metadata");
    let hidden = table("lake/hidden");
    let fields = ["approximate_arrival_timestamp", "partition_key", "sequence_number", "shard_id", "stream"];
    for row in hidden {
        let m = &row["m"];
        assert_eq!(names(m), BTreeSet::from(fields.map(str::to_owned)), "{row}");
        let got =
            drained.iter().find(|got| m["sequence_number"] == got.sequence && m["shard_id"] == got.shard).unwrap();
        assert_eq!(m["approximate_arrival_timestamp"], time(got.arrival_ms));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_named_by_its_name_or_its_arn() {
    let Some(case) = case(Server::Lineage, "named", 1, "") else { return };
    case.put(&rows(0..5));
    let arn = format!("arn:aws:kinesis:us-east-1:000000000000:stream/{}", case.stream);
    let columns = "CREATE EXTERNAL TABLE k (id BIGINT) STORED AS KINESIS";
    for named in [
        format!("{columns} LOCATION '{arn}';"),
        format!("{columns} OPTIONS (streamARN '{arn}');"),
        format!("{columns} OPTIONS (streamName '{}', region 'us-east-1');", case.stream),
        format!("{columns} LOCATION 'kinesis://{}' OPTIONS (endpoint '{}');", case.stream, case.kinesis.url()),
    ] {
        let other = case.again("");
        other.world.write("sql/t.sql", format!("{named}\nCREATE STREAMING TABLE t AS {TABLE};"));
        assert_eq!(other.run().counts(), [5, 5, 0], "{named}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_inferred_from_records_and_pinned() {
    let Some(case) = case(Server::Load, "inferred", 2, "") else { return };
    let source = format!("CREATE EXTERNAL TABLE k STORED AS KINESIS LOCATION 'kinesis://{}';\n", case.stream);
    case.world.write("sql/t.sql", source + "CREATE STREAMING TABLE t AS SELECT * FROM STREAM k;");
    let nothing = case.run();
    assert_eq!(nothing.table("t")["version"], Value::Null, "there is nothing to infer from, and no table yet");
    case.put(&[one("a", r#"{"id":1,"name":"x"}"#), one("b", "bad"), one("c", r#"{"id":2,"name":"y"}"#)]);
    assert_eq!(case.run().counts(), [3, 2, 1]);
    case.put(&[one("a", r#"{"id":3,"name":"z","extra":true}"#)]);
    assert_eq!(case.run().counts(), [1, 1, 0], "the columns of the first epoch stay");
    let rows = case.world.query("SELECT * FROM t ORDER BY id").await;
    assert_eq!(rows, [json!({"id": 1, "name": "x"}), json!({"id": 2, "name": "y"}), json!({"id": 3, "name": "z"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_stream_is_an_empty_table_and_idle_shards_do_not_keep_a_run() {
    let Some(case) = case(Server::Lineage, "idle", 4, "") else { return };
    assert_eq!(case.run().counts(), [0, 0, 0]);
    assert_eq!(case.ids().await, Vec::<i64>::new());
    // All of one key: three shards stay empty.
    let only = |ids: Range<i64>| rows_of(ids, 1);
    let mut expected = case.put(&only(0..10));
    assert_eq!(expected.iter().map(|place| &place.0).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(case.run().counts(), [10, 10, 0]);
    for _ in 0..2 {
        assert_eq!(case.run().counts(), [0, 0, 0]);
    }
    // Then one of the shards that were empty.
    let other = (0..).map(|n| format!("other-{n}")).map(|key| case.put(&[one(&key, r#"{"id":10}"#)]));
    for place in other.take(20) {
        let is_other = place[0].0 != expected[0].0;
        expected.extend(place);
        if is_other {
            break;
        }
    }
    let new = expected.len() as u64 - 10;
    assert_eq!(case.run().counts(), [new, new, 0]);
    case.assert_whole(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_run_reads_is_of_the_next_run() {
    for server in [Server::Load, Server::Lineage] {
        let Some(case) = case(server, "meanwhile", 2, "maxRecordsPerFetch 500") else { return };
        let mut expected = case.put(&rows(0..600));
        let stop = Arc::new(AtomicBool::new(false));
        let (kinesis, stream, stopped) = (case.kinesis, case.stream.clone(), Arc::clone(&stop));
        let producer = thread::spawn(move || {
            let (mut places, mut id) = (Vec::new(), 600);
            while !stopped.load(Ordering::Relaxed) {
                places.extend(put_to(kinesis, &stream, &rows(id..id + 10)));
                id += 10;
            }
            places
        });
        let mut read = case.run_with(&["--max-records", "200"]).fine().counts()[0];
        stop.store(true, Ordering::Relaxed);
        expected.extend(producer.join().unwrap());
        assert!(read >= 600, "{server:?}: {read}");
        read += case.run().counts()[0];
        assert_eq!(read, expected.len() as u64, "{server:?}");
        case.assert_whole(&expected).await;
        assert_eq!(case.run().counts(), [0, 0, 0], "{server:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_takes_no_more_records_than_it_may() {
    let Some(case) = case(Server::Load, "limits", 3, "") else { return };
    let expected = case.put(&rows(0..1000));
    let done = case.run_with(&["--max-records", "300"]).fine();
    assert_eq!(done.counts(), [1000, 1000, 0]);
    // An epoch that waits for long ends with less.
    assert!(done.table("t")["epochs"].as_u64().unwrap() >= 4, "{done:?}");
    assert!(done.epochs().all(|epoch| epoch["read"].as_u64().unwrap() <= 300), "{done:?}");
    assert!(done.epochs().all(|epoch| epoch["behind_ms"].is_u64()), "{done:?}");
    case.assert_whole(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_no_more_records_than_is_said() {
    let Some(mut case) = case(Server::Load, "fetches", 1, "maxRecordsPerFetch 7") else { return };
    let throttle = case.throttled();
    throttle.set(|_| Verdict::Pass);
    let expected = case.put(&rows(0..30));
    assert_eq!(case.run().counts(), [30, 30, 0]);
    case.assert_whole(&expected).await;
    let calls = throttle.calls();
    let limits: BTreeSet<Option<u64>> =
        calls.iter().filter(|call| call.operation == "GetRecords").map(|call| call.request["Limit"].as_u64()).collect();
    assert_eq!(limits, BTreeSet::from([Some(7)]));
    assert!(fetches(&throttle) >= 5);
    for wrong in ["0", "10001", "many"] {
        case.write(&format!("maxRecordsPerFetch '{wrong}'"));
        let [kind, message, _] = case.fails(2);
        assert!(kind == "config" && message.contains("maxRecordsPerFetch"), "{wrong}: {kind}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_records_with_the_named_keys_are_read() {
    let Some(case) = case(Server::Load, "keys", 4, "partitionKey 'a, b'") else { return };
    let mut expected = case.put(&[one("a", r#"{"id":1}"#), one("b", "bad"), one("a", r#"{"id":2}"#)]);
    case.put(&[one("c", r#"{"id":3}"#), one("c", "bad"), one("ab", r#"{"id":4}"#), one("A", r#"{"id":5}"#)]);
    assert_eq!(case.run().counts(), [3, 2, 1]);
    case.assert_whole(&expected).await;
    // Other people's records are no epoch.
    case.put(&[one("c", r#"{"id":6}"#), one("d", "bad")]);
    let done = case.run();
    assert_eq!((done.counts(), &done.table("t")["epochs"]), ([0, 0, 0], &json!(0)));
    expected.extend(case.put(&[one("b", r#"{"id":7}"#)]));
    assert_eq!(case.run().counts(), [1, 1, 0]);
}

/// `{"id": n}` for each of the numbers, as an aggregate, under keys of their own.
fn aggregate_of(ids: Range<i64>) -> Vec<u8> {
    let records: Vec<(String, Vec<u8>)> = rows_of(ids, 7);
    let records: Vec<(&str, Option<&str>, &[u8])> =
        records.iter().map(|(key, body)| (key.as_str(), None, body.as_slice())).collect();
    aggregate(&records)
}

/// Where the user records of an aggregate are.
fn within(place: &Place, count: usize) -> impl Iterator<Item = Place> {
    (0..count).map(|n| (place.0.clone(), format!("{}/{n}", place.1)))
}

#[tokio::test(flavor = "multi_thread")]
async fn user_records_of_an_aggregate_are_rows_and_epochs_may_end_in_between() {
    let Some(case) = case(Server::Load, "aggregates", 1, "") else { return };
    let mixed = aggregate(&[("u", None, br#"{"id":6}"#), ("v", None, b"bad"), ("u", None, br#"{"id":8}"#)]);
    let put = case.put(&[
        one("p", r#"{"id":0}"#),
        one("p", aggregate_of(1..6)),
        one("p", mixed),
        one("p", aggregate(&[])),
        one("p", r#"{"id":9}"#),
        one("p", aggregate(&[])),
    ]);
    let mut expected = vec![put[0].clone(), put[4].clone()];
    expected.extend(within(&put[1], 5).chain(within(&put[2], 3)));
    let done = case.run_with(&["--max-records", "1"]).fine();
    assert_eq!((done.counts(), &done.table("t")["epochs"]), ([10, 9, 1], &json!(10)));
    case.assert_whole(&expected).await;
    assert_eq!(case.ids().await, [0, 1, 2, 3, 4, 5, 6, 8, 9]);
    let put_aside = case.quarantine().await;
    assert_eq!(
        (&put_aside[0]["position"], &put_aside[0]["payload"]),
        (&json!(format!("{}/1", put[2].1)), &json!("626164"))
    );
    let key = "SELECT key FROM t WHERE id = 8";
    assert_eq!(case.world.query(key).await, [json!({"key": "u"})], "the user's key");
    let again = case.run();
    assert_eq!((again.counts(), &again.table("t")["epochs"]), ([0, 0, 0], &json!(0)));
    // The same in one go.
    let whole = case.again("");
    assert_eq!(whole.run().counts(), [10, 9, 1]);
    assert_same(&whole.places("t").await, &expected);
    // Of one key in one aggregate.
    let some = case.again("partitionKey 'v'");
    assert_eq!(some.run().counts()[2], 1);
    assert!(some.places("t").await.contains(&(put[2].0.clone(), format!("{}/1", put[2].1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_killed_inside_of_aggregates_repeats_and_loses_nothing() {
    let Some(case) = case(Server::Load, "pieces", 2, "") else { return };
    // All of one shard, so that no user record is another's.
    let shards = case.kinesis.shards(&case.stream);
    let mut random = StdRng::seed_from_u64(seed());
    let (mut expected, mut id) = (Vec::new(), 0);
    for n in 0..40_usize {
        let shard = &shards[n % 2];
        let hash = shard.hash.0.to_string();
        let count = random.random_range(1..12);
        let bodies: Vec<String> = (id..id + count).map(|id| json!({ "id": id }).to_string()).collect();
        let records: Vec<(&str, Option<&str>, &[u8])> =
            bodies.iter().map(|body| (shard.id.as_str(), Some(hash.as_str()), body.as_bytes())).collect();
        let put = case.kinesis.put_at(&case.stream, "p", &hash, &aggregate(&records));
        assert_eq!(put.shard, shard.id);
        expected.extend(within(&(put.shard, put.sequence), bodies.len()));
        id += count;
    }
    for _ in 0..6 {
        let process = case.start(&["run", "sql", "--json", "--max-records", "2"]);
        let most = random.random_range(0..20);
        // What it says it has, and a moment of the next epoch.
        until("it gets on", || process.taken(None) >= most || process.output.as_ref().unwrap().is_finished());
        thread::sleep(Duration::from_millis(random.random_range(0..30)));
        process.kill();
    }
    case.run_with(&["--max-records", "3"]).fine();
    case.assert_whole(&expected).await;
    assert_eq!(case.ids().await, (0..id).collect::<Vec<_>>());
    if !left_out("python") {
        assert_eq!(case.assert_in_order(), expected.len());
    }
}

/// The form of an aggregate around any bytes.
fn sealed(message: &[u8]) -> Vec<u8> {
    let digest = Md5::digest(message);
    [&[0xF3, 0x89, 0x9A, 0xC2][..], message, &digest[..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_aggregate_is_put_aside_whole() {
    let Some(case) = case(Server::Load, "broken", 1, "") else { return };
    let mut spoiled = aggregate_of(1..4);
    *spoiled.last_mut().unwrap() ^= 1;
    // A field that says it is longer than what follows, and a record under the third of no keys.
    let broken =
        [spoiled, vec![0xF3, 0x89, 0x9A, 0xC2], sealed(&[0x1A, 0x7F, 1, 2]), sealed(&[0x1A, 5, 8, 2, 0x1A, 1, b'x'])];
    let mut records: Vec<Record> = broken.iter().map(|bytes| one("p", bytes.clone())).collect();
    records.push(one("p", aggregate_of(1..4)));
    let put = case.put(&records);
    assert_eq!(case.run().counts(), [7, 3, 4]);
    let put_aside: BTreeMap<String, Value> =
        case.quarantine().await.into_iter().map(|row| (text(&row["position"]), row)).collect();
    for (index, (bytes, place)) in broken.iter().zip(&put).enumerate() {
        let row = &put_aside[&place.1];
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&row["payload"], &row["rule"]), (&json!(hex), &json!("unreadable")), "{row}");
        let reason = text(&row["reason"]);
        assert!(!reason.is_empty(), "{row}");
        assert_eq!(reason.contains("aggregate"), index >= 2, "{row}");
    }
    assert_eq!(case.ids().await, [1, 2, 3]);
    assert_eq!(case.run().counts(), [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_record_of_another_shard_is_put_aside() {
    let Some(case) = case(Server::Load, "foreign", 2, "") else { return };
    let shards = case.kinesis.shards(&case.stream);
    let [here, there] = [shards[0].hash.1.to_string(), shards[1].hash.0.to_string()];
    // A key that is hashed to the other shard.
    let is_there = |key: &String| u128::from_be_bytes(Md5::digest(key.as_bytes()).into()) >= shards[1].hash.0;
    let hashed = (0..).map(|n| format!("user-{n}")).find(is_there).unwrap();
    let bytes = aggregate(&[
        ("any", Some(&here), br#"{"id":1}"#),
        ("any", Some(&there), br#"{"id":2}"#),
        (&hashed, None, br#"{"id":3}"#),
        (&hashed, Some(&here), br#"{"id":4}"#),
    ]);
    let put = case.kinesis.put_at(&case.stream, "p", "0", &bytes);
    assert_eq!(put.shard, shards[0].id);
    assert_eq!(case.run().counts(), [4, 2, 2]);
    assert_eq!(case.ids().await, [1, 4]);
    let put_aside = case.quarantine().await;
    for (row, (n, body)) in put_aside.iter().zip([(1, "7b226964223a327d"), (2, "7b226964223a337d")]) {
        assert_eq!((&row["partition"], &row["position"]), (&json!(put.shard), &json!(format!("{}/{n}", put.sequence))));
        assert_eq!(row["payload"], body);
        assert!(text(&row["reason"]).contains("shard"), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_was_encoded_twice_is_called_that() {
    let Some(case) = case(Server::Load, "twice", 1, "") else { return };
    let bodies =
        [STANDARD.encode(r#"{"id":1,"name":"a longer text"}"#), "oops, not that".to_owned(), "{\"id\":".to_owned()];
    let put = case.put(&bodies.clone().map(|body| one("p", body)));
    assert_eq!(case.run().counts(), [3, 0, 3]);
    let put_aside: BTreeMap<String, Value> =
        case.quarantine().await.into_iter().map(|row| (text(&row["position"]), row)).collect();
    for (index, (place, body)) in put.iter().zip(&bodies).enumerate() {
        let row = &put_aside[&place.1];
        assert_eq!(text(&row["reason"]).contains("base64"), index == 0, "{row}");
        let hex: String = body.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(row["payload"], hex);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_what_it_was_in_the_first_run() {
    let Some(case) = case(Server::Lineage, "latest", 2, "initialPosition 'latest'") else { return };
    case.put(&rows(0..20));
    let first = case.run();
    assert_eq!(first.counts(), [0, 0, 0], "what was there before");
    let mut expected = case.put(&rows(100..120));
    assert_eq!(case.run().counts(), [20, 20, 0], "what came after a run that found nothing");
    // A child is read from its start, whatever its stream was begun at.
    let shard = case.kinesis.open_shards(&case.stream)[0].id.clone();
    case.kinesis.split(&case.stream, &shard);
    expected.extend(case.put(&rows(120..200)));
    assert_eq!(case.run().counts(), [80, 80, 0]);
    case.assert_whole(&expected).await;
    assert_eq!(case.ids().await, (100..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_where_it_is_told_to() {
    let Some(case) = case(Server::Lineage, "starts", 2, "") else { return };
    case.put(&rows(0..20));
    let first = case.kinesis.drain(&case.stream).iter().map(|got| got.arrival_ms).max().unwrap();
    // The service may know times to the second.
    thread::sleep(Duration::from_millis(1100));
    case.put(&rows(20..40));
    let drained = case.kinesis.drain(&case.stream);
    let arrivals = drained.iter().map(|got| got.arrival_ms);
    let second = arrivals.clone().filter(|arrival| *arrival > first).min().unwrap();
    let at = |ms: i64, form: &str| chrono::DateTime::from_timestamp_millis(ms).unwrap().format(form).to_string();
    let starts = [
        (r#"initialPosition 'trim_horizon'"#.to_owned(), 0..40),
        (r#"initialPosition 'EARLIEST'"#.to_owned(), 0..40),
        (format!(r#"initialPosition '{{"at_timestamp":"{}"}}'"#, at(second, "%Y-%m-%dT%H:%M:%S%.3fZ")), 20..40),
        (format!(r#"initialPosition '{{"at_timestamp":"{}"}}'"#, at(second - 500, "%Y-%m-%d %H:%M:%S%.3f")), 20..40),
        (format!(r#"initialPosition '{{"at_timestamp":{}}}'"#, second - 500), 20..40),
        (format!(r#"initialPosition '{{"at_timestamp":{}}}'"#, first - 3_600_000), 0..40),
    ];
    for (option, expected) in starts {
        let case = case.again(&option);
        let done = case.run();
        assert_eq!(case.ids().await, expected.collect::<Vec<_>>(), "{option}: {done:?}");
        assert_eq!(case.run().counts(), [0, 0, 0], "{option}");
    }
    let wrong = case.again("initialPosition 'newest'");
    let [kind, message, hint] = wrong.fails(2);
    assert!(
        kind == "config" && message.contains("newest") && hint.contains("at_timestamp"),
        "{kind}: {message} ({hint})"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn half_by_run_some_by_stream_and_the_rest_by_run_is_one_table() {
    let Some(case) = case(Server::Load, "mixed", 4, "") else { return };
    let mut expected = case.put(&rows(0..500));
    case.run();
    let mut process = case.follow(&[]);
    expected.extend(case.put(&rows(500..1000)));
    process.until_taken(None, 500);
    expected.extend(case.put(&rows(1000..1200)));
    process.until_taken(None, 700);
    let asked = Awake::start();
    let done = process.stop();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(done.counts(), [700, 700, 0]);
    assert!(done.epochs().all(|epoch| epoch["behind_ms"].is_u64()), "{done:?}");
    expected.extend(case.put(&rows(1200..1500)));
    assert_eq!(case.run().counts(), [300, 300, 0]);
    let once = case.again("");
    once.run();
    let all = "SELECT * FROM t ORDER BY shard, seq";
    assert_eq!(case.world.query(all).await, once.world.query(all).await);
    case.assert_whole(&expected).await;
    // What is known without the service.
    let status = Process::start(&case.world, &["status", "sql", "--json"], &[]).end();
    assert_eq!(status.status, Some(0), "{status:?}");
    let t = status.table("t");
    assert!(text(&t["sources"][0]["position"]).contains(&case.stream), "{t}");
    assert_eq!(t["lag"], 0, "{t}");
    if !left_out("python") {
        assert_eq!(case.assert_in_order(), expected.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_and_comes_back_is_no_event() {
    let Some(mut case) = case(Server::Load, "away", 2, "") else { return };
    let throttle = case.throttled();
    throttle.set(|_| Verdict::Pass);
    let mut expected = case.put(&rows(0..100));
    let mut process = case.follow(&[]);
    process.until_taken(None, 100);
    for round in 1..=2 {
        throttle.set(|_| Verdict::Fail);
        let before = throttle.calls().len();
        expected.extend(case.put(&rows(round * 100..(round + 1) * 100)));
        until("it asks in vain", || throttle.calls().len() >= before + 6);
        throttle.set(|_| Verdict::Pass);
        process.until_taken(None, (round as u64 + 1) * 100);
    }
    // And it can be stopped while it is away, as a run can.
    throttle.set(|_| Verdict::Fail);
    let in_vain = || {
        let before = throttle.calls().len();
        until("it asks in vain", || throttle.calls().len() >= before + 4);
    };
    in_vain();
    let asked = Awake::start();
    process.stop();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    throttle.set(|call| if call.operation == "GetRecords" { Verdict::Fail } else { Verdict::Pass });
    let run = case.start(&["run", "sql", "--json"]);
    in_vain();
    let asked = Awake::start();
    run.signal("TERM");
    let done = run.end();
    assert_eq!((done.status, &done.summary()["status"]), (Some(143), &json!("stopped")), "{done:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    case.assert_whole(&expected).await;
    assert_within_limits(&throttle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_throttled_at_two_of_three_calls_reads_all_within_the_limits() {
    let Some(mut case) = case(Server::Load, "throttled", 4, "maxRecordsPerFetch 300") else { return };
    let throttle = case.throttled();
    let expected = case.put(&rows(0..3000));
    assert_eq!(case.run().counts(), [3000, 3000, 0]);
    case.assert_whole(&expected).await;
    let refused = throttle.calls().iter().filter(|call| call.verdict == Verdict::Throttle).count();
    assert!(refused * 2 > fetches(&throttle), "{refused} of {}", fetches(&throttle));
    assert_within_limits(&throttle);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_of_one_stream_share_its_limits_in_any_weather() {
    let Some(mut case) = case(Server::Load, "shared", 2, "maxRecordsPerFetch 100") else { return };
    case.world.write("sql/u.sql", format!("CREATE STREAMING TABLE u AS {TABLE};"));
    let throttle = case.throttled();
    let mut expected = case.put(&rows(0..300));
    let mut process = case.follow(&[]);
    for table in ["t", "u"] {
        process.until_taken(Some(table), 300);
    }
    assert_within_limits(&throttle);
    throttle.set(storm(seed()));
    for round in 1..3 {
        expected.extend(case.put(&rows(round * 300..(round + 1) * 300)));
        for table in ["t", "u"] {
            process.until_taken(Some(table), (round as u64 + 1) * 300);
        }
    }
    process.stop();
    for table in ["t", "u"] {
        assert_same(&case.places(table).await, &expected);
    }
    assert_within_limits(&throttle);
    // Each answer went to both.
    let passed =
        throttle.calls().iter().filter(|call| call.operation == "GetRecords" && call.verdict == Verdict::Pass).count();
    println!("{} calls for records, {passed} were answered", fetches(&throttle));
    // A run of both, in the same weather.
    let mut other = case.again("maxRecordsPerFetch 100");
    other.world.write("sql/u.sql", format!("CREATE STREAMING TABLE u AS {TABLE};"));
    let throttle = other.throttled();
    throttle.set(storm(seed()));
    let done = other.run();
    assert_eq!((done.counts(), done.table("u")["read"].as_u64()), ([900, 900, 0], Some(900)));
    for table in ["t", "u"] {
        assert_same(&other.places(table).await, &expected);
    }
    assert_within_limits(&throttle);
}

/// One of two tables that share what is fetched cannot commit: all that may wait for it waits, of most shards. The other one
/// goes on, also with the shards that were quiet until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_lake_stands_still_holds_up_no_other() {
    if left_out("s3") {
        return;
    }
    let Some(mut case) = case(Server::Load, "still", 6, "maxRecordsPerFetch 40") else { return };
    let moto = Moto::start();
    moto.bucket(&case.stream);
    let proxy = Proxy::start(&moto.endpoint);
    case.environment
        .extend(aws_environment(&proxy.endpoint()).into_iter().map(|(name, value)| (name.to_owned(), value)));
    case.world.write("sql/u.sql", format!("CREATE STREAMING TABLE u LOCATION 's3://{}/u' AS {TABLE};", case.stream));
    let shards = case.kinesis.shards(&case.stream);
    let pad = "x".repeat(50_000);
    let put = |shard: usize, pad: &str| {
        let hash = shards[shard].hash.0.to_string();
        let body = json!({"id": shard, "pad": pad}).to_string();
        let Put { shard, sequence } = case.kinesis.put_at(&case.stream, "key", &hash, body.as_bytes());
        (shard, sequence)
    };
    let mut expected: Vec<Place> = (0..6).map(|shard| put(shard, "")).collect();
    let mut process = case.follow(&[]);
    for table in ["t", "u"] {
        process.until_taken(Some(table), 6);
    }
    proxy.delay(Duration::from_secs(3600));
    expected.extend((0..320).map(|n| put(n % 4, &pad)));
    process.until_taken(Some("t"), 326);
    expected.extend((4..6).map(|shard| put(shard, "")));
    process.until_taken(Some("t"), 328);
    process.kill();
    proxy.clear();
    let done = case.run();
    assert_eq!(done.table("t")["read"], 0, "{done:?}");
    case.assert_whole(&expected).await;
    let sql = "SELECT count(*) AS n, count(DISTINCT shard || ' ' || seq) AS places FROM u";
    let rows = case.start(&["-c", sql, "--json"]).end().fine();
    assert_eq!((&rows.lines[0]["n"], &rows.lines[0]["places"]), (&json!(328), &json!(328)), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_differ_share_the_limits_of_their_stream() {
    let Some(mut case) = case(Server::Load, "differ", 1, "maxRecordsPerFetch 100") else { return };
    let stream = &case.stream;
    case.world.write(
        "sql/more.sql",
        format!(
            "CREATE EXTERNAL TABLE other (id BIGINT) STORED AS KINESIS LOCATION 'kinesis://{stream}'
             OPTIONS (maxRecordsPerFetch 99, partitionKey 'key-1,key-2');
             CREATE STREAMING TABLE u AS SELECT id FROM STREAM other;
             CREATE STREAMING TABLE raw AS SELECT data FROM STREAM read_kinesis(streamName => '{stream}');"
        ),
    );
    let throttle = case.throttled();
    throttle.set(|_| Verdict::Pass);
    case.put(&rows(0..1000));
    let mut process = case.follow(&[]);
    for (table, count) in [("t", 1000), ("u", 40), ("raw", 1000)] {
        process.until_taken(Some(table), count);
    }
    process.stop();
    assert_within_limits(&throttle);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iterator_that_expires_is_replaced() {
    let Some(mut case) = case(Server::Expiring, "expires", 3, "maxRecordsPerFetch 50") else { return };
    let throttle = case.throttled();
    // Longer than an iterator lives there.
    let slowly = |call: &Call| {
        if call.operation == "GetRecords" && call.nth % 4 == 1 {
            thread::sleep(Duration::from_millis(2200));
        }
        Verdict::Pass
    };
    throttle.set(slowly);
    let mut expected = case.put(&rows(0..450));
    assert_eq!(case.run_with(&["--max-records", "40"]).fine().counts(), [450, 450, 0]);
    case.assert_whole(&expected).await;
    let asked = || throttle.calls().iter().filter(|call| call.operation == "GetShardIterator").count();
    let before = asked();
    assert!(before > 3, "no iterator has expired: {before} for 3 shards");
    assert_eq!(case.run().counts(), [0, 0, 0]);
    let before = asked();
    let mut process = case.follow(&[]);
    expected.extend(case.put(&rows(450..600)));
    process.until_taken(None, 150);
    until("an iterator expires", || asked() > before + 3);
    expected.extend(case.put(&rows(600..650)));
    process.until_taken(None, 200);
    process.stop();
    case.assert_whole(&expected).await;
    assert_within_limits(&throttle);
}

#[tokio::test(flavor = "multi_thread")]
async fn fan_out_gives_the_same_as_polling() {
    let Some(case) = case(Server::FanOut, "fan", 2, "consumerMode 'efo', consumerName 'tests'") else { return };
    let mut expected = case.put(&rows(0..300));
    assert_eq!(case.run_with(&["--max-records", "70"]).fine().counts(), [300, 300, 0]);
    let again = case.run();
    assert_eq!((again.counts(), &again.table("t")["epochs"]), ([0, 0, 0], &json!(0)));
    expected.extend(case.put(&rows(300..350)));
    let mut process = case.follow(&[]);
    process.until_taken(None, 50);
    expected.extend(case.put(&rows(350..400)));
    process.until_taken(None, 100);
    let done = process.stop();
    assert!(done.epochs().all(|epoch| epoch["behind_ms"].is_u64()), "{done:?}");
    expected.extend(case.put(&[one("a", "bad"), one("b", aggregate(&[]))]));
    expected.pop();
    assert_eq!(case.run().counts(), [1, 0, 1]);
    case.assert_whole(&expected).await;
    // The other way to read goes on where this one was.
    case.write("");
    assert_eq!(case.run().counts(), [0, 0, 0]);
    expected.extend(case.put(&rows(400..420)));
    assert_eq!(case.run().counts(), [20, 20, 0]);
    case.assert_whole(&expected).await;
    case.write("consumerName 'tests'");
    let [kind, message, _] = case.fails(2);
    assert!(kind == "config" && message.contains("consumer"), "{kind}: {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_ends_is_begun_again() {
    let Some(mut case) = case(Server::FanOut, "ends", 2, "consumerMode 'efo', consumerName 'ends'") else { return };
    let throttle = case.throttled();
    throttle.set(|_| Verdict::Pass);
    let mut expected = case.put(&rows(0..20));
    let mut process = case.follow(&[]);
    process.until_taken(None, 20);
    let subscriptions = || throttle.calls().iter().filter(|call| call.operation == "SubscribeToShard").count();
    let mut next = 20;
    until("each of two shards is subscribed to three times", || {
        expected.extend(case.put(&rows(next..next + 1)));
        next += 1;
        subscriptions() >= 6
    });
    process.until_taken(None, u64::try_from(next).unwrap());
    process.stop();
    case.assert_whole(&expected).await;
}

/// Somebody has deregistered the consumer: its next subscription registers it again. A shard without records shows it best,
/// as there is no position that could be the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_gone_is_registered_again() {
    let Some(mut case) = case(Server::FanOut, "dereg", 2, "consumerMode 'efo', consumerName 'gone'") else { return };
    let throttle = case.throttled();
    let is_gone = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&is_gone);
    throttle.set(move |call| match call.operation.as_str() {
        "SubscribeToShard" if gone.load(Ordering::SeqCst) => Verdict::Missing,
        "RegisterStreamConsumer" => {
            gone.store(false, Ordering::SeqCst);
            Verdict::Pass
        }
        _ => Verdict::Pass,
    });
    let mut process = case.follow(&[]);
    let called = |operation: &str| throttle.calls().iter().filter(|call| call.operation == operation).count();
    until("both shards are subscribed to", || called("SubscribeToShard") >= 2);
    is_gone.store(true, Ordering::SeqCst);
    until("it is registered again", || called("RegisterStreamConsumer") >= 2);
    let expected = case.put(&rows(0..20));
    process.until_taken(None, 20);
    process.stop();
    case.assert_whole(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_being_made_is_waited_for_and_its_shards_are_many_pages() {
    let Some(mut case) = case(Server::Lineage, "made", 5, "") else { return };
    let throttle = case.throttled();
    throttle.set(|call| match call.operation.as_str() {
        "DescribeStreamSummary" if call.nth < 3 => Verdict::Creating,
        "ListShards" => Verdict::Paged,
        _ => Verdict::Pass,
    });
    let expected = case.put(&rows(0..100));
    assert_eq!(case.run().counts(), [100, 100, 0]);
    case.assert_whole(&expected).await;
    let calls = throttle.calls();
    let lists: Vec<_> = calls.iter().filter(|call| call.operation == "ListShards").collect();
    assert!(lists.iter().filter(|call| call.request["NextToken"].is_string()).count() >= 2, "{lists:?}");
    let asked = |operation: &str| calls.iter().position(|call| call.operation == operation).unwrap();
    let made = calls.iter().rposition(|call| call.verdict == Verdict::Creating).unwrap();
    assert!(made < asked("ListShards"), "nothing is asked of a stream that is not there yet: {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_closed_and_half_read_is_read_on_before_its_children() {
    let Some(mut case) = case(Server::Lineage, "half", 1, "maxRecordsPerFetch 7") else { return };
    let throttle = case.throttled();
    let parent = case.kinesis.shards(&case.stream)[0].id.clone();
    let mut expected = case.put(&rows_of(0..60, 6));
    let gate = parent.clone();
    throttle.set(move |call| {
        let beyond = call.operation == "GetRecords" && call.shard.as_deref() == Some(gate.as_str()) && call.nth >= 3;
        if beyond { Verdict::Empty } else { Verdict::Pass }
    });
    let mut process = case.start(&["run", "sql", "--json", "--max-records", "5"]);
    until("20 are read", || process.taken(None) >= 20);
    assert!(process.child.try_wait().unwrap().is_none());
    case.kinesis.split(&case.stream, &parent);
    expected.extend(case.put(&rows_of(60..120, 6)));
    let read = process.kill().epochs().map(|epoch| epoch["read"].as_u64().unwrap()).sum::<u64>();
    assert!((20..60).contains(&read), "{read}");
    throttle.set(|_| Verdict::Pass);
    let done = case.run_with(&["--max-records", "11"]).fine();
    assert!((60..=100).contains(&done.counts()[0]), "{done:?}");
    case.assert_whole(&expected).await;
    if !left_out("python") {
        assert_eq!(case.assert_in_order(), 120);
    }
    assert_eq!(case.run().counts(), [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_parent_that_is_read_are_read_from_their_start() {
    let Some(mut case) = case(Server::Lineage, "children", 1, "") else { return };
    let throttle = case.throttled();
    let parent = case.kinesis.shards(&case.stream)[0].id.clone();
    let mut expected = case.put(&rows_of(0..30, 6));
    case.kinesis.split(&case.stream, &parent);
    expected.extend(case.put(&rows_of(30..60, 6)));
    let gate = parent.clone();
    throttle.set(move |call| {
        let beyond = call.operation == "GetRecords" && call.shard.as_deref() != Some(gate.as_str());
        if beyond { Verdict::Empty } else { Verdict::Pass }
    });
    let mut process = case.start(&["run", "sql", "--json", "--max-records", "10"]);
    process.until_taken(None, 30);
    // Its end is known, too: the children are asked for what they have.
    let asked = || throttle.calls().iter().any(|call| call.operation == "GetRecords" && call.verdict == Verdict::Empty);
    until("the children are read", asked);
    process.kill();
    throttle.set(|_| Verdict::Pass);
    assert_eq!(case.run_with(&["--max-records", "10"]).fine().counts(), [30, 30, 0]);
    // Read to its end by a run that ended well; and what is new is in the children of children.
    let pair = case.kinesis.neighbours(&case.stream)[0].clone();
    case.kinesis.merge(&case.stream, &pair.0, &pair.1);
    let nothing = case.run();
    assert_eq!(nothing.counts(), [0, 0, 0], "a reshard is nothing new");
    expected.extend(case.put(&rows_of(60..90, 6)));
    assert_eq!(case.run().counts(), [30, 30, 0]);
    case.assert_whole(&expected).await;
    if !left_out("python") {
        assert_eq!(case.assert_in_order(), 90);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_of_shards_are_read_one_after_the_other() {
    let Some(case) = case(Server::Lineage, "lineage", 1, "") else { return };
    let mut expected = Vec::new();
    for generation in 0..4 {
        expected.extend(case.put(&rows_of(generation * 40..generation * 40 + 40, 8)));
        match generation % 2 {
            0 => case.kinesis.split(&case.stream, &case.kinesis.open_shards(&case.stream)[0].id),
            _ => {
                let (one, other) = case.kinesis.neighbours(&case.stream)[0].clone();
                case.kinesis.merge(&case.stream, &one, &other);
            }
        }
    }
    // And a view, which is one epoch over everything.
    case.world.write("sql/v.sql", "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(id) AS s FROM k;");
    let done = case.run_with(&["--max-records", "13"]).fine();
    assert_eq!(done.counts(), [160, 160, 0]);
    case.assert_whole(&expected).await;
    if !left_out("python") {
        assert_eq!(case.assert_in_order(), 160);
    }
    assert_eq!(case.world.query("SELECT * FROM v").await, [json!({"n": 160, "s": 159 * 80})]);
    expected.extend(case.put(&rows_of(160..161, 8)));
    assert_eq!(case.run().counts(), [1, 1, 0]);
    assert_eq!(case.world.query("SELECT * FROM v").await, [json!({"n": 161, "s": 161 * 80})]);
    // In one epoch it is the same.
    let once = case.again("");
    assert_eq!(once.run().counts(), [161, 161, 0]);
    if !left_out("python") {
        assert_eq!(once.assert_in_order(), 161);
    }
    once.assert_whole(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_follows_its_shards() {
    let Some(case) = case(Server::Lineage, "follows", 1, "") else { return };
    let mut expected = case.put(&rows_of(0..20, 5));
    let mut process = case.follow(&[]);
    process.until_taken(None, 20);
    for round in 1..4_i64 {
        if round == 2 {
            let (one, other) = case.kinesis.neighbours(&case.stream)[0].clone();
            case.kinesis.merge(&case.stream, &one, &other);
        } else {
            case.kinesis.split(&case.stream, &case.kinesis.open_shards(&case.stream)[0].id);
        }
        expected.extend(case.put(&rows_of(round * 20..round * 20 + 20, 5)));
        process.until_taken(None, round as u64 * 20 + 20);
    }
    let done = process.stop();
    assert!(done.epochs().all(|epoch| epoch["behind_ms"].is_u64()), "{done:?}");
    case.assert_whole(&expected).await;
    if !left_out("python") {
        assert_eq!(case.assert_in_order(), 80);
    }
}

/// The number behind one of any length.
fn next_number(digits: &str) -> String {
    let nines = digits.len() - digits.trim_end_matches('9').len();
    let (head, last) = digits[..digits.len() - nines].split_at(digits.len() - nines - 1);
    format!("{head}{}{}", last.parse::<u8>().unwrap() + 1, "0".repeat(nines))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_too_old_is_said_or_counted() {
    let Some(case) = case(Server::Load, "too-old", 2, "") else { return };
    let mut expected = case.put(&rows(0..50));
    case.run();
    let idle = |case: &Case, ms: i64| {
        case.change_logged(|shards| {
            for shard in shards.values_mut() {
                shard["seen"] = json!(shard["seen"].as_i64().unwrap() - ms);
            }
        });
    };
    // Long idle and not too long: the position is freshened, and there is nothing to commit.
    idle(&case, LATELY_MS);
    let old = case.logged();
    let versions = case.versions("t");
    let done = case.run();
    assert_eq!((done.counts(), &done.table("t")["lost"]), ([0, 0, 0], &json!(0)));
    assert_eq!(case.versions("t"), versions);
    let seen = |shards: &Value| shards.as_object().unwrap().values().map(|one| one["seen"].as_i64().unwrap()).min();
    assert!(seen(&case.logged()).unwrap() > seen(&old).unwrap() + LATELY_MS / 2, "{} {old}", case.logged());
    // Too long by the clock, but the records that were read last are still there: so is all that came later.
    idle(&case, LONG_AGO_MS);
    expected.extend(case.put(&rows(70..80)));
    let done = case.run();
    assert_eq!((done.counts(), &done.table("t")["lost"]), ([10, 10, 0], &json!(0)));
    // Too long, and they are not: their numbers are of no record.
    idle(&case, LONG_AGO_MS);
    case.change_logged(|shards| {
        for shard in shards.values_mut() {
            let sequence = &mut shard["place"]["behind"]["sequence"];
            *sequence = json!(next_number(sequence.as_str().unwrap()));
        }
    });
    expected.extend(case.put(&rows(50..60)));
    let [kind, message, hint] = case.fails(1);
    assert_eq!(kind, "data", "{message}");
    assert!(message.contains(&case.stream) && message.contains("shardId-"), "{message}");
    assert!(hint.contains("failOnDataLoss"), "{hint}");
    // An edited option keeps the positions.
    case.write("failOnDataLoss 'false'");
    let done = case.run();
    assert_eq!((done.counts(), &done.table("t")["lost"]), ([10, 10, 0], &Value::Null), "nobody can tell how many");
    let again = case.run();
    assert_eq!((again.counts(), &again.table("t")["lost"]), ([0, 0, 0], &json!(0)), "what was lost is counted once");
    case.assert_whole(&expected).await;
    // A parent that was read to its end and has expired since is not missed.
    case.write("");
    let ended = ["shardId-000000000098", "shardId-000000000099"];
    case.change_logged(|shards| {
        let mut gone = shards.values().next().unwrap().clone();
        gone["place"] = json!("end");
        shards.insert(ended[0].to_owned(), gone.clone());
        gone["seen"] = json!(gone["seen"].as_i64().unwrap() - LONG_AGO_MS);
        shards.insert(ended[1].to_owned(), gone);
    });
    expected.extend(case.put(&rows(60..70)));
    assert_eq!(case.run().counts(), [10, 10, 0]);
    case.assert_whole(&expected).await;
    let known = ended.map(|shard| case.logged().get(shard).is_some());
    assert_eq!(known, [true, false], "what may be listed again is remembered, what is gone for good is forgotten");
}

/// Children are found while their parent is read, and that takes long: so long that what they are known by is old when their
/// turn comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_has_waited_for_its_parent_for_long_is_not_too_old() {
    for parent_ms in [0, LONG_AGO_MS] {
        let Some(case) = case(Server::Load, "waited", 1, "") else { return };
        let mut expected = case.put(&rows(0..20));
        case.run();
        expected.extend(case.put(&rows(20..60)));
        let parent = case.kinesis.shards(&case.stream)[0].id.clone();
        case.kinesis.split(&case.stream, &parent);
        expected.extend(case.put(&rows(60..100)));
        case.change_logged(|shards| {
            let seen = shards[&parent]["seen"].as_i64().unwrap();
            shards[&parent]["seen"] = json!(seen - parent_ms);
            for child in case.kinesis.open_shards(&case.stream) {
                shards.insert(child.id, json!({"place": "horizon", "seen": seen - LONG_AGO_MS}));
            }
        });
        let done = case.run();
        assert_eq!((done.counts(), &done.table("t")["lost"]), ([80, 80, 0], &json!(0)), "{parent_ms}");
        case.assert_whole(&expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_has_expired_before_its_end_was_read_is_said_or_counted() {
    let Some(case) = case(Server::FanOut, "gone", 1, "") else { return };
    let mut expected = case.put(&rows(0..20));
    case.run();
    // There a split takes the parent away, and what was in it.
    case.put(&rows(20..30));
    let parent = case.kinesis.shards(&case.stream)[0].id.clone();
    case.kinesis.split(&case.stream, &parent);
    expected.extend(case.put(&rows(100..140)));
    let [kind, message, hint] = case.fails(1);
    assert_eq!(kind, "data", "{message}");
    assert!(message.contains(&parent) && message.contains(&case.stream), "{message}");
    assert!(hint.contains("failOnDataLoss"), "{hint}");
    case.write("failOnDataLoss 'false'");
    let done = case.run();
    assert_eq!((done.counts(), &done.table("t")["lost"]), ([40, 40, 0], &Value::Null));
    case.assert_whole(&expected).await;
    case.write("");
    assert_eq!(case.run().counts(), [0, 0, 0], "once it is counted it is no loss any more");
}

/// Deletes a stream and makes it again, when the service's clock says another second: one of the servers knows no less.
fn make_anew(case: &Case, shards: usize) {
    case.kinesis.delete_stream(&case.stream);
    thread::sleep(Duration::from_millis(1100));
    case.kinesis.create_stream(&case.stream, shards);
}

/// Positions are of one stream; those of another one cannot be told from them by their form.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_names_another_stream_says_so() {
    let Some(mut case) = case(Server::Load, "first", 1, "") else { return };
    case.put(&rows(0..60));
    case.run();
    let first = std::mem::replace(&mut case.stream, format!("second-{:08x}", rand::random::<u32>()));
    case.kinesis.create_stream(&case.stream, 1);
    case.put(&rows(1000..1100));
    case.write("");
    let [kind, message, hint] = case.fails(1);
    assert_eq!(kind, "data", "{message}");
    let words = format!("reads stream `{}`, and its positions are of `{first}`", case.stream);
    assert!(message.contains(&words) && hint.contains("--full-refresh"), "{message} {hint}");
    case.write("failOnDataLoss 'false'");
    case.run();
    assert_eq!(case.ids().await, (0..60).chain(1000..1100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_anew_is_another_stream() {
    for server in [Server::Load, Server::Lineage, Server::FanOut] {
        let Some(case) = case(server, "anew", 2, "") else { return };
        let mut expected = case.put(&rows(0..60));
        case.run();
        make_anew(&case, 2);
        // More than were read: no count would show it.
        let new = case.put(&rows(1000..1100));
        let [kind, message, hint] = case.fails(1);
        assert_eq!(kind, "data", "{server:?}: {message}");
        assert!(message.contains(&case.stream) && message.contains("made anew"), "{server:?}: {message}");
        assert!(hint.contains("failOnDataLoss") && hint.contains("--full-refresh"), "{server:?}: {hint}");
        assert_eq!(case.ids().await, (0..60).collect::<Vec<_>>(), "{server:?}");
        case.write("failOnDataLoss 'false'");
        let done = case.run();
        assert_eq!((done.counts(), &done.table("t")["lost"]), ([100, 100, 0], &Value::Null), "{server:?}");
        let again = case.run();
        assert_eq!((again.counts(), &again.table("t")["lost"]), ([0, 0, 0], &json!(0)), "{server:?}");
        assert_eq!(case.ids().await, (0..60).chain(1000..1100).collect::<Vec<_>>(), "{server:?}");
        expected.extend(new.clone());
        // The numbers of the second life may be those of the first.
        assert_eq!(case.world.query("SELECT count(*) AS n FROM t").await, [json!({"n": expected.len()})], "{server:?}");
        case.write("");
        assert_eq!(case.run_with(&["--full-refresh"]).fine().counts(), [100, 100, 0], "{server:?}");
        case.assert_whole(&new).await;
    }
}

/// A stream is made anew while it is followed; what happens between is seen, or the service is away meanwhile.
async fn make_anew_while_followed(strict: bool, is_seen: bool) {
    let Some(mut case) = case(Server::Load, "remade", 1, &format!("failOnDataLoss '{strict}'")) else { return };
    let throttle = case.throttled();
    throttle.set(|_| Verdict::Pass);
    case.put(&rows(0..50));
    let mut process = case.follow(&[]);
    process.until_taken(None, 50);
    if !is_seen {
        throttle.set(|_| Verdict::Fail);
    }
    make_anew(&case, 1);
    case.put(&rows(1000..1100));
    throttle.set(|_| Verdict::Pass);
    if strict {
        let done = process.end();
        let error = &done.summary()["error"];
        assert_eq!((done.status, text(&error["message"]).contains(&case.stream)), (Some(1), true), "{done:?}");
        assert!(text(&error["message"]).contains("deleted"), "{done:?}");
        assert!(is_seen || error["kind"] == "data" && text(&error["hint"]).contains("failOnDataLoss"), "{done:?}");
        assert_eq!(case.ids().await, (0..50).collect::<Vec<_>>());
    } else {
        process.until_taken(None, 150);
        let done = process.stop();
        assert_eq!(done.table("t")["lost"], Value::Null, "{done:?}");
        assert_eq!(case.ids().await, (0..50).chain(1000..1100).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_anew_while_it_is_followed_stops_or_is_read_from_its_start() {
    make_anew_while_followed(true, false).await;
    make_anew_while_followed(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_seen_to_be_gone_is_said_to_be_deleted() {
    make_anew_while_followed(true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_seen_to_be_gone_and_comes_back_is_read_from_its_start() {
    make_anew_while_followed(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_with_the_stream_and_what_to_do() {
    let Some(case) = case(Server::Load, "refusals", 1, "") else { return };
    let stream = &case.stream;
    let columns = "CREATE EXTERNAL TABLE k (id BIGINT) STORED AS KINESIS";
    let refused = |source: &str, status: i32| {
        case.world.write("sql/t.sql", format!("{source};\nCREATE STREAMING TABLE t AS SELECT id FROM STREAM k;"));
        let began = Awake::start();
        let error = case.fails(status);
        assert!(began.elapsed() < Duration::from_secs(15), "{source}: {:?}", began.elapsed());
        assert!(!case.world.path("lake/t").exists(), "nothing was written");
        error
    };
    let [kind, message, hint] = refused(&format!("{columns} LOCATION 'kinesis://nothing-here'"), 1);
    assert!(
        kind == "world" && message.contains("nothing-here") && hint.contains("AWS_REGION"),
        "{kind}: {message} ({hint})"
    );
    let closed = format!("{columns} LOCATION 'kinesis://{stream}' OPTIONS (endpoint 'http://127.0.0.1:1')");
    let [kind, message, hint] = refused(&closed, 1);
    assert!(kind == "world" && message.contains(stream) && hint.contains("endpoint"), "{kind}: {message} ({hint})");
    assert!(message.contains("127.0.0.1:1") || message.contains("refused"), "{message}");
    let [kind, message, hint] =
        refused(&format!("{columns} LOCATION 'kinesis://{stream}' OPTIONS (initialPositon 'latest')"), 2);
    assert_eq!((kind.as_str(), hint.as_str()), ("config", "did you mean `initialPosition`?"), "{message}");
    for option in [
        "consumerMode 'pushing'",
        "failOnDataLoss 'perhaps'",
        "initialPosition '{\"at_timestamp\":\"soon\"}'",
        "partitionKey ', '",
    ] {
        let [kind, message, _] = refused(&format!("{columns} LOCATION 'kinesis://{stream}' OPTIONS ({option})"), 2);
        assert!(kind == "config" && message.contains(option.split(' ').next().unwrap()), "{option}: {kind}: {message}");
    }
    let arn = format!("arn:aws:kinesis:us-east-1:000000000000:stream/{stream}");
    for twice in [
        format!("{columns} OPTIONS (streamName '{stream}', streamARN '{arn}')"),
        format!("{columns} LOCATION 'kinesis://{stream}' OPTIONS (streamName '{stream}')"),
        columns.to_owned(),
        format!("{columns} LOCATION 's3://{stream}/x'"),
    ] {
        let [kind, message, hint] = refused(&twice, 2);
        assert!(["config", "sql"].contains(&kind.as_str()) && !hint.is_empty(), "{twice}: {kind}: {message} ({hint})");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_options_is_refused_and_never_shown() {
    let Some(case) = case(Server::Load, "secrets", 1, "") else { return };
    let secret = "wJalrXUtnFEMI";
    let columns = "CREATE EXTERNAL TABLE k (id BIGINT) STORED AS KINESIS";
    for command in ["run", "check"] {
        let sources = [
            format!(
                "{columns} LOCATION 'kinesis://{}' OPTIONS (awsAccessKey 'AKIA', awsSecretKey '{secret}');",
                case.stream
            ),
            format!("{columns} LOCATION 'kinesis://{}' OPTIONS ('awsSecretKey' = '{secret}');", case.stream),
        ];
        for source in sources {
            case.world.write("sql/t.sql", format!("{source}\nCREATE STREAMING TABLE t AS SELECT id FROM STREAM k;"));
            let done = case.start(&[command, "sql", "--json", "--log-level", "trace"]).end();
            assert_eq!(done.status, Some(2), "{done:?}");
            let shown = format!("{done:?}");
            assert!(!shown.contains(secret), "{command}: {shown}");
            assert!(done.complaint.contains("awsSecretKey") || done.complaint.contains("awsAccessKey"), "{shown}");
            assert!(done.complaint.contains("AWS_SECRET_ACCESS_KEY"), "{shown}");
        }
    }
    let raw =
        format!("read_kinesis(streamName => '{}', awsAccessKey => 'AKIA', awsSecretKey => '{secret}')", case.stream);
    case.world.write("sql/t.sql", format!("CREATE STREAMING TABLE t AS SELECT data FROM STREAM {raw};"));
    let done = case.run_with(&[]);
    assert_eq!(done.status, Some(2), "{done:?}");
    assert!(!format!("{done:?}").contains(secret), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_keys_is_told_so() {
    let Some(mut case) = case(Server::Load, "nobody", 1, "") else { return };
    case.environment.retain(|(name, _)| !["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].contains(&name.as_str()));
    let nowhere = case.world.path("nowhere").to_string_lossy().into_owned();
    for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
        case.environment.push((name.to_owned(), nowhere.clone()));
    }
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        case.environment.push((name.to_owned(), String::new()));
    }
    let began = Awake::start();
    let [kind, message, hint] = case.fails(1);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(kind, "world", "{message}");
    assert!(message.contains("credentials"), "{message}");
    assert!(hint.contains("AWS_ACCESS_KEY_ID"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_again_and_again_and_who_hands_it_out_may_be_away_for_a_while() {
    let role = "roleArn 'arn:aws:iam::1:role/r', roleSessionName 'me', roleExternalId 'x'";
    let Some(mut case) = case(Server::Load, "role", 1, role) else { return };
    let sts = Sts::start("t", || (chrono::Utc::now() + chrono::Duration::seconds(13)).to_rfc3339());
    case.environment.push(("AWS_ENDPOINT_URL_STS".to_owned(), sts.endpoint.clone()));
    let mut expected = case.put(&rows(0..10));
    let mut process = case.follow(&[]);
    process.until_taken(None, 10);
    let first = sts.asked()[0].clone();
    for part in ["RoleSessionName=me", "ExternalId=x", "role%2Fr", "Action=AssumeRole"] {
        assert!(first.contains(part), "{part}: {first}");
    }
    sts.set_away(true);
    let before = sts.asked().len();
    until("the keys have ended, and are asked for in vain", || sts.asked().len() >= before + 8);
    expected.extend(case.put(&rows(10..20)));
    sts.set_away(false);
    process.until_taken(None, 20);
    let done = process.stop();
    assert_eq!(done.counts(), [20, 20, 0], "{done:?}");
    case.assert_whole(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_long_is_put_aside_in_either_form() {
    let Some(case) = case(Server::Load, "long", 1, "maxRecordBytes 100000") else { return };
    let long = json!({"id": 1, "name": "x".repeat(150_000)}).to_string();
    case.put(&[one("a", long), one("a", r#"{"id":2}"#)]);
    let raw = format!("read_kinesis(streamName => '{}', maxRecordBytes => 100000)", case.stream);
    case.world.write("sql/raw.sql", format!("CREATE STREAMING TABLE raw AS SELECT sequencenumber FROM STREAM {raw};"));
    let done = case.run();
    assert_eq!(done.counts(), [2, 1, 1]);
    let put_aside = case.quarantine().await;
    assert_eq!(text(&put_aside[0]["payload"]).len(), 2 * 65536);
    assert!(text(&put_aside[0]["reason"]).contains("maxRecordBytes"), "{}", put_aside[0]["reason"]);
    let raw = done.table("raw");
    assert_eq!((&raw["read"], &raw["written"], &raw["quarantined"]), (&json!(2), &json!(1), &json!(1)), "{raw}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_read_twice_in_a_query_gives_each_record_to_both() {
    let Some(case) = case(Server::Load, "both", 3, "") else { return };
    let query = "CREATE STREAMING TABLE t AS SELECT id, 'even' AS kind FROM STREAM k WHERE id % 2 = 0
                 UNION ALL SELECT id, 'all' AS kind FROM STREAM k;";
    case.world.write("sql/t.sql", case.source("") + query);
    case.put(&rows(0..600));
    assert_eq!(case.run_with(&["--max-records", "250"]).fine().counts(), [600, 900, 0]);
}

/// Records that the server for lineage can hold; it takes a few hundred a second.
const FEW: i64 = 20_000;

/// How many records the reshards and the kills go over: a few in the suite, 200,000 by hand, and then in the faster server.
fn records() -> i64 {
    std::env::var("PINSQL_KINESIS_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6_000)
}

/// Writes all records in calls of 500, with ten splits and merges in between. A call has each key once: the order of a
/// key's records is that of the calls.
fn write_and_reshard(kinesis: &Kinesis, stream: &str, total: i64, seed: u64) -> Vec<Place> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut places, mut reshards) = (Vec::new(), 0);
    for first in (0..total).step_by(500) {
        let mut records = rows_of(first..(first + 500).min(total), 500);
        for (_, body) in records.iter_mut().filter(|(_, body)| body.ends_with(b"777}")) {
            body.pop();
        }
        places.extend(put_to(kinesis, stream, &records));
        if total > FEW {
            // The faster server would be full before the second kill.
            thread::sleep(Duration::from_millis(200));
        }
        if reshards < 10 && (first + 500) * 11 >= total * (reshards + 1) {
            reshards += 1;
            let pairs = kinesis.neighbours(stream);
            let open = kinesis.open_shards(stream);
            if reshards % 2 == 0 {
                let (one, other) = &pairs[random.random_range(0..pairs.len())];
                kinesis.merge(stream, one, other);
            } else {
                kinesis.split(stream, &open[random.random_range(0..open.len())].id);
            }
        }
    }
    assert_eq!(reshards, 10);
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_killed_again_and_again_while_its_shards_change_reads_every_record_once_and_in_order() {
    let (total, seed) = (records(), seed());
    let server = if total > FEW { Server::Load } else { Server::Lineage };
    let Some(case) = case(server, "killed", 4, "") else { return };
    let (kinesis, stream) = (case.kinesis, case.stream.clone());
    let producer = thread::spawn(move || write_and_reshard(kinesis, &stream, total, seed));
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = 0;
    while !producer.is_finished() || kills < 6 {
        let process = case.follow(&["--max-records", "700"]);
        thread::sleep(Duration::from_millis(random.random_range(1000..3000)));
        let done = process.kill();
        assert_eq!(done.status, None, "it ended by itself: {done:?}");
        kills += 1;
    }
    let expected = producer.join().unwrap();
    case.run();
    println!("{kills} kills, {total} records");
    case.assert_whole(&expected).await;
    let bad = (0..total).filter(|id| id % 1000 == 777).count();
    assert_eq!(case.quarantine().await.len(), bad);
    assert_eq!(case.ids().await, (0..total).filter(|id| id % 1000 != 777).collect::<Vec<_>>());
    if !left_out("python") {
        assert_eq!(case.assert_in_order(), expected.len() - bad);
    }
    assert_eq!(case.run().counts(), [0, 0, 0]);
}

/// Where the real records are, if they are.
fn data() -> Option<PathBuf> {
    let beside = || home().join("../shared/data/pinterest");
    let data = std::env::var_os("PINSQL_TEST_DATA").map_or_else(beside, PathBuf::from);
    if data.join("kinesis-records.jsonl").exists() {
        return Some(data);
    }
    // Nobody reads this where standard error is closed.
    let _ =
        writeln!(std::io::stderr(), "left out: the real records are not at `{}` (PINSQL_TEST_DATA)", data.display());
    None
}

fn lines_of(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The real records as they were put, and the payloads that were unusual.
fn real_records(data: &Path) -> Vec<Record> {
    let parse = |line: &String| -> Value { serde_json::from_str(line).unwrap() };
    let records = lines_of(&data.join("kinesis-records.jsonl"));
    let records = records
        .iter()
        .map(parse)
        .map(|record| (text(&record["partitionKey"]), STANDARD.decode(text(&record["data"])).unwrap()));
    let oddities = lines_of(&data.join("wire-oddities.jsonl"));
    let oddities = oddities.iter().map(parse).map(|oddity| (text(&oddity["kind"]), text(&oddity["text"]).into_bytes()));
    records.chain(oddities).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_real_record_is_accounted_for() {
    let Some(data) = data() else { return };
    let Some(case) = case(Server::Load, "real", 6, "") else { return };
    let records = real_records(&data);
    let put = case.put(&records);
    assert_eq!(records.len(), 5721 + 253);
    let columns = "`index` STRING, ind STRING, country STRING, first_name STRING, age STRING, title STRING";
    let source = |name: &str, option: &str| {
        format!(
            "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS KINESIS LOCATION 'kinesis://{}' OPTIONS ({option});\n",
            case.stream
        )
    };
    let table = |name: &str, of: &str| {
        format!(
            "CREATE STREAMING TABLE {name} AS SELECT _metadata.shard_id AS shard, _metadata.sequence_number AS seq,
                `index`, ind, country, first_name, age, title FROM STREAM {of};\n"
        )
    };
    case.world.write(
        "sql/t.sql",
        [source("k", ""), source("wrapped", "envelope 'auto'"), source("lenient", "mode 'dropmalformed'")].concat()
            + &[table("t", "k"), table("auto", "wrapped"), table("some", "lenient")].concat(),
    );
    let done = case.run();
    for name in ["t", "auto", "some"] {
        let count = |what: &str| done.table(name)[what].as_u64().unwrap();
        assert_eq!(count("read"), records.len() as u64, "{name}");
        assert_eq!(count("read"), count("written") + count("dropped") + count("quarantined"), "{name}");
        println!("{}", done.table(name));
    }
    assert_eq!(done.table("t")["dropped"], 0);
    assert_eq!(
        (&done.table("some")["quarantined"], &done.table("some")["dropped"]),
        (&json!(0), &done.table("t")["quarantined"])
    );
    assert!(done.table("auto")["quarantined"].as_u64() < done.table("t")["quarantined"].as_u64());
    case.assert_whole(&put).await;
    assert_same(&case.places("auto").await, &put);
    let bytes: HashMap<&Place, &[u8]> =
        put.iter().zip(&records).map(|(place, (_, body))| (place, body.as_slice())).collect();
    let is_object = |body: &[u8]| serde_json::from_slice::<serde_json::Map<String, Value>>(body);
    let rows = case.world.query("SELECT * FROM t").await;
    for row in rows {
        let body = bytes[&(text(&row["shard"]), text(&row["seq"]))];
        let object = is_object(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)));
        for name in ["index", "ind", "country", "first_name", "age", "title"] {
            let expected = match object.get(name) {
                None | Some(Value::Null) => Value::Null,
                Some(Value::String(text)) => json!(text),
                Some(Value::Number(number)) => json!(number.to_string()),
                Some(_) => continue,
            };
            assert_eq!(row[name], expected, "{name} of {}", String::from_utf8_lossy(body));
        }
    }
    for name in ["t", "auto"] {
        let sql = format!(
            "SELECT \"partition\" AS shard, \"position\" AS seq, reason, rule, encode(payload, 'hex') AS payload
             FROM {name}_quarantine"
        );
        for row in case.world.query(&sql).await {
            let body = bytes[&(text(&row["shard"]), text(&row["seq"]))];
            assert!(name == "auto" || is_object(body).is_err(), "{row}");
            let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((&row["payload"], &row["rule"]), (&json!(hex), &json!("unreadable")), "{row}");
            assert!(!text(&row["reason"]).is_empty(), "{row}");
        }
    }
}

const POSTS: [(&str, &str); 3] = [("pin", "PIN"), ("geo", "GEO"), ("user", "USER_DATA")];

/// The samples of the clone, and some of the real posts where they are.
fn posts(name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let folder = home().join("examples/data").join(name).join("partition=0");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().for_each(|file| lines.extend(lines_of(file)));
    if let Some(data) = data() {
        lines.extend(lines_of(&data.join(format!("{name}.jsonl"))).into_iter().take(300));
    }
    // In a file, white space belongs to no record.
    lines.iter().map(|line| line.trim().to_owned()).collect()
}

/// The shipped cleaning over other sources: `declared` says what stands where a folder of files stood.
fn shipped(declared: impl Fn(&str) -> String) -> World {
    let world = World::new();
    let mut sources = std::fs::read_to_string(home().join("sql/sources.sql")).unwrap();
    for (name, variable) in POSTS {
        let of_files = format!("STORED AS JSON LOCATION '${{{variable}}}'");
        assert!(sources.contains(&of_files), "{sources}");
        sources = sources.replace(&of_files, &declared(name));
        let file = format!("sql/clean_{name}.sql");
        world.write(&file, std::fs::read(home().join(&file)).unwrap());
    }
    world.write("sql/sources.sql", sources);
    world
}

/// What the cleaning made: the rows, and the bytes that were put aside with the reason; in no order.
async fn cleaned(world: &World) -> BTreeMap<&'static str, Vec<String>> {
    let mut tables = BTreeMap::new();
    for (name, _) in POSTS {
        let mut rows = world.query(&format!("SELECT * FROM clean_{name}")).await;
        let aside = format!("SELECT rule, reason, encode(payload, 'hex') AS payload FROM clean_{name}_quarantine");
        rows.extend(world.query(&aside).await);
        let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
        rows.sort();
        tables.insert(name, rows);
    }
    tables
}

/// Says the first rows that differ.
fn assert_same_rows(found: BTreeMap<&str, Vec<String>>, expected: &BTreeMap<&str, Vec<String>>) {
    for (name, rows) in found {
        let expected = &expected[name];
        let (count, expected_count) = (rows.len(), expected.len());
        let differing = rows.into_iter().zip(expected).find(|(row, expected)| row != *expected);
        assert!(differing.is_none() && count == expected_count, "{name}: {count} of {expected_count}: {differing:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_posts_give_the_same_tables_from_files_topics_and_streams() {
    let Some(case) = case(Server::Load, "posts", 1, "") else { return };
    let stream = |name: &str| format!("{}-{name}", case.stream);
    let files = shipped(|name| format!("STORED AS JSON LOCATION 'in/{name}'"));
    for (name, _) in POSTS {
        let posts = posts(name);
        assert!(posts.len() > 400, "{}", posts.len());
        case.kinesis.create_stream(&stream(name), 3);
        let records: Vec<Record> =
            posts.iter().enumerate().map(|(n, post)| (format!("partition-{n}"), post.clone().into_bytes())).collect();
        put_to(case.kinesis, &stream(name), &records);
        files.write(&format!("in/{name}/all.json"), posts.join("\n") + "\n");
    }
    let run = |world: &World| Process::start(world, &["run", "sql", "--json"], &case.environment).end().fine();
    let streams = shipped(|name| format!("STORED AS KINESIS LOCATION 'kinesis://{}'", stream(name)));
    run(&files);
    let done = run(&streams);
    let expected = cleaned(&files).await;
    assert_same_rows(cleaned(&streams).await, &expected);
    for (name, _) in POSTS {
        let table = done.table(&format!("clean_{name}"));
        let count = |what: &str| table[what].as_u64().unwrap();
        assert_eq!(count("read"), count("written") + count("quarantined"), "{table}");
        assert!(count("quarantined") > 0, "{table}");
    }
    if left_out("kafka") {
        return;
    }
    let kafka = Kafka::start();
    for (name, _) in POSTS {
        kafka.create_topic(&stream(name), 3, &[]);
        kafka.produce(&stream(name), posts(name).into_iter().map(Message::new));
    }
    let broker = kafka.bootstrap();
    let topics = shipped(|name| format!("STORED AS KAFKA LOCATION 'kafka://{broker}/{}'", stream(name)));
    run(&topics);
    assert_same_rows(cleaned(&topics).await, &expected);
}
