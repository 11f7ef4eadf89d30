//! The engine through its public door: SQL in, tables out.

use std::path::Path;

use pinsql::engine::{FullRefresh, RunOptions};
use serde_json::json;

use crate::support::world::{World, table};

const EVENTS: &str = "
CREATE EXTERNAL TABLE events (id BIGINT, name STRING) STORED AS JSON LOCATION 'in/';
CREATE OR REFRESH STREAMING TABLE clean (
  CONSTRAINT named EXPECT (name IS NOT NULL) ON VIOLATION QUARANTINE ROW,
  CONSTRAINT positive EXPECT (id >= 0) ON VIOLATION DROP ROW,
  CONSTRAINT small EXPECT (id < 100)
) AS SELECT id, upper(name) AS name FROM STREAM events;
CREATE OR REFRESH MATERIALIZED VIEW names AS SELECT name, count(*) AS n FROM clean GROUP BY name;
";

fn world() -> World {
    let world = World::new();
    world.write("sql/events.sql", EVENTS);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_in_exactly_one_place() {
    let world = world();
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}\n{\"id\":-5,\"name\":\"bob\"}\nnot json\n{\"id\":2}\n{\"id\":100,\"name\":\"ann\"}\n");
    let summary = world.run().await;
    let clean = table(&summary, "clean");
    assert_eq!((clean.read, clean.written, clean.dropped, clean.quarantined), (5, 2, 1, 2), "{clean:?}");
    assert_eq!(clean.expectations["small"], 1);
    let rows = world.query("SELECT id, name FROM clean ORDER BY id").await;
    assert_eq!(rows, [json!({"id": 1, "name": "ANN"}), json!({"id": 100, "name": "ANN"})]);
    let rows = world.query("SELECT rule, reason, CAST(payload AS STRING) AS payload, position, \"row\" FROM clean_quarantine ORDER BY position").await;
    assert_eq!(rows[0]["payload"], "not json");
    assert_eq!(rows[0]["rule"], "unreadable");
    assert_eq!(rows[0]["position"], "2");
    assert_eq!(rows[1]["payload"], "{\"id\":2}");
    assert_eq!(rows[1]["rule"], "named");
    assert_eq!(rows[1]["row"], "{\"id\":2,\"name\":null}");
    assert_eq!(world.query("SELECT * FROM names").await, [json!({"name": "ANN", "n": 2})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_adds_what_is_new_and_nothing_else() {
    let world = world();
    world.write("in/b.json", "{\"id\":1,\"name\":\"ann\"}");
    assert_eq!(table(&world.run().await, "clean").version, Some(1));
    let again = world.run().await;
    assert!(again.nothing_new(), "{again:?}");
    assert_eq!(table(&again, "clean").read, 0);
    assert_eq!(table(&again, "clean").version, Some(1));
    // It sorts before the one that was read.
    world.write("in/a.json", "{\"id\":2,\"name\":\"bob\"}");
    let more = world.run().await;
    assert_eq!((table(&more, "clean").read, table(&more, "clean").version), (1, Some(2)));
    assert_eq!(world.query("SELECT count(*) AS n FROM clean").await, [json!({"n": 2})]);
    assert_eq!(world.query("SELECT n FROM names ORDER BY name").await, [json!({"n": 1}), json!({"n": 1})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_changed_stops_the_run_and_one_put_again_does_not() {
    let world = world();
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}");
    world.run().await;
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}");
    assert_eq!(table(&world.run().await, "clean").read, 0);
    world.write("in/a.json", "{\"id\":2,\"name\":\"ann\"}");
    let summary = world.run_with(&["sql"], &RunOptions::default()).await;
    let error = summary.error.unwrap();
    assert!(
        error.message().contains("a.json") && error.message().contains("was changed after it was read"),
        "{error:?}"
    );
    assert_eq!(error.kind().exit_status(), 1);
    assert_eq!(world.query("SELECT id FROM clean").await, [json!({"id": 1})]);
    let over = RunOptions { full_refresh: FullRefresh::All, ..RunOptions::default() };
    let summary = world.run_with(&["sql"], &over).await;
    assert!(summary.error.is_none(), "{summary:?}");
    assert_eq!(world.query("SELECT id FROM clean").await, [json!({"id": 2})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_a_stream_of_what_its_versions_added() {
    let world = world();
    world.write(
        "sql/loud.sql",
        "CREATE STREAMING TABLE loud AS SELECT id, name || '!' AS name FROM STREAM clean WHERE id < 50;",
    );
    for (number, total) in [(1, 1), (2, 2), (3, 3)] {
        world.write(&format!("in/{number}.json"), format!("{{\"id\":{number},\"name\":\"x\"}}"));
        let summary = world.run().await;
        assert_eq!(table(&summary, "loud").read, 1, "{summary:?}");
        assert_eq!(world.query("SELECT count(*) AS n FROM loud").await, [json!({ "n": total })]);
        world.query("OPTIMIZE clean").await;
    }
    assert_eq!(table(&world.run().await, "loud").read, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_epochs_give_the_table_of_one() {
    let world = world();
    for number in 0..40 {
        world.write(
            &format!("in/{number}.json"),
            format!("{{\"id\":{number},\"name\":\"n{}\"}}\nbad {number}\n", number % 7),
        );
    }
    let options = RunOptions { max_records: Some(3), ..RunOptions::default() };
    let summary = world.run_with(&["sql"], &options).await;
    let clean = table(&summary, "clean");
    assert_eq!((clean.epochs, clean.read, clean.written, clean.quarantined), (14, 80, 40, 40), "{summary:?}");
    assert_eq!(
        world.query("SELECT count(DISTINCT id) AS d, count(*) AS n FROM clean").await,
        [json!({"d": 40, "n": 40})]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_says_how_large_its_epochs_and_files_are_and_where_its_quarantine_is() {
    let world = World::new();
    let of = |name: &str, properties: &str| {
        format!("CREATE STREAMING TABLE {name} TBLPROPERTIES ({properties}) AS SELECT id, text FROM STREAM f;\n")
    };
    world.write(
        "sql/t.sql",
        "CREATE EXTERNAL TABLE f (id BIGINT, text STRING) STORED AS JSON LOCATION 'in';\n".to_owned()
            + &of("plain", "'pinsql.trigger' = '1s'")
            + &of("small", "'pinsql.max_records' = '3', 'pinsql.quarantine' = 'bad'")
            + &of("fine", "'pinsql.target_file_size' = '100kb'"),
    );
    for file in 0..10 {
        let text = || format!("{:x}{:x}{:x}", rand::random::<u128>(), rand::random::<u128>(), rand::random::<u128>());
        let line = |id: i64| json!({"id": id, "text": text()}).to_string();
        let lines: Vec<String> = (0..1000).map(|id| line(file * 1000 + id)).chain(["bad".to_owned()]).collect();
        world.write(&format!("in/{file}.json"), lines.join("\n"));
    }
    let summary = world.run().await;
    let epochs = |name: &str| table(&summary, name).epochs;
    assert_eq!((epochs("plain"), epochs("small"), epochs("fine")), (1, 4, 1), "{summary:?}");
    for (quarantine, is_there) in [("plain_quarantine", true), ("bad", true), ("small_quarantine", false)] {
        assert_eq!(world.path(&format!("lake/{quarantine}")).exists(), is_there, "{quarantine}");
    }
    assert_eq!(world.query("SELECT count(*) AS n FROM bad").await, [json!({"n": 10})]);
    let files = |name: &str| {
        let entries = std::fs::read_dir(world.path(&format!("lake/{name}"))).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "parquet")).count()
    };
    assert!(files("plain") < files("fine"), "{} {}", files("plain"), files("fine"));
    for name in ["plain", "small", "fine"] {
        let sql = format!("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM {name}");
        assert_eq!(world.query(&sql).await, [json!({"n": 10_000, "ids": 10_000})], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_may_be_far_away() {
    let rows = world().query("SELECT CAST('9999-12-31 23:59:59' AS TIMESTAMP) AS t, TIMESTAMP '1600-01-01' AS u").await;
    assert_eq!(rows, [json!({"t": "9999-12-31T23:59:59", "u": "1600-01-01T00:00:00"})]);
}

/// The names of a folder's files, those of its folders too.
fn files(folder: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    listed.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path.display().to_string()] }).collect()
}

async fn payloads(world: &World, table: &str) -> Vec<serde_json::Value> {
    world.query(&format!("SELECT CAST(payload AS STRING) AS payload FROM {table} ORDER BY payload")).await
}

/// Whoever has looked through a quarantine drops it. It does not come back with files that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_that_was_dropped_begins_anew() {
    let world = world();
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}\nbad 1\n");
    world.run().await;
    world.query("DROP TABLE clean_quarantine").await;
    assert!(world.run().await.nothing_new());
    assert_eq!(files(&world.path("lake/clean_quarantine")), [""; 0], "nothing is put where nothing is left");
    world.write("in/b.json", "bad 2\n");
    world.run().await;
    assert_eq!(payloads(&world, "clean_quarantine").await, [json!({"payload": "bad 2"})]);
}

/// Rows go where they were meant to go when they were put aside, whatever became of the statement since.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_that_was_renamed_begins_empty_and_the_old_one_is_whole() {
    let world = world();
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}\nbad 1\n");
    world.run().await;
    // The process died behind the entry of the log, and before the quarantine's commit.
    let commit = world.path("lake/clean_quarantine/_delta_log/00000000000000000000.json");
    std::fs::remove_file(commit).unwrap();
    let renamed = EVENTS.replacen(") AS SELECT", ") TBLPROPERTIES ('pinsql.quarantine' = 'bad') AS SELECT", 1);
    world.write("sql/events.sql", renamed);
    world.run().await;
    assert_eq!(payloads(&world, "clean_quarantine").await, [json!({"payload": "bad 1"})]);
    assert_eq!(files(&world.path("lake/bad")), [""; 0]);
    world.write("in/b.json", "bad 2\n");
    let summary = world.run().await;
    assert_eq!(table(&summary, "clean").quarantine, "bad");
    assert_eq!(payloads(&world, "bad").await, [json!({"payload": "bad 2"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_is_no_table_of_something_else() {
    let world = world();
    world.write("in/a.json", "bad 1\n");
    world.query("CREATE TABLE other AS SELECT 1 AS a").await;
    for (name, kind) in [("clean", "config"), ("names", "config"), ("events", "config"), ("other", "conflict")] {
        let property = format!(") TBLPROPERTIES ('pinsql.quarantine' = '{name}') AS SELECT");
        world.write("sql/events.sql", EVENTS.replacen(") AS SELECT", &property, 1));
        let error = world.run_with(&["sql"], &RunOptions::default()).await.error.unwrap();
        assert_eq!(error.kind().name(), kind, "{name}: {error}");
        assert!(error.message().contains(name) && error.message().contains("quarantine"), "{error}");
    }
    assert_eq!(world.query("SELECT * FROM other").await, [json!({"a": 1})]);
    // A view that is computed anew would empty what a streaming table has put aside.
    world.write(
        "sql/events.sql",
        EVENTS.replacen(
            "names AS SELECT",
            "names TBLPROPERTIES ('pinsql.quarantine' = 'clean_quarantine') AS SELECT",
            1,
        ),
    );
    let error = world.run_with(&["sql"], &RunOptions::default()).await.error.unwrap();
    assert!(error.message().contains("it is that of"), "{error}");
    // What is made once has none.
    world.query("CREATE TABLE once AS SELECT 1 AS a; CREATE TABLE once_quarantine AS SELECT 2 AS a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_path_the_project_is_meant() {
    let world = world();
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}\n");
    let summary = world.run_with(&[], &RunOptions::default()).await;
    assert_eq!(table(&summary, "clean").written, 1, "{summary:?}");
    let found = world.open(&[]).await.unwrap().0.status().await;
    assert_eq!(found.tables.iter().map(|table| table.table.as_str()).collect::<Vec<_>>(), ["clean", "names"]);
    let nowhere = World::new();
    std::fs::remove_file(nowhere.path("pinsql.toml")).unwrap();
    let error = nowhere.run_with(&[], &RunOptions::default()).await.error.unwrap();
    assert!(error.message().contains("there is no .sql file here, and none of a pinsql.toml"), "{error}");
    // A profile that nobody defines must not be the default by mistake.
    let mut nowhere = nowhere;
    nowhere.invocation.profile = Some("prod".to_owned());
    let error = nowhere.open(&[]).await.err().unwrap();
    assert!(error.message().contains("has the profile `prod`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn if_not_exists_leaves_what_is_there() {
    let world = World::new();
    world.write("in/a.json", "{\"id\":1}\n");
    world.write("other/a.json", "{\"id\":2}\n");
    let rows = world
        .query(
            "CREATE VIEW v AS SELECT 1 AS a; CREATE VIEW IF NOT EXISTS v AS SELECT 2 AS a;
             CREATE EXTERNAL TABLE s (id BIGINT) STORED AS JSON LOCATION 'in';
             CREATE EXTERNAL TABLE IF NOT EXISTS s (id BIGINT) STORED AS JSON LOCATION 'other';
             CREATE STREAMING TABLE t AS SELECT id FROM STREAM s;
             CREATE STREAMING TABLE IF NOT EXISTS t AS SELECT id * 10 AS id FROM STREAM s;
             SELECT a, id, (SELECT sum(id) FROM t) AS t FROM v CROSS JOIN s",
        )
        .await;
    assert_eq!(rows, [json!({"a": 1, "id": 1, "t": 1})]);
    // What was dropped, or never came to anything, is not there.
    let (mut engine, told) = world.open(&[]).await.unwrap();
    engine
        .execute("-c", "CREATE TABLE u AS SELECT 1 AS a; DROP TABLE u; CREATE VIEW w AS SELECT 1 AS a")
        .await
        .unwrap();
    engine.execute("-c", "CREATE VIEW x AS SELECT a FROM nowhere").await.unwrap_err();
    let again = "CREATE TABLE IF NOT EXISTS u AS SELECT 2 AS a; CREATE VIEW IF NOT EXISTS x AS SELECT 3 AS a;
                 SELECT u.a AS u, x.a AS x FROM u CROSS JOIN x";
    engine.execute("-c", again).await.unwrap();
    let rows = crate::support::world::json(&told.rows.lock().unwrap());
    assert_eq!(rows, [json!({"u": 2, "x": 3})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_means_nothing_here_is_said_once() {
    let world = World::new();
    let sql = "CREATE EXTERNAL TABLE s (id BIGINT) STORED AS JSON LOCATION 'in';
               CREATE STREAMING TABLE t CLUSTER BY (id) SCHEDULE EVERY 1 HOUR AS SELECT id FROM STREAM s;";
    world.write("sql/t.sql", sql);
    let (mut engine, told) = world.open(&["sql"]).await.unwrap();
    assert!(engine.run(&RunOptions::default()).await.error.is_none());
    let notices = told.notices.lock().unwrap();
    assert_eq!(notices.iter().filter(|words| words.contains("CLUSTER BY")).count(), 1, "{notices:?}");
    assert_eq!(notices.iter().filter(|words| words.contains("SCHEDULE")).count(), 1, "{notices:?}");
}

/// The newest `metaData` of a table.
fn described(world: &World, table: &str) -> serde_json::Value {
    let mut versions = files(&world.path(&format!("lake/{table}/_delta_log")));
    versions.sort_unstable();
    let texts = versions.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let actions: Vec<serde_json::Value> = texts
        .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
        .collect();
    actions.iter().rev().find_map(|action: &serde_json::Value| action.get("metaData").cloned()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn edited_properties_reach_the_table() {
    let world = world();
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}\n");
    world.run().await;
    let write = |clauses: &str| {
        world.write("sql/events.sql", EVENTS.replacen(") AS SELECT", &format!(") {clauses} AS SELECT"), 1))
    };
    write("COMMENT 'clean' TBLPROPERTIES ('delta.logRetentionDuration' = 'interval 7 days')");
    let first = table(&world.run().await, "clean").version;
    let found = described(&world, "clean");
    assert_eq!(found["description"], "clean");
    assert_eq!(found["configuration"], json!({"delta.logRetentionDuration": "interval 7 days"}));
    world.write("in/b.json", "{\"id\":2,\"name\":\"bob\"}\n");
    assert_eq!(table(&world.run().await, "clean").version, first.map(|version| version + 1), "once, and rows go on");
    write("TBLPROPERTIES ('delta.appendOnly' = 'false')");
    world.run().await;
    let both = json!({"delta.appendOnly": "false", "delta.logRetentionDuration": "interval 7 days"});
    assert_eq!(described(&world, "clean")["configuration"], both);
    assert_eq!(world.query("SELECT sum(id) AS n FROM clean").await, [json!({"n": 3})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_how_far_sources_are_read_and_what_is_refused() {
    let world = world();
    world.write("in/a.json", "{\"id\":1,\"name\":\"ann\"}\n");
    let plan = async || {
        let (mut engine, told) = world.open(&["sql"]).await.unwrap();
        let summary = engine.plan().await;
        let rows = crate::support::world::json(&told.rows.lock().unwrap());
        (summary, rows)
    };
    let (summary, rows) = plan().await;
    assert!(summary.error.is_none(), "{summary:?}");
    assert_eq!(rows.iter().map(|row| &row["action"]).collect::<Vec<_>>(), ["build", "build"]);
    assert_eq!(rows.iter().map(|row| &row["step"]).collect::<Vec<_>>(), ["1", "2"]);
    world.run().await;
    let (_, rows) = plan().await;
    assert!(rows[0]["positions"].as_str().unwrap().starts_with("events: "), "{rows:?}");
    assert!(rows[0]["action"].as_str().unwrap().starts_with("go on behind epoch"), "{rows:?}");
    // A table that is built first is no reason to refuse the one that will read it.
    let joined = format!(
        "CREATE TABLE dim AS SELECT 1 AS key;\n{}",
        EVENTS.replacen("FROM STREAM events", "FROM STREAM events JOIN dim ON key > 0", 1)
    );
    world.write("sql/events.sql", joined);
    let (summary, rows) = plan().await;
    assert!(summary.error.is_none(), "{summary:?}");
    let action = rows.iter().find(|row| row["table"] == "clean").unwrap()["action"].as_str().unwrap();
    assert!(action.contains("changed query"), "{rows:?}");
    world.write("sql/events.sql", EVENTS.replacen("AS SELECT id,", "AS SELECT id, id + 1 AS more,", 1));
    let (summary, rows) = plan().await;
    assert!(
        rows[0]["action"].as_str().unwrap().contains("refused: table `clean` exists with other columns"),
        "{rows:?}"
    );
    assert_eq!(summary.tables.len(), 2, "{summary:?}");
    assert_eq!(summary.error.unwrap().kind().exit_status(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_kinesis_are_told_apart_by_their_names() {
    let world = World::new();
    let one = |name| {
        format!(
            "SELECT CAST(data AS STRING) AS data FROM STREAM read_kinesis(streamName => '{name}', region => 'eu-west-1')"
        )
    };
    world.write("sql/t.sql", format!("CREATE STREAMING TABLE t AS {} UNION ALL {};", one("a"), one("b")));
    let summary = world.open(&["sql"]).await.unwrap().0.check().await;
    assert!(summary.error.is_none(), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_of_a_source_are_shown_where_they_belong() {
    let world = World::new();
    world.write("in/a.json", "{\"id\":1}\n");
    let sql = "CREATE EXTERNAL TABLE stored_events STORED AS JSON LOCATION 'in'; SHOW CREATE TABLE stored_events";
    let shown = world.query(sql).await[0]["create_table"].to_string();
    assert!(shown.starts_with("\"CREATE EXTERNAL TABLE stored_events (\\n  id BIGINT\\n)\\nSTORED AS JSON"), "{shown}");
}
