//! SQL text to statements: every form of statement, where things stand, variables, streams, stars, types, and what wrong
//! text is answered with.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;

use pinsql::error::{Error, ErrorKind, Result};
use pinsql::sql::hide_column;
use pinsql::sql::parser::parse_script;
use pinsql::sql::query::{Query, RelationTarget, mentions};
use pinsql::sql::statement::{Action, CreateSource, CreateTarget, DropKind, Kind, SourceFormat, Statement};
use pinsql::sql::text::SqlText;
use pinsql::sql::tokens::is_complete;
use pinsql::sql::types::{parse_columns, parse_type, type_name};
use pinsql::sql::variables::Variables;

fn try_parse(sql: &str) -> Result<Vec<Statement>> {
    parse_script(&Arc::new(SqlText::new("t.sql", sql)), &Variables::none())
}

fn parse(sql: &str) -> Vec<Statement> {
    try_parse(sql).unwrap_or_else(|error| panic!("{sql}\n{error:?}"))
}

fn one(sql: &str) -> Kind {
    let mut statements = parse(sql);
    assert_eq!(statements.len(), 1, "{sql}");
    statements.remove(0).kind
}

fn fault(sql: &str) -> Error {
    try_parse(sql).err().unwrap_or_else(|| panic!("this was taken: {sql}"))
}

fn source(sql: &str) -> CreateSource {
    match one(sql) {
        Kind::Source(source) => *source,
        other => panic!("{other:?}"),
    }
}

fn target(sql: &str) -> CreateTarget {
    match one(sql) {
        Kind::StreamingTable(target) | Kind::MaterializedView(target) | Kind::TableAs(target) => *target,
        other => panic!("{other:?}"),
    }
}

fn query(sql: &str) -> Query {
    match one(sql) {
        Kind::Query(query) => *query,
        other => panic!("{other:?}"),
    }
}

/// `binding=target` of everything that a query reads, with `~` for a stream.
fn reads(sql: &str) -> String {
    let query = query(sql);
    let reads = query.relations.iter().map(|relation| {
        let target = match &relation.target {
            RelationTarget::Named(name) => name.clone(),
            RelationTarget::Inline(inline) => {
                let pairs = inline.options.iter().map(|pair| format!("{}:{}", pair.key.value, pair.value.value));
                format!("{}({})", inline.function.name(), pairs.collect::<Vec<_>>().join(","))
            }
        };
        format!("{}={}{target}", relation.binding, if relation.stream { "~" } else { "" })
    });
    reads.collect::<Vec<_>>().join(" ")
}

#[test]
fn sources_are_read() {
    let pin = source(
        "CREATE OR REPLACE EXTERNAL TABLE Pin (ind BIGINT COMMENT 'key', \"Title\" STRING, c ARRAY<DOUBLE>)
         STORED AS kafka LOCATION 'kafka://h:1,i:2/t'
         OPTIONS ('a.b' 'v', 'k' = 'w', plain 'x', kafka.security.protocol = SSL_IS_TEXT, n 1, neg -2.5, yes true)"
            .replace("SSL_IS_TEXT", "'SSL'")
            .as_str(),
    );
    assert_eq!((pin.name.value.as_str(), pin.or_replace, pin.if_not_exists), ("pin", true, false));
    assert_eq!(pin.format, SourceFormat::Kafka);
    let columns = pin.columns.unwrap();
    let columns: Vec<_> =
        columns.fields().iter().map(|field| (field.name().as_str(), type_name(field.data_type()))).collect();
    assert_eq!(columns, [("ind", "BIGINT".into()), ("Title", "STRING".into()), ("c", "ARRAY<DOUBLE>".into())]);
    assert_eq!(pin.location.unwrap().value, "kafka://h:1,i:2/t");
    let options: Vec<_> = pin.options.iter().map(|pair| format!("{}={}", pair.key.value, pair.value.value)).collect();
    let expected = ["a.b=v", "k=w", "plain=x", "kafka.security.protocol=SSL", "n=1", "neg=-2.5", "yes=true"];
    assert_eq!(options, expected);

    let geo = source("CREATE EXTERNAL TABLE IF NOT EXISTS geo LOCATION 's3://b/p/' STORED AS JSON");
    assert!(geo.if_not_exists && geo.columns.is_none() && geo.options.is_empty());
    let user = source(
        "create external table user stored as kinesis location 'arn:aws:kinesis:x' options (region 'y',)"
            .replace(",)", ")")
            .as_str(),
    );
    assert_eq!((user.name.value.as_str(), user.format), ("user", SourceFormat::Kinesis));
}

#[test]
fn targets_are_read() {
    let clean = target(
        "CREATE OR REFRESH STREAMING TABLE clean_pin (
           ind BIGINT COMMENT 'k', title,
           CONSTRAINT has_ind EXPECT (ind IS NOT NULL AND f(ind) > 1) ON VIOLATION QUARANTINE ROW,
           CONSTRAINT kept EXPECT (length(title) < 10),
           CONSTRAINT dropped EXPECT (ind > 0) ON VIOLATION DROP ROW,
           CONSTRAINT failed EXPECT (ind > 0) ON VIOLATION FAIL UPDATE)
         TBLPROPERTIES ('pinsql.trigger' = '5s', delta.appendOnly = true)
         CLUSTER BY AUTO LOCATION 's3://b/t' PARTITIONED BY (category, Year) COMMENT 'it''s clean'
         SCHEDULE REFRESH CRON '0 0 * * *' AT TIME ZONE 'UTC' TRIGGER ON UPDATE AT MOST EVERY INTERVAL 5 MINUTES
         REFRESH POLICY INCREMENTAL STRICT
         AS SELECT ind, title, category, year FROM STREAM(pin)",
    );
    assert!(clean.or_refresh && !clean.or_replace && !clean.if_not_exists);
    assert_eq!(clean.columns.len(), 2);
    assert_eq!((clean.columns[0].comment.as_deref(), &clean.columns[1].data_type), (Some("k"), &None));
    let constraints: Vec<_> = clean.constraints.iter().map(|rule| (rule.name.value.as_str(), rule.action)).collect();
    let expected = [
        ("has_ind", Action::QuarantineRow),
        ("kept", Action::Keep),
        ("dropped", Action::DropRow),
        ("failed", Action::FailUpdate),
    ];
    assert_eq!(constraints, expected);
    assert_eq!(clean.constraints[0].sql, "ind IS NOT NULL AND f(ind) > 1");
    assert_eq!(clean.constraints[0].condition.to_string(), "ind IS NOT NULL AND f(ind) > 1");
    assert_eq!(clean.constraints[1].place.line, 4);
    assert_eq!(clean.partitioned_by.iter().map(|name| name.value.as_str()).collect::<Vec<_>>(), ["category", "year"]);
    assert_eq!(clean.comment.as_deref(), Some("it's clean"));
    assert_eq!(clean.properties.len(), 2);
    assert_eq!(clean.location.unwrap().value, "s3://b/t");
    let notices: Vec<_> = clean.notices.iter().map(|notice| notice.message.split(':').next().unwrap()).collect();
    let ignored = ["CLUSTER BY", "SCHEDULE", "TRIGGER ON UPDATE", "REFRESH POLICY"];
    assert_eq!(notices, ignored.map(|clause| format!("`{clause}` is ignored")));
    assert_eq!(clean.notices[0].place.width, "CLUSTER BY AUTO".len());
    assert!(clean.query.relations[0].stream);
    assert_eq!(clean.query.sql, "SELECT ind, title, category, year FROM STREAM(pin)");
}

