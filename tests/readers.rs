//! What others read: tables of every type, partition and age, as delta-rs from PyPI, DuckDB and Spark see them.
//!
//! The rows that are expected stand here as text; the readers are asked for all rows, for filters whose answer depends on
//! the statistics in the log, and for a stream, before and after OPTIMIZE and VACUUM.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parquet::file::reader::{FileReader, SerializedFileReader};
use pinsql::engine::RunOptions;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::support::services::{left_out, read, rows, run_python, spark};
use crate::support::world::{World, home, table};

/// A column of every type that Delta knows, and one that is always NULL.
const TYPES: &str = "
CREATE EXTERNAL TABLE src (
  id BIGINT, tiny TINYINT, small SMALLINT, int INT, big BIGINT, f STRING, d STRING, narrow DECIMAL(15,2),
  wide DECIMAL(20,4), flag BOOLEAN, text STRING, bytes STRING, day STRING, seen TIMESTAMP, list ARRAY<INT>,
  nested STRUCT<a: INT, b: ARRAY<STRING>, x: DOUBLE, w: DECIMAL(38,10)>, m MAP<STRING, DOUBLE>, part STRING
) STORED AS JSON LOCATION 'in/';
CREATE STREAMING TABLE types PARTITIONED BY (part, pday)
TBLPROPERTIES ('delta.deletedFileRetentionDuration' = 'interval 0 seconds') AS
SELECT id, tiny, small, int, big, CAST(f AS FLOAT) AS f, CAST(d AS DOUBLE) AS d, narrow, wide, flag, text,
  decode(bytes, 'base64') AS bytes, CAST(day AS DATE) AS day, seen, list, nested, m,
  NULL AS nothing, part, CAST(day AS DATE) AS pday
FROM STREAM src;
";

/// The columns in order; a row that is given by some of them has NULL in the rest.
const COLUMNS: [&str; 20] = [
    "id", "tiny", "small", "int", "big", "f", "d", "narrow", "wide", "flag", "text", "bytes", "day", "seen", "list",
    "nested", "m", "nothing", "part", "pday",
];

/// Plain rows behind the special ones: enough for a checkpoint.
const LAST: i64 = 64;

fn long(tail: &str) -> String {
    "\u{10ffff}".repeat(40) + tail
}

/// The rows with something special about them, in the form of the readers (`deltalake_reader.py`).
fn special() -> Vec<Value> {
    vec![
        json!({"id": 1, "tiny": -128, "small": -32768, "int": i32::MIN, "big": i64::MIN, "f": "NaN", "d": "NaN",
               "narrow": "-9999999999999.99", "wide": "-9999999999999999.9999", "flag": true, "text": "", "bytes": "",
               "day": "1970-01-01", "seen": "2020-01-02T03:04:05.123456Z", "list": [],
               "nested": {"a": null, "b": [], "x": 1.5, "w": null}, "m": [], "part": "a b=c%d/é?#&+:'\"\\"}),
        json!({"id": 2, "tiny": 127, "small": 32767, "int": i32::MAX, "big": i64::MAX, "f": "Infinity", "d": "Infinity",
               "narrow": "9999999999999.99", "wide": "9999999999999999.9999", "flag": false, "text": "🦀 é",
               "bytes": "AP8=", "day": "9999-12-31", "seen": "9999-12-31T23:59:59.999999Z", "list": [1, null],
               "nested": {"a": 7, "b": ["x", null, ""], "x": null, "w": "1234567890123456789.0123456789"},
               "m": [["k", 1.5], ["z", null]], "part": "%20"}),
        json!({"id": 3, "f": "-Infinity", "d": "-Infinity", "text": long("a"), "day": "1969-12-31",
               "seen": "1969-12-31T23:59:59.999999Z", "part": " "}),
        json!({"id": 4, "f": -0.0, "d": -0.0, "wide": "0.1000", "narrow": "0.10", "text": "y".repeat(70) + "b",
               "day": "0001-01-01", "seen": "0001-01-01T00:00:00.000001Z", "part": "null"}),
        json!({"id": 5, "f": 101.5, "d": 1e300, "text": "y".repeat(70) + "a", "part": "__HIVE_DEFAULT_PARTITION__x"}),
        json!({"id": 6, "d": 5e-324, "text": "line\nbreak\t\u{1}", "part": "日本"}),
        // Delta's log has one word for a partition's empty text and for its NULL.
        json!({"id": 7, "text": "of the empty partition", "part": null}),
        json!({"id": 8}),
    ]
}

