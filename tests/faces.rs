//! The faces: how errors, results and summaries look, and how a summary becomes an exit status.
//!
//! Uses `pinsql::{output, cli, report, error}`, with buffers for the two streams, and the program for its command line.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BinaryArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type};
use pinsql::cli::exit_status;
use pinsql::error::{Error, Place};
use pinsql::output::{Look, Output, render};
use pinsql::report::{Condition, EpochReport, Reporter, Status, Summary, TableReport};
use pinsql::signals::Interruption;
use serde_json::{Value, json};

/// A stream that a test can read.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream that takes nothing.
struct Refusing(io::ErrorKind);

impl Write for Refusing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Streams {
    output: Output,
    results: Buffer,
    messages: Buffer,
}

impl Streams {
    fn new(look: Look) -> Self {
        let (results, messages) = (Buffer::default(), Buffer::default());
        let output = Output::new(look, Box::new(results.clone()), Box::new(messages.clone()));
        Self { output, results, messages }
    }

    /// What came out since the last call: standard output and standard error.
    fn take(&self) -> (String, String) {
        let text = |buffer: &Buffer| String::from_utf8(std::mem::take(&mut *buffer.0.lock().unwrap())).unwrap();
        (text(&self.results), text(&self.messages))
    }

    fn show(&self, batches: &[RecordBatch]) -> String {
        self.output.rows(&batches[0].schema(), batches);
        self.output.end_of_rows();
        self.take().0
    }
}

fn people() -> Streams {
    Streams::new(Look::default())
}

fn machines() -> Streams {
    Streams::new(Look { json: true, ..Look::default() })
}

fn place(line: u64, column: u64, width: usize, text: &str) -> Place {
    Place { file: "sql/clean_pin.sql".into(), line, column, text: text.into(), width }
}

fn titel() -> Error {
    Error::sql("there is no column `titel`")
        .at(place(12, 10, 5, "  SELECT titel FROM pin"))
        .hint("did you mean `title`?")
}

fn table(name: &str) -> TableReport {
    TableReport {
        table: name.into(),
        location: format!("file:///lake/{name}"),
        quarantine: format!("{name}_quarantine"),
        lost: Some(0),
        ..TableReport::default()
    }
}

fn clean_pin() -> TableReport {
    TableReport { epochs: 1, read: 4011, written: 3996, quarantined: 15, version: Some(1), ..table("clean_pin") }
}