#[test]
fn every_kind_of_target_has_its_words() {
    for (sql, name, flags) in [
        ("CREATE STREAMING TABLE t AS SELECT 1", "streaming", (false, false, false)),
        ("CREATE STREAMING TABLE IF NOT EXISTS t AS SELECT 1", "streaming", (false, false, true)),
        ("CREATE OR REFRESH MATERIALIZED VIEW t AS SELECT 1", "view", (false, true, false)),
        ("CREATE OR REPLACE MATERIALIZED VIEW t CLUSTER BY (a, b) AS SELECT 1", "view", (true, false, false)),
        ("CREATE MATERIALIZED VIEW t SCHEDULE EVERY 1 HOUR AS (SELECT 1)", "view", (false, false, false)),
        ("CREATE TABLE t AS SELECT 1", "table", (false, false, false)),
        (
            "CREATE OR REPLACE TABLE t USING DELTA AS WITH a AS (SELECT 1) SELECT * FROM a",
            "table",
            (true, false, false),
        ),
    ] {
        let (kind, target) = match one(sql) {
            Kind::StreamingTable(target) => ("streaming", target),
            Kind::MaterializedView(target) => ("view", target),
            Kind::TableAs(target) => ("table", target),
            other => panic!("{other:?}"),
        };
        assert_eq!((kind, (target.or_replace, target.or_refresh, target.if_not_exists)), (name, flags), "{sql}");
    }
}

#[test]
fn the_small_statements_are_read() {
    let Kind::View(view) = one("CREATE OR REPLACE TEMPORARY VIEW v (a COMMENT 'x', b) COMMENT 'y' AS SELECT 1, 2")
    else {
        panic!()
    };
    assert!(view.or_replace && view.temporary && view.columns.len() == 2);
    let Kind::Insert(insert) = one("INSERT INTO t (a, \"B\") VALUES (1, 2), (3, 4)") else { panic!() };
    assert_eq!(insert.columns.iter().map(|name| name.value.as_str()).collect::<Vec<_>>(), ["a", "B"]);
    let Kind::Insert(insert) = one("INSERT OVERWRITE TABLE t (SELECT 1)") else { panic!() };
    assert!(insert.overwrite && insert.columns.is_empty());
    let Kind::Set { key, value } = one("SET datafusion.execution.batch_size = 10") else { panic!() };
    assert_eq!((key.value.as_str(), value.value.as_str()), ("datafusion.execution.batch_size", "10"));
    let Kind::Set { value, .. } = one("SET a.b TO 'x y'") else { panic!() };
    assert_eq!(value.value, "x y");
    for sql in ["DESCRIBE t", "DESC TABLE t", "DESCRIBE EXTENDED t", "describe table extended T"] {
        assert!(matches!(one(sql), Kind::Describe { name } if name.value == "t"), "{sql}");
    }
    assert!(matches!(one("SHOW TABLES"), Kind::ShowTables));
    assert!(matches!(one("SHOW CREATE TABLE t"), Kind::ShowCreateTable { .. }));
    for (sql, expected, exists) in [
        ("DROP TABLE t", DropKind::Table, false),
        ("DROP VIEW IF EXISTS t", DropKind::View, true),
        ("DROP STREAMING TABLE t", DropKind::StreamingTable, false),
        ("DROP MATERIALIZED VIEW t", DropKind::MaterializedView, false),
    ] {
        let Kind::DropTable { kind, if_exists, .. } = one(sql) else { panic!("{sql}") };
        assert_eq!((kind, if_exists), (expected, exists));
    }
    assert!(matches!(one("OPTIMIZE t"), Kind::Optimize { .. }));
    assert!(matches!(one("VACUUM t"), Kind::Vacuum { retain_hours: None, dry_run: false, .. }));
    assert!(matches!(one("VACUUM t RETAIN 0.5 HOURS DRY RUN"),
        Kind::Vacuum { retain_hours: Some(hours), dry_run: true, .. } if hours == 0.5));
    for (sql, expected) in [
        ("REFRESH t", false),
        ("REFRESH STREAMING TABLE t FULL", true),
        ("REFRESH MATERIALIZED VIEW t", false),
        ("REFRESH TABLE t FULL", true),
    ] {
        assert!(matches!(one(sql), Kind::Refresh { full, .. } if full == expected), "{sql}");
    }
}

#[test]
fn explain_takes_both_spellings() {
    for (sql, expected) in [
        ("EXPLAIN SELECT 1", (false, false, None)),
        ("EXPLAIN ANALYZE VERBOSE SELECT 1", (true, true, None)),
        ("EXPLAIN FORMAT TREE SELECT 1", (false, false, Some("tree"))),
        ("EXPLAIN (ANALYZE, FORMAT pgjson) SELECT 1", (true, false, Some("pgjson"))),
        ("EXPLAIN (SELECT 1)", (false, false, None)),
        ("EXPLAIN CREATE STREAMING TABLE t AS SELECT * FROM STREAM s", (false, false, None)),
    ] {
        let Kind::Explain(explain) = one(sql) else { panic!("{sql}") };
        assert_eq!((explain.analyze, explain.verbose, explain.format.as_deref()), expected, "{sql}");
    }
}

