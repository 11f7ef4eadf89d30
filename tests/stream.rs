//! `pinsql stream`: followed topics, folders and tables; brokers that go away, instances that meet, processes that die.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pinsql::engine::{RunOptions, StreamOptions};
use pinsql::report::{Status, Summary};
use pinsql::source::SlotOf;
use pinsql::stream::compact::worth_merging;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::kafka::{Broker, Kafka, Message};
use crate::support::services::{Moto, left_out};
use crate::support::time::PATIENCE;
use crate::support::world::{Told, World, binary, table};

fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

fn project(kafka: &Kafka, topic: &str, options: &str) -> World {
    project_at(&kafka.bootstrap(), topic, options)
}

fn project_at(broker: &str, topic: &str, options: &str) -> World {
    let world = World::new();
    let sql = format!(
        "CREATE EXTERNAL TABLE k (id BIGINT) STORED AS KAFKA LOCATION 'kafka://{broker}/{topic}' OPTIONS ({options});
         CREATE STREAMING TABLE t AS SELECT id, _metadata.partition AS part, _metadata.offset AS off FROM STREAM k;"
    );
    world.write("sql/t.sql", sql);
    world
}

fn messages(ids: std::ops::Range<i64>, partitions: i32) -> impl Iterator<Item = Message> {
    ids.map(move |id| {
        let body = if id % 1000 == 999 { format!("{{\"id\": {id}") } else { json!({ "id": id }).to_string() };
        Message::new(body).partition(i32::try_from(id).unwrap() % partitions)
    })
}

/// Follows the project while `during` goes on, and ends it then.
async fn follow<F: Future>(
    world: &World,
    options: StreamOptions,
    during: impl FnOnce(Arc<Told>) -> F,
) -> (Summary, Arc<Told>) {
    let (mut engine, told) = world.open(&["sql"]).await.unwrap();
    let stop = engine.stop();
    let work = async {
        during(Arc::clone(&told)).await;
        stop.stop();
    };
    let (summary, ()) = tokio::join!(engine.stream(&options), work);
    (summary, told)
}

fn quickly() -> StreamOptions {
    StreamOptions { trigger: Some(Duration::from_millis(50)), ..StreamOptions::default() }
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {PATIENCE:?}");
}

fn written(told: &Told) -> u64 {
    told.epochs.lock().unwrap().iter().map(|epoch| epoch.written + epoch.quarantined).sum()
}