/// Each row that the table is to hold, whole.
fn expected() -> Vec<Value> {
    let plain = (9..=LAST)
        .map(|id| json!({"id": id, "int": id, "d": id as f64, "f": 0.5, "text": format!("n{id}"), "part": "a"}));
    special().into_iter().chain(plain).map(|row| whole(&row)).collect()
}

fn whole(row: &Value) -> Value {
    let value = |name: &str| row[if name == "pday" { "day" } else { name }].clone();
    COLUMNS.iter().map(|name| ((*name).to_owned(), value(name))).collect::<serde_json::Map<_, _>>().into()
}

/// A row as the text of the record that it comes from.
fn record(row: &Value) -> String {
    let mut record = row.clone();
    let fields = record.as_object_mut().unwrap();
    fields.retain(|name, value| name != "pday" && name != "nothing" && !value.is_null());
    for name in ["f", "d"] {
        if let Some(number) = fields.get(name).filter(|value| value.is_number()).map(ToString::to_string) {
            fields.insert(name.into(), number.into());
        }
    }
    if let Some(pairs) = fields.get("m").and_then(Value::as_array) {
        let map = pairs.iter().map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].clone()));
        let map: serde_json::Map<_, _> = map.collect();
        fields.insert("m".into(), map.into());
    }
    if fields["id"] == 7 {
        fields.insert("part".into(), "".into());
    }
    // Decimals are numbers in the records, with all their digits.
    let mut text = record.to_string();
    for decimal in ["narrow", "wide", "w"] {
        if let Some(at) = text.find(&format!("\"{decimal}\":\"")) {
            let start = at + decimal.len() + 3;
            let end = start + 1 + text[start + 1..].find('"').unwrap();
            text.replace_range(end..=end, "");
            text.replace_range(start..=start, "");
        }
    }
    text
}

/// Conditions whose answer depends on what the log says of a file, and the rows that they must find. The text is the same
/// SQL for all readers; a decimal is cast from its text, because some read a plain `1.5` as DOUBLE.
fn filters() -> Vec<(String, Vec<i64>)> {
    let found = |condition: &str, ids: &[i64]| (condition.to_owned(), ids.to_vec());
    let plain: Vec<i64> = (9..=LAST).collect();
    vec![
        // NaN is greater than every number, for all of them.
        found("d > 100", &[1, 2, 5]),
        found("f > 100", &[1, 2, 5]),
        found("d < 0", &[3]),
        // Not `d = 0`: Spark does not find a lone -0.0 in a dictionary of Parquet with it, not in its own tables either.
        found("d <= 0 AND d > -1", &[4]),
        found("d > 0 AND d < 1", &[6]),
        found("wide < -9999999999999999", &[1]),
        found("wide > CAST('9999999999999999.999' AS DECIMAL(20,4))", &[2]),
        found("wide = 0.1", &[4]),
        found("narrow <= CAST('-9999999999999.99' AS DECIMAL(15,2))", &[1]),
        found("narrow = CAST('9999999999999.99' AS DECIMAL(15,2))", &[2]),
        found("nested.w > CAST('1234567890123456789.01' AS DECIMAL(38,10))", &[2]),
        found("nested.a > 6", &[2]),
        found("nested.x > 1", &[1]),
        found("big = 9223372036854775807", &[2]),
        found("tiny < -127", &[1]),
        found("flag", &[1]),
        found("text = ''", &[1]),
        (format!("text = '{}'", long("a")), vec![3]),
        (format!("text > '{}'", long("")), vec![3]),
        (format!("text >= '{}b'", "y".repeat(70)), vec![2, 3, 4]),
        (format!("text > '{}' AND text < 'z'", "y".repeat(70)), vec![4, 5]),
        found("seen > TIMESTAMP '2020-01-02 03:04:05.1234' AND seen < TIMESTAMP '2020-01-03 00:00:00'", &[1]),
        found("seen > TIMESTAMP '2200-01-01 00:00:00'", &[2]),
        found("seen >= TIMESTAMP '1969-12-31 23:59:59.9995' AND seen < TIMESTAMP '1970-01-01 00:00:00'", &[3]),
        found("seen < TIMESTAMP '1900-01-01 00:00:00'", &[4]),
        found("day < DATE '1970-01-01'", &[3, 4]),
        found("pday = DATE '9999-12-31'", &[2]),
        found("part LIKE 'a b=c_d/é?#&+:%'", &[1]),
        found("part = '%20'", &[2]),
        found("part = ' '", &[3]),
        found("part = 'null'", &[4]),
        found("part = ''", &[]),
        found("part IS NULL", &[7, 8]),
        ("part = 'a'".to_owned(), plain.clone()),
        ("int >= 9 AND int <= 64".to_owned(), plain),
        found("nothing IS NOT NULL", &[]),
    ]
}