#[test]
fn queries_of_databricks_and_of_sql_are_taken() {
    for sql in [
        "SELECT a::BIGINT, try_cast(b AS STRING), CAST(c AS ARRAY<STRUCT<x: INT, y: STRING>>) FROM t",
        "SELECT * EXCEPT (a) FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY ts DESC) = 1",
        "SELECT count(*) FILTER (WHERE a == 1) FROM t GROUP BY ALL ORDER BY ALL LIMIT 3 OFFSET 1",
        "SELECT window(ts, '5 minutes').start, count(*) FROM t GROUP BY window(ts, '5 minutes')",
        "SELECT transform(a, x -> x + 1), ts + INTERVAL 10 MINUTES, !b, `odd name`, \"Other\" FROM t",
        "SELECT CASE WHEN f LIKE '%k' THEN replace(f, 'k', '')::INT * 1000 ELSE f::INT END AS f FROM t",
        "SELECT a[0], s.field, m['k'], x BETWEEN 1 AND 2, y IN (SELECT z FROM u) FROM t",
        "SELECT * FROM a LEFT SEMI JOIN b ON a.x = b.x CROSS JOIN UNNEST(a.l) AS u(v)",
        "SELECT * FROM VALUES (1, 'a'), (2, 'b') AS v (n, s)",
        "SELECT r'\\d+', E'a\\nb', CAST(x AS LONG) FROM t -- end",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT * FROM n",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "FROM t",
        "SELECT grouping(a) FROM t GROUP BY ROLLUP (a, b) HAVING count(*) > 1",
        "SELECT * FROM t |> WHERE a > 1 |> LIMIT 2",
        "SELECT stream, watermark FROM t AS watermark",
        "SELECT * FROM generate_series(1, 3)",
        "SELECT /*! not sql */ 1",
        "SELECT key, value, topic, partition, offset, timestamp, headers, position, data, date FROM t",
        "SELECT _metadata.partition, _metadata.offset, _metadata.key FROM t",
    ] {
        query(sql);
    }
}

#[test]
fn statements_are_split_by_tokens() {
    let statements = parse(
        "-- about one\n-- and more\nSELECT ';' AS \";\", `;` /* ; /* ; */ ; */ -- ;\n FROM t; -- behind\n;;\n/* two */ SELECT $$;$$;\n\nSELECT 3",
    );
    let comments: Vec<_> = statements.iter().map(|statement| statement.comment.as_deref()).collect();
    assert_eq!(comments, [Some("about one\nand more"), Some("two"), None]);
    let lines: Vec<_> = statements.iter().map(|statement| (statement.place.line, statement.place.column)).collect();
    assert_eq!(lines, [(3, 1), (6, 11), (8, 1)]);
    assert_eq!(statements[2].source_text(), "SELECT 3");
    assert!(statements[0].source_text().ends_with("FROM t"));
    assert!(parse("").is_empty() && parse(" -- only a comment\n;").is_empty());
    for (text, complete) in [
        ("SELECT 1", false),
        ("SELECT 1;", true),
        ("SELECT 1; -- x", true),
        ("SELECT ';", false),
        ("SELECT 1; /* ;", false),
        ("-- ;", false),
    ] {
        assert_eq!(is_complete(text), complete, "{text}");
    }
}

#[test]
fn places_count_characters() {
    let error = fault("\u{feff}SELECT 1;\r\n\r\n\tSELECT 'größe – 😀', \twrong wrong wrong\r\nFROM t");
    let place = error.place().unwrap();
    assert_eq!((place.file.as_str(), place.line, place.column, place.width), ("t.sql", 3, 35, 5));
    assert_eq!(place.text, "\tSELECT 'größe – 😀', \twrong wrong wrong");
    let statements = parse("  SELECT\n 'ä' AS a;\tSELECT 2");
    assert_eq!(statements[0].source_text(), "SELECT\n 'ä' AS a");
    assert_eq!((statements[1].place.line, statements[1].place.column, statements[1].place.width), (2, 12, 6));
}

#[test]
fn secrets_do_not_show() {
    let sql = "CREATE EXTERNAL TABLE t STORED AS KAFKA OPTIONS ('kafka.sasl.password' = 'hunter2', roleArn 'shown')";
    let statements = parse(sql);
    assert!(statements[0].source_text().contains("hunter2"));
    assert!(statements[0].shown_text().contains("'kafka.sasl.password' = '***', roleArn 'shown'"));
    assert!(statements[0].place.text.contains("'kafka.sasl.password' = '*******', roleArn 'shown'"));
    assert!(!format!("{:?}", statements[0]).contains("hunter2"));
    for (written, shown) in [
        // In a list, what is not known to be harmless is hidden, numbers and words too.
        (
            "OPTIONS ('kafka.x' 'S', kafka.client.id = 'seen', n 1, yes true, \"subscribe\" 'seen')",
            "OPTIONS ('kafka.x' '***', kafka.client.id = 'seen', n ***, yes ***, \"subscribe\" 'seen')",
        ),
        (
            "options(kafka.ssl.key.pem=E'S\nS''S', -- 'a' 'S'\n kafka.sasl.jaas.config /* S */ '')",
            "options(kafka.ssl.key.pem=E'***', *** kafka.sasl.jaas.config *** '')",
        ),
        (
            "TBLPROPERTIES ('delta.appendOnly' = true, pinsql.trigger = '5s', other = 'S')",
            "TBLPROPERTIES ('delta.appendOnly' = true, pinsql.trigger = '5s', other = '***')",
        ),
        (
            "SELECT * FROM read_files('path/', format => 'json', x => 'S') WHERE a = 'seen'",
            "SELECT * FROM read_files('path/', format => 'json', x => '***') WHERE a = 'seen'",
        ),
        (
            "READ_KAFKA(subscribe => 'seen', `kafka.sasl.password` => concat('S', S)), f(kafka.x => 'S')",
            "READ_KAFKA(subscribe => 'seen', `kafka.sasl.password` => ***('***', ***)), ***(***.*** => '***')",
        ),
        (
            "read_kinesis(streamName => -1, region = 'eu', a = b.c), read_kinesis('S') WHERE b = 1; SELECT 'seen'",
            "read_kinesis(streamName => -1, region = 'eu', a = ***.***), ***('***') WHERE *** = ***; SELECT 'seen'",
        ),
        // A variable is no secret, its default may be one.
        (
            "OPTIONS (kafka.sasl.password '${PW}', kafka.x ${PW}, kafka.y = '${PW:-S}', kafka.z ${PW:-S})",
            "OPTIONS (kafka.sasl.password '${PW}', kafka.x ${PW}, kafka.y = '***', kafka.z ***)",
        ),
        // Where a quote or a comma is missing, what looks like a key may be the secret.
        (
            "OPTIONS (subscribe 'seen' 'mode' 'S', path 'S', S = 'S')",
            "OPTIONS (subscribe 'seen' 'mode' '***', path '***', *** = '***')",
        ),
        (
            "OPTIONS (subscribe 'x, 'kafka.x' 'S', 'y', 'z')",
            "OPTIONS (subscribe '***, 'kafka.***' '***', '***', '***')",
        ),
        ("OPTIONS (a 'S); SELECT S, x", "OPTIONS (*** '***); SELECT ***, ***"),
        (
            "OPTIONS ('kafka.sasl.password', 'S', subscribe 'S')",
            "OPTIONS ('kafka.sasl.password', '***', subscribe '***')",
        ),
        ("SELECT 1 -- OPTIONS ('x' 'S')", "SELECT 1 ***"),
        ("OPTIONS (a 'S'; SELECT 'S'", "OPTIONS (a '***'; SELECT '***'"),
        // Elsewhere a key has to speak of it.
        (
            "SET s3.secret = 'S'; OPTIONS 'kafka.x' 'S'; WHERE token = 'S' AND a = 'seen'",
            "SET s3.secret = '***'; OPTIONS 'kafka.x' '***'; WHERE token = '***' AND a = 'seen'",
        ),
    ] {
        let text = SqlText::new("t.sql", written);
        assert_eq!(text.hidden(0..written.len()), shown, "{written}");
        assert!(text.has_secrets());
    }
    assert!(!SqlText::new("t.sql", "SELECT a FROM read_files('x/', format => 'json') -- S").has_secrets());
}

