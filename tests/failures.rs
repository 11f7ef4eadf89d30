//! Bad input gets one clear error, and leaves nothing behind that a later run would trip over.
//!
//! Everything here goes through the program itself, with `--json` and without: the exit status, the one error with its
//! kind, its hint and its place, the summary as the last line, and the run after the cause is mended. What needs a disk of
//! its own (a full one, a read-only one) mounts a small tmpfs, and says so where it may not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::services::{Moto, aws_environment, left_out, run_python};
use crate::support::world;

const SOURCE: &str = "CREATE EXTERNAL TABLE events (id BIGINT, name STRING) STORED AS JSON LOCATION 'in/';\n";
const CLEAN: &str = "CREATE OR REFRESH STREAMING TABLE clean AS\nSELECT * FROM STREAM events;\n";
const RECORDS: &str = "{\"id\":1,\"name\":\"ann\"}\n{\"id\":2,\"name\":\"bob\"}\n";

/// A project in a folder of its own, and the program in it.
struct Place {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

/// What the program did.
struct Done {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    /// The last line of standard output.
    fn summary(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_else(|| panic!("no output; standard error: {}", self.stderr));
        let summary: Value = serde_json::from_str(last).unwrap();
        assert!(summary["command"].is_string() && summary.get("error").is_some(), "not a summary: {last}");
        summary
    }

    fn table(&self, name: &str) -> Value {
        let summary = self.summary();
        let tables = summary["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == name).unwrap_or_else(|| panic!("no `{name}`: {summary}")).clone()
    }

    /// read, written, dropped, quarantined
    fn counts(&self, name: &str) -> [u64; 4] {
        let table = self.table(name);
        ["read", "written", "dropped", "quarantined"].map(|key| table[key].as_u64().unwrap())
    }
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: TempDir::new().unwrap(), environment: Vec::new() };
        place.write("pinsql.toml", "");
        place.write("in/a.json", RECORDS);
        place
    }

    /// The source, the table, and the two records.
    fn good() -> Self {
        let place = Self::new();
        place.write("sql/a.sql", format!("{SOURCE}{CLEAN}"));
        place
    }