/// One query for all filters: a line a filter that found something.
fn filter_query(table: &str) -> String {
    let one = |(at, (condition, _)): (usize, &(String, Vec<i64>))| {
        format!("SELECT CAST({at} AS BIGINT) AS filter, id FROM {table} WHERE {condition}")
    };
    filters().iter().enumerate().map(one).collect::<Vec<_>>().join(" UNION ALL ")
}

/// Compares the answers to [`filter_query`].
fn check_filters(reader: &str, answers: &[Value]) {
    let mut wrong = Vec::new();
    for (at, (condition, ids)) in filters().iter().enumerate() {
        let found = answers.iter().filter(|row| row["filter"] == at).map(|row| row["id"].as_i64().unwrap());
        let mut found: Vec<i64> = found.collect();
        found.sort_unstable();
        if found != *ids {
            wrong.push(format!("{condition}: {found:?} instead of {ids:?}"));
        }
    }
    assert!(wrong.is_empty(), "{reader}: {wrong:#?}");
}

fn check_rows(reader: &str, found: &[Value]) {
    let expected = expected();
    for (found, expected) in found.iter().zip(&expected) {
        for name in COLUMNS {
            assert_eq!(found[name].to_string(), expected[name].to_string(), "{reader}: {name} of {}", expected["id"]);
        }
    }
    assert_eq!(found.len(), expected.len(), "{reader}");
}

