//! Topics as tables, against a real broker: what is read, what is lost, what is refused.
//!
//! The judge knows what was produced, by partition and offset; a record is in the table or in the quarantine, once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pinsql::engine::{FullRefresh, RunOptions};
use pinsql::options::Options;
use pinsql::report::Summary;
use pinsql::source::kafka::chunk::{Shape, Tombstones};
use pinsql::source::kafka::client::{Client, Role};
use pinsql::source::kafka::positions::Held;
use pinsql::source::kafka::settings::Settings;
use serde_json::{Value, json};

use crate::support::kafka::{Kafka, Message};
use crate::support::services::left_out;
use crate::support::time::until;
use crate::support::world::{World, table};

/// A project whose source `k` is a topic and whose table `t` holds each row with where it came from.
struct Case {
    kafka: &'static Kafka,
    topic: String,
    world: World,
}

/// A topic of a name that no other test has, with a project that reads it. None where Kafka is left out.
fn case(name: &str, partitions: i32, settings: &[(&str, &str)], options: &str) -> Option<Case> {
    if left_out("kafka") {
        return None;
    }
    let kafka = Kafka::start();
    let topic = format!("{name}-{:08x}", rand::random::<u32>());
    kafka.create_topic(&topic, partitions, settings);
    let case = Case { kafka, topic, world: World::new() };
    case.write(options);
    Some(case)
}

const TABLE: &str = "CREATE STREAMING TABLE t AS
    SELECT id, _metadata.partition AS part, _metadata.offset AS off FROM STREAM k;";

impl Case {
    fn write(&self, options: &str) {
        let (broker, topic) = (self.kafka.bootstrap(), &self.topic);
        let source = format!(
            "CREATE EXTERNAL TABLE k (id BIGINT, name STRING) STORED AS KAFKA
             LOCATION 'kafka://{broker}/{topic}' OPTIONS ({options});\n"
        );
        self.world.write("sql/t.sql", source + TABLE);
    }

    fn produce(&self, ids: std::ops::Range<i64>, partitions: i32) {
        let message = |id: i64| {
            let partition = i32::try_from(id).unwrap() % partitions;
            Message::new(json!({"id": id, "name": "x".repeat(30)}).to_string()).partition(partition)
        };
        self.kafka.produce(&self.topic, ids.map(message));
    }

    async fn run(&self) -> Summary {
        self.world.run().await
    }

    async fn fails(&self) -> pinsql::error::Error {
        let summary = self.world.run_with(&["sql"], &RunOptions::default()).await;
        let error = summary.error.expect("the run fails");
        pinsql::error::Error::new(error.kind(), error.message().to_owned()).hint(error.hint_text().unwrap_or_default())
    }

    /// By partition, the offsets in the table and in its quarantine, each once.
    async fn places(&self) -> BTreeMap<i64, BTreeSet<i64>> {
        let mut rows = self.world.query("SELECT part, off FROM t").await;
        if self.world.path("lake/t_quarantine").exists() {
            let put_aside =
                "SELECT CAST(\"partition\" AS BIGINT) AS part, CAST(\"position\" AS BIGINT) AS off FROM t_quarantine";
            rows.extend(self.world.query(put_aside).await);
        }
        let mut places: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
        for row in rows {
            let (part, off) = (row["part"].as_i64().unwrap(), row["off"].as_i64().unwrap());
            assert!(places.entry(part).or_default().insert(off), "offset {off} of partition {part} is there twice");
        }
        places
    }

    async fn ids(&self) -> Vec<i64> {
        let rows = self.world.query("SELECT id FROM t ORDER BY id").await;
        rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
    }
}