#[test]
fn secrets_do_not_show_in_what_is_mistyped() {
    const SECRET: &str = "Zq7xKw,9v;Jb";
    let shows = |shown: &str| (0..SECRET.len() - 3).any(|at| shown.contains(&SECRET[at..at + 4]));
    let texts = [
        "CREATE EXTERNAL TABLE t (a INT)\nSTORED AS KAFKA LOCATION 'kafka://h:1/t'\nOPTIONS (subscribe 'x',\n \
         'kafka.sasl.password' = '@',\n  kafka.ssl.x '@', mode 'failfast')",
        "CREATE STREAMING TABLE t AS SELECT * FROM STREAM read_kafka(subscribe => 'x',\n`kafka.sasl.jaas.config` => '@', \
         bootstrapServers => 'h:1')",
        "SELECT * FROM read_kafka(subscribe => 'x', `kafka.sasl.password` => '@') AS k, (SELECT 1 FROM)",
    ];
    let mut seen = 0;
    for text in texts.map(|text| text.replace('@', SECRET)) {
        let starts: Vec<usize> = (0..text.len()).collect();
        let edits = starts.iter().flat_map(|at| {
            let (before, behind) = text.split_at(*at);
            let cut = format!("{before}{}", &behind[1..]);
            ["'", "\"", "`", "(", ")", ",", ";", " ", "=", "--", "/*", "$", "x"]
                .map(|mark| format!("{before}{mark}{behind}"))
                .into_iter()
                .chain([cut, before.to_owned()])
                .collect::<Vec<_>>()
        });
        for sql in edits {
            let shown = match try_parse(&sql) {
                Ok(statements) => statements.iter().map(|one| format!("{} {one:?}", one.shown_text())).collect(),
                Err(error) => format!("{error:?}"),
            };
            seen += 1;
            assert!(!shows(&shown), "{sql}\n{shown}");
        }
    }
    assert!(seen > 5000, "{seen}");
}

fn with_variables(sql: &str) -> Result<Vec<Statement>> {
    let known = ["BUCKET", "N", "NEG", "TABLE_NAME", "EVIL", "WORD", "YES", "EMPTY"].map(str::to_owned);
    let lookup = |name: &str| {
        let value = match name {
            "BUCKET" => "my-bucket",
            "N" => "12.5",
            "NEG" => "-3",
            "TABLE_NAME" => "Clean_Pin",
            "EVIL" => "x'; DROP TABLE t; --",
            "WORD" => "FROM",
            "YES" => "true",
            "EMPTY" => "",
            _ => return None,
        };
        Some(value.to_owned())
    };
    parse_script(&Arc::new(SqlText::new("v.sql", sql)), &Variables { lookup: &lookup, known: &known })
}