fn summary(status: Status, tables: Vec<TableReport>, error: Option<Error>) -> Summary {
    Summary { command: "run", status, elapsed_ms: 812, tables, error: error.map(Arc::new) }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

#[test]
fn an_error_points_at_its_place() {
    let expected = "\
error: there is no column `titel`
  --> sql/clean_pin.sql:12:10
   |
12 |   SELECT titel FROM pin
   |          ^^^^^
   = hint: did you mean `title`?
";
    assert_eq!(render::error(&titel(), false, false), expected);
}

#[test]
fn an_error_without_a_place_is_a_line_and_a_hint() {
    let error = Error::world("the bucket `b` does not exist\nor is hidden").hint("look at `--lake`");
    let expected = "error: the bucket `b` does not exist\n       or is hidden\n  = hint: look at `--lake`\n";
    assert_eq!(render::error(&error, false, false), expected);
    let error = Error::world("no answer").caused_by(io::Error::other("timed out"));
    assert_eq!(render::error(&error, false, false), "error: no answer\n");
    assert_eq!(render::error(&error, false, true), "error: no answer\n  = cause: timed out\n");
}

/// The caret's line, and the one above it.
fn caret(place: Place) -> (String, String) {
    let text = render::error(&Error::sql("x").at(place), false, false);
    let lines: Vec<&str> = text.lines().collect();
    (lines[3].into(), lines[4].into())
}

#[test]
fn carets_stand_below_what_they_mean() {
    let (line, carets) = caret(place(1, 4, 2, "\t\té xx"));
    assert_eq!((line.as_str(), carets.as_str()), ("1 |         é xx", "  |          ^^"));
    let (line, carets) = caret(place(1, 6, 2, "'日本' ab"));
    assert_eq!((line.as_str(), carets.as_str()), ("1 | '日本' ab", "  |        ^^"));
    let (_, carets) = caret(place(1, 2, 2, "'日本'"));
    assert_eq!(carets, "  |  ^^^^");
    let (_, carets) = caret(place(1, 9, 1, "SELECT x"));
    assert_eq!(carets, "  |         ^");
    let (line, _) = caret(place(1, 1, 1, "SELECT '\x1b[2J\r'"));
    assert_eq!(line, "1 | SELECT '\u{fffd}[2J\u{fffd}'");
}

#[test]
fn a_long_line_is_cut_around_its_caret() {
    let text = format!("{}titel{}", "a".repeat(5_000), "b".repeat(5_000));
    let (line, carets) = caret(place(1, 5_001, 5, &text));
    assert!(line.starts_with("1 | …aaa") && line.ends_with("bbb…"), "{line}");
    let column = |text: &str, what: char| text.chars().position(|c| c == what).unwrap();
    assert_eq!(column(&carets, '^'), column(&line, 't'));
    assert!(line.chars().count() < 200);
}

#[test]
fn colours_only_where_they_are_wanted() {
    assert!(!render::error(&titel(), false, true).contains('\x1b'));
    let colored = render::error(&titel(), true, false);
    assert!(colored.starts_with("\x1b[1;31merror:\x1b[0m there is no column"), "{colored:?}");
    let streams = Streams::new(Look { colors: true, ..Look::default() });
    streams.output.error(&titel());
    assert_eq!(streams.take(), (String::new(), colored));
}

#[test]
fn a_notice_says_where_it_comes_from() {
    let streams = people();
    streams.output.notice("`CLUSTER BY` means nothing here", Some(&place(3, 1, 7, "CLUSTER BY x")));
    streams.output.notice("no files yet", None);
    let expected = "notice: `CLUSTER BY` means nothing here\n --> sql/clean_pin.sql:3:1\nnotice: no files yet\n";
    assert_eq!(streams.take(), (String::new(), expected.into()));
    let quiet = Streams::new(Look { quiet: true, ..Look::default() });
    quiet.output.notice("no files yet", None);
    assert_eq!(quiet.take(), (String::new(), String::new()));
}

fn values() -> RecordBatch {
    let times = TimestampMicrosecondArray::from(vec![Some(1_598_586_767_000_000), None, Some(-500_000)]);
    let lists = vec![Some(vec![Some(1), None]), None, Some(vec![])];
    batch(vec![
        ("ind", Arc::new(Int64Array::from(vec![Some(7), None, Some(-12)])) as ArrayRef),
        ("title", Arc::new(StringArray::from(vec![Some("日本"), Some("a\tb\x1b"), None]))),
        ("at", Arc::new(times.with_timezone("UTC"))),
        ("payload", Arc::new(BinaryArray::from(vec![Some(b"\x00\xff".as_slice()), None, Some(b"")]))),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
    ])
}

#[test]
fn results_look_as_in_psql() {
    let expected = r"
 ind  |   title    |           at            | payload |   list
------+------------+-------------------------+---------+----------
    7 | 日本       | 2020-08-28 03:52:47     | \x00ff  | [1,null]
 NULL | a    b\x1B | NULL                    | NULL    | NULL
  -12 | NULL       | 1969-12-31 23:59:59.500 | \x      | []
(3 rows)

";
    assert_eq!(people().show(&[values()]), expected.trim_start_matches('\n'));
}

#[test]
fn columns_are_aligned() {
    let rows = batch(vec![
        ("n", Arc::new(Int64Array::from(vec![Some(1), Some(20_000)])) as ArrayRef),
        ("poster_name", Arc::new(StringArray::from(vec![Some("two\nlines"), None]))),
        ("x", Arc::new(StringArray::from(vec!["a", "b"]))),
    ]);
    let expected = "   n   | poster_name | x
-------+-------------+---
     1 | two        +| a
       | lines       |
 20000 | NULL        | b
(2 rows)

";
    assert_eq!(people().show(&[rows]), expected);
}

#[test]
fn an_empty_result_has_a_header() {
    let rows = batch(vec![("n", Arc::new(Int64Array::from(Vec::<i64>::new())) as ArrayRef)]);
    assert_eq!(people().show(std::slice::from_ref(&rows)), " n\n---\n(0 rows)\n\n");
    assert_eq!(machines().show(&[rows]), "");
    let streams = people();
    let one = batch(vec![("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    assert!(streams.show(&[one]).ends_with("(1 row)\n\n"));
}

#[test]
fn a_long_result_is_written_in_blocks() {
    let streams = people();
    let rows = |from: i64| batch(vec![("n", Arc::new(Int64Array::from_iter_values(from..from + 900)) as ArrayRef)]);
    streams.output.rows(&rows(0).schema(), &[rows(0)]);
    assert_eq!(streams.take().0, "");
    streams.output.rows(&rows(0).schema(), &[rows(99_900)]);
    assert_eq!(streams.take().0.lines().count(), 2 + 1_000);
    streams.output.end_of_rows();
    let rest = streams.take().0;
    assert_eq!(rest.lines().count(), 800 + 2);
    assert!(rest.ends_with(" 100799\n(1800 rows)\n\n"), "{rest}");
    assert_eq!(rest.matches("---").count(), 0);
}

#[test]
fn a_result_that_failed_leaves_nothing_behind() {
    let streams = people();
    let one = batch(vec![("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    streams.output.rows(&one.schema(), std::slice::from_ref(&one));
    streams.output.tables(&[]);
    assert_eq!(streams.show(&[one]), " n\n---\n 1\n(1 row)\n\n");
}

#[test]
fn expanded_rows_are_blocks_of_lines() {
    let streams = people();
    streams.output.expand(true);
    let rows = batch(vec![
        ("ind", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ("title", Arc::new(StringArray::from(vec![Some("a cat on a mat"), None]))),
    ]);
    let expected =
        "-[ RECORD 1 ]---------\nind   | 1\ntitle | a cat on a mat\n-[ RECORD 2 ]\nind   | 2\ntitle | NULL\n\n";
    assert_eq!(streams.show(&[rows]), expected);
}

#[test]
fn json_rows_are_objects_with_every_column() {
    let shown = machines().show(&[values()]);
    let lines: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        json!({"ind": 7, "title": "日本", "at": "2020-08-28T03:52:47Z", "payload": "AP8=", "list": [1, null]})
    );
    assert_eq!(lines[1], json!({"ind": null, "title": "a\tb\u{1b}", "at": null, "payload": null, "list": null}));
    assert_eq!(lines[2]["at"], "1969-12-31T23:59:59.500Z");
    assert!(shown.starts_with(r#"{"ind":7,"title":"#), "{shown}");
}

#[test]
fn json_reaches_into_nested_values() {
    let fields = vec![Field::new("key", DataType::Binary, true), Field::new("score", DataType::Float64, true)];
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from(vec![Some(b"a".as_slice()), None])),
        Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(1.5)])),
    ];
    let nested = Arc::new(StructArray::new(fields.into(), arrays, None)) as ArrayRef;
    let rows = batch(vec![("m", nested)]);
    let lines = "{\"m\":{\"key\":\"YQ==\",\"score\":null}}\n{\"m\":{\"key\":null,\"score\":1.5}}\n";
    assert_eq!(machines().show(std::slice::from_ref(&rows)), lines);
    assert!(people().show(&[rows]).contains("\n {\"key\":null,\"score\":1.5}\n"));
}

#[test]
fn the_summary_for_people() {
    let streams = people();
    let geo = TableReport { version: Some(12), ..table("clean_geo") };
    let mut user = TableReport { epochs: 1, read: 9, written: 1, dropped: 8, version: Some(3), ..table("clean_user") };
    user.expectations.insert("age_known".into(), 2);
    streams.output.summary(&summary(Status::Ok, vec![clean_pin(), geo, user], None));
    let expected = "\
clean_pin   +3,996 rows (read 4,011, quarantined 15)  version 1
            see them: SELECT * FROM clean_pin_quarantine
clean_geo   up to date                                version 12
clean_user  +1 row (read 9, dropped 8)                version 3
            2 rows break constraint `age_known` and stayed
3 tables, +3,997 rows, read 4,020, dropped 8, quarantined 15 in 812 ms
";
    assert_eq!(streams.take(), (String::new(), expected.into()));
}

#[test]
fn a_loss_that_nobody_can_count_is_said() {
    let streams = people();
    let lost = TableReport { epochs: 1, lost: None, ..table("t") };
    streams.output.summary(&summary(Status::Ok, vec![lost], None));
    let expected = "t  +0 rows (lost an unknown number)\n1 table, +0 rows, lost an unknown number in 812 ms\n";
    assert_eq!(streams.take().1, expected);
}

/// The others go on, and whoever wants errors alone wants this one now.
#[test]
fn a_table_that_fails_is_said_at_once() {
    let error = Error::world("the lake is gone");
    let quiet = Streams::new(Look { quiet: true, ..Look::default() });
    quiet.output.condition("t", &Condition::Running);
    quiet.output.condition("t", &Condition::Failed(&error));
    assert_eq!(quiet.take().1, "t: failed: the lake is gone\n");
}

#[test]
fn lines_are_json_where_the_log_is() {
    let streams = Streams::new(Look { json_log: true, ..Look::default() });
    streams.output.condition("t", &Condition::Running);
    streams.output.notice("a notice", None);
    let lines = streams.take().1;
    let parsed: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<&Value> = parsed.iter().map(|line| &line["fields"]["message"]).collect();
    assert_eq!(said, ["t: running", "a notice"]);
    assert!(parsed[0]["timestamp"].is_string() && parsed[0]["level"] == "INFO", "{lines}");
}

#[test]
fn the_summary_of_a_failure() {
    let streams = people();
    let error = Arc::new(titel());
    let failed = TableReport { error: Some(Arc::clone(&error)), ..table("clean_pin") };
    let left = Error::world("`insight` was left out").hint("mend `clean_pin`");
    let left_out = TableReport { error: Some(Arc::new(left)), ..table("insight") };
    let all = Summary { error: Some(error), ..summary(Status::Failed, vec![failed, left_out], None) };
    streams.output.summary(&all);
    let expected = format!(
        "clean_pin  failed: there is no column `titel`\ninsight    failed: `insight` was left out\n           \
         hint: mend `clean_pin`\n{}2 tables, 2 failed, nothing new in 812 ms\n",
        render::error(&titel(), false, false)
    );
    assert_eq!(streams.take(), (String::new(), expected));
    let quiet = Streams::new(Look { quiet: true, ..Look::default() });
    quiet.output.summary(&all);
    assert_eq!(quiet.take(), (String::new(), render::error(&titel(), false, false)));
}

#[test]
fn json_is_epochs_and_the_summary_last() {
    let streams = machines();
    let epoch = EpochReport {
        table: "clean_pin".into(),
        epoch: 7,
        read: 1200,
        written: 1199,
        quarantined: 1,
        version: Some(8),
        lag: 0,
        behind_ms: None,
        elapsed_ms: 41,
    };
    streams.output.epoch(&epoch);
    streams.output.summary(&summary(Status::Ok, vec![clean_pin()], None));
    let expected = concat!(
        r#"{"event":"epoch","table":"clean_pin","epoch":7,"read":1200,"written":1199,"quarantined":1,"#,
        r#""version":8,"lag":0,"elapsed_ms":41}"#,
        "\n",
        r#"{"command":"run","status":"ok","elapsed_ms":812,"tables":[{"table":"clean_pin","#,
        r#""location":"file:///lake/clean_pin","epochs":1,"read":4011,"written":3996,"dropped":0,"#,
        r#""quarantined":15,"late":0,"lost":0,"version":1}],"error":null}"#,
        "\n"
    );
    assert_eq!(streams.take(), (expected.into(), String::new()));
}

#[test]
fn json_tells_a_failure_before_anything_ran() {
    let streams = machines();
    streams.output.summary(&summary(Status::Failed, Vec::new(), Some(titel())));
    let (results, messages) = streams.take();
    let line: Value = serde_json::from_str(&results).unwrap();
    let error = json!({
        "kind": "sql", "message": "there is no column `titel`", "hint": "did you mean `title`?",
        "file": "sql/clean_pin.sql", "line": 12, "column": 10,
    });
    assert_eq!((&line["status"], &line["tables"], &line["error"]), (&json!("failed"), &json!([]), &error));
    assert_eq!(messages, render::error(&titel(), false, false));
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let one = batch(vec![("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let look = Look { json: true, ..Look::default() };
    for (kind, is_fine) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)] {
        let output = Output::new(look, Box::new(Refusing(kind)), Box::new(Buffer::default()));
        assert!(!output.is_closed());
        output.rows(&one.schema(), std::slice::from_ref(&one));
        output.summary(&summary(Status::Ok, Vec::new(), None));
        assert!(output.is_closed());
        assert_eq!(output.finish().is_ok(), is_fine);
    }
}

#[test]
fn exit_statuses() {
    let status = |status, error: Option<Error>| exit_status(&summary(status, Vec::new(), error), None, None);
    assert_eq!(status(Status::Ok, None), 0);
    assert_eq!(status(Status::Stopped, None), 0);
    assert_eq!(status(Status::Failed, Some(Error::world("x"))), 1);
    assert_eq!(status(Status::Failed, Some(Error::config("x"))), 2);
    assert_eq!(status(Status::Failed, None), 1);
    let interrupted = |status, signal| exit_status(&summary(status, Vec::new(), None), Some(signal), None);
    assert_eq!(interrupted(Status::Stopped, Interruption::Interrupt), 130);
    assert_eq!(interrupted(Status::Stopped, Interruption::Terminate), 143);
    assert_eq!(interrupted(Status::Ok, Interruption::Terminate), 0);
    assert_eq!(exit_status(&summary(Status::Ok, vec![table("t")], None), None, Some(99)), 99);
    assert_eq!(exit_status(&summary(Status::Ok, vec![clean_pin()], None), None, Some(99)), 0);
    assert_eq!(exit_status(&summary(Status::Failed, vec![], Some(Error::data("x"))), None, Some(99)), 1);
}

/// Runs the program without input: the exit status, standard output and standard error.
fn pinsql(arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_pinsql");
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn version_and_help_go_to_standard_output() {
    for arguments in [["-V"].as_slice(), &["run", "-V"]] {
        assert_eq!(pinsql(arguments), (Some(0), "pinsql 0.1.0\n".into(), String::new()));
    }
    let (status, help, messages) = pinsql(&["--help"]);
    assert_eq!((status, messages.as_str()), (Some(0), ""));
    assert!(["run", "check", "plan"].iter().all(|command| help.contains(&format!("\n  {command} "))), "{help}");
}

#[test]
fn usage_that_is_wrong_ends_with_2() {
    let wrong: [&[&str]; 6] = [
        &["nonsense"],
        &["run", "--max-records", "0"],
        &["run", "--full-refresh="],
        &["--var", "novalue", "check"],
        &["-c", "SELECT 1", "run"],
        &["-f", "no/such/file.sql"],
    ];
    for arguments in wrong {
        let (status, results, messages) = pinsql(arguments);
        assert_eq!((status, results.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(messages.starts_with("error: "), "{messages}");
    }
    let (status, results, _) = pinsql(&["check", "--json", "--nonsense"]);
    let line: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(status, Some(2));
    assert_eq!((&line["command"], &line["status"], &line["tables"]), (&json!("check"), &json!("failed"), &json!([])));
    assert_eq!(line["error"]["kind"], "config");
}