fn counts(summary: &Summary) -> (u64, u64, u64) {
    let t = table(summary, "t");
    (t.read, t.written, t.quarantined)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_read_once_and_then_only_what_is_new() {
    let Some(case) = case("once", 12, &[], "") else { return };
    case.produce(0..2000, 12);
    case.kafka.produce(&case.topic, (0..5).map(|n| Message::new("{\"id\": oops").partition(n)));
    assert_eq!(counts(&case.run().await), (2005, 2000, 5));
    let again = case.run().await;
    assert_eq!(counts(&again), (0, 0, 0));
    assert_eq!(table(&again, "t").epochs, 0, "nothing new is no epoch");
    case.produce(2000..2100, 12);
    assert_eq!(counts(&case.run().await), (100, 100, 0));
    assert_eq!(case.ids().await, (0..2100).collect::<Vec<_>>());
    let expected: BTreeMap<i64, BTreeSet<i64>> = case
        .kafka
        .end_offsets(&case.topic)
        .into_iter()
        .map(|(partition, end)| (i64::from(partition), (0..end).collect()))
        .collect();
    assert_eq!(case.places().await, expected);
    // For lag tools: what is committed, told beside the epochs.
    let ends = case.kafka.end_offsets(&case.topic);
    until("the group's offsets are not those of the table", || {
        let mut group = case.kafka.group_offsets("pinsql-t", &case.topic);
        group.sort_unstable();
        group == ends
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_takes_no_more_records_than_it_may() {
    let Some(case) = case("limits", 3, &[], "") else { return };
    case.produce(0..1000, 3);
    let (mut engine, told) = case.world.open(&["sql"]).await.unwrap();
    let summary = engine.run(&RunOptions { max_records: Some(300), ..RunOptions::default() }).await;
    assert_eq!(counts(&summary), (1000, 1000, 0));
    // An epoch that waits for long ends with less.
    assert!(table(&summary, "t").epochs >= 4);
    let epochs = told.epochs.lock().unwrap().clone();
    assert!(epochs.iter().all(|epoch| epoch.read <= 300), "{epochs:?}");
    assert_eq!(case.ids().await, (0..1000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_run_reads_is_of_the_next_run() {
    let Some(case) = case("meanwhile", 3, &[], "") else { return };
    case.produce(0..30_000, 3);
    let (producing, stop) = (case.topic.clone(), Arc::new(AtomicBool::new(false)));
    let (kafka, stopped) = (case.kafka, Arc::clone(&stop));
    // One partition ends early and grows while the others are still being read.
    let producer = std::thread::spawn(move || {
        let mut id = 30_000;
        while !stopped.load(Ordering::Relaxed) {
            kafka.produce(
                &producing,
                (id..id + 10).map(|id| Message::new(json!({ "id": id }).to_string()).partition(0)),
            );
            id += 10;
        }
        id
    });
    for _ in 0..3 {
        let options = RunOptions { max_records: Some(4000), ..RunOptions::default() };
        assert!(case.world.run_with(&["sql"], &options).await.error.is_none());
    }
    stop.store(true, Ordering::Relaxed);
    let last = producer.join().unwrap();
    case.run().await;
    assert_eq!(case.ids().await, (0..last).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_long_is_put_aside_in_either_form() {
    let Some(case) = case("long", 1, &[], "maxRecordBytes 100000") else { return };
    let long = json!({"id": 1, "name": "x".repeat(150_000)}).to_string();
    case.kafka.produce(&case.topic, [Message::new(long), Message::new(r#"{"id":2}"#)]);
    assert_eq!(counts(&case.run().await), (2, 1, 1));
    let sql = "SELECT octet_length(CAST(payload AS STRING)) AS kept, reason FROM t_quarantine";
    let put_aside = case.world.query(sql).await;
    assert_eq!(put_aside[0]["kept"], 65536, "{put_aside:?}");
    assert!(put_aside[0]["reason"].as_str().unwrap().contains("maxRecordBytes"), "{put_aside:?}");
    let (broker, topic) = (case.kafka.bootstrap(), &case.topic);
    let raw = format!(
        "CREATE STREAMING TABLE t AS SELECT offset FROM STREAM
         read_kafka(bootstrapServers => '{broker}', subscribe => '{topic}', maxRecordBytes => 100000);"
    );
    let world = World::new();
    world.write("sql/t.sql", raw);
    assert_eq!(counts(&world.run().await), (2, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_committed_messages_are_rows_and_none_is_waited_for() {
    let Some(case) = case("transactions", 2, &[], "") else { return };
    let message = |id: i64| Message::new(json!({ "id": id }).to_string()).partition(i32::try_from(id % 2).unwrap());
    case.kafka.produce_in_transaction(&case.topic, (0..50).map(message), true);
    case.kafka.produce_in_transaction(&case.topic, (50..100).map(message), false);
    // The topic ends in aborted messages and markers: the run ends all the same.
    assert_eq!(counts(&case.run().await), (50, 50, 0));
    assert_eq!(counts(&case.run().await), (0, 0, 0));
    let open = case.kafka.open_transaction(&case.topic, (100..110).map(message));
    case.kafka.produce(&case.topic, (110..120).map(message));
    assert_eq!(counts(&case.run().await), (0, 0, 0), "what lies behind an open transaction is not stable yet");
    open.commit();
    assert_eq!(counts(&case.run().await), (20, 20, 0));
    assert_eq!(case.ids().await, (0..50).chain(100..120).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_headers_and_tombstones_are_kept() {
    let Some(case) = case("metadata", 1, &[], "") else { return };
    let first =
        Message::new(r#"{"id":1}"#).key([0xff, 0x00]).header("a", Some(b"1")).header("b", None).at(1_600_000_000_123);
    case.kafka.produce(&case.topic, [first, Message::tombstone("gone"), Message::new(r#"{"id":2}"#)]);
    assert_eq!(counts(&case.run().await), (3, 2, 1));
    let rows = case
        .world
        .query(
            "SELECT id, encode(_metadata.key, 'hex') AS key, CAST(_metadata.timestamp AS STRING) AS at, _metadata.topic AS topic,
                _metadata.timestamp_type AS kind, cardinality(_metadata.headers) AS headers,
                _metadata.headers[1]['key'] AS name, encode(_metadata.headers[1]['value'], 'hex') AS value
             FROM k WHERE id IS NOT NULL ORDER BY id",
        )
        .await;
    let first = json!({"id": 1, "key": "ff00", "at": "2020-09-13T12:26:40.123Z", "topic": case.topic, "kind": 0,
        "headers": 2, "name": "a", "value": "31"});
    assert_eq!(rows[0], first);
    assert_eq!((&rows[1]["key"], &rows[1]["headers"]), (&Value::Null, &Value::Null));
    let put_aside = case
        .world
        .query("SELECT \"partition\", \"position\", payload IS NULL AS empty, metadata FROM t_quarantine")
        .await;
    assert_eq!(put_aside[0]["position"], "1");
    assert_eq!(put_aside[0]["empty"], true);
    let metadata: Value = serde_json::from_str(put_aside[0]["metadata"].as_str().unwrap()).unwrap();
    assert_eq!(metadata["key"], "Z29uZQ==", "the key is kept, so that the record can be put back");
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_are_what_the_option_says() {
    for (option, expected, dropped) in [("skip", (3, 2, 0), 1), ("null", (3, 3, 0), 0)] {
        let Some(case) = case("tombstones", 1, &[], &format!("tombstones '{option}'")) else { return };
        let row = |id: i64| Message::new(json!({ "id": id }).to_string());
        case.kafka.produce(&case.topic, [row(1), Message::tombstone("x"), row(2)]);
        let summary = case.run().await;
        assert_eq!(counts(&summary), expected, "{option}");
        assert_eq!(table(&summary, "t").dropped, dropped, "{option}");
        assert_eq!(counts(&case.run().await), (0, 0, 0), "{option}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_with_holes_ends() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.0"),
        ("delete.retention.ms", "0"),
        ("max.compaction.lag.ms", "100"),
    ];
    let Some(case) = case("compacted", 1, &settings, "tombstones 'skip'") else { return };
    let keyed = |n: i64| Message::new(json!({ "id": n }).to_string()).key(format!("{}", n % 3));
    case.kafka.produce(&case.topic, (0..300).map(keyed));
    case.kafka.produce(&case.topic, [Message::tombstone("0")]);
    // Each message closes a segment, so that the ones before it may be compacted; every reading meets the holes.
    let mut last = 300;
    loop {
        case.kafka.produce(&case.topic, [keyed(last)]);
        last += 1;
        let left = case.world.query("SELECT count(*) AS n FROM k").await;
        if left[0]["n"].as_i64().unwrap() < 100 {
            break;
        }
        assert!(last < 1000, "the topic is not compacted");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    // And it ends in one.
    case.kafka.produce_in_transaction(&case.topic, (last..last + 10).map(keyed), false);
    let (read, written, _) = counts(&case.run().await);
    assert!(read < 120 && written <= read, "{written} of {read}");
    let ids = case.ids().await;
    assert!(ids.contains(&(last - 1)) && !ids.contains(&last), "{ids:?}");
    assert_eq!(counts(&case.run().await), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_many_partitions_large_messages_and_none() {
    let Some(case) = case("codecs", 200, &[("max.message.bytes", "20000000")], "") else { return };
    assert_eq!(counts(&case.run().await), (0, 0, 0), "an empty topic is an empty table");
    assert_eq!(case.ids().await, Vec::<i64>::new());
    for (index, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let first = i64::try_from(index).unwrap() * 400;
        let messages = (first..first + 400).map(|id| {
            let body = json!({"id": id, "name": "y".repeat(100)}).to_string();
            Message::new(body).partition(i32::try_from(id % 200).unwrap())
        });
        case.kafka.produce_with(&case.topic, &[("compression.type", codec)], messages);
    }
    let large = json!({"id": 2000, "name": "z".repeat(15 << 20)}).to_string();
    case.kafka.produce(&case.topic, [Message::new(large).partition(7)]);
    assert_eq!(counts(&case.run().await), (2001, 2001, 0));
    assert_eq!(case.ids().await, (0..=2000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_begins_where_it_is_told_to() {
    let Some(case) = case("starts", 2, &[], "") else { return };
    let at = |id: i64| {
        let body = json!({ "id": id }).to_string();
        Message::new(body).partition(i32::try_from(id % 2).unwrap()).at(1_700_000_000_000 + id * 1000)
    };
    case.kafka.produce(&case.topic, (0..100).map(at));
    let offsets = format!(r#"startingOffsets '{{"{}":{{"0":40,"1":-1}}}}'"#, case.topic);
    let starts = [
        ("startingOffsets 'earliest'".to_owned(), (0..100).collect::<Vec<i64>>()),
        ("startingTimestamp '1700000090000'".to_owned(), (90..100).collect()),
        ("startingTimestamp '2023-11-14T22:14:50Z'".to_owned(), (90..100).collect()),
        (offsets, (80..100).step_by(2).collect()),
        ("startingOffsets 'latest'".to_owned(), Vec::new()),
    ];
    for (option, expected) in starts {
        let world = World::new();
        let case = Case { kafka: case.kafka, topic: case.topic.clone(), world };
        case.write(&option);
        case.run().await;
        assert_eq!(case.ids().await, expected, "{option}");
    }
    // What `latest` means is fixed by the first run, though it found nothing.
    let case = Case { kafka: case.kafka, topic: case.topic.clone(), world: World::new() };
    case.write("startingOffsets 'latest'");
    case.run().await;
    case.kafka.produce(&case.topic, (100..110).map(at));
    case.run().await;
    assert_eq!(case.ids().await, (100..110).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_retention_took_are_said_or_counted() {
    let Some(case) = case("retention", 1, &[], "") else { return };
    case.produce(0..100, 1);
    case.run().await;
    case.produce(100..200, 1);
    case.kafka.delete_records(&case.topic, 0, 150);
    let error = case.fails().await;
    assert_eq!(error.kind().name(), "data");
    assert!(error.message().contains("begins at offset 150, but 100 was to be read next: 50 messages"), "{error}");
    assert!(error.hint_text().unwrap().contains("failOnDataLoss"), "{error:?}");
    // An edited option keeps the positions.
    case.write("failOnDataLoss 'false'");
    let (mut engine, told) = case.world.open(&["sql"]).await.unwrap();
    let summary = engine.run(&RunOptions::default()).await;
    assert_eq!(counts(&summary), (50, 50, 0));
    assert_eq!(*told.notices.lock().unwrap(), ["`t` goes on without 50 records that its source no longer had"]);
    assert_eq!(table(&summary, "t").lost, Some(50));
    assert_eq!(table(&case.run().await, "t").lost, Some(0), "what was lost is counted once");
    assert_eq!(case.ids().await, (0..100).chain(150..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_another_topic() {
    let Some(case) = case("anew", 1, &[], "") else { return };
    case.produce(0..100, 1);
    case.run().await;
    case.kafka.delete_topic(&case.topic);
    let error = case.fails().await;
    assert!(error.message().contains("was deleted"), "{error}");
    case.write("failOnDataLoss 'false'");
    for lost in [None, Some(0)] {
        let summary = case.run().await;
        assert_eq!((counts(&summary), table(&summary, "t").lost), ((0, 0, 0), lost), "what was lost is counted once");
    }
    case.write("");
    case.kafka.create_topic(&case.topic, 1, &[]);
    // More messages than were read: offsets alone would not show it.
    case.produce(1000..1300, 1);
    let error = case.fails().await;
    assert_eq!(error.kind().name(), "data");
    assert!(error.message().contains("deleted and made anew"), "{error}");
    case.write("failOnDataLoss 'false'");
    let summary = case.run().await;
    assert_eq!(counts(&summary), (300, 300, 0));
    assert_eq!(table(&summary, "t").lost, None, "nobody can tell how many the old one still held");
    assert_eq!(case.ids().await, (0..100).chain(1000..1300).collect::<Vec<_>>());
    case.write("");
    let options = RunOptions { full_refresh: FullRefresh::All, ..RunOptions::default() };
    assert!(case.world.run_with(&["sql"], &options).await.error.is_none());
    assert_eq!(case.ids().await, (1000..1300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_topics_or_a_pattern_are_one_table() {
    let Some(case) = case("many-a", 2, &[], "") else { return };
    let other = format!("{}-b", case.topic);
    case.kafka.create_topic(&other, 1, &[]);
    case.produce(0..10, 2);
    case.kafka.produce(&other, (10..20).map(|id| Message::new(json!({ "id": id }).to_string())));
    case.kafka.produce(&other, [Message::new("bad")]);
    let broker = case.kafka.bootstrap();
    for option in [format!("subscribe '{},{other}'", case.topic), format!("subscribePattern '{}.*'", case.topic)] {
        let world = World::new();
        let source = format!(
            "CREATE EXTERNAL TABLE k (id BIGINT) STORED AS KAFKA OPTIONS ('kafka.bootstrap.servers' = '{broker}', {option});\n"
        );
        world.write(
            "sql/t.sql",
            source + "CREATE STREAMING TABLE t AS SELECT id, _metadata.topic AS topic FROM STREAM k;",
        );
        let summary = world.run().await;
        assert_eq!(counts(&summary), (21, 20, 1), "{option}");
        let topics = world.query("SELECT topic, count(*) AS n FROM t GROUP BY topic ORDER BY topic").await;
        assert_eq!(topics, [json!({"topic": case.topic, "n": 10}), json!({"topic": other, "n": 10})]);
        let put_aside = world.query("SELECT \"partition\" AS p FROM t_quarantine").await;
        assert_eq!(put_aside, [json!({"p": format!("{other}/0")})], "{option}");
        // A topic that is no longer named is not missed.
        let text = std::fs::read_to_string(world.path("sql/t.sql")).unwrap();
        world.write("sql/t.sql", text.replace(&option, &format!("subscribe '{}'", case.topic)));
        assert_eq!(counts(&world.run().await), (0, 0, 0), "{option}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_raw_form_has_the_columns_of_databricks() {
    let Some(case) = case("raw", 1, &[], "") else { return };
    let message = Message::new("not json").key("k").header("h", Some(b"v"));
    case.kafka.produce(&case.topic, [message, Message::tombstone("t")]);
    let (broker, topic) = (case.kafka.bootstrap(), &case.topic);
    let read = format!("read_kafka(bootstrapServers => '{broker}', subscribe => '{topic}', includeHeaders => true)");
    let rows = case
        .world
        .query(&format!(
            "SELECT CAST(key AS STRING) AS key, CAST(value AS STRING) AS value, topic, partition, offset, timestamptype,
                headers[1]['key'] AS header FROM {read} ORDER BY offset"
        ))
        .await;
    let expected = |key: &str, value: Value, offset: i64, header: Value| json!({"key": key, "value": value, "topic": topic, "partition": 0, "offset": offset, "timestamptype": 0, "header": header});
    assert_eq!(rows, [expected("k", json!("not json"), 0, json!("h")), expected("t", Value::Null, 1, Value::Null)]);
    case.world.write(
        "sql/t.sql",
        format!("CREATE STREAMING TABLE t AS SELECT CAST(value AS STRING) AS text FROM STREAM {read};"),
    );
    assert_eq!(counts(&case.run().await), (2, 2, 0), "a tombstone is a row with a value of NULL");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_inferred_from_messages_and_pinned() {
    let Some(case) = case("inferred", 2, &[], "") else { return };
    let (broker, topic) = (case.kafka.bootstrap(), &case.topic);
    let source = format!("CREATE EXTERNAL TABLE k STORED AS KAFKA LOCATION 'kafka://{broker}/{topic}';\n");
    case.world.write("sql/t.sql", source + "CREATE STREAMING TABLE t AS SELECT * FROM STREAM k;");
    let nothing = case.run().await;
    assert_eq!(table(&nothing, "t").version, None, "there is nothing to infer from, and no table yet");
    case.produce(0..10, 2);
    assert_eq!(counts(&case.run().await), (10, 10, 0));
    let more = Message::new(r#"{"id":10,"name":"a","extra":true}"#);
    case.kafka.produce(topic, [more]);
    assert_eq!(counts(&case.run().await), (1, 1, 0), "the columns of the first epoch stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_read_twice_in_a_query_gives_each_record_to_both() {
    let Some(case) = case("twice", 3, &[], "") else { return };
    let path = case.world.path("sql/t.sql");
    let source = std::fs::read_to_string(path).unwrap().split_once("CREATE STREAMING").unwrap().0.to_owned();
    case.world.write(
        "sql/t.sql",
        source
            + "CREATE STREAMING TABLE t AS SELECT id, 'even' AS kind FROM STREAM k WHERE id % 2 = 0
                  UNION ALL SELECT id, 'all' AS kind FROM STREAM k;",
    );
    case.produce(0..600, 3);
    let options = RunOptions { max_records: Some(250), ..RunOptions::default() };
    let summary = case.world.run_with(&["sql"], &options).await;
    assert!(summary.error.is_none(), "{summary:?}");
    assert_eq!(counts(&summary), (600, 900, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_said_with_the_broker_and_the_reason() {
    let Some(case) = case("refusals", 1, &[], "") else { return };
    let refused = |location: String, options: &str| {
        let world = World::new();
        let source =
            format!("CREATE EXTERNAL TABLE k (id BIGINT) STORED AS KAFKA LOCATION '{location}' OPTIONS ({options});\n");
        world.write("sql/t.sql", source + "CREATE STREAMING TABLE t AS SELECT id FROM STREAM k;");
        async move {
            let summary = world.run_with(&["sql"], &RunOptions::default()).await;
            let error = summary.error.expect("it fails");
            assert!(!world.path("lake/t").exists(), "nothing was written");
            (error.kind().name(), error.message().to_owned(), error.hint_text().unwrap_or_default().to_owned())
        }
    };
    let broker = case.kafka.bootstrap();
    let (kind, message, _) = refused(format!("kafka://127.0.0.1:1/{}", case.topic), "").await;
    assert_eq!(kind, "world");
    assert!(message.contains("`127.0.0.1:1` does not answer") && message.contains("Connection refused"), "{message}");
    let (kind, message, _) = refused(format!("kafka://{broker}/nothing-here"), "").await;
    assert_eq!(kind, "world");
    assert!(message.contains("there is no topic `nothing-here`"), "{message}");
    let (kind, message, hint) = refused(format!("kafka://{broker}/{}", case.topic), "startingOfsets 'latest'").await;
    assert_eq!((kind, hint.as_str()), ("config", "did you mean `startingOffsets`?"), "{message}");
    let (kind, message, _) = refused(format!("kafka://{broker}/{}", case.topic), "'kafka.fetch.min.bites' '1'").await;
    assert_eq!(kind, "config", "{message}");
    let (kind, message, _) = refused(format!("kafka://{broker}"), "").await;
    assert_eq!(kind, "config", "{message}");
}

/// A broker that was away comes back as the leader of a new epoch, and refuses who asks the leader of the old one. While it
/// answers nothing, what it holds is unknown: to take it for nothing would be to read nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_found_again_behind_a_silence_and_an_election() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::alone(), "elected");
    kafka.create_topic(topic, 3, &[]);
    kafka.produce(topic, (0..9).map(|id| Message::new("{}").partition(id % 3)));
    let settings =
        Settings::take(&mut Options::new(Vec::new()).unwrap(), Some(&kafka.bootstrap()), Path::new("/")).unwrap();
    let shape = Shape { tombstones: Tombstones::Keep, max_record_bytes: 1 << 20, empty_row: Arc::default() };
    let client = Client::new(&settings, Role::Asks, "elections", &shape).unwrap();
    let partitions: Vec<_> = (0..3).map(|partition| (topic.to_owned(), partition)).collect();
    let held = [Held { earliest: 0, end: 3 }; 3];
    assert_eq!(client.held(partitions.clone()).await.unwrap(), held);
    kafka.pause();
    let silent = client.held(partitions.clone()).await;
    assert!(silent.as_ref().is_err_and(pinsql::error::Error::is_passing), "{silent:?}");
    kafka.resume();
    // A broker that was frozen is first put out of the cluster, and takes its time to come back.
    until("it leads nothing", || kafka.partitions(topic) == 3);
    assert_eq!(client.held(partitions.clone()).await.unwrap(), held);
    tokio::task::block_in_place(|| kafka.restart());
    assert_eq!(client.held(partitions).await.unwrap(), held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_materialized_view_over_a_topic_follows_it() {
    let Some(case) = case("view", 2, &[], "") else { return };
    let path = case.world.path("sql/t.sql");
    let source = std::fs::read_to_string(path).unwrap().split_once("CREATE STREAMING").unwrap().0.to_owned();
    case.world.write("sql/t.sql", source + "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(id) AS s FROM k;");
    case.produce(0..100, 2);
    case.run().await;
    assert_eq!(case.world.query("SELECT * FROM v").await, [json!({"n": 100, "s": 4950})]);
    assert_eq!(table(&case.run().await, "v").epochs, 0, "nothing has changed");
    case.produce(100..101, 2);
    assert_eq!(table(&case.run().await, "v").epochs, 1);
    assert_eq!(case.world.query("SELECT * FROM v").await, [json!({"n": 101, "s": 5050})]);
}