fn replaced(sql: &str) -> String {
    let statements = with_variables(sql).unwrap_or_else(|error| panic!("{sql}\n{error:?}"));
    assert_eq!(statements.len(), 1, "{sql}");
    assert_eq!(statements[0].source_text(), sql);
    match &statements[0].kind {
        Kind::Query(query) => query.ast.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Queries with variables, and what is parsed.
const VARIABLES: &[(&str, &str)] = &[
    ("SELECT 's3://${BUCKET}/x'", "SELECT 's3://my-bucket/x'"),
    ("SELECT '${EVIL}'", "SELECT 'x''; DROP TABLE t; --'"),
    ("SELECT ${EVIL}", "SELECT 'x''; DROP TABLE t; --'"),
    ("SELECT ${N} + ${NEG}", "SELECT 12.5 + -3"),
    ("SELECT ${YES}, ${EMPTY}", "SELECT true, ''"),
    ("SELECT * FROM ${TABLE_NAME}", "SELECT * FROM \"clean_pin\""),
    ("SELECT * FROM old_${TABLE_NAME}_${TABLE_NAME}", "SELECT * FROM \"old_clean_pin_clean_pin\""),
    ("SELECT 1 ${WORD}", "SELECT 1 AS \"from\""),
    ("SELECT \"${EVIL}\" FROM t", "SELECT \"x'; DROP TABLE t; --\" FROM t"),
    ("SELECT `a ${WORD}` FROM t", "SELECT `a FROM` FROM t"),
    ("SELECT ${NONE:-a b'c -- d /* ; \"}, 2", "SELECT 'a b''c -- d /* ; \"', 2"),
    ("SELECT ${NONE:-7}, '${NONE:-}', '${NONE:-ä}'", "SELECT 7, '', 'ä'"),
    ("SELECT '$${BUCKET} ${1} $x'", "SELECT '${BUCKET} ${1} $x'"),
    ("SELECT $$${BUCKET}$$", "SELECT $$${BUCKET}$$"),
    ("SELECT 1 -- ${NONE}\n/* ${NONE} '*/", "SELECT 1"),
    ("SELECT E'\\'${BUCKET}', '''${BUCKET}'", "SELECT E'\\'my-bucket', '''my-bucket'"),
];

#[test]
fn variables_stay_inside_their_token() {
    for (sql, expected) in VARIABLES.iter().copied() {
        let source = sql.split(" --").next().unwrap().trim_end();
        let sql = if sql.contains("-- ${NONE}") { source } else { sql };
        assert_eq!(replaced(sql), expected, "{sql}");
    }
    assert_eq!(with_variables("SELECT 1 -- ${NONE}\n/* ${NONE} '*/").unwrap().len(), 1);
}

#[test]
fn wrong_variables_are_shown() {
    for (sql, message, line, column, width) in [
        ("SELECT\n 'a ${BUKET}'", "the variable `BUKET` is not set", 2, 5, 8),
        ("SELECT ${NOPE}", "the variable `NOPE` is not set", 1, 8, 7),
        ("SELECT ${BUCKET", "this is not a variable", 1, 8, 2),
        ("SELECT '${BUCKET'", "this is not a variable", 1, 9, 2),
        ("SELECT ${A B}", "this is not a variable", 1, 8, 2),
        ("SELECT * FROM t_${BUCKET}", "`t_${BUCKET}` does not come out as one name", 1, 15, 11),
        ("SELECT 1${N}", "`${N}` does not come out as one name", 1, 9, 4),
    ] {
        let error = with_variables(sql).err().unwrap_or_else(|| panic!("{sql}"));
        let place = error.place().unwrap();
        assert_eq!(error.message(), message, "{sql}");
        assert_eq!((place.line, place.column, place.width), (line, column, width), "{sql}");
    }
    let error = with_variables("SELECT ${BUKET}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.hint_text().unwrap().starts_with("did you mean `BUCKET`? set it by --var BUKET=VALUE"));
    // A value is not shown, only its reference.
    let error = with_variables("SELECT 1 FROM t u ${BUCKET}").unwrap_err();
    assert_eq!(error.message(), "expected the end of the statement, found `${BUCKET}`");
}

/// Queries, and `binding=target` of what they read.
const RELATIONS: &[(&str, &str)] = &[
    ("SELECT * FROM pin", "pin=pin"),
    ("SELECT * FROM Pin, \"Pin\", pin p", "pin=pin Pin=Pin"),
    ("SELECT * FROM STREAM pin", "__stream_pin=~pin"),
    ("SELECT * FROM STREAM(pin) AS p JOIN geo USING (ind)", "__stream_pin=~pin geo=geo"),
    (
        "SELECT * FROM geo g JOIN STREAM pin p ON g.ind = p.ind, STREAM (user)",
        "geo=geo __stream_pin=~pin __stream_user=~user",
    ),
    ("SELECT * FROM STREAM pin a JOIN pin b ON true JOIN STREAM pin c ON true", "__stream_pin=~pin pin=pin"),
    ("SELECT * FROM stream", "stream=stream"),
    ("SELECT * FROM stream AS s WHERE stream.x = 1", "stream=stream"),
    ("SELECT * FROM STREAM stream", "__stream_stream=~stream"),
    ("SELECT * FROM STREAM \"Odd Name\"", "__stream_odd_name=~Odd Name"),
    ("SELECT stream FROM t WHERE a IN (SELECT x FROM STREAM u)", "t=t __stream_u=~u"),
    (
        "SELECT (SELECT max(x) FROM a), EXISTS (SELECT * FROM b) FROM (SELECT * FROM STREAM c) d",
        "a=a b=b __stream_c=~c",
    ),
    (
        "SELECT * FROM STREAM a UNION ALL SELECT * FROM STREAM b EXCEPT SELECT * FROM c",
        "__stream_a=~a __stream_b=~b c=c",
    ),
    ("SELECT * FROM (STREAM a JOIN b ON a.x = b.x)", "__stream_a=~a b=b"),
    ("SELECT * FROM __stream_pin JOIN STREAM pin ON true", "__stream_pin=__stream_pin __stream_pin_1=~pin"),
    ("SELECT extract(year FROM ts), f(a, stream (b)) FROM t", "t=t"),
    ("SELECT a IS DISTINCT FROM stream FROM t", "t=t"),
    // Names of WITH.
    ("WITH pin AS (SELECT * FROM pin) SELECT * FROM pin", "pin=pin"),
    (
        "WITH p AS (SELECT * FROM STREAM pin), q AS (SELECT * FROM p JOIN r ON true) SELECT * FROM q",
        "__stream_pin=~pin r=r",
    ),
    ("WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b) SELECT * FROM a, b", "b=b"),
    ("WITH a AS (SELECT 1) SELECT * FROM (SELECT * FROM A) WHERE EXISTS (SELECT 1 FROM a)", ""),
    ("WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i FROM n) SELECT * FROM n", ""),
    ("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a), a", "a=a"),
    // Functions.
    ("SELECT * FROM read_files('s3://b/', format => 'json')", "__read_files_1=read_files(path:s3://b/,format:json)"),
    ("SELECT * FROM STREAM read_files('x')", "__read_files_1=~read_files(path:x)"),
    (
        "SELECT * FROM STREAM(read_kafka(bootstrapServers => 'h:1', `kafka.group.id` => 'g', n => -1, failOnDataLoss => false))",
        "__read_kafka_1=~read_kafka(bootstrapServers:h:1,kafka.group.id:g,n:-1,failOnDataLoss:false)",
    ),
    (
        "SELECT * FROM Read_Kinesis(streamName = 's', kafka.x = 2) k",
        "__read_kinesis_1=read_kinesis(streamName:s,kafka.x:2)",
    ),
    (
        "SELECT * FROM read_files('a') a, read_files('b') b, read_files('a') c",
        "__read_files_1=read_files(path:a) __read_files_2=read_files(path:b)",
    ),
    ("SELECT * FROM generate_series(1, 2), unnest([1]), information_schema.tables", ""),
];

#[test]
fn relations_are_found() {
    for (sql, expected) in RELATIONS.iter().copied() {
        assert_eq!(reads(sql), expected, "{sql}");
    }
}

#[test]
fn qualifiers_keep_working() {
    for (sql, expected) in [
        ("SELECT pin.ind FROM STREAM pin", "SELECT pin.ind FROM __stream_pin AS pin"),
        ("SELECT p.ind FROM STREAM(Pin) p", "SELECT p.ind FROM __stream_pin p"),
        ("SELECT * FROM STREAM read_files('x')", "SELECT * FROM __read_files_1 AS read_files"),
        ("SELECT * FROM read_files('x') AS f", "SELECT * FROM __read_files_1 AS f"),
        ("SELECT * FROM \"Pin\" AS p", "SELECT * FROM \"Pin\" AS p"),
    ] {
        assert_eq!(query(sql).ast.to_string(), expected);
    }
    let pin = query("SELECT 1 FROM geo JOIN STREAM\n  Pin ON true");
    assert_eq!((pin.relations[1].place.line, pin.relations[1].place.column, pin.relations[1].place.width), (2, 3, 3));
}

#[test]
fn mentions_looks_everywhere() {
    let pin = query("SELECT a, p.b FROM (SELECT s._METADATA.topic FROM s) AS p WHERE c = 'd'");
    for (name, expected) in [("_metadata", true), ("topic", true), ("b", true), ("c", true), ("d", false)] {
        assert_eq!(mentions(&pin, name), expected, "{name}");
    }
}

fn hidden(sql: &str) -> String {
    let mut query = query(sql);
    hide_column(&mut query.ast, "_m", &|binding| matches!(binding, "pin" | "geo" | "__stream_pin"));
    query.ast.to_string()
}

/// Queries, and what they are without `_m` in their stars.
const STARS: &[(&str, &str)] = &[
    ("SELECT * FROM pin", "SELECT * EXCLUDE (_m) FROM pin"),
    ("SELECT *, _m FROM STREAM pin", "SELECT * EXCLUDE (_m), _m FROM __stream_pin AS pin"),
    ("SELECT p.* FROM pin p", "SELECT p.* EXCLUDE (_m) FROM pin p"),
    ("SELECT * FROM other", "SELECT * FROM other"),
    ("SELECT count(*) FROM pin", "SELECT count(*) FROM pin"),
    ("SELECT * EXCEPT (a) FROM pin", "SELECT * EXCLUDE (_m) EXCEPT (a) FROM pin"),
    ("SELECT * EXCEPT (_m) FROM pin", "SELECT * EXCEPT (_m) FROM pin"),
    ("SELECT * EXCLUDE (_M) FROM pin", "SELECT * EXCLUDE (_M) FROM pin"),
    (
        "SELECT * FROM pin p JOIN geo ON p.i = geo.i JOIN o ON true",
        "SELECT p.* EXCLUDE (_m), geo.* EXCLUDE (_m), o.* FROM pin p JOIN geo ON p.i = geo.i JOIN o ON true",
    ),
    ("SELECT * FROM pin JOIN o USING (i)", "SELECT * EXCLUDE (_m) FROM pin JOIN o USING(i)"),
    (
        "SELECT * FROM pin JOIN geo USING (i)",
        "SELECT pin.* EXCLUDE (_m), geo.* EXCLUDE (_m, i) FROM pin JOIN geo USING(i)",
    ),
    (
        "SELECT * FROM pin RIGHT JOIN geo USING (i)",
        "SELECT pin.* EXCLUDE (_m, i), geo.* EXCLUDE (_m) FROM pin RIGHT JOIN geo USING(i)",
    ),
    ("SELECT * FROM pin LEFT SEMI JOIN geo ON true", "SELECT * EXCLUDE (_m) FROM pin LEFT SEMI JOIN geo ON true"),
    ("SELECT * FROM pin NATURAL JOIN o", "SELECT * FROM (SELECT * EXCLUDE (_m) FROM pin) AS pin NATURAL JOIN o"),
    ("SELECT * FROM pin AS p (a, b)", "SELECT * FROM (SELECT * EXCLUDE (_m) FROM pin) AS p (a, b)"),
    (
        "SELECT * FROM pin, (SELECT _m FROM geo)",
        "SELECT pin.* EXCLUDE (_m), __relation_1.* FROM pin, (SELECT _m FROM geo) AS __relation_1",
    ),
    (
        "SELECT * FROM (SELECT * FROM pin) WHERE i IN (SELECT * FROM geo) UNION SELECT * FROM geo",
        "SELECT * FROM (SELECT * EXCLUDE (_m) FROM pin) WHERE i IN (SELECT * EXCLUDE (_m) FROM geo) UNION SELECT * EXCLUDE (_m) FROM geo",
    ),
    (
        "WITH pin AS (SELECT * FROM pin) SELECT * FROM pin",
        "WITH pin AS (SELECT * EXCLUDE (_m) FROM pin) SELECT * FROM pin",
    ),
];

#[test]
fn stars_leave_the_column_out() {
    for (sql, expected) in STARS.iter().copied() {
        assert_eq!(hidden(sql), expected, "{sql}");
    }
}

/// Types as they are written, and as they are named.
const TYPES: &[(&str, &str)] = &[
    ("string", "STRING"),
    ("TEXT", "STRING"),
    ("VARCHAR(10)", "STRING"),
    ("CHARACTER VARYING (3)", "STRING"),
    ("LONG", "BIGINT"),
    ("integer", "INT"),
    ("short", "SMALLINT"),
    ("BYTE", "TINYINT"),
    ("REAL", "FLOAT"),
    ("DOUBLE PRECISION", "DOUBLE"),
    ("DECIMAL", "DECIMAL(10, 0)"),
    ("NUMERIC(12)", "DECIMAL(12, 0)"),
    ("dec(12, 3)", "DECIMAL(12, 3)"),
    ("BOOL", "BOOLEAN"),
    ("BYTEA", "BINARY"),
    ("DATE", "DATE"),
    ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP"),
    ("TIMESTAMP_LTZ", "TIMESTAMP"),
    ("INT[][]", "ARRAY<ARRAY<INT>>"),
    ("ARRAY<ARRAY<ARRAY<INT>>>", "ARRAY<ARRAY<ARRAY<INT>>>"),
    ("ARRAY<STRUCT<a INT, b: ARRAY<STRING>>>", "ARRAY<STRUCT<a: INT, b: ARRAY<STRING>>>"),
    ("STRUCT<`A b`: INT COMMENT 'x', c STRUCT<d: DOUBLE>>", "STRUCT<`A b`: INT, c: STRUCT<d: DOUBLE>>"),
    ("MAP<STRING, ARRAY<INT>>", "MAP<STRING, ARRAY<INT>>"),
    ("ARRAY<INT>[]", "ARRAY<ARRAY<INT>>"),
];

#[test]
fn types_are_read_and_named() {
    for (text, expected) in TYPES.iter().copied() {
        let data_type = parse_type(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(type_name(&data_type), expected, "{text}");
        assert_eq!(parse_type(expected).unwrap(), data_type, "{text}");
    }
    let schema =
        parse_columns("ind BIGINT, coordinates ARRAY<DOUBLE>, S STRUCT<a: INT, b: STRING> COMMENT 'x'").unwrap();
    assert_eq!(
        schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["ind", "coordinates", "s"]
    );
    assert!(schema.fields().iter().all(|field| field.is_nullable()));
}

#[test]
fn wrong_types_are_explained() {
    for (text, message, hint) in [
        ("STRNG", "unknown type `STRNG`", "did you mean `STRING`?"),
        (
            "TIMESTAMP_NTZ",
            "the type `TIMESTAMP_NTZ` is not supported",
            "use TIMESTAMP: a time without a zone is read as UTC",
        ),
        ("ARRAY", "expected `<`, found the end", "as in ARRAY<INT>"),
        ("ARRAY<INT>>", "this type has a `>` too many", ""),
        ("ARRAY<INT", "expected `,` or `>`, found the end", ""),
        ("DECIMAL(50)", "`DECIMAL(50, 0)` does not exist", ""),
        ("INT INT", "expected the end of the type, found `INT`", ""),
        ("STRUCT<a INT, A INT>", "the column `a` is given twice", ""),
        ("VARIANT", "the type `VARIANT` is not supported", ""),
    ] {
        let error = parse_type(text).err().unwrap_or_else(|| panic!("{text}"));
        assert_eq!(error.message(), message, "{text}");
        assert!(error.place().is_none());
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{text}: {:?}", error.hint_text());
    }
    let deep = format!("{}INT{}", "ARRAY<".repeat(10_000), ">".repeat(10_000));
    assert!(parse_type(&deep).unwrap_err().message().contains("deeper than 64"));
    assert!(parse_columns("a INT, A STRING").unwrap_err().message().contains("given twice"));
    assert!(parse_columns("a INT NOT NULL").unwrap_err().hint_text().unwrap().contains("CONSTRAINT"));
}

/// Wrong text, the message, line, column and width, and a part of the hint.
type Wrong = (&'static str, &'static str, (u64, u64, usize), &'static str);

const WRONG_TEXT: [Wrong; 26] = [
    ("SELECT a,\n FROM t", "expected an expression, found `FROM`", (2, 2, 4), "comma"),
    ("SELECT CASE a WHEN 1 THEN 2 FROM t", "expected the end of the statement, found `WHEN`", (1, 15, 4), "END"),
    ("SELCT 1", "expected a statement, found `SELCT`", (1, 1, 5), "`SELECT`"),
    (
        "SELECT 1;\nSELECT a FORM t",
        "expected the end of the statement, found `t`",
        (2, 15, 1),
        "did you mean `FROM` by `FORM`?",
    ),
    ("SELECT 1 SELECT 2", "expected the end of the statement, found `SELECT`", (1, 10, 6), "ends with `;`"),
    ("SELECT 'abc", "this string is never closed", (1, 8, 1), "`'`"),
    ("SELECT 1;\n /* open", "this comment is never closed", (2, 2, 1), "`*/`"),
    ("SELECT \"abc", "this quoted name is never closed", (1, 8, 1), "quote"),
    ("SELECT f((1)", "this `(` is never closed", (1, 9, 1), "`)`"),
    ("SELECT 1)", "expected the end of the statement, found `)`", (1, 9, 1), ""),
    ("SELECT a FROM (SELECT b FROM\n  (SELECT c FRM d) x) y", "expected `)`, found `d`", (2, 17, 1), "`FROM`"),
    ("SELECT * FROM t WHERE", "expected an expression, found the end of the statement", (1, 22, 1), ""),
    ("SELECT * FROM (SELECT a FROM t WHERE) x", "expected an expression, found `)`", (1, 37, 1), ""),
    (
        "CREATE STREAMNG TABLE t AS SELECT 1",
        "expected `EXTERNAL TABLE`, `STREAMING TABLE`, `MATERIALIZED VIEW`, `TABLE` or `VIEW`, found `STREAMNG`",
        (1, 8, 8),
        "`STREAMING`",
    ),
    (
        "CREATE OR REFERSH STREAMING TABLE t AS SELECT 1",
        "expected `REPLACE` or `REFRESH`, found `REFERSH`",
        (1, 11, 7),
        "`REFRESH`",
    ),
    ("CREATE STREAMING VIEW v AS SELECT 1", "expected `TABLE`, found `VIEW`", (1, 18, 4), "CREATE STREAMING TABLE"),
    ("CREATE STREAMING TABLE t", "a streaming table without a query is not supported", (1, 25, 1), "FROM STREAM"),
    ("CREATE STREAMING TABLE AS SELECT 1", "expected a table's name, found `AS`", (1, 24, 2), ""),
    (
        "CREATE TABLE main.default.t AS SELECT 1",
        "`main.default.t` has more than one part, and a table's name is one word",
        (1, 14, 14),
        "write `t`",
    ),
    ("CREATE TABLE t (a INT, A INT) AS SELECT 1", "the column `a` is given twice", (1, 24, 1), ""),
    ("CREATE TABLE t (a INTT) AS SELECT 1", "unknown type `INTT`", (1, 19, 4), "`INT`"),
    ("CREATE TABLE t COMMENT 'a' COMMENT 'b' AS SELECT 1", "`COMMENT` is given twice", (1, 28, 7), ""),
    ("CREATE TABLE t (CONSTRAINT c EXPECT (a >)) AS SELECT 1", "expected an expression, found `)`", (1, 41, 1), ""),
    (
        "CREATE TABLE t (CONSTRAINT c EXPECT (a > 1) ON VIOLATION DORP ROW) AS SELECT 1",
        "expected `DROP ROW`, `FAIL UPDATE` or `QUARANTINE ROW`, found `DORP`",
        (1, 58, 4),
        "`DROP`",
    ),
    (
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'",
        "expected `JSON`, `KAFKA` or `KINESIS`, found `CSV`",
        (1, 35, 3),
        "",
    ),
    ("CREATE EXTERNAL TABLE t STORED AS KAFKA OPTIONS (a 1, 'A' 2)", "`A` is given twice", (1, 55, 3), ""),
];

const NOT_SUPPORTED: [Wrong; 24] = [
    ("CREATE FLOW f AS INSERT INTO t SELECT 1", "`CREATE FLOW` is not supported", (1, 1, 11), "STREAMING TABLE"),
    ("  MERGE INTO t USING s ON true", "`MERGE` is not supported", (1, 3, 5), "MATERIALIZED VIEW"),
    ("APPLY CHANGES INTO t FROM s", "`APPLY CHANGES` is not supported", (1, 1, 13), "row_number"),
    ("UPDATE t SET a = 1", "`UPDATE` is not supported", (1, 1, 6), "--full-refresh"),
    ("COPY INTO t FROM 'x'", "`COPY` is not supported", (1, 1, 4), "read_files"),
    ("USE main", "`USE` is not supported", (1, 1, 3), "--lake"),
    (
        "CREATE OR REPLACE STREAMING TABLE t AS SELECT 1",
        "`OR REPLACE` of a streaming table is not supported",
        (1, 8, 10),
        "OR REFRESH",
    ),
    (
        "CREATE OR REFRESH STREAMING TABLE IF NOT EXISTS t AS SELECT 1",
        "`IF NOT EXISTS` contradicts `OR REPLACE` and `OR REFRESH`",
        (1, 35, 13),
        "",
    ),
    ("CREATE TABLE t (a INT NOT NULL) AS SELECT 1", "`NOT NULL` on a column is not supported", (1, 23, 3), "EXPECT"),
    (
        "CREATE TABLE t (CONSTRAINT c EXPECT (a IN (SELECT 1))) AS SELECT 1",
        "a constraint cannot hold a query",
        (1, 44, 6),
        "join",
    ),
    (
        "SELECT * FROM STREAM(src) WATERMARK ts DELAY OF INTERVAL 10 MINUTES AS s",
        "`WATERMARK` is not supported",
        (1, 27, 9),
        "date_bin",
    ),
    ("SELECT * FROM STREAM (SELECT 1)", "`STREAM` takes one table or one source function", (1, 23, 6), "FROM STREAM t"),
    (
        "SELECT * FROM STREAM(a JOIN b ON true)",
        "`STREAM` takes one table or one source function",
        (1, 22, 1),
        "each table",
    ),
    (
        "WITH a AS (SELECT 1) SELECT * FROM STREAM a",
        "`a` is a name of WITH and cannot be streamed",
        (1, 43, 1),
        "inside of the WITH",
    ),
    (
        "SELECT * FROM STREAM generate_series(1, 2)",
        "`STREAM` takes a table, or read_files, read_kafka or read_kinesis",
        (1, 22, 15),
        "",
    ),
    (
        "SELECT * FROM main.pin",
        "`main.pin` has more than one part, and a table's name is one word",
        (1, 15, 8),
        "write `pin`",
    ),
    ("SELECT * FROM json.`s3://b/`", "`json.s3://b/` in FROM is not supported", (1, 15, 14), "read_files"),
    ("SELECT * FROM \"../x\"", "`../x` cannot be a table's name", (1, 15, 6), "slashes"),
    ("SELECT * FROM t TABLESAMPLE (10 PERCENT)", "`TABLESAMPLE` is not supported", (1, 15, 1), "random"),
    ("SELECT * FROM read_kafka('x')", "an argument of `read_kafka` has no name", (1, 26, 3), "subscribe"),
    (
        "SELECT * FROM read_files('a', schema => upper('x'))",
        "the value of `schema` is not a string, a number or a boolean",
        (1, 41, 9),
        "${NAME}",
    ),
    ("SELECT * FROM read_files('a', path => 'b')", "`path` is given twice", (1, 31, 4), ""),
    ("SELECT * FROM read_kafka(kafka.group.id => 'b')", "expected `)`, found `=>`", (1, 41, 2), "back-ticks"),
    ("EXPLAIN DROP TABLE t", "there is nothing to explain in this statement", (1, 9, 4), "query"),
];

#[test]
fn wrong_text_is_pointed_at() {
    for (sql, message, place, hint) in WRONG_TEXT.into_iter().chain(NOT_SUPPORTED) {
        let error = fault(sql);
        let found = error.place().unwrap_or_else(|| panic!("{sql}: no place"));
        assert_eq!(error.message(), message, "{sql}");
        assert_eq!((found.line, found.column, found.width), place, "{sql}: {message}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{sql}: {:?}", error.hint_text());
        assert_eq!(error.kind(), ErrorKind::Sql, "{sql}");
    }
}

#[test]
fn deep_and_odd_text_is_survived() {
    for sql in [
        format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000)),
        format!("SELECT {}", "(SELECT ".repeat(3000)),
        "EXPLAIN ".repeat(20_000),
        "CREATE".into(),
        "CREATE TABLE t (".into(),
        "CREATE TABLE t (CONSTRAINT".into(),
        "SELECT * FROM STREAM (".into(),
        "SELECT * FROM STREAM ()".into(),
        "SELECT * FROM STREAM(a.)".into(),
        "OPTIMIZE".into(),
        "VACUUM t RETAIN x HOURS".into(),
        "INSERT INTO t".into(),
        "SET".into(),
        "\u{0}".into(),
        "SELECT ${".into(),
    ] {
        let error = fault(&sql);
        assert!(error.place().is_some(), "{error:?}");
    }
}