async fn ids(world: &World) -> Vec<i64> {
    world.query("SELECT id FROM t ORDER BY id").await.iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

/// Each place of the topic is in the table or in the quarantine, once.
async fn assert_whole(world: &World, expected: usize) {
    let mut rows = world.query("SELECT part, off FROM t").await;
    if world.path("lake/t_quarantine").exists() {
        let sql = "SELECT CAST(\"partition\" AS INT) AS part, CAST(\"position\" AS BIGINT) AS off FROM t_quarantine";
        rows.extend(world.query(sql).await);
    }
    let places: BTreeSet<(i64, i64)> =
        rows.iter().map(|row| (row["part"].as_i64().unwrap(), row["off"].as_i64().unwrap())).collect();
    assert_eq!((places.len(), rows.len()), (expected, expected), "distinct places, and rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_by_run_some_by_stream_and_the_rest_by_run_is_one_table() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::start(), unique("mixed"));
    kafka.create_topic(&topic, 4, &[]);
    let world = project(kafka, &topic, "");
    kafka.produce(&topic, messages(0..3000, 4));
    world.run().await;
    let (summary, told) = follow(&world, quickly(), async |told: Arc<Told>| {
        kafka.produce(&topic, messages(3000..6000, 4));
        until("3,000 more", async || written(&told) == 3000).await;
    })
    .await;
    assert_eq!(summary.status, Status::Stopped);
    assert!(summary.error.is_none());
    assert_eq!(table(&summary, "t").read, 3000);
    assert_eq!(*told.conditions.lock().unwrap(), ["t: running", "t: stopped"]);
    kafka.produce(&topic, messages(6000..9000, 4));
    world.run().await;
    let once = project(kafka, &topic, "");
    once.run().await;
    let both = "SELECT id, part, off FROM t ORDER BY part, off";
    assert_eq!(world.query(both).await, once.query(both).await);
    assert_whole(&world, 9000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_is_no_commit_and_all_targets_are_followed() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::start(), unique("idle"));
    kafka.create_topic(&topic, 2, &[]);
    let world = project(kafka, &topic, "");
    world.write(
        "sql/more.sql",
        "CREATE EXTERNAL TABLE f (id BIGINT) STORED AS JSON LOCATION 'in';
         CREATE STREAMING TABLE files AS SELECT id FROM STREAM f;
         CREATE STREAMING TABLE again AS SELECT id FROM STREAM t;
         CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM again;",
    );
    let (summary, told) = follow(&world, quickly(), async |told: Arc<Told>| {
        kafka.produce(&topic, messages(0..10, 2));
        world.write("in/a.json", "{\"id\":1}\n{\"id\":2}\n");
        let built = world.path("lake/total/_delta_log/00000000000000000000.json");
        let total = async || built.exists() && world.query("SELECT * FROM total").await == [json!({"n": 10})];
        until("the view has all", total).await;
        until("the file is read", async || told.epochs.lock().unwrap().iter().any(|epoch| epoch.table == "files"))
            .await;
        // What can be seen already is told a moment later.
        let log = world.path("lake/total/_delta_log");
        let version = (0..).take_while(|version| log.join(format!("{version:020}.json")).exists()).last();
        let is_told =
            async || told.epochs.lock().unwrap().iter().any(|epoch| epoch.table == "total" && epoch.version == version);
        until("the view's epoch is told", is_told).await;
        let before = told.epochs.lock().unwrap().len();
        // A hundred triggers and more.
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(told.epochs.lock().unwrap().len(), before, "epochs without anything new");
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
    assert_eq!(summary.tables.len(), 4);
    assert_eq!(table(&summary, "again").written, 10);
    assert_eq!(table(&summary, "files").written, 2);
    assert!(told.notices.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_and_new_topics_are_found_by_one_target() {
    find_new_partitions(1).await;
}

/// Two targets that share what is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_and_new_topics_are_found_by_two_targets() {
    find_new_partitions(2).await;
}

/// Two targets of a pattern that matches nothing when they begin, one some time after the other: each finds the topic when
/// it looks for the next time.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_topic_of_a_pattern_is_read_once_by_each_of_two_targets() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic, world) = (Kafka::start(), unique("first"), World::new());
    let read = format!(
        "SELECT CAST(CAST(value AS STRING) AS BIGINT) AS id
         FROM STREAM read_kafka(bootstrapServers => '{}', subscribePattern => '{topic}.*')",
        kafka.bootstrap()
    );
    world.write(
        "sql/t.sql",
        format!(
            "CREATE EXTERNAL TABLE f STORED AS JSON LOCATION 'in';
             CREATE STREAMING TABLE late AS SELECT id FROM STREAM f;
             CREATE STREAMING TABLE t0 AS {read};
             CREATE STREAMING TABLE t1 AS {read} WHERE (SELECT count(*) FROM late) >= 0;"
        ),
    );
    let (summary, _) = follow(&world, quickly(), async |told: Arc<Told>| {
        let runs = |name: &str| told.conditions.lock().unwrap().contains(&format!("{name}: running"));
        until("the first runs", async || runs("t0")).await;
        // So that they do not look at the same moment; either way the answer is the same.
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.write("in/a.json", r#"{"id": 0}"#);
        until("the second runs", async || runs("t1")).await;
        kafka.create_topic(&topic, 1, &[]);
        for id in 0..150 {
            kafka.produce(&topic, [Message::new(id.to_string())]);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        until("all of them", async || written(&told) >= 301).await;
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
    for table in ["t0", "t1"] {
        let sql = format!("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM {table}");
        assert_eq!(world.query(&sql).await, [json!({"n": 150, "ids": 150})], "{table}");
    }
}

/// Twice more than may wait: neither reading stands in the way of the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_may_read_a_topic_twice() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::start(), unique("twice"));
    kafka.create_topic(&topic, 1, &[]);
    let world = World::new();
    let source = |name| {
        let broker = kafka.bootstrap();
        format!("CREATE EXTERNAL TABLE {name} (id BIGINT) STORED AS KAFKA LOCATION 'kafka://{broker}/{topic}';")
    };
    let query = "SELECT id FROM STREAM a UNION ALL SELECT -id FROM STREAM b";
    world.write("sql/t.sql", format!("{}{}CREATE STREAMING TABLE t AS {query};", source("a"), source("b")));
    let pad = "x".repeat(1000);
    kafka.produce(&topic, (1..=20_000).map(|id| Message::new(format!(r#"{{"id": {id}, "pad": "{pad}"}}"#))));
    let (summary, _) = follow(&world, quickly(), async |told: Arc<Told>| {
        until("both", async || written(&told) == 40_000).await;
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
    let sql = "SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(id) AS sum FROM t";
    assert_eq!(world.query(sql).await, [json!({"n": 40_000, "ids": 40_000, "sum": 0})]);
}

async fn find_new_partitions(targets: u64) {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::start(), unique("grows"));
    kafka.create_topic(&topic, 1, &[]);
    let world = World::new();
    let broker = kafka.bootstrap();
    let target = |number| {
        format!(
            "CREATE STREAMING TABLE t{number} AS SELECT CAST(CAST(value AS STRING) AS BIGINT) AS id
             FROM STREAM read_kafka(bootstrapServers => '{broker}', subscribePattern => '{topic}.*');\n"
        )
    };
    world.write("sql/t.sql", (0..targets).map(target).collect::<String>());
    let plain = |id: i64, partition| Message::new(id.to_string()).partition(partition);
    let (summary, _) = follow(&world, quickly(), async |told: Arc<Told>| {
        kafka.produce(&topic, [plain(0, 0)]);
        until("the first", async || written(&told) == targets).await;
        kafka.add_partitions(&topic, 3);
        kafka.produce(&topic, [plain(1, 1), plain(2, 2), plain(3, 0)]);
        let other = format!("{topic}-too");
        kafka.create_topic(&other, 1, &[]);
        kafka.produce(&other, [plain(4, 0)]);
        until("all of them", async || written(&told) == 5 * targets).await;
        // What was there before is still read.
        kafka.produce(&topic, [plain(5, 1), plain(6, 0)]);
        until("what came later", async || written(&told) == 7 * targets).await;
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
    for number in 0..targets {
        let sql = format!("SELECT array_agg(id ORDER BY id) AS ids FROM t{number}");
        assert_eq!(world.query(&sql).await, [json!({"ids": [0, 1, 2, 3, 4, 5, 6]})]);
    }
}

/// A copy that was behind becomes the leader, and the partition grows past what was read again: offsets alone would not show
/// that other messages lie there now.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_an_unclean_election_has_replaced_are_no_others() {
    if left_out("kafka") {
        return;
    }
    let kafka = Kafka::alone();
    let mut brokers = BTreeMap::from([2, 3].map(|id| (id, kafka.join(id))));
    for strict in [true, false] {
        let topic = unique("unclean");
        kafka.create_topic_on(&topic, &[&[2, 3]], &[("unclean.leader.election.enable", "true")]);
        let world = project(&kafka, &topic, &format!("failOnDataLoss '{strict}'"));
        let (summary, _) = follow(&world, quickly(), async |told: Arc<Told>| {
            kafka.produce(&topic, messages(0..50, 1));
            until("both copies have it", async || kafka.leader(&topic).1.len() == 2).await;
            // A machine that stood still may have changed who leads.
            let ahead = kafka.leader(&topic).0;
            let behind = 5 - ahead;
            tokio::task::block_in_place(|| brokers.get_mut(&behind).unwrap().kill());
            until("one copy is left", async || kafka.leader(&topic) == (ahead, vec![ahead])).await;
            kafka.produce(&topic, messages(50..100, 1));
            until("what will be lost is read", async || written(&told) == 100).await;
            tokio::task::block_in_place(|| {
                brokers.get_mut(&ahead).unwrap().kill();
                brokers.get_mut(&behind).unwrap().start();
            });
            until("the other copy leads", async || kafka.leader(&topic).0 == behind).await;
            kafka.produce(&topic, messages(1100..1300, 1));
            let is_over = async || {
                let ended = told.conditions.lock().unwrap().iter().any(|said| said.starts_with("t: failed"));
                ended || written(&told) == 300
            };
            until("it is noticed", is_over).await;
        })
        .await;
        let t = table(&summary, "t");
        if strict {
            let error = summary.error.as_ref().unwrap();
            assert_eq!(error.kind().name(), "data", "{error}");
            assert!(error.message().contains("ends at offset 50, but 100 was to be read next"), "{error}");
            assert_eq!(t.written, 100);
        } else {
            assert!(summary.error.is_none(), "{summary:?}");
            assert_eq!((t.written, t.lost), (300, None));
            assert_eq!(ids(&world).await, (0..100).chain(1100..1300).collect::<Vec<_>>());
        }
        tokio::task::block_in_place(|| brokers.values_mut().for_each(Broker::start));
    }
}

/// Neither where it is being read, nor where reading begins again meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_holds_up_no_other() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::alone(), "halved");
    let mut broker = kafka.join(2);
    kafka.create_topic_on(topic, &[&[1], &[2]], &[]);
    let world = project(&kafka, topic, "");
    let produce = |ids: std::ops::Range<i64>, partition| {
        kafka.produce(topic, ids.map(|id| Message::new(json!({ "id": id }).to_string()).partition(partition)));
    };
    produce(0..50, 0);
    produce(50..100, 1);
    let (first, _) = follow(&world, quickly(), async |told: Arc<Told>| {
        until("both", async || written(&told) == 100).await;
        tokio::task::block_in_place(|| broker.kill());
        until("one of them has no leader", async || kafka.partitions(topic) == 0).await;
        // A bounded reading cannot know where that one ends.
        let bounded = project(&kafka, topic, "").run_with(&["sql"], &RunOptions::default()).await;
        let error = bounded.error.unwrap();
        assert!(error.message().contains("partition 1 of `halved`: Broker: Leader not available"), "{error}");
        produce(100..150, 0);
        until("the other goes on", async || written(&told) == 150).await;
    })
    .await;
    let (second, _) = follow(&world, quickly(), async |told: Arc<Told>| {
        produce(150..200, 0);
        until("the other begins again", async || written(&told) == 50).await;
        tokio::task::block_in_place(|| broker.start());
        until("both have a leader", async || kafka.partitions(topic) == 2).await;
        produce(200..250, 1);
        until("both again", async || written(&told) == 100).await;
    })
    .await;
    assert!(first.error.is_none() && second.error.is_none(), "{first:?} {second:?}");
    assert_eq!(ids(&world).await, (0..250).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_is_no_event() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::alone(), "away");
    kafka.create_topic(topic, 3, &[]);
    let world = project(&kafka, topic, "");
    kafka.produce(topic, messages(0..2000, 3));
    let (summary, _) = follow(&world, quickly(), async |told: Arc<Told>| {
        until("before", async || written(&told) == 2000).await;
        for round in 1..=2 {
            tokio::task::block_in_place(|| kafka.kill());
            tokio::time::sleep(Duration::from_secs(3)).await;
            tokio::task::block_in_place(|| kafka.restart());
            kafka.produce(topic, messages(round * 2000..(round + 1) * 2000, 3));
            until("after", async || written(&told) == (round as u64 + 1) * 2000).await;
        }
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
    assert_whole(&world, 6000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_ends_alone() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::start(), unique("alone"));
    kafka.create_topic(&topic, 1, &[]);
    let world = project(kafka, &topic, "");
    world.write(
        "sql/strict.sql",
        "CREATE STREAMING TABLE strict (CONSTRAINT small EXPECT (id < 5) ON VIOLATION FAIL UPDATE) AS SELECT id FROM STREAM k;",
    );
    let (summary, told) = follow(&world, quickly(), async |told: Arc<Told>| {
        kafka.produce(&topic, messages(0..3, 1));
        until("both", async || written(&told) == 6).await;
        kafka.produce(&topic, messages(3..10, 1));
        let failed = async || told.conditions.lock().unwrap().iter().any(|said| said.starts_with("strict: failed"));
        until("strict fails", failed).await;
        kafka.produce(&topic, messages(10..20, 1));
        until("t goes on", async || written(&told) >= 3 + 20).await;
    })
    .await;
    assert_eq!(summary.status, Status::Failed);
    assert_eq!(summary.error.as_ref().unwrap().kind().name(), "data");
    assert_eq!(table(&summary, "t").written, 20);
    assert!(table(&summary, "t").error.is_none());
    assert!(table(&summary, "strict").error.is_some());
    assert!(!told.conditions.lock().unwrap().iter().any(|said| said.starts_with("t: failed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_while_it_is_followed_stops_or_is_read_from_its_start() {
    if left_out("kafka") {
        return;
    }
    let kafka = Kafka::start();
    for strict in [true, false] {
        let topic = unique("remade");
        kafka.create_topic(&topic, 1, &[]);
        let world = project(kafka, &topic, &format!("failOnDataLoss '{strict}'"));
        let (summary, _) = follow(&world, quickly(), async |told: Arc<Told>| {
            kafka.produce(&topic, messages(0..100, 1));
            until("the first life", async || written(&told) == 100).await;
            kafka.delete_topic(&topic);
            kafka.create_topic(&topic, 1, &[]);
            kafka.produce(&topic, messages(1000..1300, 1));
            let failed = async || told.conditions.lock().unwrap().iter().any(|said| said.starts_with("t: failed"));
            match strict {
                true => until("it stops", failed).await,
                false => until("the second life", async || written(&told) == 400).await,
            }
        })
        .await;
        if strict {
            let error = summary.error.expect("a loss");
            assert!(error.message().contains("deleted"), "{error}");
            assert_eq!(table(&world_summary(&world).await, "t").read, 0);
        } else {
            assert!(summary.error.is_none(), "{summary:?}");
            assert_eq!(table(&summary, "t").lost, None);
            assert_eq!(ids(&world).await.len(), 400);
        }
    }
}

async fn world_summary(world: &World) -> Summary {
    world.run_with(&["sql"], &RunOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_merged_and_the_log_is_folded_while_epochs_go_on() {
    let world = World::new();
    world.write(
        "sql/t.sql",
        "CREATE EXTERNAL TABLE f (id BIGINT) STORED AS JSON LOCATION 'in' OPTIONS (maxFilesPerTrigger 1);
         CREATE STREAMING TABLE t AS SELECT id FROM STREAM f;
         CREATE STREAMING TABLE follower AS SELECT id FROM STREAM t;",
    );
    let files = 800;
    (0..files).for_each(|id| world.write(&format!("in/{id:05}.json"), format!("{{\"id\":{id}}}\nbad {id}\n")));
    let options = || StreamOptions { trigger: Some(Duration::from_millis(1)), ..StreamOptions::default() };
    let half = |told: Arc<Told>| {
        let log = world.path("lake/t/_pinsql/t/log");
        async move {
            until("half of it", async || written(&told) >= 1900).await;
            // Entries are folded when they are old.
            let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
            // The log goes on: what is being written has another ending still.
            let entries = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
            for entry in entries.filter(|path| path.extension().is_some_and(|ending| ending == "json")).take(600) {
                std::fs::File::options().write(true).open(entry).unwrap().set_modified(long_ago).unwrap();
            }
        }
    };
    follow(&world, options(), half).await;
    let (summary, _) = follow(&world, options(), async |_| {
        let done = async || world.query("SELECT count(*) AS n FROM follower").await == [json!({"n": files})];
        until("the follower has all", done).await;
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
    let expected: Vec<i64> = (0..files).collect();
    assert_eq!(ids(&world).await, expected);
    let follower = world.query("SELECT id FROM follower ORDER BY id").await;
    assert_eq!(follower.len(), expected.len(), "a merge repeats nothing for those who follow the table");
    let aside = "SELECT count(DISTINCT payload) AS n, count(*) AS rows FROM t_quarantine";
    assert_eq!(world.query(aside).await, [json!({"n": files, "rows": files})]);
    for table in ["t", "t_quarantine"] {
        let versions = std::fs::read_dir(world.path(&format!("lake/{table}/_delta_log"))).unwrap();
        let merges = versions.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok());
        let merges = merges.filter(|text| text.contains("\"operation\":\"OPTIMIZE\"")).count();
        assert!(merges >= 10, "{merges} merges of {files} files of {table}");
    }
    let log: Vec<_> = std::fs::read_dir(world.path("lake/t/_pinsql/t/log")).unwrap().collect();
    assert!(log.len() < usize::try_from(files).unwrap() - 300, "{} entries are left of {files}", log.len());
    assert!(world.path("lake/t/_pinsql/t/log/_folded.json").exists());
    assert_eq!(table(&world.run().await, "t").read, 0, "and nothing is forgotten");
}

/// `pinsql` in a process of its own.
struct Process(Child);

impl Process {
    fn start(world: &World, arguments: &[&str], environment: &[(&str, String)]) -> Self {
        let mut command = Command::new(binary());
        command.current_dir(world.path("")).args(arguments).envs(environment.iter().map(|(key, value)| (key, value)));
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end: the status, the last line of output as JSON, and standard error.
    fn end(mut self) -> (Option<i32>, Value, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let status = self.0.wait().unwrap().code();
        let last = out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        (status, last, err)
    }

    /// Waits until it says a line on standard error that begins so.
    fn says(&mut self, beginning: &str) {
        let mut reader = BufReader::new(self.0.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with(beginning) {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "it never said `{beginning}`");
        }
        self.0.stderr = Some(reader.into_inner());
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_stops_a_stream_and_a_second_instance_stops_itself() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::start(), unique("signals"));
    kafka.create_topic(&topic, 2, &[]);
    let world = project(kafka, &topic, "");
    kafka.produce(&topic, messages(0..100, 2));
    let first = Process::start(&world, &["stream", "sql", "--json", "--trigger", "50ms"], &[]);
    let count = async || world.path("lake/t/_delta_log/00000000000000000001.json").exists();
    until("the first commits", count).await;
    let (status, summary, complaint) = Process::start(&world, &["stream", "sql", "--json"], &[]).end();
    assert_eq!((status, &summary["error"]["kind"]), (Some(1), &json!("conflict")), "{summary} {complaint}");
    first.signal("TERM");
    let (status, summary, complaint) = first.end();
    assert_eq!(status, Some(0), "{complaint}");
    assert_eq!(summary["status"], "stopped");
    assert_eq!(summary["tables"][0]["read"], 100, "{summary}");
    assert_whole(&world, 100).await;
    let (status, summary, _) = Process::start(&world, &["status", "sql", "--json"], &[]).end();
    assert_eq!(status, Some(0));
    assert_eq!(summary["tables"][0]["sources"][0]["position"], format!("{topic} 0:50 1:50"), "{summary}");
    assert_eq!(summary["tables"][0]["lag"], 0);
}

/// A broker that takes connections, and says nothing; and a project that reads it.
fn silence() -> (TcpListener, World) {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = project_at(&broker.local_addr().unwrap().to_string(), "silence", "");
    (broker, world)
}

#[test]
fn a_signal_ends_a_command_that_waits_for_its_broker() {
    for (command, status) in [("run", 143), ("stream", 0)] {
        let (broker, world) = silence();
        let process = Process::start(&world, &[command, "sql", "--json"], &[]);
        let _connection = broker.accept().unwrap();
        process.signal("TERM");
        let (ended, summary, complaint) = process.end();
        assert_eq!((ended, &summary["status"]), (Some(status), &json!("stopped")), "{command}: {summary} {complaint}");
    }
}

/// They agree before either of them has written anything.
#[test]
fn instances_that_begin_at_once_agree_on_how_many_they_are() {
    let (broker, world) = silence();
    let start = |slot: &str| Process::start(&world, &["stream", "sql", "--json", "--slot", slot], &[]);
    let first = start("0/2");
    let _connection = broker.accept().unwrap();
    let (status, summary, _) = start("1/3").end();
    assert_eq!((status, &summary["error"]["kind"]), (Some(1), &json!("conflict")), "{summary}");
    assert!(summary["error"]["message"].as_str().unwrap().contains("2 instances"), "{summary}");
    first.signal("TERM");
    assert_eq!(first.end().0, Some(0));
}

#[test]
fn a_merge_adds_something_to_each_of_its_files() {
    for (sizes, worth) in [
        (&[][..], 0),
        (&[5], 0),
        (&[5, 5], 2),
        (&[1, 8], 2),
        (&[1, 9], 0),
        (&[1, 1, 1, 100], 3),
        (&[1, 1, 2, 33, 300], 3),
        (&[1, 1, 2, 30, 270], 5),
        (&[2, 2, 40, 400], 2),
    ] {
        assert_eq!(worth_merging(sizes), worth, "{sizes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_share_the_partitions_of_a_table() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic) = (Kafka::start(), unique("slots"));
    kafka.create_topic(&topic, 5, &[]);
    let world = project(kafka, &topic, "");
    kafka.produce(&topic, messages(0..5000, 5));
    let start =
        |slot: &str| Process::start(&world, &["stream", "sql", "--json", "--trigger", "50ms", "--slot", slot], &[]);
    let instances: Vec<Process> = ["0/3", "1/3", "2/3"].into_iter().map(start).collect();
    kafka.produce(&topic, messages(5000..8000, 5));
    let all = async || {
        let first = "_delta_log/00000000000000000000.json";
        let is_built = |table| world.path(&format!("lake/{table}/{first}")).exists();
        is_built("t") && is_built("t_quarantine") && {
            let rows =
                world.query("SELECT count(*) AS n FROM t UNION ALL SELECT count(*) AS n FROM t_quarantine").await;
            rows.iter().map(|row| row["n"].as_i64().unwrap()).sum::<i64>() == 8000
        }
    };
    until("all are there", all).await;
    for instance in instances {
        instance.signal("TERM");
        let (status, summary, complaint) = instance.end();
        assert_eq!((status, &summary["status"]), (Some(0), &json!("stopped")), "{summary} {complaint}");
    }
    assert_whole(&world, 8000).await;
    let (status, summary, _) = start("0/2").end();
    assert_eq!((status, &summary["error"]["kind"]), (Some(1), &json!("conflict")), "{summary}");
    let (status, summary, _) = Process::start(&world, &["run", "sql", "--json"], &[]).end();
    assert_eq!((status, &summary["error"]["kind"]), (Some(1), &json!("conflict")), "{summary}");
    // Nor does anybody write to it who does not know its statement.
    world.write("sql/t.sql", "SELECT 1;");
    for sql in ["INSERT INTO t SELECT * FROM t", "CREATE OR REPLACE TABLE t AS SELECT 1 AS a"] {
        let error = world.refused(sql).await;
        assert!(error.message().contains("filled by"), "{error}");
    }
    assert_whole(&world, 8000).await;
}

/// How many instances there are is said before the first of them reads anything; whoever mistook the number begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_instances_can_be_taken_back() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = project_at(&port.to_string(), "nowhere", "");
    let error = async |index, count| {
        let slot = Some(SlotOf { index, count });
        let options = StreamOptions { slot, ..StreamOptions::default() };
        world.open(&["sql"]).await.unwrap().0.stream(&options).await.error.unwrap()
    };
    assert!(error(0, 2).await.message().contains("does not answer"));
    assert!(error(0, 3).await.message().contains("shared by 2 instances"));
    world.query("DROP TABLE t").await;
    assert!(error(0, 3).await.message().contains("does not answer"));
}

/// A step that does not end in time is left, and what became of the others is still told.
#[test]
fn a_stream_that_is_stopped_in_a_long_step_tells_what_failed() {
    let (broker, world) = silence();
    world.write("in/a.json", "{\"id\":1}\n");
    world.write(
        "sql/t.sql",
        "CREATE EXTERNAL TABLE s (id BIGINT) STORED AS JSON LOCATION 'in';
         CREATE STREAMING TABLE strict (CONSTRAINT large EXPECT (id > 9) ON VIOLATION FAIL UPDATE) AS SELECT id FROM STREAM s;
         CREATE EXTERNAL TABLE silent (id BIGINT) STORED AS KAFKA LOCATION 'kafka://SERVER/silence';
         CREATE MATERIALIZED VIEW long AS SELECT count(*) AS n FROM silent;"
            .replace("SERVER", &broker.local_addr().unwrap().to_string()),
    );
    let mut stream = Process::start(&world, &["stream", "sql", "--json"], &[]);
    stream.says("strict: failed");
    stream.signal("TERM");
    let (status, summary, complaint) = stream.end();
    assert_eq!((status, summary["tables"].as_array().map(Vec::len)), (Some(1), Some(2)), "{summary} {complaint}");
    assert!(summary["tables"][0]["error"]["message"].as_str().unwrap().contains("large"), "{summary}");
}

/// A computation that never gives way does not keep whoever ends the process waiting.
#[test]
fn a_stream_that_computes_without_looking_up_is_left() {
    let world = World::new();
    world.write("in/a.json", "{\"id\":1}\n");
    world.write(
        "sql/t.sql",
        "CREATE EXTERNAL TABLE s (id BIGINT) STORED AS JSON LOCATION 'in';
         CREATE STREAMING TABLE strict (CONSTRAINT large EXPECT (id > 9) ON VIOLATION FAIL UPDATE) AS SELECT id FROM STREAM s;
         CREATE MATERIALIZED VIEW endless AS
           SELECT count(*) AS n FROM s CROSS JOIN generate_series(1, 9000000) a CROSS JOIN generate_series(1, 9000000) b;",
    );
    let mut stream = Process::start(&world, &["stream", "sql", "--json"], &[]);
    stream.says("strict: failed");
    stream.signal("TERM");
    let (status, summary, complaint) = stream.end();
    assert_eq!((status, &summary["status"]), (Some(1), &json!("stopped")), "{summary} {complaint}");
}

/// Whoever has looked through a quarantine drops it, and does not stop the stream for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_that_is_dropped_beside_its_stream_begins_anew() {
    let world = World::new();
    world.write("in/a.json", "bad 1\n");
    world.write(
        "sql/t.sql",
        "CREATE EXTERNAL TABLE s (id BIGINT) STORED AS JSON LOCATION 'in';
         CREATE STREAMING TABLE t AS SELECT id FROM STREAM s;
         CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s;",
    );
    let is_there = |name: &str| world.path(&format!("lake/{name}_quarantine/_delta_log")).exists();
    let (summary, _) = follow(&world, quickly(), async |_| {
        for round in 2..5 {
            until("both quarantines", async || is_there("t") && is_there("v")).await;
            world.query("DROP TABLE t_quarantine; DROP TABLE v_quarantine").await;
            world.write(&format!("in/{round}.json"), format!("bad {round}\n"));
        }
        until("both quarantines again", async || is_there("t") && is_there("v")).await;
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
    let sql = "SELECT CAST(payload AS STRING) AS payload FROM t_quarantine";
    assert_eq!(world.query(sql).await, [json!({"payload": "bad 4"})]);
    let sql = "SELECT count(DISTINCT payload) AS n, count(*) AS rows FROM v_quarantine";
    assert_eq!(world.query(sql).await, [json!({"n": 4, "rows": 4})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_beside_a_stream_is_refused_for_views_as_well() {
    let world = World::new();
    world.write("in/a.json", "{\"id\":1}\n");
    world.write(
        "sql/v.sql",
        "CREATE EXTERNAL TABLE s (id BIGINT) STORED AS JSON LOCATION 'in';
         CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s;",
    );
    let (summary, _) = follow(&world, quickly(), async |_| {
        let built = async || world.path("lake/v/_delta_log/00000000000000000000.json").exists();
        until("the view", built).await;
        let error = world.run_with(&["sql"], &RunOptions::default()).await.error.unwrap();
        assert_eq!(error.kind().name(), "conflict", "{error}");
    })
    .await;
    assert!(summary.error.is_none(), "{summary:?}");
}

fn seed() -> u64 {
    let seed = std::env::var("PINSQL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("PINSQL_SEED={seed}");
    seed
}

/// How many messages the rounds of kills go over: a few in the suite, a million by hand.
fn kill_messages() -> i64 {
    std::env::var("PINSQL_KILL_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(60_000)
}

/// Starts and kills, until everything is there. `between` may do worse.
async fn kill_until_done(
    world: &World,
    arguments: &[&str],
    environment: &[(&str, String)],
    total: i64,
    mut between: impl FnMut(&mut StdRng),
) {
    let mut random = StdRng::seed_from_u64(seed());
    let is_run = arguments[0] == "run";
    let mut kills = 0;
    loop {
        let mut process = Process::start(world, arguments, environment);
        // Each life may be longer: on a slow machine too one of them commits something.
        let life = random.random_range(300..2000 + 200 * kills);
        for _ in 0..life / 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if process.has_ended() {
                break;
            }
        }
        if process.has_ended() {
            let (status, summary, complaint) = process.end();
            assert_eq!(status, Some(0), "{summary} {complaint}");
            assert!(is_run, "a stream ends when it is told to");
            break;
        }
        if !is_run && lines(world, environment).await == total {
            process.signal("TERM");
            assert_eq!(process.end().0, Some(0));
            break;
        }
        process.signal("KILL");
        let _ = process.end();
        kills += 1;
        between(&mut random);
    }
    println!("{kills} kills, {total} messages");
}

/// Rows of the table and of its quarantine, by a reader of its own process.
async fn lines(world: &World, environment: &[(&str, String)]) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM t_quarantine) AS n";
    let mut command = Command::new(binary());
    command.current_dir(world.path("")).args(["-c", sql, "--json"]);
    let done = command.envs(environment.iter().map(|(key, value)| (key, value))).output().unwrap();
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    let first = out.lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
    first["n"].as_i64().unwrap_or(-1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_killed_again_and_again_reads_every_message_once() {
    if left_out("kafka") {
        return;
    }
    let (kafka, topic, total) = (Kafka::start(), unique("killed"), kill_messages());
    kafka.create_topic(&topic, 12, &[]);
    kafka.produce(&topic, messages(0..total, 12));
    let world = project(kafka, &topic, "");
    kill_until_done(&world, &["run", "sql", "--json"], &[], total, |_| {}).await;
    assert_whole(&world, usize::try_from(total).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_killed_with_its_broker_on_s3_reads_every_message_once() {
    if left_out("kafka") || left_out("s3") {
        return;
    }
    let (kafka, topic, total) = (Kafka::alone(), "killed", kill_messages() / 3);
    kafka.create_topic(topic, 12, &[]);
    kafka.produce(topic, messages(0..total, 12));
    let world = project(&kafka, topic, "");
    let moto = Moto::start();
    let lake = format!("{}/lake", moto.bucket(&unique("stream")));
    world.write("pinsql.toml", format!("lake = \"{lake}\"\n"));
    let environment: Vec<(&str, String)> = moto.environment();
    let arguments = ["stream", "sql", "--json", "--trigger", "100ms"];
    let mut rounds = 0;
    kill_until_done(&world, &arguments, &environment, total, |random| {
        rounds += 1;
        if random.random_ratio(1, 4) {
            kafka.kill();
            kafka.restart();
        }
    })
    .await;
    let judge = Process::start(
        &world,
        &[
            "--json",
            "-c",
            "SELECT count(*) AS n, count(DISTINCT part * 100000000 + off) AS places FROM
               (SELECT part, off FROM t UNION ALL
                SELECT CAST(\"partition\" AS INT), CAST(\"position\" AS BIGINT) FROM t_quarantine)",
        ],
        &environment,
    );
    let mut out = String::new();
    let Process(mut child) = judge;
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.wait().unwrap();
    let counted: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(counted, json!({"n": total, "places": total}));
}