/// What pinsql's own SELECT gives, in the form of the readers: they print its Arrow columns.
async fn own_rows(world: &World, sql: &str) -> Vec<Value> {
    let (mut engine, told) = world.open(&[]).await.unwrap();
    engine.execute("-c", sql).await.unwrap();
    let batches: Vec<RecordBatch> = told.rows.lock().unwrap().clone();
    let file = world.path("own.arrow");
    let target = std::fs::File::create(&file).unwrap();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(target, &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    const PRINT: &str = "
import os, sys
sys.path.insert(0, sys.argv[2])
sys.dont_write_bytecode = True
import pyarrow as pa
from deltalake_reader import print_rows
print_rows(pa.ipc.open_file(sys.argv[1]).read_all())
";
    let readers = home().join("tests/readers");
    run_python(PRINT, &[&file.to_string_lossy(), &readers.to_string_lossy()])
}

/// All readers but Spark, which is asked for everything at once.
async fn check_quick_readers(world: &World) {
    let address = world.path("lake/types").to_string_lossy().into_owned();
    check_rows("pinsql", &own_rows(world, "SELECT * FROM types ORDER BY id").await);
    check_filters("pinsql", &own_rows(world, &filter_query("types")).await);
    for reader in ["deltalake_reader.py", "duck.py"] {
        check_rows(reader, &read(reader, &address, &["--order", "id"]));
        check_filters(reader, &read(reader, &address, &["--sql", &filter_query("t")]));
    }
}

fn spark_tasks(address: &str) -> Vec<Value> {
    let filters = filter_query(&format!("delta.`{address}`"));
    vec![
        json!({"kind": "read", "table": address, "order": "id"}),
        json!({"kind": "sql", "table": address, "filter": filters}),
        json!({"kind": "stream", "table": address, "order": "id"}),
        json!({"kind": "describe", "table": address}),
    ]
}

/// Checks what [`spark_tasks`] gave; answers the operations of the history, the newest first.
fn check_spark(when: &str, mut answers: Vec<Value>) -> Vec<String> {
    let description = answers.pop().unwrap();
    check_rows(&format!("Spark's stream {when}"), &rows(answers.pop().unwrap()));
    check_filters(&format!("Spark {when}"), &rows(answers.pop().unwrap()));
    check_rows(&format!("Spark {when}"), &rows(answers.pop().unwrap()));
    assert_eq!(
        (&description["detail"]["minReaderVersion"], &description["detail"]["minWriterVersion"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(description["detail"]["partitionColumns"], json!(["part", "pday"]));
    let history = description["history"].as_array().unwrap();
    history.iter().map(|version| version["operation"].as_str().unwrap().to_owned()).collect()
}

/// The actions of every version in a table's log, in order.
fn log_of(table: &Path) -> Vec<Vec<Value>> {
    let mut files: Vec<PathBuf> = list(&table.join("_delta_log"), ".json");
    files.sort();
    let actions = |file: &PathBuf| {
        std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    files.iter().map(actions).collect()
}

/// The files below a folder whose names end so.
fn list(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(list(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

/// A table with a row of every kind, each in a version of its own, and a quarantine.
async fn types() -> World {
    let world = World::new();
    world.write("sql/types.sql", TYPES);
    for row in expected() {
        world.write(&format!("in/{:03}.json", row["id"].as_i64().unwrap()), record(&row));
    }
    world.write("in/999.json", "no record");
    let summary = world.run_with(&["sql"], &RunOptions { max_records: Some(1), ..RunOptions::default() }).await;
    assert!(summary.error.is_none(), "{:?}", summary.error);
    let report = table(&summary, "types");
    assert_eq!((report.written, report.quarantined), (LAST as u64, 1), "{summary:?}");
    world
}

/// Statistics on every file: how many rows, how many NULLs, and bounds where they are safe.
fn check_statistics(lake: &Path) {
    let adds: Vec<Value> = log_of(&lake.join("types"))
        .into_iter()
        .flatten()
        .filter_map(|mut action| action.get_mut("add").map(Value::take))
        .collect();
    assert!(adds.len() as i64 >= LAST);
    let mut bounded = BTreeSet::new();
    for add in &adds {
        let statistics: Value = serde_json::from_str(add["stats"].as_str().expect("statistics")).unwrap();
        let (records, nulls) = (statistics["numRecords"].as_i64().unwrap(), &statistics["nullCount"]);
        assert_eq!(nulls["nothing"], records, "{statistics}");
        for name in ["id", "tiny", "small", "int", "big", "narrow", "flag", "text", "day", "seen"] {
            assert!(nulls[name].as_i64().unwrap() <= records, "{name} in {statistics}");
            for bound in ["minValues", "maxValues"] {
                let known = statistics[bound].get(name).is_some();
                assert!(known || name == "flag" || nulls[name] == records, "{bound} of {name} in {statistics}");
                bounded.extend(known.then_some(name));
            }
        }
        for bound in ["minValues", "maxValues"] {
            for name in ["f", "d", "wide", "m", "list", "nothing"] {
                assert!(statistics[bound].get(name).is_none(), "{name} in {statistics}");
            }
            assert!(statistics[bound]["nested"].get("x").is_none() && statistics[bound]["nested"].get("w").is_none());
        }
    }
    assert!(bounded.len() >= 9, "{bounded:?}");
    check_footers(&list(&lake.join("types"), ".snappy.parquet"));
}

/// No bounds of floats in the Parquet files either.
fn check_footers(files: &[PathBuf]) {
    let (mut floats, mut others) = (0, 0);
    for file in files {
        let reader = SerializedFileReader::new(std::fs::File::open(file).unwrap()).unwrap();
        for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            let is_float = matches!(column.column_type(), parquet::basic::Type::FLOAT | parquet::basic::Type::DOUBLE);
            let bounded = column
                .statistics()
                .is_some_and(|known| known.min_bytes_opt().is_some() || known.max_bytes_opt().is_some());
            assert!(!(is_float && bounded), "{}: {}", file.display(), column.column_path());
            floats += u32::from(is_float);
            others += u32::from(bounded);
        }
    }
    assert!(floats > 0 && others > 0, "{floats} {others}");
}

/// (1, 2) and nothing else, once, in the first version of every table.
fn check_protocol(lake: &Path) {
    for name in ["types", "types_quarantine"] {
        let log = log_of(&lake.join(name));
        let protocols: Vec<&Value> = log.iter().flatten().filter_map(|action| action.get("protocol")).collect();
        assert_eq!(protocols, [&json!({"minReaderVersion": 1, "minWriterVersion": 2})], "{name}");
        assert!(log[0].iter().any(|action| action.get("protocol").is_some()), "{name}");
        for actions in &log {
            let info: Vec<&Value> = actions.iter().filter_map(|action| action.get("commitInfo")).collect();
            assert_eq!(info.len(), 1, "{name}: {actions:?}");
            assert!(info[0]["operation"].is_string() && info[0]["timestamp"].is_i64(), "{name}: {info:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_sees_the_same_rows_all_along() {
    if left_out("python") {
        return;
    }
    let world = types().await;
    let (lake, address) = (world.path("lake"), world.path("lake/types"));
    let address = address.to_string_lossy();
    check_statistics(&lake);
    check_protocol(&lake);
    assert!(!list(&lake.join("types/_delta_log"), ".parquet").is_empty(), "no checkpoint");
    check_quick_readers(&world).await;
    let with_spark = !left_out("spark");
    if with_spark {
        let operations = check_spark("at first", spark().run(&spark_tasks(&address)));
        assert_eq!(operations, vec!["STREAMING UPDATE"; LAST as usize + 1]);
    }

    world.query("OPTIMIZE types").await;
    let log = log_of(&lake.join("types"));
    let changes: Vec<&Value> =
        log.last().unwrap().iter().filter_map(|action| action.get("add").or(action.get("remove"))).collect();
    assert!(
        changes.len() as i64 > LAST - 8 && changes.iter().all(|change| change["dataChange"] == false),
        "{changes:?}"
    );
    check_statistics(&lake);
    check_quick_readers(&world).await;
    if with_spark {
        let operations = check_spark("after OPTIMIZE", spark().run(&spark_tasks(&address)));
        assert_eq!(operations[0], "OPTIMIZE");
    }

    let before = list(&lake.join("types"), ".snappy.parquet").len();
    world.query("VACUUM types").await;
    let after = list(&lake.join("types"), ".snappy.parquet").len();
    // A file for each partition is left.
    assert!(before > LAST as usize && after == 8, "{before} files became {after}");
    check_protocol(&lake);
    check_quick_readers(&world).await;
    assert_eq!(table(&world.run().await, "types").read, 0);
    if with_spark {
        check_spark("after VACUUM", spark().run(&spark_tasks(&address)));
    }
}

/// Lets the first commits of a version out together: two that want the same version meet here.
#[derive(Debug)]
struct Meeting {
    inner: Arc<dyn ObjectStore>,
    at: Arc<Point>,
}

#[derive(Debug)]
struct Point {
    version: String,
    arrived: AtomicU64,
    both: Barrier,
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meeting({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Meeting {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let is_commit = options.mode == PutMode::Create && location.as_ref().ends_with(&self.at.version);
        if is_commit && self.at.arrived.fetch_add(1, Ordering::SeqCst) < 2 {
            self.at.both.wait().await;
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A table of small files, and a store in which two commits of its next version meet.
async fn meeting() -> World {
    let mut world = World::new();
    world.write(
        "sql/t.sql",
        "CREATE EXTERNAL TABLE src (id BIGINT) STORED AS JSON LOCATION 'in/'; CREATE STREAMING TABLE t AS SELECT id FROM STREAM src;",
    );
    for id in 0..8 {
        world.write(&format!("in/{id}.json"), format!("{{\"id\":{id}}}"));
    }
    world.run_with(&["sql"], &RunOptions { max_records: Some(1), ..RunOptions::default() }).await;
    let version = log_of(&world.path("lake/t")).len();
    let version = format!("lake/t/_delta_log/{version:020}.json");
    let at = Arc::new(Point { version, arrived: AtomicU64::new(0), both: Barrier::new(2) });
    world.layer = Some(Arc::new(move |inner| Arc::new(Meeting { inner, at: Arc::clone(&at) })));
    world
}

/// delta-rs 1.1.3 lets both through and then every row is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_optimizes_at_once_duplicate_nothing() {
    let world = meeting().await;
    let ((mut one, _), (mut other, _)) = (world.open(&[]).await.unwrap(), world.open(&[]).await.unwrap());
    let (one, other) = tokio::join!(one.execute("-c", "OPTIMIZE t"), other.execute("-c", "OPTIMIZE t"));
    let log = log_of(&world.path("lake/t"));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?} {log:?}");
    let error = one.and(other).unwrap_err();
    assert!(error.message().contains("was rewritten by another meanwhile"), "{error:?}");
    let rows = world.query("SELECT count(*) AS n, count(DISTINCT id) AS d FROM t").await;
    assert_eq!(rows, [json!({"n": 8, "d": 8})]);
    world.query("OPTIMIZE t").await;
    assert_eq!(world.query("SELECT count(*) AS n FROM t").await, [json!({"n": 8})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_and_an_optimize_at_once_both_count() {
    let world = meeting().await;
    world.write("in/8.json", "{\"id\":8}");
    let (mut engine, _) = world.open(&[]).await.unwrap();
    let options = RunOptions::default();
    let (optimized, summary) = tokio::join!(engine.execute("-c", "OPTIMIZE t"), world.run_with(&["sql"], &options));
    assert!(optimized.is_ok() && summary.error.is_none(), "{optimized:?} {summary:?}");
    let rows = world.query("SELECT count(*) AS n, count(DISTINCT id) AS d FROM t").await;
    assert_eq!(rows, [json!({"n": 9, "d": 9})]);
    assert_eq!(table(&world.run().await, "t").read, 0);
}