    /// A source with these options and nothing in its folder yet.
    fn with_options(options: &str) -> Self {
        let place = Self::new();
        place.remove("in/a.json");
        place.write("sql/a.sql", format!("{}{CLEAN}", SOURCE.replace("'in/'", &format!("'in/' OPTIONS ({options})"))));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn go(&self, arguments: &[&str]) -> Done {
        let mut command = Command::new(world::binary());
        for (name, _) in std::env::vars_os() {
            if ["AWS_", "PINSQL_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let done = command.arg("-C").arg(self.folder.path()).args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let status = done.status.code().expect("it was not killed");
        let done = Done { status, stdout: text(done.stdout), stderr: text(done.stderr) };
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        done
    }

    fn run(&self) -> Done {
        self.go(&["--json", "run", "sql"])
    }

    /// `run sql`, which must succeed.
    fn succeed(&self) -> Done {
        let done = self.run();
        assert_eq!(done.status, 0, "{}\n{}", done.stdout, done.stderr);
        assert_eq!(done.summary()["status"], "ok");
        done
    }

    fn query(&self, sql: &str) -> Vec<Value> {
        let done = self.go(&["--json", "-c", sql]);
        assert_eq!(done.status, 0, "{sql}\n{}\n{}", done.stdout, done.stderr);
        let mut lines: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.pop();
        lines
    }

    fn ids(&self) -> Vec<i64> {
        self.query("SELECT id FROM clean ORDER BY id").iter().map(|row| row["id"].as_i64().unwrap_or(-1)).collect()
    }
}

/// One thing that is wrong, what must be said of it, and what makes it right.
#[derive(Default)]
struct Case {
    name: &'static str,
    /// Files over those of a good project.
    files: Vec<(&'static str, String)>,
    arguments: Vec<&'static str>,
    status: i32,
    kind: &'static str,
    /// The message, or a part of it.
    says: &'static str,
    /// A part of the hint.
    hint: &'static str,
    /// File, line and column.
    at: Option<(&'static str, u64, u64)>,
    /// Files that make it right; without any, the good project's.
    mend: Vec<(&'static str, String)>,
    /// `--full-refresh` and the like for the run after.
    mend_arguments: Vec<&'static str>,
}

impl Case {
    fn text(name: &'static str, sql: &str, says: &'static str, hint: &'static str, line: u64, column: u64) -> Self {
        Self {
            name,
            files: vec![("sql/a.sql", sql.to_owned())],
            says,
            hint,
            at: Some(("sql/a.sql", line, column)),
            ..Self::wrong("sql")
        }
    }

    /// The text of the table's query after the source; it begins in line 3.
    fn query(name: &'static str, query: &str, says: &'static str, hint: &'static str, column: u64) -> Self {
        let sql = format!("{SOURCE}CREATE OR REFRESH STREAMING TABLE clean AS\n{query};\n");
        Self::text(name, &sql, says, hint, 3, column)
    }

    fn wrong(kind: &'static str) -> Self {
        Self { arguments: vec!["run", "sql"], status: 2, kind, ..Self::default() }
    }

    fn kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self.status = if matches!(kind, "sql" | "config") { 2 } else { 1 };
        self
    }

    fn at(mut self, file: &'static str, line: u64, column: u64) -> Self {
        self.at = Some((file, line, column));
        self
    }

    fn file(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.files.push((name, text.into()));
        self
    }

    fn arguments(mut self, arguments: &[&'static str]) -> Self {
        self.arguments = arguments.to_vec();
        self
    }

    fn mended_by(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.mend.push((name, text.into()));
        self
    }

    fn check(&self) {
        let name = self.name;
        let place = Place::good();
        for (file, text) in &self.files {
            place.write(file, text);
        }
        let done = place.go(&[&["--json"], self.arguments.as_slice()].concat());
        let error = self.judge(&done);
        println!("{name}: {} | {} | {}", error["kind"].as_str().unwrap(), error["message"], error["hint"]);
        if self.status == 2 {
            assert!(!place.exists("lake"), "{name}: the text is wrong, yet something was written");
            if self.arguments == ["run", "sql"] {
                let planned = place.go(&["--json", "plan", "sql"]).summary();
                assert_eq!(planned["error"]["message"], error["message"], "{name}: a plan of what would be refused");
            }
        }
        self.judge_words(&place.go(&self.arguments), &error);
        for (file, _) in &self.files {
            place.remove(file);
        }
        let good = [
            ("sql/a.sql", format!("{SOURCE}{CLEAN}")),
            ("pinsql.toml", String::new()),
            ("in/a.json", RECORDS.to_owned()),
        ];
        for (file, text) in good.iter().chain(&self.mend) {
            place.write(file, text);
        }
        let again = place.go(&[&["--json", "run", "sql"], self.mend_arguments.as_slice()].concat());
        assert_eq!(again.status, 0, "{name}, mended: {}\n{}", again.stdout, again.stderr);
        assert_eq!(place.query("SELECT count(*) AS n FROM clean"), [json!({"n": 2})], "{name}, mended");
        assert_eq!(place.succeed().table("clean")["read"], 0, "{name}: all was read once");
    }

    /// What `--json` says.
    fn judge(&self, done: &Done) -> Value {
        let name = self.name;
        assert_eq!(done.status, self.status, "{name}: {}\n{}", done.stdout, done.stderr);
        let summary = done.summary();
        assert_eq!(summary["status"], "failed", "{name}: {summary}");
        let error = summary["error"].clone();
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        assert_eq!(text("kind"), self.kind, "{name}: {error}");
        assert!(text("message").contains(self.says), "{name}: {error}");
        assert!(!text("hint").is_empty() && text("hint").contains(self.hint), "{name}: {error}");
        let raw = [
            "DataFusion",
            "Arrow error",
            "ObjectStore",
            "Generic ",
            "Utf8",
            "Int64",
            "Int32",
            "os error 17",
            "planning:",
        ];
        assert!(raw.iter().all(|raw| !text("message").contains(raw)), "{name}: raw words: {error}");
        assert!(!text("message").contains('\n') && text("message").len() < 400, "{name}: not one sentence: {error}");
        if let Some((file, line, column)) = self.at {
            assert!(text("file").ends_with(file), "{name}: {error}");
            assert_eq!((&error["line"], &error["column"]), (&json!(line), &json!(column)), "{name}: {error}");
        }
        error
    }

    /// What a person sees: the same, once, and nothing on standard output.
    fn judge_words(&self, done: &Done, error: &Value) {
        let (name, words) = (self.name, error["message"].as_str().unwrap());
        assert_eq!(done.status, self.status, "{name}: {}", done.stderr);
        assert_eq!(done.stdout, "", "{name}");
        let shown = words.split('`').max_by_key(|part| part.len()).unwrap();
        assert!(done.stderr.contains(shown), "{name}: `{shown}` is not in\n{}", done.stderr);
        if self.kind != "world" {
            assert_eq!(done.stderr.matches("error: ").count(), 1, "{name}: one error\n{}", done.stderr);
        }
        if let Some((file, line, column)) = self.at.filter(|_| self.kind != "world") {
            assert!(done.stderr.contains(&format!("{file}:{line}:{column}")), "{name}: no place\n{}", done.stderr);
        }
    }
}

fn check(cases: Vec<Case>) {
    for case in cases {
        case.check();
    }
}

#[test]
fn wrong_usage_and_config() {
    let good = format!("{SOURCE}{CLEAN}");
    let source = |options: &str| format!("{}{CLEAN}", SOURCE.replace("'in/'", &format!("'in/' OPTIONS ({options})")));
    let toml = |text: &str| Case::wrong("config").file("pinsql.toml", text);
    let run = |arguments: &[&'static str]| Case::wrong("config").arguments(arguments);
    check(vec![
        Case {
            name: "missing .sql file",
            says: "there is no file or folder `sql/no.sql`",
            hint: ".sql",
            ..run(&["run", "sql/no.sql"])
        },
        Case { name: "unknown flag", says: "--selct", hint: "--help", ..run(&["run", "sql", "--selct", "clean"]) },
        Case {
            name: "unknown table in --select",
            says: "`cleen`",
            hint: "did you mean `clean`?",
            ..run(&["run", "sql", "--select", "cleen"])
        },
        Case {
            name: "unknown table in --full-refresh",
            says: "`cleen`",
            hint: "did you mean `clean`?",
            ..run(&["run", "sql", "--full-refresh=cleen"])
        },
        Case {
            name: "a lake of another kind",
            says: "`gs://x` is not a location",
            hint: "s3://bucket/prefix",
            ..run(&["--lake", "gs://x", "run", "sql"])
        },
        Case {
            name: "unknown key",
            says: "unknown key `laek`",
            hint: "did you mean `lake`?",
            ..toml("laek = \"x\"\n").at("pinsql.toml", 1, 1)
        },
        Case {
            name: "no TOML",
            says: "pinsql.toml is not TOML",
            hint: "key",
            ..toml("\nlake =\n").at("pinsql.toml", 2, 7)
        },
        Case {
            name: "unknown profile",
            says: "there is no profile `prd`",
            hint: "did you mean `prod`?",
            ..toml("[profile.prod]\nlake = \"p\"\n").arguments(&["--profile", "prd", "run", "sql"])
        },
        Case::text(
            "missing variable",
            &good.replace("'in/'", "'${INN}'"),
            "the variable `INN` is not set",
            "did you mean `IN`? set it by --var",
            1,
            80,
        )
        .kind("config")
        .file("pinsql.toml", "[vars]\nIN = \"in/\"\n"),
        Case::text(
            "unknown option",
            &source("recursiv 'true'"),
            "has no option `recursiv`",
            "did you mean `recursive`?",
            1,
            94,
        )
        .kind("config"),
        Case::text(
            "unknown option value",
            &source("mode 'failfats'"),
            "option `mode` is `failfats`",
            "failfast",
            1,
            99,
        )
        .kind("config"),
        Case::text(
            "no number",
            &source("maxFilesPerTrigger '0'"),
            "option `maxFilesPerTrigger` is `0`",
            "at least 1",
            1,
            113,
        )
        .kind("config"),
    ]);
}

#[test]
fn wrong_sql() {
    let after = |text: &str| format!("{SOURCE}{text}");
    let clean = format!("{SOURCE}{CLEAN}");
    check(vec![
        Case::query(
            "missing column",
            "SELECT id, nmae FROM STREAM events",
            "there is no column `nmae`",
            "did you mean `name`?",
            12,
        ),
        Case::query("unknown table", "SELECT id FROM STREAM evnts", "`evnts`", "did you mean `events`?", 23),
        Case::query(
            "unknown function",
            "SELECT uper(name) AS n FROM STREAM events",
            "there is no function `uper`",
            "did you mean `upper`?",
            8,
        ),
        Case::query(
            "wrong arguments",
            "SELECT date_bin(name, id) AS n FROM STREAM events",
            "`date_bin` does not take (STRING, BIGINT)",
            "cast",
            1,
        ),
        Case::query(
            "types that do not add",
            "SELECT id + make_array(1) AS n FROM STREAM events",
            "cannot be computed",
            "cast",
            8,
        ),
        Case::query(
            "no condition",
            "SELECT id FROM STREAM events WHERE id",
            "is BIGINT, not true or false",
            "compare",
            1,
        ),
        Case::query(
            "the same column twice",
            "SELECT id, id FROM STREAM events",
            "two columns are called `id`",
            "AS",
            1,
        ),
        Case::query(
            "columns that differ by case",
            "SELECT id, name AS \"ID\" FROM STREAM events",
            "two columns are called `id` and `ID`",
            "AS",
            1,
        ),
        Case::query("a space in a name", "SELECT id AS \"the id\" FROM STREAM events", "`the id` holds ` `", "AS", 1),
        Case::query(
            "a type that Delta has not",
            "SELECT id, INTERVAL '1' DAY AS i FROM STREAM events",
            "`i` is of type INTERVAL",
            "cast",
            1,
        ),
        Case::query("no query", "SELEC id FROM STREAM events", "`SELEC`", "`SELECT`", 1),
        Case::text(
            "unknown type",
            &clean.replace("BIGINT", "BIGNIT"),
            "unknown type `BIGNIT`",
            "did you mean `BIGINT`?",
            1,
            34,
        ),
        Case::text("a type that no source has", &clean.replace("BIGINT", "INTERVAL"), "`INTERVAL`", "STRING", 1, 34),
        Case::text(
            "a column declared twice",
            &clean.replace("name STRING", "\"ID\" STRING"),
            "`ID` is given twice",
            "case",
            1,
            42,
        ),
        Case::text(
            "declared twice",
            &format!("{clean}{CLEAN}"),
            "`clean` is declared twice; first at sql/a.sql:2:1",
            "another name",
            4,
            35,
        ),
        Case::text(
            "declared in two files",
            &clean,
            "`clean` is declared twice; first at sql/0.sql:1:1",
            "another name",
            2,
            35,
        )
        .file("sql/0.sql", CLEAN),
        Case::text(
            "tables in a circle",
            &after("CREATE MATERIALIZED VIEW a AS SELECT * FROM b;\nCREATE MATERIALIZED VIEW b AS SELECT * FROM a;"),
            "a → b → a",
            "read a source",
            2,
            1,
        ),
        Case::text(
            "a table that reads itself",
            &after("CREATE MATERIALIZED VIEW a AS SELECT * FROM a;"),
            "table `a` reads itself",
            "source",
            2,
            1,
        ),
        Case::text(
            "a view that reads itself",
            &after("CREATE VIEW v AS SELECT * FROM v;"),
            "view `v` reads itself",
            "else",
            2,
            32,
        ),
        Case::text(
            "views in a circle",
            &after("CREATE VIEW v AS SELECT * FROM w;\nCREATE VIEW w AS SELECT * FROM v;"),
            "reads itself through",
            "else",
            2,
            32,
        ),
        Case::text(
            "a constraint over nothing",
            &after(
                "CREATE STREAMING TABLE clean (\n  CONSTRAINT small EXPECT (idd < 2)) AS SELECT * FROM STREAM events;",
            ),
            "constraint `small`: there is no column `idd`",
            "did you mean `id`?",
            3,
            3,
        ),
        Case::text(
            "INSERT into a streaming table",
            &format!("{clean}INSERT INTO clean SELECT 3, 'x';"),
            "`clean` is filled by its own query",
            "CREATE TABLE",
            4,
            13,
        ),
        Case::text(
            "an error behind a good table",
            &format!("{clean}CREATE MATERIALIZED VIEW m AS\nSELECT nmae FROM clean;"),
            "`nmae`",
            "`name`",
            5,
            8,
        ),
        Case::text(
            "no GROUP BY",
            &after("CREATE MATERIALIZED VIEW m AS\nSELECT id, count(*) AS n FROM events;"),
            "neither in GROUP BY",
            "add it",
            3,
            8,
        ),
    ]);
}

#[test]
fn what_cannot_be_maintained() {
    let hint = "MATERIALIZED VIEW";
    let refused = |name, query, says, column| Case::query(name, query, says, hint, column);
    check(vec![
        refused("GROUP BY", "SELECT name, count(*) AS n FROM STREAM events GROUP BY name", "GROUP BY", 1),
        refused("DISTINCT", "SELECT DISTINCT name FROM STREAM events", "DISTINCT", 1),
        refused("LIMIT", "SELECT id FROM STREAM events LIMIT 1", "LIMIT", 1),
        refused("a window", "SELECT id, row_number() OVER (ORDER BY id) AS r FROM STREAM events", "window function", 1),
        refused(
            "two streams",
            "SELECT a.id FROM STREAM events a JOIN STREAM events b ON a.id = b.id",
            "join of two streams",
            1,
        ),
        refused("no STREAM", "SELECT id FROM events", "`clean` reads no stream", 1),
        Case::text(
            "a view with STREAM",
            &format!("{SOURCE}CREATE MATERIALIZED VIEW m AS\nSELECT id FROM STREAM events;"),
            "materialized view `m` reads a stream",
            "STREAMING TABLE",
            3,
            23,
        ),
    ]);
}

#[test]
fn a_world_that_is_wrong() {
    let good = format!("{SOURCE}{CLEAN}");
    let missing = good.replace("'in/'", "'nowhere/'");
    let inferred = missing.replace(" (id BIGINT, name STRING)", "");
    check(vec![
        Case::text("missing folder", &missing, "/nowhere", "`nowhere/`", 1, 79).kind("world"),
        Case::text("missing folder, nothing declared", &inferred, "/nowhere", "`nowhere/`", 1, 54).kind("world"),
        Case {
            name: "a file where the lake should be",
            says: "Not a directory",
            hint: "--lake",
            ..Case::wrong("config").kind("world").arguments(&["--lake", "in/a.json", "run", "sql"])
        },
        Case::text(
            "a table that was never built",
            &good,
            "table `clean` has never been built",
            "run `sql/a.sql` first",
            2,
            15,
        )
        .kind("world")
        .file("sql/b.sql", "CREATE MATERIALIZED VIEW m AS\nSELECT * FROM clean;")
        .arguments(&["run", "sql/b.sql"])
        .at("sql/b.sql", 2, 15),
    ]);
}

#[test]
fn data_that_a_rule_forbids() {
    let failfast = format!("{}{CLEAN}", SOURCE.replace("'in/'", "'in/' OPTIONS (mode 'failfast')"));
    let update = format!(
        "{SOURCE}CREATE OR REFRESH STREAMING TABLE clean (\n  CONSTRAINT small EXPECT (id < 2) ON VIOLATION FAIL UPDATE\n) AS SELECT * FROM STREAM events;"
    );
    let cast = format!(
        "{SOURCE}CREATE OR REFRESH STREAMING TABLE clean AS\nSELECT CAST(name AS INT) AS n FROM STREAM events;"
    );
    let zero =
        format!("{SOURCE}CREATE OR REFRESH STREAMING TABLE clean AS\nSELECT 1 / (id - 1) AS n FROM STREAM events;");
    check(vec![
        Case::text("failfast", &failfast, "record 1 of `file:///", "`mode`", 2, 1)
            .kind("data")
            .file("in/b.json", "{\"id\":1,\"name\":\"ann\"}\nnonsense\n"),
        Case::text(
            "FAIL UPDATE",
            &update,
            "EXPECT (id < 2) is not true for {\"id\":2,\"name\":\"bob\"}",
            "nothing of this epoch was written",
            2,
            1,
        )
        .kind("data"),
        Case::text("a plain CAST", &cast, "'ann' cannot be cast to INT", "TRY_CAST", 2, 1)
            .kind("data")
            .mended_by("sql/a.sql", cast.replace("CAST(", "TRY_CAST(")),
        Case::text("a division by zero", &zero, "divides by zero", "nullif", 2, 1)
            .kind("data")
            .mended_by("sql/a.sql", zero.replace("(id - 1)", "nullif(id - 1, 0)")),
    ]);
}

#[test]
fn a_table_that_is_there_already() {
    let place = Place::good();
    place.succeed();
    place.write(
        "sql/a.sql",
        format!("{SOURCE}CREATE OR REFRESH STREAMING TABLE clean AS\nSELECT id, id * 2 AS twice FROM STREAM events;"),
    );
    let done = place.run();
    let error = done.summary()["error"].clone();
    assert_eq!((done.status, error["kind"].as_str().unwrap()), (1, "world"), "{error}");
    assert!(error["message"].as_str().unwrap().contains("`twice`"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--full-refresh=clean"), "{error}");
    assert_eq!((&error["line"], &error["column"]), (&json!(2), &json!(35)));
    assert_eq!(place.query("SELECT name FROM clean ORDER BY id")[1], json!({"name": "bob"}), "it stays as it was");
    assert_eq!(place.go(&["--json", "run", "sql", "--full-refresh=clean"]).status, 0);
    assert_eq!(place.query("SELECT twice FROM clean ORDER BY 1"), [json!({"twice": 2}), json!({"twice": 4})]);
    // A plain table that exists.
    let twice = place.go(&["--json", "-c", "CREATE TABLE t AS SELECT 1 AS a; CREATE TABLE t AS SELECT 2 AS a"]);
    let error = twice.summary()["error"].clone();
    assert_eq!((twice.status, &error["kind"], &error["column"]), (1, &json!("world"), &json!(47)), "{error}");
    assert!(error["message"].as_str().unwrap().contains("`t` exists already"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("OR REPLACE"), "{error}");
    assert_eq!(place.query("SELECT a FROM t"), [json!({"a": 1})]);
    assert_eq!(place.go(&["-c", "INSERT INTO clean SELECT 1, 2"]).status, 2);
}

#[test]
fn a_table_that_somebody_else_wrote() {
    if left_out("python") {
        return;
    }
    let place = Place::good();
    let theirs = place.path("lake/clean");
    let write = "import sys, pyarrow, deltalake\ndeltalake.write_deltalake(sys.argv[1], pyarrow.table({'id': [7], 'name': ['theirs']}))";
    std::fs::create_dir_all(&theirs).unwrap();
    run_python(write, &[theirs.to_str().unwrap()]);
    for arguments in [&["--json", "run", "sql"][..], &["--json", "run", "sql", "--full-refresh"]] {
        let done = place.go(arguments);
        let error = done.summary()["error"].clone();
        assert_eq!((done.status, &error["kind"]), (1, &json!("conflict")), "{error}");
        assert!(error["message"].as_str().unwrap().contains("was not made by this statement"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("another name"), "{error}");
        assert_eq!((&error["file"], &error["line"], &error["column"]), (&json!("sql/a.sql"), &json!(2), &json!(35)));
        assert!(!place.exists("lake/clean/_pinsql"), "nothing is written into it");
    }
    assert_eq!(place.query("SELECT name FROM clean"), [json!({"name": "theirs"})], "it is theirs, and can be read");
    std::fs::rename(&theirs, place.path("theirs")).unwrap();
    place.succeed();
    assert_eq!(place.ids(), [1, 2]);
}

#[test]
fn independent_tables_go_on() {
    let place = Place::new();
    let bad = "CREATE OR REFRESH STREAMING TABLE bad AS SELECT CAST(name AS INT) AS n FROM STREAM events;
        CREATE MATERIALIZED VIEW above AS SELECT count(*) AS n FROM bad;
        CREATE MATERIALIZED VIEW far_above AS SELECT n FROM above;";
    place.write(
        "sql/a.sql",
        format!("{SOURCE}{bad}{CLEAN}CREATE MATERIALIZED VIEW fine AS SELECT count(*) AS n FROM clean;"),
    );
    let done = place.run();
    assert_eq!(done.status, 1, "{}", done.stdout);
    assert_eq!(done.summary()["error"]["kind"], "data");
    for (table, failed) in [("above", "bad"), ("far_above", "above")] {
        let error = done.table(table)["error"].clone();
        assert!(
            error["message"].as_str().unwrap().contains(&format!("`{table}` was left out, because `{failed}`")),
            "{error}"
        );
    }
    assert_eq!(done.counts("clean"), [2, 2, 0, 0]);
    assert_eq!(done.table("fine")["written"], 1);
    assert!(!place.exists("lake/above"));
    place.write("in/a.json", "{\"id\":1,\"name\":\"8\"}\n{\"id\":2,\"name\":\"9\"}\n");
    assert_eq!(place.go(&["--json", "run", "sql", "--full-refresh"]).status, 0);
    assert_eq!(place.query("SELECT n FROM far_above"), [json!({"n": 2})]);
}

#[test]
fn nothing_is_no_error() {
    let place = Place::good();
    place.remove("in/a.json");
    assert_eq!(place.succeed().counts("clean"), [0, 0, 0, 0]);
    assert_eq!(place.query("SELECT count(*) AS n FROM clean"), [json!({"n": 0})], "an empty table, not a missing one");
    // Nothing to infer from: a notice, no table, and the ones that read it wait.
    let place = Place::new();
    place.write("in/a.json", "");
    let inferred = SOURCE.replace(" (id BIGINT, name STRING)", "");
    place
        .write("sql/a.sql", format!("{inferred}{CLEAN}CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM clean;"));
    let done = place.succeed();
    assert!(!place.exists("lake/clean") && !place.exists("lake/m"));
    assert!(done.stderr.contains("nothing in `events` to infer"), "{}", done.stderr);
    assert!(done.stderr.contains("`m` is not built yet"), "{}", done.stderr);
    place.write("in/b.json", RECORDS);
    place.succeed();
    assert_eq!(place.query("SELECT n FROM m"), [json!({"n": 2})]);
}

#[test]
fn buckets_that_refuse() {
    // No credentials anywhere: seconds, and what to set.
    let mut place = Place::good();
    place.write("sql/a.sql", format!("{}{CLEAN}", SOURCE.replace("'in/'", "'s3://some-bucket/in/'")));
    let says = |place: &Place, arguments: &[&str], says: &[&str]| {
        let done = place.go(&[&["--json"], arguments].concat());
        let error = done.summary()["error"].clone();
        println!("{} | {}", error["message"], error["hint"]);
        assert_eq!((done.status, &error["kind"]), (1, &json!("world")), "{error}");
        let words = format!("{} {}", error["message"], error["hint"]);
        assert!(says.iter().all(|part| words.contains(part)), "{says:?}: {error}");
        assert!(!words.contains("\\n") && words.len() < 500, "{error}");
    };
    let run = ["run", "sql"];
    says(&place, &run, &["s3://some-bucket/in", "there are no AWS credentials", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"]);
    place.write("sql/a.sql", format!("{SOURCE}{CLEAN}"));
    says(
        &place,
        &["--lake", "s3://some-bucket/lake", "run", "sql"],
        &["s3://some-bucket/lake", "there are no AWS credentials", "AWS_PROFILE"],
    );
    // One that refuses whatever it is asked.
    let refusing = refusing_store();
    place.environment = aws_environment(&refusing).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    says(&place, &["--lake", "s3://some-bucket/lake", "run", "sql"], &["s3://some-bucket/lake", "policy"]);
    place.write("sql/a.sql", format!("{}{CLEAN}", SOURCE.replace("'in/'", "'s3://some-bucket/in/'")));
    says(&place, &run, &["s3://some-bucket/in", "policy"]);
    if left_out("s3") {
        return;
    }
    let moto = Moto::start();
    place.environment = moto.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    says(&place, &run, &["s3://some-bucket/in", "bucket does not exist", "make the bucket"]);
    place.write("sql/a.sql", format!("{SOURCE}{CLEAN}"));
    says(
        &place,
        &["--lake", "s3://some-bucket/lake", "run", "sql"],
        &["s3://some-bucket/lake", "bucket does not exist", "make the bucket"],
    );
    moto.bucket("some-bucket");
    let made = place.go(&["--json", "--lake", "s3://some-bucket/lake", "run", "sql"]);
    assert_eq!((made.status, made.counts("clean")), (0, [2, 2, 0, 0]), "{}", made.stderr);
}

/// An S3 that answers 403 to everything.
fn refusing_store() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let body = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 8192];
            let _ = stream.read(&mut request);
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    endpoint
}

/// A small disk of its own; None, with a line, where this user may not mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at).output();
        if mounted.is_ok_and(|done| done.status.success()) {
            return Some(Self(at));
        }
        println!("left out: this user may not mount a tmpfs");
        None
    }

    fn read_only(&self, read_only: bool) {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        assert!(Command::new("mount").args(["-o", how]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk() {
    const PAGE: usize = 4096;
    const PAGES: usize = 64;
    let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
    for free in 0..40 {
        let place = Place::good();
        place.write("in/a.json", format!("{RECORDS}unreadable\n"));
        let Some(_disk) = Disk::mount(place.path("lake"), &format!("{}k", PAGES * 4)) else { return };
        place.write("lake/ballast", vec![1; (PAGES - free) * PAGE]);
        let done = place.run();
        let has = |name: &str| {
            std::fs::read_dir(place.path(name)).is_ok_and(|mut entries| {
                entries.any(|entry| !entry.unwrap().file_name().to_string_lossy().contains('#'))
            })
        };
        let stage = match (has("lake/clean/_pinsql/clean/log"), has("lake/clean/_delta_log")) {
            _ if done.status == 0 => "enough",
            (false, false) => "before the log",
            (true, false) => "between the log and the commit",
            _ => "after the first commit",
        };
        *stages.entry(stage).or_default() += 1;
        if done.status != 0 {
            let error = done.summary()["error"].clone();
            assert_eq!((done.status, &error["kind"]), (1, &json!("world")), "{free} pages: {error}");
            assert!(error["message"].as_str().unwrap().contains("No space left on device"), "{free} pages: {error}");
            assert!(error["hint"].as_str().unwrap().contains("free some room"), "{free} pages: {error}");
        }
        place.remove("lake/ballast");
        place.succeed();
        assert_eq!(place.ids(), [1, 2], "{free} pages: {stage}");
        assert_eq!(
            place.query("SELECT count(*) AS n FROM clean_quarantine"),
            [json!({"n": 1})],
            "{free} pages: {stage}"
        );
        assert_eq!(place.succeed().counts("clean"), [0, 0, 0, 0]);
        if stage == "enough" {
            break;
        }
    }
    println!("a full disk: {stages:?}");
    assert!(stages.len() >= 3 && stages.contains_key("enough"), "every stage is met: {stages:?}");
}

#[test]
fn a_read_only_lake() {
    let place = Place::good();
    let Some(disk) = Disk::mount(place.path("lake"), "4m") else { return };
    place.write("lake/other/file", "");
    for built in [false, true] {
        disk.read_only(true);
        let done = place.run();
        let error = done.summary()["error"].clone();
        println!("{} | {}", error["message"], error["hint"]);
        assert_eq!((done.status, &error["kind"]), (1, &json!("world")), "built: {built}: {error}");
        assert!(error["message"].as_str().unwrap().contains("Read-only file system"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("--lake"), "{error}");
        disk.read_only(false);
        place.succeed();
        place.write("in/b.json", "{\"id\":3}");
    }
    assert_eq!(place.ids(), [1, 2, 3]);
}

/// The records that reached the table and the quarantine of a source with these options and files.
fn decoded(options: &str, files: &[(&str, &[u8])]) -> (Place, Done) {
    let place = Place::with_options(options);
    files.iter().for_each(|(name, bytes)| place.write(&format!("in/{name}"), bytes));
    let done = place.succeed();
    (place, done)
}

fn reasons(place: &Place) -> Vec<String> {
    let rows = place.query("SELECT reason FROM clean_quarantine ORDER BY partition, CAST(position AS BIGINT)");
    rows.iter().map(|row| row["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_form_of_file() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zipped = gzip(b"{\"id\":1}\n{\"id\":2}\n");
    let double: Vec<u8> = [gzip(b"{\"id\":7}\n"), gzip(b"{\"id\":8}\n")].concat();
    let files: [(&str, &[u8]); 13] = [
        ("a.json.gz", &zipped),
        ("b.json.gz", &double),
        ("c.json.zst", &zstd::encode_all(&b"{\"id\":3}\n"[..], 0).unwrap()),
        ("d.json", b"\xef\xbb\xbf{\"id\":4}\r\n{\"id\":5}\r\n"),
        ("e.json", b"{\n  \"id\": 6\n}\n{ \"id\":\n9 }"),
        ("f.json", b"[{\"id\":10},\n {\"id\":11}]"),
        ("topics/t/partition=0/t+0+0000000003.json", b"{\"id\":12}"),
        ("empty.json", b""),
        ("blank.json", b"\r\n \n\n"),
        ("_hidden.json", b"{\"id\":99}"),
        (".hidden.json", b"{\"id\":99}"),
        ("_folder/a.json", b"{\"id\":99}"),
        ("x/.folder/a.json", b"{\"id\":99}"),
    ];
    let (place, done) = decoded("mode 'failfast'", &files);
    assert_eq!(done.counts("clean"), [12, 12, 0, 0]);
    assert_eq!(place.ids(), (1..=12).collect::<Vec<_>>());
}

#[test]
fn damaged_records_are_put_aside_and_the_rest_goes_on() {
    let deep = format!("{{\"id\":1,\"name\":{}1{}}}\n{{\"id\":2}}\n", "[".repeat(10_000), "]".repeat(10_000));
    let zipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&b"{\"id\":77}\n".repeat(1000)).unwrap();
        encoder.finish().unwrap()
    };
    let files: [(&str, &[u8]); 6] = [
        ("a.json", deep.as_bytes()),
        ("b.json", b"{\"id\":3,\"name\":\"\xff\xfe\"}\n{\"id\":4}\n"),
        ("c.json.gz", &zipped[..zipped.len() / 2]),
        ("d.json.gz", b"no gzip at all"),
        ("e.json", b"\"\"\n{\"id\":5}\n"),
        ("f.json", b"{\"id\":6}\n{\"id\":\n"),
    ];
    let (place, done) = decoded("mode 'quarantine'", &files);
    assert_eq!(place.ids(), [2, 4, 5, 6]);
    let [read, written, dropped, quarantined] = done.counts("clean");
    println!("damaged: {:?} {:?}", done.counts("clean"), reasons(&place));
    assert_eq!((read, written, dropped, quarantined), (10, 4, 0, 6));
    // Damaged again, with failfast: the object is named, and nothing is written.
    let place = Place::with_options("mode 'failfast'");
    place.write("in/c.json.gz", &zipped[..zipped.len() / 2]);
    let failed = place.run();
    let error = failed.summary()["error"].clone();
    assert!(failed.status == 1 && error["message"].as_str().unwrap().contains("c.json.gz"), "{error}");
    place.write("in/c.json.gz", &zipped);
    assert_eq!(place.succeed().counts("clean"), [1000, 1000, 0, 0]);
}

#[test]
fn a_record_of_300_mb() {
    let place = Place::with_options("mode 'quarantine'");
    let mut file = std::io::BufWriter::new(std::fs::File::create(place.path("in/big.json")).unwrap());
    file.write_all(b"{\"id\":1}\n{\"id\":2,\"name\":\"").unwrap();
    for _ in 0..300 {
        file.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    file.write_all(b"\"}\n{\"id\":3}\n").unwrap();
    file.into_inner().unwrap().sync_all().unwrap();
    assert_eq!(place.succeed().counts("clean"), [3, 2, 0, 1]);
    assert_eq!(place.ids(), [1, 3]);
    let rows = place.query("SELECT reason, octet_length(CAST(payload AS STRING)) AS n, position FROM clean_quarantine");
    println!("300 MB: {rows:?}");
    assert_eq!(
        (&rows[0]["n"], &rows[0]["position"]),
        (&json!(64 << 10), &json!("1")),
        "its first 64 KB, and where it was"
    );
}

#[test]
fn which_files_count() {
    let files: [(&str, &[u8]); 5] = [
        ("a.json", b"{\"id\":1}"),
        ("b.txt", b"{\"id\":2}"),
        ("2024/x.json", b"{\"id\":3}"),
        ("2025/y.json", b"{\"id\":4}"),
        ("2025/deep/z.json", b"{\"id\":5}"),
    ];
    let at = |location: &str, options: &str| {
        let place = Place::with_options(options);
        place.write(
            "sql/a.sql",
            std::fs::read_to_string(place.path("sql/a.sql")).unwrap().replace("'in/'", &format!("'{location}'")),
        );
        files.iter().for_each(|(name, bytes)| place.write(&format!("in/{name}"), bytes));
        let done = place.succeed();
        (place.ids(), done.table("clean")["epochs"].as_u64().unwrap())
    };
    assert_eq!(at("in/", "multiLine 'auto'").0, [1, 2, 3, 4, 5]);
    assert_eq!(at("in", "multiLine 'true'").0, [1, 2, 3, 4, 5]);
    assert_eq!(at("in/", "fileExtension '.json'").0, [1, 3, 4, 5]);
    assert_eq!(at("in/", "recursive 'false'").0, [1, 2]);
    assert_eq!(at("in/", "RECURSIVE 'false', fileextension 'txt'").0, [2]);
    assert_eq!(at("in/*.json", "mode 'failfast'").0, [1]);
    assert_eq!(at("in/*/*.json", "mode 'failfast'").0, [3, 4]);
    assert_eq!(at("in/20??/**/*.json", "mode 'failfast'").0, [3, 4, 5]);
    assert_eq!(at("in/202[5]/*", "mode 'failfast'").0, [4]);
    assert_eq!(at("in/2025/deep/z.json", "mode 'failfast'").0, [5]);
    let (ids, epochs) = at("in/", "maxFilesPerTrigger '2'");
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    println!("maxFilesPerTrigger 2 over 5 files: {epochs} epochs");
    assert!((3..=4).contains(&epochs), "{epochs}");
}

#[test]
fn metadata_is_there_when_it_is_named() {
    let place = Place::good();
    place.write("in/d/b.json", "{\"id\":3}\n");
    let rows = place.query("SELECT * FROM events ORDER BY id");
    assert_eq!(rows[2], json!({"id": 3, "name": null}), "`*` does not show it");
    let named = "SELECT id, _metadata.file_name AS f, _metadata.file_size AS s, _metadata.row_index AS r, \
        _metadata.file_path AS p, _metadata.file_modification_time IS NOT NULL AS t FROM events ORDER BY id";
    let rows = place.query(named);
    let size = RECORDS.len();
    let path = |name: &str| format!("file://{}", place.path(name).display());
    assert_eq!(rows[1], json!({"id": 2, "f": "a.json", "s": size, "r": 1, "p": path("in/a.json"), "t": true}));
    assert_eq!(rows[2], json!({"id": 3, "f": "b.json", "s": 9, "r": 0, "p": path("in/d/b.json"), "t": true}));
    place.write(
        "sql/a.sql",
        format!("{SOURCE}CREATE STREAMING TABLE clean AS SELECT *, _metadata.file_name AS f FROM STREAM events;"),
    );
    place.succeed();
    assert_eq!(place.query("SELECT * FROM clean WHERE id = 3"), [json!({"id": 3, "name": null, "f": "b.json"})]);
}

#[test]
fn read_files_with_and_without_a_schema() {
    let place = Place::new();
    let all = "SELECT * FROM read_files('in/', format => 'json') ORDER BY id";
    assert_eq!(place.query(all), [json!({"id": 1, "name": "ann"}), json!({"id": 2, "name": "bob"})]);
    let one = "SELECT * FROM read_files('in/', format => 'json', schema => 'id STRING, other INT') ORDER BY id";
    assert_eq!(place.query(one)[0], json!({"id": "1", "other": null}));
    place.write(
        "sql/a.sql",
        "CREATE STREAMING TABLE clean AS SELECT * FROM STREAM read_files('in/', format => 'json');",
    );
    assert_eq!(place.succeed().counts("clean"), [2, 2, 0, 0]);
    // The columns that were inferred stay, whatever comes later.
    place.write("in/b.json", "{\"id\":3,\"extra\":1}\n");
    assert_eq!(place.succeed().counts("clean"), [1, 1, 0, 0]);
    assert_eq!(place.query("SELECT * FROM clean WHERE id = 3"), [json!({"id": 3, "name": null})]);
    let error = place.go(&["--json", "-c", "SELECT * FROM read_files('in/', fromat => 'json')"]);
    assert_eq!((error.status, error.summary()["error"]["hint"].as_str().unwrap()), (2, "did you mean `format`?"));
}

#[test]
fn modes_and_envelopes() {
    let bad: [(&str, &[u8]); 1] = [("a.json", b"{\"id\":1}\n{\"id\":\"two\",\"name\":\"bob\"}\nnonsense\n")];
    let (place, done) = decoded("mode 'quarantine'", &bad);
    assert_eq!((done.counts("clean"), place.ids()), ([3, 1, 0, 2], vec![1]));
    let (place, done) = decoded("mode 'dropmalformed'", &bad);
    assert_eq!((done.counts("clean"), place.ids()), ([3, 1, 2, 0], vec![1]));
    let (place, done) = decoded("mode 'permissive'", &bad);
    assert_eq!(done.counts("clean"), [3, 3, 0, 0]);
    let rows = place.query("SELECT id, name, _rescued_data AS r FROM clean ORDER BY r NULLS FIRST");
    assert_eq!(rows[0], json!({"id": 1, "name": null, "r": null}));
    assert_eq!(rows[2], json!({"id": null, "name": "bob", "r": "{\"id\":\"two\",\"name\":\"bob\"}"}), "{rows:?}");
    let wrapped: [(&str, &[u8]); 1] = [(
        "a.json",
        b"{\"id\":1}\n{\"value\":{\"id\":2}}\n[{\"value\":{\"id\":3}}]\n{\"records\":[{\"value\":{\"id\":4}},{\"value\":{\"id\":5}}]}\n\"{\\\"id\\\":6}\"\n",
    )];
    let (place, done) = decoded("envelope 'auto'", &wrapped);
    assert_eq!((done.counts("clean"), place.ids()), ([5, 6, 0, 0], (1..=6).collect::<Vec<i64>>()));
    let (place, _) = decoded("envelope 'body.inner'", &[("a.json", b"{\"body\":{\"inner\":{\"id\":9}}}\n")]);
    assert_eq!(place.ids(), [9]);
    let (place, done) = decoded("envelope 'none'", &[("a.json", b"{\"value\":{\"id\":2}}\n")]);
    assert_eq!(
        (done.counts("clean"), place.ids()),
        ([1, 1, 0, 0], vec![-1]),
        "an unknown key is ignored, a missing one is NULL"
    );
}

/// Where the samples lie that are not part of the clone.
fn samples() -> Option<PathBuf> {
    let told = std::env::var_os("PINSQL_TEST_DATA").map(PathBuf::from);
    let folder = told.unwrap_or_else(|| world::home().join("../shared/data/pinterest"));
    let there = folder.join("wire-oddities.jsonl").is_file();
    if !there {
        println!("left out: there are no samples (PINSQL_TEST_DATA)");
    }
    there.then_some(folder)
}

fn topic(text: &str) -> &'static str {
    match text {
        _ if text.contains("latitude") => "geo",
        _ if text.contains("date_joined") => "user",
        _ => "pin",
    }
}

/// kind → topic → payload texts
fn oddities(folder: &Path) -> BTreeMap<String, BTreeMap<&'static str, Vec<String>>> {
    let text = std::fs::read_to_string(folder.join("wire-oddities.jsonl")).unwrap();
    let mut kinds: BTreeMap<String, BTreeMap<_, Vec<_>>> = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let payload = line["text"].as_str().unwrap().to_owned();
        kinds
            .entry(line["kind"].as_str().unwrap().to_owned())
            .or_default()
            .entry(topic(&payload))
            .or_default()
            .push(payload);
    }
    kinds
}

#[test]
fn what_was_seen_on_the_wire_is_in_exactly_one_place() {
    let Some(folder) = samples() else { return };
    let mut payloads = 0;
    for (kind, topics) in oddities(&folder) {
        let place = Place::new();
        for (topic, texts) in &topics {
            payloads += texts.len();
            texts
                .iter()
                .enumerate()
                .for_each(|(number, text)| place.write(&format!("wire/{topic}/{number:04}.json"), text));
        }
        place.write("pinsql.toml", "[vars]\nPIN = \"no/\"\nGEO = \"no/\"\nUSER_DATA = \"no/\"\n");
        let mut arguments: Vec<String> =
            ["--json", "run", "sql", "--select", "clean_pin,clean_geo,clean_user"].map(str::to_owned).into();
        for (variable, topic) in [("PIN", "pin"), ("GEO", "geo"), ("USER_DATA", "user")] {
            std::fs::create_dir_all(place.path("wire").join(topic)).unwrap();
            arguments.extend(["--var".to_owned(), format!("{variable}=wire/{topic}/")]);
        }
        copy_sql(&world::home().join("sql"), &place.path("sql"));
        let done = place.go(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(done.status, 0, "{kind}: {}\n{}", done.stdout, done.stderr);
        for (topic, texts) in &topics {
            let table = format!("clean_{topic}");
            let [read, written, dropped, quarantined] = done.counts(&table);
            println!(
                "{kind} → {table}: {} payloads, {read} records: {written} rows, {quarantined} quarantined",
                texts.len()
            );
            assert_eq!((read, dropped), (written + quarantined, 0), "{kind}");
            assert_eq!(read, texts.len() as u64, "{kind}: each of these payloads is one record");
            let count =
                |table: &str| place.query(&format!("SELECT count(*) AS n FROM {table}"))[0]["n"].as_u64().unwrap();
            assert_eq!(count(&table), written, "{kind}");
            if quarantined > 0 {
                assert_eq!(count(&format!("{table}_quarantine")), quarantined, "{kind}");
            }
        }
    }
    assert_eq!(payloads, 253);
}

/// The same payloads under a table that keeps where its rows come from: no object is in both places, none in neither.
#[test]
fn every_payload_is_found_again_by_its_object() {
    let Some(folder) = samples() else { return };
    let place = Place::with_options("envelope 'auto'");
    let mut objects = BTreeSet::new();
    for (kind, topics) in oddities(&folder) {
        for (number, text) in topics.values().flatten().enumerate() {
            let name = format!("in/{kind}/{number:04}.json");
            place.write(&name, text);
            objects.insert(format!("file://{}", place.path(&name).display()));
        }
    }
    let sql = "CREATE EXTERNAL TABLE events (`index` BIGINT, ind BIGINT, age BIGINT, tag_list STRING, latitude DOUBLE) \
        STORED AS JSON LOCATION 'in/' OPTIONS (envelope 'auto');\
        CREATE STREAMING TABLE clean (CONSTRAINT numbered EXPECT (coalesce(ind, `index`) IS NOT NULL) ON VIOLATION QUARANTINE ROW) \
        AS SELECT *, _metadata.file_path AS path FROM STREAM events;";
    place.write("sql/a.sql", sql);
    let done = place.succeed();
    let paths = |sql: &str| -> Vec<String> {
        place.query(sql).iter().map(|row| row["p"].as_str().unwrap().to_owned()).collect()
    };
    let kept = paths("SELECT path AS p FROM clean");
    let aside = paths("SELECT partition AS p FROM clean_quarantine");
    println!("{} objects: {} rows, {} put aside", objects.len(), kept.len(), aside.len());
    assert_eq!(done.counts("clean"), [253, kept.len() as u64, 0, aside.len() as u64]);
    let whole = |path: &String| {
        objects.iter().find(|object| object.ends_with(path.as_str())).unwrap_or_else(|| panic!("{path}")).clone()
    };
    let found: Vec<String> = kept.iter().chain(&aside).map(whole).collect();
    assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (253, objects));
}

fn copy_sql(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy_sql(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}
