//! The engine through its public door: SQL in, tables out.

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
